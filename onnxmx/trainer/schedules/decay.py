"""Schedules that fall: step, multi-step, linear, exponential, inverse square root, polynomial, cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_finite
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules.base import Schedule, check_rate, check_updates, open_end, position


def _check_factor(what: str, factor: float) -> None:
    if not (is_finite(factor) and factor > 0):
        raise UsageError(f"{what} expected a finite number above 0; found {factor!r}")


@function(outputs=("rate_t",))
def StepRate(g: GraphBuilder, step: ir.Value, *, rate: ir.Value, every: ir.Value, factor: ir.Value) -> Value:
    """rate_t = rate factor^floor(t / every).   step: int64 scalar t."""
    return g.mul(g.pow(factor, g.cast(g.div(step, every), FLOAT)), rate)


@dataclass(frozen=True)
class Step(Schedule):
    """The rate times `factor` after every `every` updates."""

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_rate("the rate of Step", self.rate)
        check_updates("Step", "every", self.every, 1)
        _check_factor("the factor of Step", self.factor)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        rate: Value = StepRate(g, step, rate=float(self.rate), every=int(self.every), factor=float(self.factor))
        return rate


@function(outputs=("rate_t",))
def MultiStepRate(g: GraphBuilder, step: ir.Value, at: ir.Value, *, rate: ir.Value, factor: ir.Value) -> Value:
    """rate_t = rate factor^k, k being how many of `at` the step has reached.   step: int64 scalar.   at: (n,) int64"""
    reached = g.reduce_sum(g.cast(g.op("GreaterOrEqual", step, at), FLOAT), keepdims=False)
    return g.mul(g.pow(factor, reached), rate)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """The rate times `factor` at each update of `at`, which rise."""

    rate: float
    at: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_rate("the rate of MultiStep", self.rate)
        _check_factor("the factor of MultiStep", self.factor)
        if not isinstance(self.at, (tuple, list)) or not self.at:
            raise UsageError(f"MultiStep expected at as a list of updates; found {self.at!r}")
        object.__setattr__(self, "at", tuple(self.at))
        for update in self.at:
            check_updates("MultiStep", "at", update, 1)
        if any(a >= b for a, b in zip(self.at, self.at[1:], strict=False)):
            raise UsageError(f"MultiStep expected at as updates that rise; found {self.at}")

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        at = np.array(self.at, np.int64)
        rate: Value = MultiStepRate(g, step, at, rate=float(self.rate), factor=float(self.factor))
        return rate


@function(outputs=("rate_t",))
def ExponentialRate(g: GraphBuilder, step: ir.Value, *, rate: ir.Value, decay: ir.Value) -> Value:
    """rate_t = rate decay^t.   step: int64 scalar t."""
    return g.mul(g.pow(decay, g.cast(step, FLOAT)), rate)


@dataclass(frozen=True)
class Exponential(Schedule):
    """The rate times `decay` after every update."""

    rate: float
    decay: float

    def __post_init__(self) -> None:
        check_rate("the rate of Exponential", self.rate)
        _check_factor("the decay of Exponential", self.decay)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        rate: Value = ExponentialRate(g, step, rate=float(self.rate), decay=float(self.decay))
        return rate


@function(outputs=("rate_t",))
def InverseSqrtRate(g: GraphBuilder, step: ir.Value, *, rate: ir.Value, timescale: ir.Value) -> Value:
    """rate_t = rate sqrt(timescale / (t + timescale)).   Source: Vaswani et al. 2017, eq. 3, behind its warm-up."""
    scale = g.cast(timescale, FLOAT)
    return g.mul(g.sqrt(g.div(scale, g.add(g.cast(step, FLOAT), scale))), rate)


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """The rate falls as the root of the updates done; by half after three times `timescale` of them.

    After a warm-up over as many updates it is the schedule of Vaswani et al. 2017.
    """

    rate: float
    timescale: int

    def __post_init__(self) -> None:
        check_rate("the rate of InverseSqrt", self.rate)
        check_updates("InverseSqrt", "timescale", self.timescale, 1)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        rate: Value = InverseSqrtRate(g, step, rate=float(self.rate), timescale=int(self.timescale))
        return rate


@dataclass(frozen=True)
class ToFloor(Schedule):
    """The base of schedules that reach `floor` at the last of `total` updates, by default the last of the run."""

    rate: float
    floor: float = 0.0
    total: int | None = None

    def __post_init__(self) -> None:
        check_rate(f"the rate of {type(self).__name__}", self.rate)
        check_rate(f"the floor of {type(self).__name__}", self.floor)
        if self.total is not None:
            check_updates(type(self).__name__, "total", self.total, 1)

    def resolve(self, total: int) -> Self:
        return replace(self, total=total) if self.total is None else self

    def _ends(self) -> dict[str, float | int]:
        if self.total is None:
            raise open_end(type(self).__name__)
        return {"rate": float(self.rate), "floor": float(self.floor), "total": int(self.total)}


@function(outputs=("rate_t",))
def PolynomialRate(
    g: GraphBuilder, step: ir.Value, *, rate: ir.Value, floor: ir.Value, total: ir.Value, power: ir.Value
) -> Value:
    """rate_t = floor + (rate - floor) (1 - done)^power;  done = min(1, t / (total - 1)).   step: int64 scalar t."""
    left = g.pow(g.sub(1.0, position(g, step, total)), power)
    return g.add(g.mul(g.sub(rate, floor), left), floor)


@dataclass(frozen=True)
class Polynomial(ToFloor):
    """A power of what is left of the run."""

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_factor("the power of Polynomial", self.power)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        rate: Value = PolynomialRate(g, step, power=float(self.power), **self._ends())
        return rate


@dataclass(frozen=True)
class Linear(ToFloor):
    """A straight line from the rate to the floor, which may lie higher."""

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        rate: Value = PolynomialRate(g, step, power=1.0, **self._ends())
        return rate


@function(outputs=("rate_t",))
def CosineRate(g: GraphBuilder, step: ir.Value, *, rate: ir.Value, floor: ir.Value, total: ir.Value) -> Value:
    """rate_t = floor + (rate - floor) (1 + cos(pi done)) / 2;  done = min(1, t / (total - 1)).

    step: int64 scalar t.   Source: Loshchilov & Hutter 2017, eq. 5.
    """
    return fall(g, rate, floor, position(g, step, total))


@dataclass(frozen=True)
class Cosine(ToFloor):
    """Half a cosine from the rate to the floor.   Source: Loshchilov & Hutter 2017, eq. 5."""

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        rate: Value = CosineRate(g, step, **self._ends())
        return rate


def fall(g: GraphBuilder, start: ir.Value, end: ir.Value, done: ir.Value) -> Value:
    """Half a cosine from `start` to `end`, of which the share `done` has passed."""
    falling = g.mul(g.add(g.cos(g.mul(done, math.pi)), 1.0), 0.5)
    return g.add(g.mul(g.sub(start, end), falling), end)
