"""Rates that adapt to each element's gradients: Adagrad, Adadelta, RMSProp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.base import Optimizer, Values
from onnxmx.trainer.optimizers.sgd import SGD
from onnxmx.trainer.schedules import Rate


@function(outputs=("next_p", "next_total"))
def AdagradUpdate(
    g: GraphBuilder, p: ir.Value, dp: ir.Value, total: ir.Value, rate: ir.Value, *, epsilon: ir.Value
) -> tuple[Value, ...]:
    """total <- total + dp^2;  p <- p - rate dp / (sqrt(total) + epsilon).   Source: Duchi et al. 2011."""
    total = g.add(total, g.mul(dp, dp))
    return g.sub(p, g.div(g.mul(dp, rate), g.add(g.sqrt(total), epsilon))), total


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Each element's rate falls with the sum of its squared gradients.   Source: Duchi et al. 2011.

    initial: what that sum starts from.
    """

    lr: Rate = 1e-2
    epsilon: float = 1e-10
    initial: float = 0.0
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    rates: ClassVar[tuple[str, ...]] = ("weight_decay", "initial")
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = AdagradUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"total": self.initial}


@function(outputs=("next_p", "next_v", "next_u"))
def AdadeltaUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    v: ir.Value,
    u: ir.Value,
    rate: ir.Value,
    *,
    decay: ir.Value,
    epsilon: ir.Value,
) -> tuple[Value, ...]:
    """v <- decay v + (1 - decay) dp^2;  d = dp sqrt(u + epsilon) / sqrt(v + epsilon);
    u <- decay u + (1 - decay) d^2;  p <- p - rate d.   Source: Zeiler 2012, alg. 1.
    """
    rest = g.sub(1.0, decay)
    v = g.add(g.mul(v, decay), g.mul(g.mul(dp, dp), rest))
    d = g.mul(dp, g.div(g.sqrt(g.add(u, epsilon)), g.sqrt(g.add(v, epsilon))))
    u = g.add(g.mul(u, decay), g.mul(g.mul(d, d), rest))
    return g.sub(p, g.mul(d, rate)), v, u


@dataclass(frozen=True)
class Adadelta(Optimizer):
    """Steps as large as former steps were, for gradients as large as former ones.   Source: Zeiler 2012."""

    lr: Rate = 1.0
    decay: float = 0.9
    epsilon: float = 1e-6
    fractions: ClassVar[tuple[str, ...]] = ("decay",)
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = AdadeltaUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"v": 0.0, "u": 0.0}


@function(outputs=("scaled", "next_v"))
def RmsScale(g: GraphBuilder, dp: ir.Value, v: ir.Value, *, decay: ir.Value, epsilon: ir.Value) -> tuple[Value, ...]:
    """v <- decay v + (1 - decay) dp^2;  scaled = dp / (sqrt(v) + epsilon).   Source: Tieleman & Hinton 2012."""
    v = g.add(g.mul(v, decay), g.mul(g.mul(dp, dp), g.sub(1.0, decay)))
    return g.div(dp, g.add(g.sqrt(v), epsilon)), v


@function(outputs=("scaled", "next_v", "next_mean"))
def CenteredRmsScale(
    g: GraphBuilder, dp: ir.Value, v: ir.Value, mean: ir.Value, *, decay: ir.Value, epsilon: ir.Value
) -> tuple[Value, ...]:
    """v <- decay v + (1 - decay) dp^2;  mean <- decay mean + (1 - decay) dp;
    scaled = dp / (sqrt(v - mean^2) + epsilon).   Source: Graves 2013, eq. 38 to 45.
    """
    rest = g.sub(1.0, decay)
    v = g.add(g.mul(v, decay), g.mul(g.mul(dp, dp), rest))
    mean = g.add(g.mul(mean, decay), g.mul(dp, rest))
    variance = g.max(g.sub(v, g.mul(mean, mean)), 0.0)  # rounding may take it below 0
    return g.div(dp, g.add(g.sqrt(variance), epsilon)), v, mean


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """Steps scaled by a running mean of the squared gradient.   Source: Tieleman & Hinton 2012, lecture 6e.

    momentum: of the scaled gradients; 0 for none.   centered: scale by the variance in place of the mean square.
    """

    lr: Rate = 1e-3
    decay: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    fractions: ClassVar[tuple[str, ...]] = ("decay", "momentum")
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    elementwise: ClassVar[bool] = True

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        names = ["v", *(["mean"] if self.centered else []), *(["m"] if self.momentum else [])]
        return dict.fromkeys(names, 0.0)

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        scale, own = (CenteredRmsScale, 2) if self.centered else (RmsScale, 1)
        scaled, *kept = self.apply(scale, g, dp, *slots[:own])
        # What follows is gradient descent on the scaled gradient.
        following = SGD(momentum=self.momentum).update(g, p, scaled, slots[own:], shared)
        return (following[0], *kept, *following[1:])
