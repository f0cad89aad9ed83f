"""Rules of reductions."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.constants import numbers
from onnxmx.trainer.autodiff.registry import gradient, zero_gradient
from onnxmx.trainer.autodiff.shapes import axes_of

zero_gradient("ArgMax", "ArgMin")


@gradient("ReduceSum")
def reduce_sum(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy, for every element that was summed"""
    x, axes, *_ = [*node.inputs, None]
    assert x is not None
    if axes is None or numbers(axes) is not None:
        return g.expand_like(_kept(g, node, axes_of(node, x), dy), x)
    if not node.attributes.get_int("keepdims", 1):
        how = node.attributes.get_int("noop_with_empty_axes", 0)
        dy = g.reshape(dy, g.op("Shape", g.op("ReduceSum", x, axes, noop_with_empty_axes=how)))
    return g.expand_like(dy, x)


@gradient("ReduceMean")
def reduce_mean(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / n, for each of the n elements"""
    x, axes = _reduced(node)
    return g.expand_like(g.div(_kept(g, node, axes, dy), g.count(x, axes)), x)


@gradient("ReduceSumSquare")
def reduce_sum_square(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = 2 x dy"""
    x, axes = _reduced(node)
    return g.mul(x, g.mul(_kept(g, node, axes, dy), 2.0))


@gradient("ReduceL1")
def reduce_l1(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * sign(x)"""
    x, axes = _reduced(node)
    return g.mul(_kept(g, node, axes, dy), g.sign(x))


@gradient("ReduceL2")
def reduce_l2(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * x / y, and 0 where all x are 0"""
    x, axes = _reduced(node)
    y = _kept(g, node, axes, node.outputs[0])
    return g.mul(_kept(g, node, axes, dy), g.div(x, g.add(y, g.cast_like(g.equal(y, 0.0), y))))


@gradient("ReduceLogSum")
def reduce_log_sum(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / sum(x)"""
    x, axes = _reduced(node)
    return g.expand_like(g.div(_kept(g, node, axes, dy), g.reduce_sum(x, axes)), x)


@gradient("ReduceLogSumExp")
def reduce_log_sum_exp(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * exp(x - y), and 0 where all x are minus infinity"""
    x, axes = _reduced(node)
    y = _kept(g, node, axes, node.outputs[0])
    nothing = g.op("IsInf", y, detect_positive=0)
    return g.mul(_kept(g, node, axes, dy), g.exp(g.sub(x, g.where(nothing, 0.0, y))))


@gradient("ReduceProd")
def reduce_prod(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * the product of the others: p / x, p the product of what is not 0, or 0 where another x is 0"""
    x, axes = _reduced(node)
    zero = g.cast_like(g.equal(x, 0.0), x)
    safe = g.add(x, zero)
    others = g.div(g.reduce_prod(safe, axes), safe)
    zeros = g.sub(g.reduce_sum(zero, axes), zero)
    return g.mul(_kept(g, node, axes, dy), g.mul(others, g.cast_like(g.equal(zeros, 0.0), x)))


@gradient("CumSum")
def cumulative_sum(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the cumulative sum of dy from the other end"""
    exclusive, reverse = (node.attributes.get_int(name, 0) for name in ("exclusive", "reverse"))
    return g.op("CumSum", dy, node.inputs[1], exclusive=exclusive, reverse=1 - reverse), None


@gradient("GlobalAveragePool")
def global_average_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / n, for each of the n positions"""
    x = node.inputs[0]
    assert x is not None
    assert x.shape is not None
    return g.expand_like(g.div(dy, g.count(x, range(2, len(x.shape)))), x)


def _reduced(node: ir.Node) -> tuple[ir.Value, list[int]]:
    x = node.inputs[0]
    assert x is not None
    return x, axes_of(node, x)


def _kept(g: GraphBuilder, node: ir.Node, axes: list[int], dy: ir.Value) -> ir.Value | Value:
    """`dy` with the reduced axes as ones, so that it broadcasts against x."""
    return dy if node.attributes.get_int("keepdims", 1) or not axes else g.unsqueeze(dy, axes)
