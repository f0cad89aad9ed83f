"""Schedules that rise and fall: cosine with restarts, one cycle, many cycles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_finite, is_number
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.errors import UsageError, unknown_name
from onnxmx.trainer.schedules.base import Schedule, check_rate, check_updates, open_end
from onnxmx.trainer.schedules.decay import fall


@function(outputs=("rate_t",))
def CosineRestartsRate(g: GraphBuilder, step: ir.Value, starts: ir.Value, *, rate: ir.Value, floor: ir.Value) -> Value:
    """rate_t = floor + (rate - floor) (1 + cos(pi (t - s) / (e - s))) / 2 between two restarts s <= t < e.

    step: int64 scalar t.   starts: (n,) int64, rising from 0.   Source: Loshchilov & Hutter 2017, eq. 5.
    """
    reached = g.op("GreaterOrEqual", step, starts)
    following = g.reduce_sum(g.cast(reached, INT64), keepdims=False)
    begin, end = g.gather(starts, g.sub(following, np.int64(1))), g.gather(starts, following)
    done = g.div(g.cast(g.sub(step, begin), FLOAT), g.cast(g.sub(end, begin), FLOAT))
    return fall(g, rate, floor, done)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine over `period` updates, again and again, each `factor` times as long as the one before.

    Source: Loshchilov & Hutter 2017, whose T_0 and T_mult these are.
    """

    rate: float
    period: int
    factor: int = 1
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_rate("the rate of CosineRestarts", self.rate)
        check_rate("the floor of CosineRestarts", self.floor)
        check_updates("CosineRestarts", "period", self.period, 1)
        check_updates("CosineRestarts", "factor", self.factor, 1)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        starts, length = [0, self.period], self.period
        if self.factor == 1:
            step = g.op("Mod", step, np.int64(self.period))
        while self.factor > 1 and starts[-1] < 2**61 // self.factor:
            length *= self.factor
            starts.append(starts[-1] + length)
        rate: Value = CosineRestartsRate(
            g, step, np.array(starts, np.int64), rate=float(self.rate), floor=float(self.floor)
        )
        return rate


@function(outputs=("rate_t",))
def OneCycleRate(
    g: GraphBuilder, step: ir.Value, *, low: ir.Value, peak: ir.Value, floor: ir.Value, rise: ir.Value, total: ir.Value
) -> Value:
    """Half a cosine from low up to peak at t = rise, then one down to floor at t = total - 1.

    step: int64 scalar t.   rise: in updates, as a float.   Source: Smith & Topin 2019.
    """
    t, last = g.cast(step, FLOAT), g.cast(g.sub(total, np.int64(1)), FLOAT)
    up = g.min(g.div(t, g.max(rise, 1e-6)), 1.0)
    down = g.min(g.div(g.sub(t, rise), g.max(g.sub(last, rise), 1e-6)), 1.0)
    rising = g.op("LessOrEqual", t, rise)
    return g.where(rising, fall(g, low, peak, up), fall(g, peak, floor, g.max(down, 0.0)))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One rise to the rate and one fall far below where it began.   Source: Smith & Topin 2019.

    rate: the highest.   share: of the updates, for the rise.   divide, final: the rate is first rate / divide, and at
    the end that first one / final.   total: by default the length of the run.
    """

    rate: float
    share: float = 0.3
    divide: float = 25.0
    final: float = 1e4
    total: int | None = None

    def __post_init__(self) -> None:
        check_rate("the rate of OneCycle", self.rate)
        if not (is_number(self.share) and 0 < self.share < 1):
            raise UsageError(f"the share of OneCycle expected a number in (0, 1); found {self.share!r}")
        for name in ("divide", "final"):
            value = getattr(self, name)
            if not (is_finite(value) and value >= 1):
                raise UsageError(f"{name} of OneCycle expected a finite number of at least 1; found {value!r}")
        if self.total is not None:
            check_updates("OneCycle", "total", self.total, 1)

    def resolve(self, total: int) -> OneCycle:
        return replace(self, total=total) if self.total is None else self

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        if self.total is None:
            raise open_end("OneCycle")
        low = self.rate / self.divide
        rise = max(self.share * self.total - 1, 0.0)
        rate: Value = OneCycleRate(
            g, step, low=low, peak=float(self.rate), floor=low / self.final, rise=rise, total=int(self.total)
        )
        return rate


@function(outputs=("height",))
def Triangle(g: GraphBuilder, step: ir.Value, *, up: ir.Value, down: ir.Value) -> Value:
    """height rises from 0 to 1 over `up` updates and falls back over `down`, again and again.   step: int64 scalar."""
    place = g.op("Mod", step, g.add(up, down))
    rising = g.div(g.cast(place, FLOAT), g.cast(up, FLOAT))
    falling = g.div(g.cast(g.sub(g.add(up, down), place), FLOAT), g.cast(down, FLOAT))
    return g.min(rising, falling)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """The rate rises from `low` to its highest over `up` updates and falls back over `down`.   Source: Smith 2017.

    mode: triangular; triangular2, whose peaks are half as high after each cycle; or exponential, whose peaks fall by
    `decay` after each update.   down: by default as long as up.
    """

    rate: float
    up: int
    down: int | None = None
    low: float = 0.0
    mode: str = "triangular"
    decay: float = 0.9999

    def __post_init__(self) -> None:
        check_rate("the rate of Cyclic", self.rate)
        check_rate("the low of Cyclic", self.low)
        check_updates("Cyclic", "up", self.up, 1)
        if self.down is not None:
            check_updates("Cyclic", "down", self.down, 1)
        if self.mode not in ("triangular", "triangular2", "exponential"):
            raise unknown_name("mode of Cyclic", self.mode, ("triangular", "triangular2", "exponential"))
        if not (is_number(self.decay) and 0 < self.decay <= 1):
            raise UsageError(f"the decay of Cyclic expected a number in (0, 1]; found {self.decay!r}")

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        down = self.up if self.down is None else self.down
        height: Value = Triangle(g, step, up=int(self.up), down=int(down))
        if self.mode == "triangular2":
            height = height * g.pow(np.float32(0.5), g.cast(g.div(step, np.int64(self.up + down)), FLOAT))
        elif self.mode == "exponential":
            height = height * g.pow(np.float32(self.decay), g.cast(step, FLOAT))
        return height * np.float32(self.rate - self.low) + np.float32(self.low)
