"""Steps of one size, in the direction of a sign: Signum and Lion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.base import Optimizer
from onnxmx.trainer.schedules import Rate


@function(outputs=("next_p", "next_m"))
def SignumUpdate(
    g: GraphBuilder, p: ir.Value, dp: ir.Value, m: ir.Value, rate: ir.Value, *, momentum: ir.Value
) -> tuple[Value, ...]:
    """m <- momentum m + (1 - momentum) dp;  p <- p - rate sign(m).   Source: Bernstein et al. 2018, alg. 2."""
    m = g.add(g.mul(m, momentum), g.mul(dp, g.sub(1.0, momentum)))
    return g.sub(p, g.mul(g.sign(m), rate)), m


@dataclass(frozen=True)
class Signum(Optimizer):
    """The sign of the momentum; with momentum 0 signSGD.   Source: Bernstein et al. 2018."""

    lr: Rate = 1e-2
    momentum: float = 0.9
    fractions: ClassVar[tuple[str, ...]] = ("momentum",)
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = SignumUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0}


@function(outputs=("next_p", "next_m"))
def LionUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    m: ir.Value,
    rate: ir.Value,
    *,
    beta1: ir.Value,
    beta2: ir.Value,
) -> tuple[Value, ...]:
    """p <- p - rate sign(beta1 m + (1 - beta1) dp);  m <- beta2 m + (1 - beta2) dp.

    Source: Chen et al. 2023, alg. 2.
    """
    ahead = g.add(g.mul(m, beta1), g.mul(dp, g.sub(1.0, beta1)))
    following = g.add(g.mul(m, beta2), g.mul(dp, g.sub(1.0, beta2)))
    return g.sub(p, g.mul(g.sign(ahead), rate)), following


@dataclass(frozen=True)
class Lion(Optimizer):
    """The sign of a gradient mixed with its momentum. Weight decay is decoupled.   Source: Chen et al. 2023."""

    lr: Rate = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    fractions: ClassVar[tuple[str, ...]] = ("beta1", "beta2")
    decoupled: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = LionUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0}
