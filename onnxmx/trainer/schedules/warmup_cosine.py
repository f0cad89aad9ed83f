"""The default schedule: a linear warm-up, then half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules.base import Schedule, check_rate, check_updates


@function(outputs=("rate",))
def WarmupCosineRate(
    g: GraphBuilder, step: ir.Value, *, peak: ir.Value, floor: ir.Value, warmup: ir.Value, total: ir.Value
) -> Value:
    """rate = peak (t + 1) / warmup while t < warmup, then half a cosine from peak to floor that ends at t = total - 1.

    step: int64 scalar t, updates done so far.   rate: float32 scalar.   warmup, total: integers, in updates.
    Source: Loshchilov & Hutter 2017, eq. 5; linear warm-up as in Goyal et al. 2017, section 2.2.
    """
    t, w, n = (g.cast(v, FLOAT) for v in (step, warmup, total))
    rising = g.div(g.add(t, 1.0), g.max(w, 1.0))
    done = g.min(g.max(g.div(g.sub(t, w), g.max(g.sub(g.sub(n, w), 1.0), 1.0)), 0.0), 1.0)
    falling = g.mul(g.add(g.cos(g.mul(done, math.pi)), 1.0), 0.5)
    rate = g.add(g.mul(g.sub(peak, floor), falling), floor)
    return g.where(g.less(t, w), g.mul(peak, rising), rate)


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """Linear warm-up to `peak` over `warmup` updates, then a cosine decay to `floor` at update `total`.

    total: by default the length of the run.   warmup: an integer of updates, or None for a twentieth of the total.
    Raises UsageError for negative rates and for a warm-up longer than the run.
    """

    peak: float
    warmup: int | None = 0
    floor: float = 0.0
    total: int | None = None

    def __post_init__(self) -> None:
        check_rate("the peak of WarmupCosine", self.peak)
        check_rate("the floor of WarmupCosine", self.floor)
        if self.warmup is not None:
            check_updates("WarmupCosine", "a warmup", self.warmup, 0)
        if self.total is not None:
            check_updates("WarmupCosine", "a total", self.total, 1)

    def resolve(self, total: int) -> WarmupCosine:
        total = total if self.total is None else self.total
        warmup = total // 20 if self.warmup is None else self.warmup
        if warmup > total:
            raise UsageError(
                f"WarmupCosine expected a warmup no longer than its {total} updates; found {warmup}",
                mend="Train for more epochs, or warm up for fewer updates.",
            )
        return replace(self, total=total, warmup=warmup)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        if self.total is None or self.warmup is None:
            raise UsageError(
                "WarmupCosine expected its total number of updates; found none", mend="Call resolve(total)."
            )
        rate: Value = WarmupCosineRate(
            g, step, peak=float(self.peak), floor=float(self.floor), warmup=int(self.warmup), total=int(self.total)
        )
        return rate
