"""Rules of operators that work element by element, with broadcasting."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.registry import gradient, zero_gradient
from onnxmx.trainer.autodiff.shapes import given, unbroadcast

zero_gradient("Sign", "Floor", "Ceil", "Round", "Hardmax")
zero_gradient("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor", "IsInf", "IsNaN")
zero_gradient("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor")


@gradient("Add", "Sum")
def add(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx_k = dy"""
    return tuple(unbroadcast(g, dy, x) for x in given(node))


@gradient("Sub")
def sub(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """da = dy;  db = -dy"""
    a, b = given(node)
    return unbroadcast(g, dy, a), g.neg(unbroadcast(g, dy, b))


@gradient("Mul")
def mul(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """da = dy * b;  db = dy * a"""
    a, b = given(node)
    return unbroadcast(g, g.mul(dy, b), a), unbroadcast(g, g.mul(dy, a), b)


@gradient("Div")
def div(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """da = dy / b;  db = -dy * y / b, from the saved output y"""
    a, b = given(node)
    da = g.div(dy, b)
    return unbroadcast(g, da, a), g.neg(unbroadcast(g, g.mul(da, node.outputs[0]), b))


@gradient("Pow")
def pow(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """da = dy * b * a^(b-1), and 0 where b = 0;  db = dy * y * log(a), and 0 where a <= 0"""
    a, b = given(node)
    exponent = g.cast_like(b, a)
    lower = g.sub(exponent, 1.0)
    constant = ir.convenience.get_const_tensor(b)
    if constant is None or not constant.numpy().all():
        lower = g.where(g.equal(exponent, 0.0), 1.0, lower)  # 0 * 0^-1 would be NaN
    da = g.mul(dy, g.mul(exponent, g.pow(a, lower)))
    db = g.mul(g.mul(dy, node.outputs[0]), g.log(g.where(g.greater(a, 0.0), a, 1.0)))
    return unbroadcast(g, da, a), g.cast_like(unbroadcast(g, db, b), b)


@gradient("Mod")
def mod(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = a - n b, n a whole number:  da = dy;  db = -n dy"""
    a, b = given(node)
    times = g.op("Round", g.div(g.sub(a, node.outputs[0]), b))
    return unbroadcast(g, dy, a), g.neg(unbroadcast(g, g.mul(dy, times), b))


@gradient("Mean")
def mean(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx_k = dy / n"""
    xs = given(node)
    share = g.div(dy, len(xs))
    return tuple(unbroadcast(g, share, x) for x in xs)


@gradient("Reciprocal")
def reciprocal(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = -dy y^2"""
    (y,) = node.outputs
    return g.neg(g.mul(dy, g.mul(y, y)))


@gradient("Neg")
def neg(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = -dy"""
    return g.neg(dy)


@gradient("Abs")
def abs(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * sign(x)"""
    return g.mul(dy, g.sign(node.inputs[0]))


@gradient("Sqrt")
def sqrt(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / (2 y)"""
    return g.div(dy, g.mul(2.0, node.outputs[0]))


@gradient("Exp")
def exp(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * y"""
    return g.mul(dy, node.outputs[0])


@gradient("Log")
def log(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy / x"""
    return g.div(dy, node.inputs[0])


@gradient("Sin")
def sin(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * cos(x)"""
    return g.mul(dy, g.cos(node.inputs[0]))


@gradient("Cos")
def cos(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = -dy * sin(x)"""
    return g.neg(g.mul(dy, g.sin(node.inputs[0])))


@gradient("Identity", "Optional", "OptionalGetElement")
def identity(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy"""
    return dy


@gradient("Cast", "CastLike")
def cast(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy in the type of x, where x is of a floating-point type"""
    x, *_ = given(node)
    return g.cast_like(dy, x) if x.dtype is not None and x.dtype.is_floating_point() else None


@gradient("Where")
def where(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """da = dy where the condition holds, else 0;  db the other way round"""
    condition, a, b = given(node)
    return None, unbroadcast(g, g.where(condition, dy, 0.0), a), unbroadcast(g, g.where(condition, 0.0, dy), b)


@gradient("Relu")
def relu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy where y > 0, else 0"""
    # Mul(Cast(Greater)): twice as fast as Where on CPU (docs/performance.md).
    return g.mul(dy, g.cast_like(g.greater(node.outputs[0], 0.0), dy))


@gradient("LeakyRelu")
def leaky_relu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy where x > 0, else alpha dy"""
    (x,) = given(node)
    alpha = node.attributes.get_float("alpha", 0.01)
    slope = g.add(g.mul(g.cast_like(g.greater(x, 0.0), dy), 1.0 - alpha), alpha)
    return g.mul(dy, slope)


@gradient("Elu")
def elu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (1 + min(y, 0)) for alpha = 1: from y = alpha (exp(x) - 1) below 0, dx = dy * (y + alpha) there"""
    (x,) = given(node)
    alpha = node.attributes.get_float("alpha", 1.0)
    return g.where(g.greater(x, 0.0), dy, g.mul(dy, g.add(node.outputs[0], alpha)))


@gradient("Sigmoid")
def sigmoid(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * y * (1 - y)"""
    (y,) = node.outputs
    return g.mul(dy, g.mul(y, g.sub(1.0, y)))


@gradient("Tanh")
def tanh(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (1 - y^2)"""
    (y,) = node.outputs
    return g.mul(dy, g.sub(1.0, g.mul(y, y)))


@gradient("Softplus")
def softplus(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * sigmoid(x)"""
    return g.mul(dy, g.op("Sigmoid", node.inputs[0]))


@gradient("Erf")
def erf(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * 2 / sqrt(pi) * exp(-x^2)"""
    (x,) = given(node)
    return g.mul(g.mul(dy, 2.0 / math.sqrt(math.pi)), g.exp(g.neg(g.mul(x, x))))


@gradient("Gelu")
def gelu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy * (cdf(x) + x pdf(x)) of the normal distribution; or the derivative of its tanh approximation"""
    (x,) = given(node)
    square = g.mul(x, x)
    if node.attributes.get_string("approximate", "none") == "tanh":
        c, k = math.sqrt(2.0 / math.pi), 0.044715
        t = g.op("Tanh", g.mul(g.mul(x, c), g.add(g.mul(square, k), 1.0)))
        inner = g.mul(c, g.add(g.mul(square, 3.0 * k), 1.0))
        slope = g.mul(g.mul(x, 0.5), g.mul(g.sub(1.0, g.mul(t, t)), inner))
        return g.mul(dy, g.add(g.mul(g.add(t, 1.0), 0.5), slope))
    cdf = g.mul(g.add(g.op("Erf", g.mul(x, math.sqrt(0.5))), 1.0), 0.5)
    pdf = g.mul(g.exp(g.mul(square, -0.5)), 1.0 / math.sqrt(2.0 * math.pi))
    return g.mul(dy, g.add(cdf, g.mul(x, pdf)))


@gradient("Softmax")
def softmax(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = y * (dy - sum(dy * y))"""
    (y,) = node.outputs
    axis = node.attributes.get_int("axis", -1)
    return g.mul(y, g.sub(dy, g.reduce_sum(g.mul(dy, y), [axis])))


@gradient("LogSoftmax")
def log_softmax(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy - exp(y) * sum(dy)"""
    (y,) = node.outputs
    axis = node.attributes.get_int("axis", -1)
    return g.sub(dy, g.mul(g.exp(y), g.reduce_sum(dy, [axis])))
