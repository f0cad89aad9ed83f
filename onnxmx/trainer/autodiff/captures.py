"""What is asked of a rule, and what those of If, Scan and Loop share: gradients of all that the graphs inside read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxmx.builder.body import reads
from onnxmx.builder.graph import GraphBuilder, Value


def is_float(x: ir.Value) -> bool:
    """Whether it is a tensor of floats, of any width: nothing else has a gradient."""
    return isinstance(x.type, ir.TensorType) and x.type.dtype.is_floating_point()


def asked_for(node: ir.Node, values: Iterable[ir.Value]) -> list[ir.Value]:
    """Those of `values`, which `node` reads, whose gradients the sweep can use."""
    return [x for x in values if x in node.meta["varying"] and is_float(x)]


def is_asked_for(node: ir.Node, k: int) -> bool:
    """Whether the sweep can use the gradient of input `k`, which of the image that a net begins with it cannot."""
    return bool(node.meta["asked"][k])


def seeds(g: GraphBuilder, ys: Sequence[ir.Value], dys: Sequence[ir.Value | None]) -> dict[ir.Value, Value]:
    """The gradients that a sweep starts from: of a value that is given out twice, the sum."""
    found: dict[ir.Value, list[Value]] = {}
    for y, dy in zip(ys, dys, strict=False):
        if dy is not None:
            found.setdefault(y, []).append(_as_shaped(g, dy, y))
    return {y: g.sum(*parts) for y, parts in found.items()}


def _as_shaped(g: GraphBuilder, dy: ir.Value, y: ir.Value) -> Value:
    """`dy`, of which more may be known where y is computed: the two branches of an If may have other shapes."""
    if y.shape is not None and (dy.shape is None or len(dy.shape) != len(y.shape)):
        # In the branch that is not the one that the graph around expects, or where that expects no rank. A copy of this
        # node has its rank again, as a copy of an Identity would not.
        return g.op("Reshape", dy, g.op("Shape", y))
    same = g.op("Identity", dy)
    same.shape = None if y.shape is None else ir.Shape(y.shape)
    return same


def in_order(node: ir.Node, found: Mapping[ir.Value, Value]) -> tuple[Value | None, ...]:
    """Gradients of values that a node captures, at their places behind its inputs."""
    inputs: list[Value | None] = [None] * len(node.inputs)
    return (*inputs, *(found.get(x) for x in reads(node)[len(node.inputs) :] if x is not None))
