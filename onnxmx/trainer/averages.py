"""Averages of the weights along the run, inside the graph: exponential (EMA), stochastic (SWA), a target network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_number
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.named import named
from onnxmx.trainer.schedules.base import check_updates


@dataclass(frozen=True)
class Average(CheckedArguments):
    """The base of averages: the state has `<prefix>.<parameter>` beside each parameter and running statistic.

    use: whether the averages are what is validated and saved as the model.
    """

    use: bool = field(default=True, kw_only=True)
    prefix: ClassVar[str]

    def resolve(self, total: int) -> Average:
        """The same for a run of `total` updates. Raises UsageError where it would end before it starts."""
        return self

    def __call__(self, g: GraphBuilder, average: ir.Value, p: ir.Value, step: ir.Value) -> ir.Value:
        """The next average. p: the parameter after the update.   step: int64 scalar, updates done before it."""
        raise NotImplementedError  # pragma: no cover - every average defines it


@function(outputs=("next_average",))
def EmaUpdate(
    g: GraphBuilder, average: ir.Value, p: ir.Value, step: ir.Value, *, decay: ir.Value, ramp: ir.Value
) -> Value:
    """average <- d average + (1 - d) p, with d = decay, or min(decay, (1 + step) / (10 + step)) where ramp is 1.

    Source: Polyak & Juditsky 1992; the ramp is that of Abadi et al. 2016 (ExponentialMovingAverage).
    """
    t = g.cast(step, FLOAT)
    early = g.div(g.add(t, 1.0), g.add(t, 10.0))
    kept = g.where(g.greater(ramp, np.int64(0)), g.min(decay, early), decay)
    return g.add(g.mul(average, kept), g.mul(p, g.sub(1.0, kept)))


@dataclass(frozen=True)
class EMA(Average):
    """The exponential moving average of the weights.   Source: Polyak & Juditsky 1992.

    decay: how much of the average an update keeps.   ramp: whether it keeps less in the first updates, so that short
    runs forget where they began.
    """

    decay: float = 0.999
    ramp: bool = True
    prefix: ClassVar[str] = "ema"

    def __post_init__(self) -> None:
        if not (is_number(self.decay) and 0 <= self.decay < 1):
            raise UsageError(f"the decay of EMA expected a number in [0, 1); found {self.decay!r}")

    def __call__(self, g: GraphBuilder, average: ir.Value, p: ir.Value, step: ir.Value) -> ir.Value:
        found: Value = EmaUpdate(g, average, p, step, decay=float(self.decay), ramp=int(self.ramp))
        return found


@function(outputs=("next_average",))
def SwaUpdate(
    g: GraphBuilder, average: ir.Value, p: ir.Value, step: ir.Value, *, start: ir.Value, every: ir.Value
) -> Value:
    """average <- average + (p - average) / (k + 1) where step + 1 = start + k every;  p before start, else unchanged.

    Source: Izmailov et al. 2018, alg. 1.
    """
    since = g.sub(g.add(step, np.int64(1)), start)
    k = g.div(g.max(since, np.int64(0)), every)
    due = g.op("Or", g.less(since, np.int64(0)), g.equal(g.op("Mod", since, every), np.int64(0)))
    share = g.div(g.cast(due, FLOAT), g.add(g.cast(k, FLOAT), 1.0))
    return g.add(average, g.mul(g.sub(p, average), share))


@dataclass(frozen=True)
class SWA(Average):
    """The mean of the weights after update `start` and after each `every` updates from there.

    start: by default three quarters of the run. Before it the average is the weights themselves.
    Running statistics are averaged as the weights are.   Source: Izmailov et al. 2018, alg. 1.
    """

    start: int | None = None
    every: int = 1
    prefix: ClassVar[str] = "swa"

    def __post_init__(self) -> None:
        if self.start is not None:
            check_updates("SWA", "start", self.start, 1)
        check_updates("SWA", "every", self.every, 1)

    def resolve(self, total: int) -> SWA:
        start = max(total * 3 // 4, 1) if self.start is None else self.start
        if start > total:
            raise UsageError(
                f"SWA expected to start before the end of the run, update {total}; found {start}: it ends before it "
                "starts",
                mend="Train for more epochs, or start it earlier.",
            )
        return replace(self, start=start)

    def __call__(self, g: GraphBuilder, average: ir.Value, p: ir.Value, step: ir.Value) -> ir.Value:
        if self.start is None:
            raise UsageError("SWA expected to know where it starts; found None", mend="Call resolve(total).")
        found: Value = SwaUpdate(g, average, p, step, start=int(self.start), every=int(self.every))
        return found


@function(outputs=("next_target",))
def TargetCopy(g: GraphBuilder, target: ir.Value, p: ir.Value, step: ir.Value, *, every: ir.Value) -> Value:
    """target <- p after each `every`-th update, else unchanged.   Source: Mnih et al. 2015, alg. 1."""
    due = g.equal(g.op("Mod", g.add(step, np.int64(1)), every), np.int64(0))
    return g.where(due, p, target)


@function(outputs=("next_target",))
def TargetMove(g: GraphBuilder, target: ir.Value, p: ir.Value, *, tau: ir.Value) -> Value:
    """target <- target + tau (p - target).   Source: Lillicrap et al. 2016, alg. 1."""
    return g.add(target, g.mul(g.sub(p, target), tau))


@dataclass(frozen=True)
class Target(Average):
    """The target network of Q-learning: weights that follow those that are trained.

    every: they are copied after so many updates.   tau: or else they move by this share of the way at each.
    A step reads them by `nets(model, x, average=True)`; see `mx.Joint`.
    Source: Mnih et al. 2015, alg. 1; Lillicrap et al. 2016, alg. 1.
    """

    every: int | None = None
    tau: float | None = None
    prefix: ClassVar[str] = "target"
    use: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if (self.every is None) == (self.tau is None):
            raise UsageError("Target expected one of every and tau", mend="Such as mx.Target(every=1000).")
        if self.every is not None:
            check_updates("Target", "every", self.every, 1)
        if self.tau is not None and not (is_number(self.tau) and 0 < self.tau <= 1):
            raise UsageError(f"the tau of Target expected a number above 0 and at most 1; found {self.tau!r}")

    def __call__(self, g: GraphBuilder, average: ir.Value, p: ir.Value, step: ir.Value) -> ir.Value:
        found: Value
        if self.every is not None:
            found = TargetCopy(g, average, p, step, every=int(self.every))
        else:
            found = TargetMove(g, average, p, tau=float(self.tau or 0))
        return found


AVERAGES: dict[str, type[Average]] = {"ema": EMA, "swa": SWA}
"""By the name that the command line and `config.toml` use."""
AverageLike = Average | str
"""An average, or its name, with options after a colon: "ema:decay=0.99"."""


def get(average: AverageLike | None) -> Average | None:
    """The average that a user gives. Raises UsageError for what is none, an unknown name, and an unknown option."""
    if isinstance(average, str):
        made: Average = named("average", average, AVERAGES, {})
        return made
    if average is not None and not isinstance(average, Average):
        raise UsageError(f"expected an average of the weights; found {average!r}", mend="Such as mx.EMA(0.999).")
    return average
