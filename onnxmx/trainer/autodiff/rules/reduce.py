"""Rules of reductions."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient, zero_gradient
from onnxmx.trainer.autodiff.shapes import axes_of

zero_gradient("ArgMax", "ArgMin")


@gradient("ReduceSum")
def reduce_sum(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy, for every element that was summed"""
    x, axes = _reduced(node)
    return g.expand_like(_kept(g, node, axes, dy), x)


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
