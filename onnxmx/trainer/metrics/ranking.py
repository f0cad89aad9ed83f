"""AUC: how well scores tell yes from no, whatever threshold is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.errors import UsageError
from onnxmx.trainer.losses import Loss
from onnxmx.trainer.metrics.base import DOUBLE, Metric, Values, ratio, scores


@dataclass(frozen=True, kw_only=True)
class AUC(Metric):
    """The probability that a sample of yes has a larger score than one of no: the area under the ROC curve.

    Of several classes each against the rest, and the mean over those of which both are there. Scores are counted in
    `bins`, as wide as 8 / bins in logits near 0 and wider far from it, and two of one bin count as equal: with 1024
    bins the figure is within 0.001 of the exact one on scores that spread over a few units.
    Source: Hanley & McNeil 1982.
    """

    bins: int = 1024
    kind: ClassVar[str] = "auc"

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, (int, np.integer)) or not 2 <= self.bins <= 2**20:
            raise UsageError(f"{self.kind} expected bins to be an integer in [2, 2^20]; found {self.bins!r}")
        super().__post_init__()

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        """Scores of no, then of yes, by column and bin: (2 * columns * bins,)"""
        found, right, counts = scores(self, g, loss, outputs, labels)
        assert found.shape is not None
        columns = found.shape[1]
        assert isinstance(columns, int)
        x = g.mul(found, 0.25)
        place = g.mul(g.add(g.div(x, g.add(g.op("Abs", x), 1.0)), 1.0), self.bins / 2)
        place = g.min(g.max(g.cast(g.op("Floor", place), INT64), 0), self.bins - 1)
        column = g.add(g.mul(right, columns), np.arange(columns))
        index = g.reshape(g.add(g.mul(column, self.bins), place), [-1])
        ones = g.add(g.mul(g.cast(index, FLOAT), 0.0), 1.0)
        if counts is not None:
            ones = g.mul(ones, g.reshape(g.mul(counts, np.ones((1, columns), np.float32)), [-1]))
        empty = np.zeros(2 * columns * self.bins, np.float32)
        return g.cast(g.op("ScatterElements", empty, index, ones, axis=0, reduction="add"), DOUBLE)

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        table = g.reshape(sums, [2, -1, self.bins])
        no, yes = (g.gather(table, np.int64(k)) for k in range(2))
        below = g.sub(g.op("CumSum", no, np.int64(1)), g.mul(no, 0.5))
        pairs = g.mul(*(g.reduce_sum(v, [1], keepdims=False) for v in (no, yes)))
        area = ratio(g, g.reduce_sum(g.mul(yes, below), [1], keepdims=False), pairs)
        there = g.cast(g.greater(pairs, 0.0), DOUBLE)
        return ratio(g, g.reduce_sum(area, keepdims=False), g.reduce_sum(there, keepdims=False))
