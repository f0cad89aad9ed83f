"""Rules of quantization: the straight-through estimator.   Source: Bengio et al. 2013; Esser et al. 2020 for scales.

Rounding counts as no change. The gradient of a quantized tensor is that of the real number it stands for, counted in
steps of the scale, so it is a float although the tensor is of integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient, refuse_gradient, zero_gradient
from onnxmx.trainer.autodiff.shapes import rank, unbroadcast

zero_gradient("ConvInteger", "MatMulInteger")
refuse_gradient(
    "QLinearConv", "QLinearMatMul",
    why="it computes in integers; train the float operator between QuantizeLinear and DequantizeLinear",
)  # fmt: skip


@gradient("QuantizeLinear")
def quantize(g: GraphBuilder, node: ir.Node, dq: ir.Value) -> Any:
    """dx = dq / scale;  dscale = -dq x / scale^2, both 0 where q is cut at the ends of its type"""
    x, scale, zero = [*node.inputs, None][:3]
    assert x is not None
    assert scale is not None
    steps, q = _by_axis(g, scale, x, node), node.outputs[0]
    units = g.div(x, steps)
    offset = g.add(units, _by_axis(g, g.cast_like(zero, x), x, node)) if zero is not None else units
    info = np.iinfo(q.dtype.numpy() if q.dtype is not None else np.uint8)
    inside = g.op("And", g.greater(offset, info.min - 0.5), g.less(offset, info.max + 0.5))
    dx = g.div(g.mul(dq, g.cast_like(inside, x)), steps)
    return dx, g.neg(_to_scale(g, g.mul(dx, units), scale, steps)), None


@gradient("DequantizeLinear")
def dequantize(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dq = dy scale;  dscale = dy (q - zero)"""
    q, scale, zero = [*node.inputs, None][:3]
    assert q is not None
    assert scale is not None
    steps = _by_axis(g, scale, q, node)
    real = g.cast_like(q, scale)
    if zero is not None:
        real = g.sub(real, _by_axis(g, g.cast_like(zero, scale), q, node))
    return g.mul(dy, steps), _to_scale(g, g.mul(dy, real), scale, steps), None


@gradient("DynamicQuantizeLinear")
def dynamic_quantize(
    g: GraphBuilder, node: ir.Node, dq: ir.Value | None, dscale: ir.Value | None = None, _: Any = None
) -> Any:
    """dx = dq / scale + dscale / 255 at the largest x, - dscale / 255 at the smallest, where these are beyond 0"""
    x = node.inputs[0]
    parts = [] if dq is None else [g.div(dq, node.outputs[1])]
    if dscale is not None:
        for bound, end in ((g.reduce_max(x), 1.0), (g.op("ReduceMin", x), -1.0)):
            chosen = g.cast_like(g.equal(x, bound), dscale)
            beyond = g.cast_like(g.greater(g.mul(bound, end), 0.0), dscale)
            share = g.div(g.mul(beyond, end / 255.0), g.reduce_sum(chosen))
            parts.append(g.mul(chosen, g.mul(share, dscale)))
    return g.sum(*parts)


def _by_axis(g: GraphBuilder, v: ir.Value, x: ir.Value, node: ir.Node) -> ir.Value | Value:
    """A scale or zero point as it broadcasts against x: one for all, or one for each element along the axis."""
    if rank(v) == 0 or v.shape == (1,):
        return v
    axis = node.attributes.get_int("axis", 1) % rank(x)
    return g.reshape(v, [-1 if k == axis else 1 for k in range(rank(x))])


def _to_scale(g: GraphBuilder, dy: ir.Value, scale: ir.Value, steps: ir.Value) -> Value:
    return g.reshape_like(unbroadcast(g, dy, steps), scale)
