"""Metrics of numbers: errors, and how much of the labels the outputs explain; and those of probabilities of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import Dim, GraphBuilder, Value
from onnxmx.trainer.losses import Loss, SoftmaxCrossEntropy
from onnxmx.trainer.losses.base import size
from onnxmx.trainer.losses.classes import OfClasses
from onnxmx.trainer.metrics.base import DOUBLE, Mean, Metric, Values, _ask, compared, pack, ratio


@dataclass(frozen=True, kw_only=True)
class MAE(Mean):
    """|output - label|, the mean over all elements."""

    kind: ClassVar[str] = "mean_absolute_error"
    larger_is_better: ClassVar[bool] = False

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        error = g.op("Abs", g.sub(*compared(self, g, loss, outputs, labels)))
        return g.reduce_sum(error, keepdims=False), size(g, error)


@dataclass(frozen=True, kw_only=True)
class MSE(Mean):
    """(output - label)^2, the mean over all elements."""

    kind: ClassVar[str] = "mean_squared_error"
    larger_is_better: ClassVar[bool] = False

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        error = g.sub(*compared(self, g, loss, outputs, labels))
        return g.reduce_sum(g.mul(error, error), keepdims=False), size(g, error)


@dataclass(frozen=True, kw_only=True)
class RMSE(MSE):
    """The root of the mean of (output - label)^2."""

    kind: ClassVar[str] = "root_mean_squared_error"

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        return g.sqrt(super().finish(g, sums))


@dataclass(frozen=True, kw_only=True)
class _Moments(Metric):
    """A metric of the sums of 1, x, y, x^2, y^2 and x y, x the output and y the label, for each number of a sample."""

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        pair = compared(self, g, loss, outputs, labels)
        # In float64, or the difference of large sums would hold nothing.
        x, y = (g.cast(g.reshape(v, [-1, _columns(v)]), DOUBLE) for v in pair)
        parts = [g.sub(g.add(x, 1.0), x), x, y, g.mul(x, x), g.mul(y, y), g.mul(x, y)]
        return pack(g, *(g.reduce_sum(v, [0]) for v in parts))

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        table = g.reshape(sums, [6, -1])
        n, x, y, xx, yy, xy = (g.gather(table, np.int64(k)) for k in range(6))
        n = g.max(n, 1.0)

        def spread(product: ir.Value, a: ir.Value, b: ir.Value) -> Value:
            """The sum of (a - mean) (b - mean). What rounding leaves of a constant is 0."""
            found = g.sub(product, g.div(g.mul(a, b), n))
            real = g.cast(g.greater(g.op("Abs", found), g.mul(g.op("Abs", product), 1e-14)), DOUBLE)
            return g.mul(found, real)

        error = g.sub(g.add(xx, yy), g.mul(xy, 2.0))
        figures = self.figure(g, error, spread(xx, x, x), spread(yy, y, y), spread(xy, x, y))
        return g.reduce_mean(figures, keepdims=False)

    def figure(self, g: GraphBuilder, error: Value, xx: Value, yy: Value, xy: Value) -> Value:
        """error: sum((x - y)^2).   xx, yy, xy: sums of products of what deviates from the means."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class R2(_Moments):
    """1 - sum((output - label)^2) / sum((label - mean(label))^2), for each number of a sample, and their mean.

    Where the labels are all the same, 1 if the outputs are right and 0 if not.
    """

    kind: ClassVar[str] = "r2"

    def figure(self, g: GraphBuilder, error: Value, xx: Value, yy: Value, xy: Value) -> Value:
        same = g.equal(yy, 0.0)
        wrong = g.cast(g.greater(error, 0.0), DOUBLE)
        return g.sub(1.0, g.where(same, wrong, ratio(g, error, yy)))


@dataclass(frozen=True, kw_only=True)
class Pearson(_Moments):
    """The correlation of output and label, for each number of a sample, and their mean; 0 where either is constant.

    Source: Pearson 1895.
    """

    kind: ClassVar[str] = "pearson"

    def figure(self, g: GraphBuilder, error: Value, xx: Value, yy: Value, xy: Value) -> Value:
        return ratio(g, xy, g.sqrt(g.mul(g.max(xx, 0.0), g.max(yy, 0.0))))


@dataclass(frozen=True, kw_only=True)
class Perplexity(Mean):
    """exp of the mean of -log(p), p the probability of the label; labels that the loss ignores are passed over."""

    kind: ClassVar[str] = "perplexity"
    larger_is_better: ClassVar[bool] = False

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        _ask(self, loss, "rows", "that chooses between classes")
        assert isinstance(loss, OfClasses)
        return SoftmaxCrossEntropy(ignore_index=loss.ignored).terms(g, outputs, labels)

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        return g.exp(super().finish(g, sums))


def _columns(x: ir.Value) -> int:
    """How many numbers a sample has. 1 where that is not known: then all count as one."""
    dims: list[Dim] = [d if isinstance(d, int) else None for d in x.shape[1:]] if x.shape is not None else [None]
    return math.prod(d for d in dims if isinstance(d, int)) if None not in dims else 1
