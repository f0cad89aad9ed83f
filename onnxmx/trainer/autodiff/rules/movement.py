"""Rules of operators that only move elements."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.registry import gradient, zero_gradient
from onnxmx.trainer.autodiff.shapes import static, unbroadcast

zero_gradient("Shape", "Size", "Constant", "ConstantOfShape", "Range")


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy in the shape of x"""
    return g.reshape_like(dy, _x(node))


@gradient("Transpose")
def transpose(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy with its axes put back"""
    assert dy.shape is not None
    perm = list(node.attributes.get_ints("perm", tuple(reversed(range(len(dy.shape))))))
    return g.transpose(dy, sorted(range(len(perm)), key=perm.__getitem__))


@gradient("Expand")
def expand(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the sum of dy over the axes that were stretched"""
    return unbroadcast(g, dy, _x(node)), None


@gradient("Concat")
def concat(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx_k = the part of dy that came from x_k"""
    axis = node.attributes.get_int("axis", 0)
    xs = [x for x in node.inputs if x is not None]
    if len(xs) == 1:
        return dy
    sizes = g.constant([static(x, axis) for x in xs], ir.DataType.INT64)
    return g.ops("Split", dy, sizes, outputs=len(xs), axis=axis)


def _x(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    return x
