"""Rules of activations, and of other choices between elements: clipping, the larger of two, the largest of many."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import axes_of, given, rank, unbroadcast


@gradient("PRelu")
def prelu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy where x > 0, else slope dy;  dslope = dy * min(x, 0)"""
    x, slope = given(node)
    positive = g.cast_like(g.greater(x, 0.0), dy)
    dx = g.mul(dy, g.add(g.mul(positive, g.sub(1.0, slope)), slope))
    return dx, unbroadcast(g, g.mul(dy, g.min(x, 0.0)), slope)


@gradient("Selu")
def selu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * gamma where x > 0, else dy * (y + gamma alpha), from y = gamma alpha (exp(x) - 1)"""
    gamma = node.attributes.get_float("gamma", 1.0507010221481323)
    alpha = node.attributes.get_float("alpha", 1.6732631921768188)
    slope = g.where(g.greater(node.inputs[0], 0.0), gamma, g.add(node.outputs[0], gamma * alpha))
    return g.mul(dy, slope)


@gradient("Celu")
def celu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (1 + min(y, 0) / alpha), from y = alpha (exp(x / alpha) - 1) below 0"""
    alpha = node.attributes.get_float("alpha", 1.0)
    return g.mul(dy, g.add(g.div(g.min(node.outputs[0], 0.0), alpha), 1.0))


@gradient("HardSigmoid")
def hard_sigmoid(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = alpha dy where 0 < y < 1, else 0"""
    alpha = node.attributes.get_float("alpha", 0.2)
    return g.mul(dy, g.mul(_between_0_and_1(g, node.outputs[0]), alpha))


@gradient("HardSwish")
def hard_swish(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (x / 3 + 1/2) where -3 < x < 3, else dy * h, h = HardSigmoid(x) with alpha = 1/6, beta = 1/2"""
    x = node.inputs[0]
    h = g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    between = g.op("And", g.greater(h, 0.0), g.less(h, 1.0))
    return g.mul(dy, g.where(between, g.add(g.mul(x, 1 / 3), 0.5), h))


@gradient("ThresholdedRelu")
def thresholded_relu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy where x > alpha, else 0"""
    x = node.inputs[0]
    return g.mul(dy, g.cast_like(g.greater(x, node.attributes.get_float("alpha", 1.0)), dy))


@gradient("Shrink")
def shrink(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy where |x| > lambd, else 0"""
    x = node.inputs[0]
    return g.mul(dy, g.cast_like(g.greater(g.op("Abs", x), node.attributes.get_float("lambd", 0.5)), dy))


@gradient("Mish")
def mish(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (t + x (1 - t^2) sigmoid(x)), t = tanh(softplus(x))"""
    x = node.inputs[0]
    t = g.op("Tanh", g.op("Softplus", x))
    slope = g.mul(g.mul(x, g.op("Sigmoid", x)), g.sub(1.0, g.mul(t, t)))
    return g.mul(dy, g.add(t, slope))


@gradient("Softsign")
def softsign(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (1 - |y|)^2"""
    root = g.sub(1.0, g.op("Abs", node.outputs[0]))
    return g.mul(dy, g.mul(root, root))


@gradient("Clip")
def clip(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy where y is x, else 0;  dmin, dmax = the sum of dy where y is that bound and not x"""
    x, *bounds = node.inputs
    (y,) = node.outputs
    kept = g.cast_like(g.equal(y, x), dy)
    cut = g.mul(dy, g.sub(1.0, kept))
    limits = [None if b is None else g.mul(cut, g.cast_like(g.equal(y, b), dy)) for b in bounds]
    return g.mul(dy, kept), *(None if t is None else g.reduce_sum(t, keepdims=False) for t in limits)


@gradient("Max", "Min")
def extreme_of_several(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx_k = dy where x_k is y, else 0; equal ones share dy"""
    xs = given(node)
    chosen = [g.cast_like(g.equal(x, node.outputs[0]), dy) for x in xs]
    share = g.div(dy, g.sum(*chosen))
    return tuple(unbroadcast(g, g.mul(share, c), x) for c, x in zip(chosen, xs, strict=True))


@gradient("ReduceMax", "ReduceMin")
def extreme(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy where x is y, else 0; equal ones share dy"""
    x = node.inputs[0]
    assert x is not None
    axes = axes_of(node, x)
    y: ir.Value = node.outputs[0]
    if not node.attributes.get_int("keepdims", 1) and axes:
        y, dy = g.unsqueeze(y, axes), g.unsqueeze(dy, axes)
    return _shared(g, x, y, dy, axes)


@gradient("GlobalMaxPool")
def global_max_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy at the largest element of each channel, else 0; equal ones share dy"""
    x = node.inputs[0]
    assert x is not None
    return _shared(g, x, node.outputs[0], dy, list(range(2, rank(x))))


def _shared(g: GraphBuilder, x: ir.Value, y: ir.Value, dy: ir.Value, axes: list[int]) -> Value:
    """dy divided among the elements of x that are y. y, dy: the shape of x with ones along `axes`."""
    chosen = g.cast_like(g.equal(x, y), dy)
    return g.mul(chosen, g.div(dy, g.reduce_sum(chosen, axes)))


def _between_0_and_1(g: GraphBuilder, y: ir.Value) -> Value:
    """1 where 0 < y < 1, else 0"""
    return g.cast_like(g.op("And", g.greater(y, 0.0), g.less(y, 1.0)), y)
