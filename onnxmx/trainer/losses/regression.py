"""Losses of numbers: the mean over all elements of an output and a label of one shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.losses.base import Array, Elementwise, Values, refuse


@function(outputs=("loss",))
def SquaredError(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """loss = (output - label)^2"""
    error = g.sub(output, label)
    return g.mul(error, error)


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(Elementwise):
    """(output - label)^2; L2."""

    name: ClassVar[str] = "mean_squared_error"
    function: ClassVar[Function] = SquaredError


@function(outputs=("loss",))
def AbsoluteError(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """loss = |output - label|"""
    return g.op("Abs", g.sub(output, label))


@dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError(Elementwise):
    """|output - label|; L1."""

    name: ClassVar[str] = "mean_absolute_error"
    function: ClassVar[Function] = AbsoluteError


@function(outputs=("loss",))
def HuberError(g: GraphBuilder, output: ir.Value, label: ir.Value, *, delta: ir.Value) -> Value:
    """loss = e^2 / 2 where e <= delta, else delta (e - delta / 2), e = |output - label|.   Source: Huber 1964."""
    e = g.op("Abs", g.sub(output, label))
    near = g.min(e, g.cast_like(delta, e))
    return g.mul(near, g.sub(e, g.mul(near, 0.5)))


@dataclass(frozen=True, kw_only=True)
class Huber(Elementwise):
    """e^2 / 2 where e <= delta, else delta (e - delta / 2), e = |output - label|.   Source: Huber 1964."""

    delta: float = 1.0
    name: ClassVar[str] = "huber"
    function: ClassVar[Function] = HuberError

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("delta", 0.0, above=True)


@function(outputs=("loss",))
def LogCoshError(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """loss = log(cosh(e)) = |e| + log(1 + exp(-2 |e|)) - log(2), e = output - label"""
    e = g.op("Abs", g.sub(output, label))
    return g.sub(g.add(e, g.op("Softplus", g.mul(e, -2.0))), math.log(2.0))


@dataclass(frozen=True, kw_only=True)
class LogCosh(Elementwise):
    """log(cosh(output - label))."""

    name: ClassVar[str] = "log_cosh"
    function: ClassVar[Function] = LogCoshError


@function(outputs=("loss",))
def PoissonError(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """loss = exp(output) - label output, of a count whose rate is exp(output), without the term log(label!)"""
    return g.sub(g.exp(output), g.mul(label, output))


@dataclass(frozen=True, kw_only=True)
class Poisson(Elementwise):
    """exp(output) - label output: the output is the logarithm of a rate, the label a count."""

    name: ClassVar[str] = "poisson"
    takes: ClassVar[str] = "counts, float32 of at least 0, of the output's shape"
    function: ClassVar[Function] = PoissonError

    def check(self, name: str, array: Array, outputs: Values) -> None:
        refuse(self, name, array, array < 0, "at least 0")
