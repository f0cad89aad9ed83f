"""Rules of trigonometric and hyperbolic functions and their inverses."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient


@gradient("Tan")
def tan(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (1 + y^2)"""
    return g.mul(dy, g.add(_square(g, node.outputs[0]), 1.0))


@gradient("Asin")
def asin(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / sqrt(1 - x^2)"""
    return g.div(dy, g.sqrt(_one_minus_square(g, node.inputs[0])))


@gradient("Acos")
def acos(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = -dy / sqrt(1 - x^2)"""
    return g.neg(g.div(dy, g.sqrt(_one_minus_square(g, node.inputs[0]))))


@gradient("Atan")
def atan(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / (1 + x^2)"""
    return g.div(dy, g.add(_square(g, node.inputs[0]), 1.0))


@gradient("Sinh")
def sinh(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * cosh(x)"""
    return g.mul(dy, g.op("Cosh", node.inputs[0]))


@gradient("Cosh")
def cosh(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * sinh(x)"""
    return g.mul(dy, g.op("Sinh", node.inputs[0]))


@gradient("Asinh")
def asinh(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / sqrt(x^2 + 1)"""
    return g.div(dy, g.sqrt(g.add(_square(g, node.inputs[0]), 1.0)))


@gradient("Acosh")
def acosh(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / sqrt((x - 1) (x + 1))"""
    x = node.inputs[0]
    return g.div(dy, g.sqrt(g.mul(g.sub(x, 1.0), g.add(x, 1.0))))


@gradient("Atanh")
def atanh(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / (1 - x^2)"""
    return g.div(dy, _one_minus_square(g, node.inputs[0]))


def _square(g: GraphBuilder, x: ir.Value | None) -> Value:
    return g.mul(x, x)


def _one_minus_square(g: GraphBuilder, x: ir.Value | None) -> Value:
    """(1 - x) (1 + x), which near 1 is more exact than 1 - x^2."""
    return g.mul(g.sub(1.0, x), g.add(x, 1.0))
