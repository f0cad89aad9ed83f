"""Adam's kin: AdaMax, NAdam, AdaBelief."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.adam import AdamRate
from onnxmx.trainer.optimizers.base import Optimizer, Values, correction
from onnxmx.trainer.schedules import Rate


@function(outputs=("rate_t",))
def AdamaxRate(g: GraphBuilder, rate: ir.Value, step: ir.Value, *, beta1: ir.Value) -> Value:
    """rate_t = rate / (1 - beta1^t);  t = step + 1.   rate: float32 scalar.   step: int64 scalar."""
    return g.div(rate, correction(g, beta1, step))


@function(outputs=("next_p", "next_m", "next_u"))
def AdamaxUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    u: ir.Value,
    rate_t: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
    epsilon: ir.Value,
) -> tuple[Value, ...]:
    """m <- beta1 m + (1 - beta1) dp;  u <- max(beta2 u, |dp| + epsilon);  p <- p - rate_t m / u.

    Source: Kingma & Ba 2015, alg. 2.
    """
    m = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    u = g.max(g.mul(u, beta2), g.add(g.op("Abs", dp), epsilon))
    return g.sub(p, g.div(g.mul(m, rate_t), u)), m, u


@dataclass(frozen=True)
class Adamax(Optimizer):
    """Adam scaled by the largest gradient, which fades, in place of the mean square.   Source: Kingma & Ba 2015."""

    lr: Rate = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    fractions: ClassVar[tuple[str, ...]] = ("beta1", "beta2")
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = AdamaxUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0, "u": 0.0}

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return self.apply(AdamaxRate, g, rate, step)


@function(outputs=("rate_m", "rate_g", "root"))
def NadamRate(
    g: GraphBuilder, rate: ir.Value, step: ir.Value, *, beta1: ir.Value, beta2: ir.Value
) -> tuple[Value, ...]:
    """rate_m = rate beta1 / (1 - beta1^(t + 1));  rate_g = rate (1 - beta1) / (1 - beta1^t);
    root = sqrt(1 - beta2^t);  t = step + 1.   rate: float32 scalar.   step: int64 scalar.
    """
    rate_m = g.div(g.mul(rate, beta1), correction(g, beta1, g.add(step, np.int64(1))))
    rate_g = g.div(g.mul(rate, g.sub(1.0, beta1)), correction(g, beta1, step))
    return rate_m, rate_g, correction(g, beta2, step, root=True)


@function(outputs=("next_p", "next_m", "next_v"))
def NadamUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    v: ir.Value,
    rate_m: ir.Value,
    rate_g: ir.Value,
    root: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
    epsilon: ir.Value,
) -> tuple[Value, ...]:
    """m <- beta1 m + (1 - beta1) dp;  v <- beta2 v + (1 - beta2) dp^2;
    p <- p - (rate_m m + rate_g dp) / (sqrt(v) / root + epsilon).   Source: Dozat 2016, alg. 2, beta1 being constant.
    """
    m = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    v = g.add(g.mul(v, beta2), g.mul(g.mul(dp, dp), g.sub(1.0, beta2)))
    ahead = g.add(g.mul(m, rate_m), g.mul(dp, rate_g))
    return g.sub(p, g.div(ahead, g.add(g.div(g.sqrt(v), root), epsilon))), m, v


@dataclass(frozen=True)
class NAdam(Optimizer):
    """Adam whose momentum looks one step ahead, as Nesterov's.   Source: Dozat 2016."""

    lr: Rate = 2e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    fractions: ClassVar[tuple[str, ...]] = ("beta1", "beta2")
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = NadamUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0}

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return self.apply(NadamRate, g, rate, step)


@function(outputs=("next_p", "next_m", "next_s"))
def AdaBeliefUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    s: ir.Value,
    rate_t: ir.Value,
    epsilon_t: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
    epsilon: ir.Value,
) -> tuple[Value, ...]:
    """m <- beta1 m + (1 - beta1) dp;  s <- beta2 s + (1 - beta2) (dp - m)^2 + epsilon;
    p <- p - rate_t m / (sqrt(s) + epsilon_t).

    rate_t, epsilon_t: scalars of AdamRate.   Source: Zhuang et al. 2020, alg. 2.
    """
    m = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    surprise = g.sub(dp, m)
    s = g.add(g.add(g.mul(s, beta2), g.mul(g.mul(surprise, surprise), g.sub(1.0, beta2))), epsilon)
    return g.sub(p, g.div(g.mul(m, rate_t), g.add(g.sqrt(s), epsilon_t))), m, s


@dataclass(frozen=True)
class AdaBelief(Optimizer):
    """Adam scaled by how far the gradient lies from its running mean.   Source: Zhuang et al. 2020."""

    lr: Rate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-16
    fractions: ClassVar[tuple[str, ...]] = ("beta1", "beta2")
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = AdaBeliefUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0, "s": 0.0}

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return self.apply(AdamRate, g, rate, step)
