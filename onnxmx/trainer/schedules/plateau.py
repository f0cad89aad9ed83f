"""A schedule with a state: the rate falls when the loss does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_number
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules.base import Rate, Schedule, as_schedule, check_rate, check_updates, refuse_state


@function(outputs=("next_factor", "next_best", "next_waited", "next_sum"))
def PlateauUpdate(
    g: GraphBuilder,
    loss: ir.Value,
    step: ir.Value,
    factor: ir.Value,
    best: ir.Value,
    waited: ir.Value,
    sum: ir.Value,
    *,
    reduce: ir.Value,
    patience: ir.Value,
    every: ir.Value,
    threshold: ir.Value,
) -> tuple[Value, ...]:
    """sum <- sum + loss;  after each `every` updates mean = sum / every, sum <- 0, and
    where mean < best (1 - threshold): best <- mean, waited <- 0;  else waited <- waited + 1;
    where waited > patience: factor <- factor reduce, waited <- 0.   All but step (int64) are float32 scalars.
    """
    ends = g.equal(g.op("Mod", g.add(step, np.int64(1)), every), np.int64(0))
    sum = g.add(sum, loss)
    mean = g.div(sum, g.cast(every, FLOAT))
    better = g.less(mean, g.mul(best, g.sub(1.0, threshold)))
    longer = g.where(better, 0.0, g.add(waited, 1.0))
    tired = g.greater(longer, g.cast(patience, FLOAT))
    reduced = g.where(tired, g.mul(factor, reduce), factor)
    return (
        g.where(ends, reduced, factor),
        g.where(g.op("And", ends, better), mean, best),
        g.where(ends, g.where(tired, 0.0, longer), waited),
        g.where(ends, 0.0, sum),
    )


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """A rate, or another schedule, times a factor that falls when the training loss no longer does.

    The step watches its own loss: the mean over each `every` updates is one look. After more than `patience` looks
    without one below the best by the share `threshold`, the rate is multiplied by `factor`, and never goes below
    `floor`. What it remembers is part of the state, so that a resumed run goes on as it would have.
    """

    rate: Rate
    factor: float = 0.1
    patience: int = 10
    every: int = 100
    threshold: float = 1e-4
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.rate):
            check_rate("the rate of ReduceOnPlateau", self.rate)
        refuse_state(self.rate)
        check_rate("the floor of ReduceOnPlateau", self.floor)
        check_updates("ReduceOnPlateau", "every", self.every, 1)
        check_updates("ReduceOnPlateau", "patience", self.patience, 0)
        if not (is_number(self.factor) and 0 < self.factor < 1):
            raise UsageError(f"the factor of ReduceOnPlateau expected a number in (0, 1); found {self.factor!r}")
        if not (is_number(self.threshold) and 0 <= self.threshold < 1):
            raise UsageError(f"the threshold of ReduceOnPlateau expected a number in [0, 1); found {self.threshold!r}")

    STATE = ("plateau.factor", "plateau.best", "plateau.waited", "plateau.sum")

    @property
    def state(self) -> dict[str, float]:
        """What it remembers, by name: float32 scalars, and their first values."""
        return dict(zip(self.STATE, (1.0, math.inf, 0.0, 0.0), strict=True))

    def resolve(self, total: int) -> ReduceOnPlateau:
        return replace(self, rate=as_schedule(self.rate).resolve(total))

    def advance(
        self, g: GraphBuilder, step: ir.Value, loss: ir.Value, states: Mapping[str, ir.Value]
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """The rate of this update, and what the state is after it. loss: float32 scalar."""
        rate = g.max(g.mul(as_schedule(self.rate)(g, step), states[self.STATE[0]]), np.float32(self.floor))
        following = PlateauUpdate(
            g,
            loss,
            step,
            *(states[name] for name in self.STATE),
            reduce=float(self.factor),
            patience=int(self.patience),
            every=int(self.every),
            threshold=float(self.threshold),
        )
        return rate, dict(zip(self.STATE, following, strict=True))
