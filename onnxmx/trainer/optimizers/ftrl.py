"""FTRL-Proximal: follow the regularized leader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.base import Optimizer
from onnxmx.trainer.schedules import Rate


@function(outputs=("next_p", "next_z", "next_n"))
def FtrlUpdate(
    g: GraphBuilder,
    p: ir.Value,
    dp: ir.Value,
    z: ir.Value,
    n: ir.Value,
    rate: ir.Value,
    *,
    beta: ir.Value,
    l1: ir.Value,
    l2: ir.Value,
) -> tuple[Value, ...]:
    """z <- z + dp - (sqrt(n + dp^2) - sqrt(n)) p / rate;  n <- n + dp^2;
    p <- (l1 sign(z) - z) / ((beta + sqrt(n)) / rate + l2) where |z| > l1, else 0.

    A rate of 0 changes nothing.   Source: McMahan et al. 2013, alg. 1; rate and beta are its alpha and beta.
    """
    moves = g.greater(rate, 0.0)
    safe = g.where(moves, rate, 1.0)
    grown = g.add(n, g.mul(dp, dp))
    root = g.sqrt(grown)
    turned = g.sub(g.add(z, dp), g.div(g.mul(g.sub(root, g.sqrt(n)), p), safe))
    # Shrunk towards 0 by l1, which leaves 0 between -l1 and l1.
    shrunk = g.mul(g.sign(turned), g.max(g.sub(g.op("Abs", turned), l1), 0.0))
    after = g.neg(g.div(shrunk, g.add(g.div(g.add(root, beta), safe), l2)))
    return g.where(moves, after, p), g.where(moves, turned, z), g.where(moves, grown, n)


@dataclass(frozen=True)
class FTRL(Optimizer):
    """Follow the regularized leader: l1 makes parameters exactly 0.   Source: McMahan et al. 2013.

    Its l2 is in the update; `weight_decay` is added to the gradient.
    """

    lr: Rate = 0.1
    beta: float = 1.0
    l1: float = 0.01
    l2: float = 0.0
    positives: ClassVar[tuple[str, ...]] = ("beta",)
    rates: ClassVar[tuple[str, ...]] = ("weight_decay", "l1", "l2")
    elementwise: ClassVar[bool] = True
    update_rule: ClassVar[Function] = FtrlUpdate

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"z": 0.0, "n": 0.0}
