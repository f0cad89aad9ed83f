"""Steps in proportion to the norm of each parameter: LARS and LAMB. Their norms are those of whole tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.adam import Adam
from onnxmx.trainer.optimizers.base import Optimizer, Values, correction
from onnxmx.trainer.schedules import Rate


@function(outputs=("next_p", "next_m"))
def LarsUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    rate: ir.Value,
    *,
    momentum: ir.Value,
    trust: ir.Value,
    decay: ir.Value,
    epsilon: ir.Value,
) -> tuple[Value, ...]:
    """local = trust |p| / (|dp| + decay |p| + epsilon), or 1 where |p| or |dp| is 0;
    m <- momentum m + rate local (dp + decay p);  p <- p - m.   Source: You et al. 2017, alg. 1.
    """
    p_norm, dp_norm = norm(g, p), norm(g, dp)
    some = g.greater(g.mul(g.sign(p_norm), dp_norm), 0.0)
    sum_ = g.add(g.add(dp_norm, g.mul(p_norm, decay)), epsilon)
    local = g.where(some, g.div(g.mul(p_norm, trust), g.where(some, sum_, 1.0)), 1.0)
    m = g.add(g.mul(m, momentum), g.mul(g.add(dp, g.mul(p, decay)), g.mul(rate, local)))
    return g.sub(p, m), m


@dataclass(frozen=True)
class LARS(Optimizer):
    """Momentum with a rate for each parameter in proportion to its norm.   Source: You et al. 2017.

    trust: the ratio of a step's norm to the parameter's at rate 1.   Weight decay is part of the step.
    Give biases and scales a group of decay 0, as the paper does.
    """

    lr: Rate = 0.1
    momentum: float = 0.9
    trust: float = 1e-3
    epsilon: float = 1e-9
    fractions: ClassVar[tuple[str, ...]] = ("momentum",)
    positives: ClassVar[tuple[str, ...]] = ("trust",)
    rates: ClassVar[tuple[str, ...]] = ("weight_decay", "epsilon")
    update_rule: ClassVar[Function] = LarsUpdate
    decay_inside: ClassVar[bool] = True

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0}


@function(outputs=("correct_m", "correct_v"))
def LambCorrection(g: GraphBuilder, step: ir.Value, *, beta1: ir.Value, beta2: ir.Value) -> tuple[Value, ...]:
    """correct_m = 1 / (1 - beta1^t);  correct_v = 1 / (1 - beta2^t);  t = step + 1.   step: int64 scalar."""
    return g.div(1.0, correction(g, beta1, step)), g.div(1.0, correction(g, beta2, step))


@function(outputs=("next_p", "next_m", "next_v"))
def LambUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    v: ir.Value,
    rate: ir.Value,
    correct_m: ir.Value,
    correct_v: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
    epsilon: ir.Value,
    decay: ir.Value,
) -> tuple[Value, ...]:
    """m <- beta1 m + (1 - beta1) dp;  v <- beta2 v + (1 - beta2) dp^2;
    d = correct_m m / (sqrt(correct_v v) + epsilon) + decay p;
    p <- p - rate d |p| / |d|, without the ratio where |p| or |d| is 0.   Source: You et al. 2020, alg. 2.
    """
    m = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    v = g.add(g.mul(v, beta2), g.mul(g.mul(dp, dp), g.sub(1.0, beta2)))
    d = g.div(g.mul(m, correct_m), g.add(g.sqrt(g.mul(v, correct_v)), epsilon))
    d = g.add(d, g.mul(p, decay))
    p_norm, d_norm = norm(g, p), norm(g, d)
    some = g.greater(g.mul(g.sign(p_norm), d_norm), 0.0)
    ratio = g.where(some, g.div(p_norm, g.where(some, d_norm, 1.0)), 1.0)
    return g.sub(p, g.mul(d, g.mul(rate, ratio))), m, v


@dataclass(frozen=True)
class LAMB(Adam):
    """Adam with steps in proportion to the norm of each parameter.   Source: You et al. 2020.

    Weight decay is part of the step. Give biases and scales a group of decay 0, as the paper does.
    """

    lr: Rate = 1e-3
    epsilon: float = 1e-6
    amsgrad: bool = field(default=False, init=False, repr=False)
    elementwise: ClassVar[bool] = False
    update_rule: ClassVar[Function] = LambUpdate
    decay_inside: ClassVar[bool] = True

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return (rate, *self.apply(LambCorrection, g, step))


def norm(g: GraphBuilder, x: ir.Value) -> Value:
    """The L2 norm over all elements, a scalar."""
    return g.sqrt(g.reduce_sum_square(x, keepdims=False))
