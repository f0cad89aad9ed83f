"""Optimizers: slots, and an update of one parameter as an `ai.onnxmx` function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules import Schedule, check_rate

Values = tuple[ir.Value, ...]


class Optimizer(Protocol):
    """What a step asks of an optimizer.

    lr: the learning rate, a number or a schedule.
    slots: the names of what it remembers of each parameter, in the parameter's shape, zero at first.
    """

    slots: ClassVar[tuple[str, ...]]

    @property
    def lr(self) -> float | Schedule: ...

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        """Scalars that all parameters share. rate: float32; step: int64, updates done so far."""

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        """The next value of the parameter `p`, whose gradient is `dp`, then those of its slots."""


@function(outputs=("rate_t", "epsilon_t"))
def AdamRate(
    g: GraphBuilder, rate: ir.Value, step: ir.Value, *, beta1: ir.Value, beta2: ir.Value, epsilon: ir.Value
) -> tuple[Value, Value]:
    """rate_t = rate sqrt(1 - beta2^t) / (1 - beta1^t);  epsilon_t = epsilon sqrt(1 - beta2^t);  t = step + 1.

    The bias corrections of Adam, gathered in two scalars.   rate: float32 scalar.   step: int64 scalar.
    Source: Kingma & Ba 2015, the efficient form at the end of section 2.
    """
    t = g.add(g.cast(step, FLOAT), 1.0)
    root = g.sqrt(g.sub(1.0, g.pow(beta2, t)))
    return g.div(g.mul(rate, root), g.sub(1.0, g.pow(beta1, t))), g.mul(epsilon, root)


@function(outputs=("next_p", "next_m", "next_v"))
def AdamUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    v: ir.Value,
    rate_t: ir.Value,
    epsilon_t: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
) -> tuple[Value, ...]:
    """m <- beta1 m + (1 - beta1) dp;  v <- beta2 v + (1 - beta2) dp^2;  p <- p - rate_t m / (sqrt(v) + epsilon_t).

    p, dp, m, v: one shape, float32.   rate_t, epsilon_t: scalars of AdamRate.
    Source: Kingma & Ba 2015, alg. 1.
    """
    m = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    v = g.add(g.mul(v, beta2), g.mul(g.mul(dp, dp), g.sub(1.0, beta2)))
    return g.sub(p, g.div(g.mul(m, rate_t), g.add(g.sqrt(v), epsilon_t))), m, v


@function(outputs=("decayed",))
def DecoupledDecay(g: GraphBuilder, p: ir.Value, rate: ir.Value, *, weight_decay: ir.Value) -> Value:
    """decayed = p (1 - rate weight_decay), before the update.   Source: Loshchilov & Hutter 2019, alg. 2."""
    return g.mul(p, g.sub(1.0, g.mul(rate, weight_decay)))


@dataclass(frozen=True)
class Adam:
    """Adam: steps scaled by running means of the gradient and of its square.   Source: Kingma & Ba 2015.

    Raises UsageError for values out of range, as the other optimizers do.
    """

    lr: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("m", "v")

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_fraction("beta1", self.beta1)
        _check_fraction("beta2", self.beta2)
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):  # at 0 a zero gradient would give 0 / 0
            raise UsageError(f"epsilon expected a finite number above 0; found {self.epsilon}")

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        scalars: Values = AdamRate(g, rate, step, beta1=self.beta1, beta2=self.beta2, epsilon=self.epsilon)
        return scalars

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        updated: Values = AdamUpdate(g, p, dp, *slots, *shared[:2], beta1=self.beta1, beta2=self.beta2)
        return updated


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay that does not pass through its scaling.   Source: Loshchilov & Hutter 2019, alg. 2."""

    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate("weight_decay", self.weight_decay)

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return (*super().prepare(g, rate, step), rate)

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        decayed = DecoupledDecay(g, p, shared[2], weight_decay=self.weight_decay)
        return super().update(g, decayed, dp, slots, shared)


@function(outputs=("next_p", "next_m"))
def MomentumUpdate(
    g: GraphBuilder, p: ir.Value, dp: ir.Value, m: ir.Value, rate: ir.Value, *, momentum: ir.Value
) -> tuple[Value, Value]:
    """m <- momentum m + dp;  p <- p - rate m.   p, dp, m: one shape, float32.   Source: Polyak 1964."""
    m = g.add(g.mul(m, momentum), dp)
    return g.sub(p, g.mul(m, rate)), m


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.   Source: Polyak 1964; Sutskever et al. 2013."""

    lr: float | Schedule = 1e-2
    momentum: float = 0.9
    slots: ClassVar[tuple[str, ...]] = ("m",)

    def __post_init__(self) -> None:
        _check_lr(self)
        _check_fraction("momentum", self.momentum)

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return (rate,)

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        updated: Values = MomentumUpdate(g, p, dp, *slots, *shared, momentum=self.momentum)
        return updated


OPTIMIZERS: dict[str, Any] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
"""By the name that the command line and `config.toml` use."""


def _check_lr(optimizer: Adam | SGD) -> None:
    if not callable(optimizer.lr):  # a schedule checks itself
        check_rate(f"{type(optimizer).__name__}'s lr", optimizer.lr)


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise UsageError(f"{name} expected a number in [0, 1); found {value}")
