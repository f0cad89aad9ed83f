"""Metrics of choices: how often they are right, by class or over all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_number
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.losses import Loss, class_axis
from onnxmx.trainer.losses.base import Decisions, size
from onnxmx.trainer.metrics.base import DOUBLE, Mean, Metric, Values, decisions, pack, ratio, unpack

AVERAGES = ("macro", "micro", "weighted", "binary")


@dataclass(frozen=True, kw_only=True)
class Accuracy(Mean):
    """The share of labels that the model chose."""

    kind: ClassVar[str] = "accuracy"

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        chosen, label, counts, _ = decisions(self, g, loss, outputs, labels)
        right = g.cast(g.equal(chosen, label), FLOAT)
        return _counted(g, right, counts)


@dataclass(frozen=True, kw_only=True)
class TopK(Mean):
    """The share of labels that are among the k largest logits. It is named after its k: top_5."""

    k: int = 5
    kind: ClassVar[str] = "top_k"

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, (int, np.integer)) or self.k < 1:
            raise UsageError(f"{self.kind} expected k to be an integer of at least 1; found {self.k!r}")
        super().__post_init__()

    def usual_name(self) -> str:
        return f"top_{self.k}"

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        _, label, counts, classes = decisions(self, g, loss, outputs, labels)
        if classes is None or classes < self.k:
            raise UsageError(
                f"{self.name} expected at least {self.k} classes; found {classes or 'questions of 0 or 1'}"
            )
        output = loss.only(outputs)
        axis = class_axis(output)
        _, largest = g.ops("TopK", output, np.array([self.k], np.int64), outputs=2, axis=axis)
        among = g.reduce_max(g.cast(g.equal(largest, g.unsqueeze(label, [axis])), FLOAT), [axis], keepdims=False)
        return _counted(g, among, counts)


@dataclass(frozen=True, kw_only=True)
class _Counts(Metric):
    """A metric of three counts for each class: right, chosen, and labels.

    average: "macro", the mean over the classes that were chosen or are labels; "micro", of all counts together;
    "weighted", the mean over the labels; "binary", of class 1 alone.
    A class that has nothing to divide by counts as 0.
    """

    average: str = "macro"

    def __post_init__(self) -> None:
        if self.average not in AVERAGES:
            raise UsageError(f"{self.kind} expected average to be one of {', '.join(AVERAGES)}; found {self.average!r}")
        super().__post_init__()

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        found = decisions(self, g, loss, outputs, labels)
        if self.average == "binary" and found.classes not in (None, 2):
            raise UsageError(
                f"{self.name} expected two classes for average='binary'; found {found.classes}",
                mend="Use average='macro'.",
            )
        chosen, actual = _one_hots(g, found, outputs)
        columns = [g.reduce_sum(v, [0], keepdims=False) for v in (g.mul(chosen, actual), chosen, actual)]
        if self.average == "binary" and found.classes == 2:
            columns = [g.slice(c, [1], [2], [0]) for c in columns]
        return pack(g, *columns)

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        table = g.reshape(sums, [3, -1])
        if self.average == "micro":
            table = g.reduce_sum(table, [1])
        right, chosen, actual = (g.gather(table, np.int64(k)) for k in range(3))
        figures = self.figure(g, right, chosen, actual)
        if self.average == "weighted":
            weights = actual
        else:
            weights = g.cast(g.greater(g.add(chosen, actual), 0.0), DOUBLE)
        total = g.reduce_sum(g.mul(figures, weights), keepdims=False)
        return ratio(g, total, g.reduce_sum(weights, keepdims=False))

    def figure(self, g: GraphBuilder, right: ir.Value, chosen: ir.Value, actual: ir.Value) -> Value:
        """The figure of each class, from its counts."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Precision(_Counts):
    """right / chosen: of what the model says is a class, the share that is."""

    kind: ClassVar[str] = "precision"

    def figure(self, g: GraphBuilder, right: ir.Value, chosen: ir.Value, actual: ir.Value) -> Value:
        return ratio(g, right, chosen)


@dataclass(frozen=True, kw_only=True)
class Recall(_Counts):
    """right / labels: of what is a class, the share that the model finds."""

    kind: ClassVar[str] = "recall"

    def figure(self, g: GraphBuilder, right: ir.Value, chosen: ir.Value, actual: ir.Value) -> Value:
        return ratio(g, right, actual)


_MOST_BETA = 1e9
"""Beyond, the figure is the recall in every digit, and at last the square of beta no number."""


@dataclass(frozen=True, kw_only=True)
class FBeta(_Counts):
    """(1 + beta^2) right / (beta^2 labels + chosen): a mean of precision and recall, which counts beta times as much.

    Source: van Rijsbergen 1979.
    """

    beta: float = 1.0
    kind: ClassVar[str] = "f_beta"

    def __post_init__(self) -> None:
        if not is_number(self.beta) or not 0 < self.beta <= _MOST_BETA:
            raise UsageError(
                f"{self.kind} expected beta to be a number above 0 and at most {_MOST_BETA:g}; found {self.beta!r}"
            )
        super().__post_init__()

    def figure(self, g: GraphBuilder, right: ir.Value, chosen: ir.Value, actual: ir.Value) -> Value:
        square = float(self.beta) ** 2
        return ratio(g, g.mul(right, 1.0 + square), g.add(g.mul(actual, square), chosen))


@dataclass(frozen=True, kw_only=True)
class IoU(_Counts):
    """right / (chosen + labels - right): intersection over union; the Jaccard index."""

    kind: ClassVar[str] = "iou"

    def figure(self, g: GraphBuilder, right: ir.Value, chosen: ir.Value, actual: ir.Value) -> Value:
        return ratio(g, right, g.sub(g.add(chosen, actual), right))


@dataclass(frozen=True, kw_only=True)
class MCC(Metric):
    """(c s - sum(p t)) / sqrt((s^2 - sum(p^2)) (s^2 - sum(t^2))): Matthews' correlation of choices and labels.

    c: right;  s: all;  p, t: chosen and labels by class. Of questions of 0 or 1, over all of them together.
    0 where all choices, or all labels, are one class.   Source: Matthews 1975; Gorodkin 2004.
    """

    kind: ClassVar[str] = "mcc"

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        chosen, actual = _one_hots(g, _as_classes(decisions(self, g, loss, outputs, labels)), outputs)
        right = g.reduce_sum(g.mul(chosen, actual), keepdims=False)
        return pack(g, right, *(g.reduce_sum(v, [0], keepdims=False) for v in (chosen, actual)))

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        (c,) = unpack(g, sums, 1)
        table = g.reshape(g.slice(sums, [1], [2**62], [0]), [2, -1])
        p, t = (g.gather(table, np.int64(k)) for k in range(2))
        s = g.reduce_sum(t, keepdims=False)

        def over(a: ir.Value, b: ir.Value) -> Value:
            return g.sub(g.mul(s, s), g.reduce_sum(g.mul(a, b), keepdims=False))

        both = g.sub(g.mul(c, s), g.reduce_sum(g.mul(p, t), keepdims=False))
        return ratio(g, both, g.sqrt(g.mul(over(p, p), over(t, t))))


@dataclass(frozen=True, kw_only=True)
class ConfusionMatrix(Metric):
    """How often a label of the row's class was chosen to be of the column's: (classes, classes).

    Of questions of 0 or 1, (2, 2), over all of them together.
    """

    kind: ClassVar[str] = "confusion_matrix"
    scalar: ClassVar[bool] = False

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        chosen, actual = _one_hots(g, _as_classes(decisions(self, g, loss, outputs, labels)), outputs)
        return pack(g, g.matmul(g.transpose(actual, [1, 0]), chosen))

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        assert sums.shape is not None
        assert isinstance(sums.shape[0], int)
        side = math.isqrt(sums.shape[0])
        return g.reshape(sums, [side, side])


def _as_classes(found: Decisions) -> Decisions:
    """Questions of 0 or 1 as a choice between two classes."""
    return found._replace(classes=2) if found.classes is None else found


def _one_hots(g: GraphBuilder, found: Decisions, outputs: Values) -> tuple[Value, Value]:
    """Choices and labels, float32 (rows, classes): 1 at the class, 0 in a row that does not count.

    Of questions of 0 or 1: (rows, questions), 1 for yes.
    """
    if found.classes is None:
        columns = _questions(outputs)
        chosen, actual = (g.reshape(g.cast(v, FLOAT), [-1, columns]) for v in (found.chosen, found.label))
        return chosen, actual
    numbers = np.arange(found.classes)
    chosen, actual = (g.cast(g.equal(g.reshape(v, [-1, 1]), numbers), FLOAT) for v in (found.chosen, found.label))
    if found.counts is None:
        return chosen, actual
    counts = g.reshape(found.counts, [-1, 1])
    return g.mul(chosen, counts), g.mul(actual, counts)


def _questions(outputs: Values) -> int:
    """How many questions a sample answers: the last dimension of an output of two."""
    (output,) = outputs.values()
    last = output.shape[-1] if output.shape is not None and len(output.shape) == 2 else 1
    return last if isinstance(last, int) else 1


def _counted(g: GraphBuilder, values: ir.Value, counts: ir.Value | None) -> tuple[Value, Value]:
    """The sum of those that count, and how many do."""
    if counts is None:
        return g.reduce_sum(values, keepdims=False), size(g, values)
    return g.reduce_sum(g.mul(values, counts), keepdims=False), g.reduce_sum(counts, keepdims=False)
