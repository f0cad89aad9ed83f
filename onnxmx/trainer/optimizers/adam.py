"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.base import Optimizer, Values, correction
from onnxmx.trainer.schedules import Rate


@function(outputs=("rate_t", "epsilon_t"))
def AdamRate(
    g: GraphBuilder, rate: ir.Value, step: ir.Value, *, beta1: ir.Value, beta2: ir.Value, epsilon: ir.Value
) -> tuple[Value, Value]:
    """rate_t = rate sqrt(1 - beta2^t) / (1 - beta1^t);  epsilon_t = epsilon sqrt(1 - beta2^t);  t = step + 1.

    The bias corrections of Adam, gathered in two scalars.   rate: float32 scalar.   step: int64 scalar.
    Source: Kingma & Ba 2015, the efficient form at the end of section 2.
    """
    root = correction(g, beta2, step, root=True)
    return g.div(g.mul(rate, root), correction(g, beta1, step)), g.mul(epsilon, root)


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


@function(outputs=("next_p", "next_m", "next_v", "next_peak"))
def AmsgradUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    v: ir.Value,
    peak: ir.Value,
    rate_t: ir.Value,
    epsilon_t: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
) -> tuple[Value, ...]:
    """As AdamUpdate, but scaled by the largest v so far: peak <- max(peak, v);
    p <- p - rate_t m / (sqrt(peak) + epsilon_t).   Source: Reddi et al. 2018, alg. 2.
    """
    m = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    v = g.add(g.mul(v, beta2), g.mul(g.mul(dp, dp), g.sub(1.0, beta2)))
    peak = g.max(peak, v)
    return g.sub(p, g.div(g.mul(m, rate_t), g.add(g.sqrt(peak), epsilon_t))), m, v, peak


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square.   Source: Kingma & Ba 2015.

    amsgrad: scale by the largest running mean of the square so far (Reddi et al. 2018).
    """

    lr: Rate = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    amsgrad: bool = False
    fractions: ClassVar[tuple[str, ...]] = ("beta1", "beta2")
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)  # at 0 a zero gradient would give 0 / 0
    elementwise: ClassVar[bool] = True

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0, "v": 0.0} | ({"peak": 0.0} if self.amsgrad else {})

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        return self.apply(AdamRate, g, rate, step)

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        return self.apply(AmsgradUpdate if self.amsgrad else AdamUpdate, g, p, dp, *slots, *shared)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay that does not pass through its scaling.   Source: Loshchilov & Hutter 2019, alg. 2."""

    weight_decay: float = field(default=1e-2, kw_only=True)
    decoupled: ClassVar[bool] = True
