"""Reverse-mode differentiation: one sweep over a graph's nodes, last to first. It knows no operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.body import reads
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.metadata import SOURCE
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.checkpoint import Recomputation
from onnxmx.trainer.autodiff.registry import Rule, has_rule, is_flat, rule_for


def gradients(g: GraphBuilder, of: ir.Value, wrt: Sequence[ir.Value]) -> list[Value | None]:
    """Add to `g` the gradients of the scalar `of` with respect to each value of `wrt`, in that order.

    A value that `of` does not depend on gets None. Raises GradientError where an operator on the way has no rule.
    Source: Baydin et al. 2018, section 3.2.
    """
    if of.shape is None or len(of.shape) != 0:
        raise GradientError(f"a gradient is taken of a scalar; found {of.name!r} of shape {of.shape}")
    return pull_back(g, list(g.graph), {of: g.cast_like(_one(g, of), of)}, wrt)


def _one(g: GraphBuilder, of: ir.Value) -> Value | np.float32:
    """1, which beside CUDA is computed from `of`, whatever that is.

    Of constants and shapes alone, the first gradients would be computed on the CPU: ONNX Runtime leaves there what is
    there already, and with it what reads besides no more than inputs of the graph, such as a convolution's weight.
    """
    if g.device == "cpu":
        return np.float32(1.0)
    return g.cast(g.op("Not", g.op("Less", of, of)), ir.DataType.FLOAT)


def pull_back(
    g: GraphBuilder, nodes: Sequence[ir.Node], dys: Mapping[ir.Value, Value], wrt: Sequence[ir.Value]
) -> list[Value | None]:
    """Add to `g` what the gradients `dys` of some values of `nodes` are worth at each value of `wrt`, in that order.

    nodes: a part of a graph, in its order.   A value of `wrt` that no value of `dys` depends on gets None.
    """
    varying = depending_on(nodes, wrt)
    partial: dict[ir.Value, list[Value]] = {y: [dy] for y, dy in dys.items()}
    total: dict[ir.Value, Value | None] = {}
    recomputation = Recomputation(g, nodes)
    for node in reversed(nodes):
        gathered = [total.setdefault(y, _sum(g, partial.pop(y, []))) for y in node.outputs]
        if not varying.intersection(node.outputs) or all(dy is None for dy in gathered):
            continue
        read = recomputation.of(node, gathered)
        # For rules that can do without the gradients that nothing asks for.
        read.meta["varying"], read.meta["asked"] = varying, [x in varying for x in node.inputs]
        for x, dx in zip(reads(node), _of_inputs(g, read, gathered), strict=False):
            if x is not None and x in varying and dx is not None:
                partial.setdefault(x, []).append(dx)
    return [total.get(x) or _sum(g, partial.get(x, [])) for x in wrt]


def _of_inputs(g: GraphBuilder, node: ir.Node, dys: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """What the rule of `node` gives for its inputs. Its errors name the line that built the node."""
    source = node.metadata_props.get(SOURCE)
    try:
        with g.scope(f"grad.{node.name}", source=source, absolute=True):
            dxs = _rule(node)(g, node, *dys)
    except GradientError as error:
        raise GradientError(error.problem, at=error.at or source, mend=error.mend) from None
    dxs = dxs if isinstance(dxs, tuple) else (dxs,)
    if any(dx is not None for dx in dxs[len(reads(node)) :]):  # None for an input left out is no harm
        raise GradientError(
            f"the rule of {node.op_type} in {node.name!r} expected to return {len(node.inputs)} gradients, one an "
            f"input; found {len(dxs)}",
            at=source,
            mend="Return one gradient for each input, in their order, and None where there is none.",
        )
    return dxs


def _rule(node: ir.Node) -> Rule:
    """The rule of the node's operator; a function that has none is differentiated as what it is made of."""
    return _through_body if "function" in node.meta and not has_rule(node) else rule_for(node)


def _through_body(g: GraphBuilder, node: ir.Node, *dys: Value | None) -> tuple[Value | None, ...]:
    """The body of a function once more, on the node's own inputs, and the sweep over that.

    ONNX Runtime puts the function in place of the node too, and computes only once what the two have in common.
    """
    attributes = {name: a.value for name, a in node.attributes.items()}
    return through(g, node, dys, lambda g, *xs: node.meta["function"].trace(g, *xs, **attributes))


def through(
    g: GraphBuilder, node: ir.Node, dys: Sequence[ir.Value | None], written: Callable[..., Any]
) -> tuple[Value | None, ...]:
    """The gradients of the inputs of `node`, by those of operators that compute the same.

    written(g, *inputs) -> the output, or a tuple of them: adds these operators to `g`.
    """
    # Where the node reads one value twice, each reading has a gradient of its own.
    xs = [g.op("Identity", x) if x is not None and x in node.inputs[:k] else x for k, x in enumerate(node.inputs)]
    before = len(g.graph)
    made = written(g, *xs)
    ys = made if isinstance(made, tuple) else (made,)
    known: dict[Any, Any] = {y: dy for y, dy in zip(ys, dys, strict=False) if dy is not None}
    wrt = [x for x in xs if x is not None]
    found: dict[ir.Value | None, Any] = dict(zip(wrt, pull_back(g, list(g.graph)[before:], known, wrt), strict=True))
    return tuple(found.get(x) for x in xs)


def depending_on(nodes: Sequence[ir.Node], values: Sequence[ir.Value]) -> set[ir.Value | None]:
    """Every value that changes when one of `values` does, however small the change."""
    varying: set[ir.Value | None] = set(values)
    for node in nodes:
        if not is_flat(node) and not varying.isdisjoint(reads(node)):
            varying.update(node.outputs)
    return varying


def _sum(g: GraphBuilder, parts: list[Value]) -> Value | None:
    """A value read in several places gathers the gradients of all of them."""
    return g.sum(*parts) if parts else None
