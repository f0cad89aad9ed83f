"""Stochastic gradient descent, with momentum and with Nesterov's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.base import Optimizer, Values


@function(outputs=("next_p",))
def SgdUpdate(g: GraphBuilder, p: ir.Value, dp: ir.Value, rate: ir.Value) -> Value:
    """p <- p - rate dp.   p, dp: one shape, float32.   Source: Robbins & Monro 1951."""
    return g.sub(p, g.mul(dp, rate))


@function(outputs=("next_p", "next_m"))
def MomentumUpdate(
    g: GraphBuilder, p: ir.Value, dp: ir.Value, m: ir.Value, rate: ir.Value, *, momentum: ir.Value
) -> tuple[Value, Value]:
    """m <- momentum m + dp;  p <- p - rate m.   p, dp, m: one shape, float32.   Source: Polyak 1964."""
    m = g.add(g.mul(m, momentum), dp)
    return g.sub(p, g.mul(m, rate)), m


@function(outputs=("next_p", "next_m"))
def NesterovUpdate(
    g: GraphBuilder, p: ir.Value, dp: ir.Value, m: ir.Value, rate: ir.Value, *, momentum: ir.Value
) -> tuple[Value, Value]:
    """m <- momentum m + dp;  p <- p - rate (dp + momentum m).   p, dp, m: one shape, float32.

    Source: Nesterov 1983, in the form of Sutskever et al. 2013 with the parameters taken at the look-ahead point.
    """
    m = g.add(g.mul(m, momentum), dp)
    return g.sub(p, g.mul(g.add(dp, g.mul(m, momentum)), rate)), m


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum unless that is 0.   Source: Robbins & Monro 1951; Polyak 1964."""

    momentum: float = 0.0
    fractions: ClassVar[tuple[str, ...]] = ("momentum",)
    elementwise: ClassVar[bool] = True

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0} if self.momentum else {}

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        return self.apply(MomentumUpdate if self.momentum else SgdUpdate, g, p, dp, *slots, *shared)


@dataclass(frozen=True)
class Momentum(SGD):
    """Stochastic gradient descent with momentum.   Source: Polyak 1964; Sutskever et al. 2013."""

    momentum: float = 0.9


@dataclass(frozen=True)
class NAG(SGD):
    """Nesterov's accelerated gradient: momentum that looks one step ahead.   Source: Nesterov 1983."""

    momentum: float = 0.9

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0}

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        return self.apply(NesterovUpdate, g, p, dp, *slots, *shared)
