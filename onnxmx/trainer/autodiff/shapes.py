"""What rules need to know of shapes and constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.constants import Array, numbers


def rank(x: ir.Value) -> int:
    """The rank of `x`. Raises GradientError where it is unknown."""
    if x.shape is None:
        raise GradientError(
            f"the gradient needs the rank of {x.name!r}, which is unknown",
            mend="Give the sizes that it depends on as numbers: in build(...), or model.resize(...) for a file.",
        )
    return len(x.shape)


def given(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node, without those that are left out."""
    return [x for x in node.inputs if x is not None]


def static(x: ir.Value, axis: int) -> int:
    """The size of `x` along `axis`. Raises GradientError where it is not a number."""
    dim = x.shape[axis] if x.shape is not None else None
    if not isinstance(dim, int):
        raise GradientError(
            f"the gradient needs the size of {x.name!r} along axis {axis}; found {describe(x)}",
            mend="Give that size as a number: in build(...), or model.resize(...) for a file.",
        )
    return dim


def array(x: ir.Value | None) -> Array | None:
    """The numbers of a constant input, or None where the input is absent.

    Raises GradientError for one that is computed from more than constants and known sizes.
    """
    if x is None:
        return None
    found = numbers(x)
    if found is None:
        raise GradientError(f"the gradient needs {x.name!r} to be a constant; it is computed")
    return found


def axes_of(node: ir.Node, x: ir.Value) -> list[int]:
    """The axes, counted from 0, that a reduction, Squeeze or Unsqueeze names in its second input; all by default."""
    axes = array(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or axes.size == 0:
        return [] if _int(node, "noop_with_empty_axes") else list(range(rank(x)))
    return sorted(int(a) % rank(x) for a in axes)


def _int(node: ir.Node, name: str, default: int = 0) -> int:
    return node.attributes.get_int(name, default)


def unbroadcast(g: GraphBuilder, dy: ir.Value, x: ir.Value) -> ir.Value | Value:
    """Sum `dy` over the axes along which `x` was broadcast, which gives it the shape of `x`."""
    extra = rank(dy) - rank(x)
    assert x.shape is not None
    assert dy.shape is not None
    pairs = list(zip(x.shape, list(dy.shape)[extra:], strict=True))
    unknown = ir.SymbolicDim(None)  # equal to itself, though two of them may be two sizes
    if any(d not in (1, e) or d == unknown for d, e in pairs):
        return _unbroadcast_at_run_time(g, dy, x, extra)
    stretched = [k + extra for k, (d, e) in enumerate(pairs) if d == 1 and e != 1]
    if not extra and not stretched:
        return dy
    summed = g.reduce_sum(dy, [*range(extra), *stretched], keepdims=False)
    return g.reshape_like(summed, x) if stretched else summed


def _unbroadcast_at_run_time(g: GraphBuilder, dy: ir.Value, x: ir.Value, extra: int) -> Value:
    """The same where sizes are not known: summing over every axis where x has size 1 is always right."""
    ones = g.reshape(g.op("NonZero", g.equal(g.op("Shape", x), 1)), [-1])
    axes = g.concat([np.arange(extra, dtype=np.int64), g.add(ones, extra)], 0)
    summed = g.op("ReduceSum", dy, axes, keepdims=1, noop_with_empty_axes=1)
    return g.reshape_like(summed, x)
