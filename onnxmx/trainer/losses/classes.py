"""Losses of a choice between classes: an output has a logit for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.errors import ShapeError, UsageError
from onnxmx.trainer.losses.base import Array, Decisions, Loss, Scores, Spec, Values, dims_of, numbers, refuse, size


def class_axis(output: ir.Value) -> int:
    """Where the classes of an output are: the last axis of (batch, classes) and (batch, time, classes), axis 1 of
    images, (batch, classes, height, width), and of volumes.

    Source: ONNX's SoftmaxCrossEntropyLoss, for which it is always axis 1.
    """
    return 1 if output.shape is not None and len(output.shape) > 3 else -1


class Rows(NamedTuple):
    """Labels as probabilities of the classes.

    targets: float32, the shape of the output.   counts: float32, that without the classes, 1 where a label counts;
    None where all do.
    """

    targets: ir.Value
    counts: ir.Value | None


@dataclass(frozen=True, kw_only=True)
class OfClasses(Loss):
    """A loss of logits along the axis of the classes; the mean over all labels.

    Labels are class numbers, or probabilities of the classes.
    """

    takes: ClassVar[str] = "class numbers, integers of the output's shape without the classes; or probabilities of them"
    metric: ClassVar[str] = "accuracy"
    activation: ClassVar[str | None] = "Softmax"

    def label(self, output: ir.Value, found: Spec | None = None) -> Spec:
        dims = list(dims_of(self, output))
        axis = class_axis(output)
        if len(dims) < 2 or not isinstance(dims[axis], int):
            raise ShapeError(
                f"{self.name} expected an output whose {'last' if axis < 0 else 'second'} dimension is the number of "
                f"classes; found {describe(output)}",
                mend="End the model in a Dense layer with one unit for each class; for each pixel, in a Conv2D.",
            )
        if dims[axis] == 1:  # of one class the probability is always 1: the loss would be 0 whatever is learned
            raise ShapeError(
                f"{self.name} expected an output of two classes or more; found {describe(output)}",
                mend="Learn numbers by the loss mean_squared_error, yes or no by sigmoid_bce.",
            )
        if found is not None and found.dtype == FLOAT and len(found.shape) == len(dims):
            return Spec(tuple(dims), FLOAT)
        del dims[axis]
        return Spec(tuple(dims), INT64)

    @property
    def ignored(self) -> int | None:
        """The class number that is passed over."""
        return None

    def check(self, name: str, array: Array, outputs: Values) -> None:
        if array.dtype.kind == "f":
            allowed = "probabilities, between 0 and 1, or labels of int64, class numbers"
            refuse(self, name, array, (array < 0) | (array > 1), allowed)
            return
        classes = _classes(self.only(outputs))
        bad = (array < 0) | (array >= classes)
        if self.ignored is not None:
            bad &= array != self.ignored
        mend = "Repair the labels, or let the model end in an output for each class: L.Dense(classes), replace_head."
        refuse(self, name, array, bad, f"in [0, {classes}), one of {classes} classes", mend=mend)

    def rows(self, g: GraphBuilder, outputs: Values, labels: Values) -> Rows:
        """The labels as probabilities."""
        output, (label,) = self.only(outputs), labels.values()
        if _soft(label):
            return Rows(label, None)
        return Rows(one_hot(g, label, output), self._counts(g, label, output))

    def _counts(self, g: GraphBuilder, label: ir.Value, output: ir.Value) -> Value | None:
        if self.ignored is None:
            return None
        return g.cast_like(g.op("Not", g.equal(label, self.ignored)), output)

    def decisions(self, g: GraphBuilder, outputs: Values, labels: Values) -> Decisions:
        """The largest logit, and the label."""
        output, (label,) = self.only(outputs), labels.values()
        axis = class_axis(output)
        chosen = g.op("ArgMax", output, axis=axis, keepdims=0)
        counts = None if _soft(label) else self._counts(g, label, output)
        if _soft(label):
            label = g.op("ArgMax", label, axis=axis, keepdims=0)
        return Decisions(chosen, label, counts, _classes(output))

    def scores(self, g: GraphBuilder, outputs: Values, labels: Values) -> Scores:
        """log(p) - log(1 - p) of each class; of two classes the second alone, which says all."""
        output = self.only(outputs)
        targets, counts = self.rows(g, outputs, labels)
        logits, right = (classes_last(g, v, output) for v in (output, targets))
        if _classes(output) == 2:
            scores = g.sub(*(g.slice(logits, [k], [k + 1], [1]) for k in (1, 0)))
            right = g.slice(right, [1], [2], [1])
        else:
            p = g.op("Softmax", logits, axis=1)
            # 1 - p is no smaller than float32 tells 1 from its neighbour: beyond, all are equally sure.
            scores = g.sub(g.op("LogSoftmax", logits, axis=1), g.log(g.max(g.sub(1.0, p), 1e-7)))
        rows = None if counts is None else g.reshape(counts, [-1, 1])
        return Scores(scores, g.cast(g.greater(right, 0.5), INT64), rows)


@function(outputs=("loss",))
def SoftmaxCrossEntropyRows(g: GraphBuilder, output: ir.Value, targets: ir.Value) -> Value:
    """loss = -sum(targets log(softmax(output))), over the last axis"""
    return g.neg(g.reduce_sum(g.mul(targets, g.op("LogSoftmax", output, axis=-1)), [-1], keepdims=False))


@function(outputs=("loss",))
def SoftmaxCrossEntropyImages(g: GraphBuilder, output: ir.Value, targets: ir.Value) -> Value:
    """loss = -sum(targets log(softmax(output))), over axis 1"""
    return g.neg(g.reduce_sum(g.mul(targets, g.op("LogSoftmax", output, axis=1)), [1], keepdims=False))


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropy(OfClasses):
    """-sum(t log(softmax(output))) over the classes, t = 1 at the label and 0 elsewhere, or the label itself.

    smoothing: t = (1 - smoothing) t + smoothing / classes.   Source: Szegedy et al. 2016, section 7.
    class_weight: a number for each class; its labels count so often, in the mean's divisor too.
    ignore_index: a class number that is passed over.
    """

    smoothing: float = 0.0
    class_weight: Sequence[float] | None = None
    ignore_index: int | None = None
    name: ClassVar[str] = "softmax_cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("smoothing", 0.0, below=1.0)
        object.__setattr__(self, "class_weight", numbers(self, "class_weight", self.class_weight))
        check_ignored(self, self.ignore_index)

    @property
    def ignored(self) -> int | None:
        return self.ignore_index

    def label(self, output: ir.Value, found: Spec | None = None) -> Spec:
        spec = super().label(output, found)
        if self.class_weight is not None and len(self.class_weight) != _classes(output):
            raise ShapeError(
                f"{self.name} expected a class_weight for each of {_classes(output)} classes; "
                f"found {len(self.class_weight)}",
            )
        return spec

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output, (label,) = self.only(outputs), labels.values()
        axis = class_axis(output)
        hot = self.rows(g, outputs, labels).targets
        targets = hot
        if self.smoothing:
            targets = g.add(g.mul(hot, 1.0 - self.smoothing), self.smoothing / _classes(output))
        if self.class_weight is not None:
            targets = g.mul(targets, self._weights(g, output))
        losses: ir.Value = (SoftmaxCrossEntropyRows if axis < 0 else SoftmaxCrossEntropyImages)(g, output, targets)
        if self.ignored is not None and not _soft(label):
            losses = g.mul(losses, self._counts(g, label, output))
        count = self.count(g, outputs, labels)
        return g.reduce_sum(losses, keepdims=False), size(g, losses) if count is None else count

    def count(self, g: GraphBuilder, outputs: Values, labels: Values) -> ir.Value | None:
        output, (label,) = self.only(outputs), labels.values()
        if _soft(label) or (self.class_weight is None and self.ignored is None):
            return None
        hot, counts = self.rows(g, outputs, labels)
        if self.class_weight is not None:
            # One weight a label; an ignored one may be a number that is no class, with no weight.
            own = g.reduce_sum(g.mul(hot, self._weights(g, output)), [class_axis(output)], keepdims=False)
            counts = own if counts is None else g.mul(own, counts)
        assert counts is not None
        return g.reduce_sum(counts, keepdims=False)

    def _weights(self, g: GraphBuilder, output: ir.Value) -> Value:
        return g.cast_like(along(np.array(self.class_weight, np.float32), output), output)


@function(outputs=("loss",))
def SoftmaxFocalRows(g: GraphBuilder, output: ir.Value, targets: ir.Value, *, gamma: ir.Value) -> Value:
    """loss = -sum(targets (1 - p)^gamma log(p)) over the last axis, p = softmax(output).   Source: Lin et al. 2017."""
    logp = g.op("LogSoftmax", output, axis=-1)
    wrong = g.max(g.sub(1.0, g.exp(logp)), 1e-7)  # above 0, where a power has a gradient
    slope = g.pow(wrong, g.cast_like(gamma, wrong))
    return g.neg(g.reduce_sum(g.mul(targets, g.mul(slope, logp)), [-1], keepdims=False))


@dataclass(frozen=True, kw_only=True)
class SoftmaxFocal(OfClasses):
    """-(1 - p)^gamma log(p), p the probability of the label's class.   Source: Lin et al. 2017, eq. 4."""

    gamma: float = 2.0
    name: ClassVar[str] = "softmax_focal"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("gamma", 0.0)

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output = self.only(outputs)
        logits, targets = (classes_last(g, v, output) for v in (output, self.rows(g, outputs, labels).targets))
        losses = SoftmaxFocalRows(g, logits, targets, gamma=float(self.gamma))
        return g.reduce_sum(losses, keepdims=False), size(g, losses)


@function(outputs=("loss",))
def KLRows(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """loss = sum(label (log(label) - log(softmax(output)))), over the last axis; 0 log(0) = 0"""
    entropy = g.mul(label, g.log(g.max(label, 1e-30)))
    return g.reduce_sum(g.sub(entropy, g.mul(label, g.op("LogSoftmax", output, axis=-1))), [-1], keepdims=False)


@dataclass(frozen=True, kw_only=True)
class KL(OfClasses):
    """sum(t (log(t) - log(softmax(output)))) over the classes: how far the output is from the probabilities t.

    Logarithms of probabilities will do for logits.   Source: Kullback & Leibler 1951.
    """

    name: ClassVar[str] = "kl"
    takes: ClassVar[str] = "probabilities, float32 of the output's shape"
    function: ClassVar[Function] = KLRows

    def label(self, output: ir.Value, found: Spec | None = None) -> Spec:
        super().label(output)
        return Spec(dims_of(self, output), FLOAT)

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output, (label,) = self.only(outputs), labels.values()
        losses = KLRows(g, *(classes_last(g, v, output) for v in (output, label)))
        return g.reduce_sum(losses, keepdims=False), size(g, losses)


@function(outputs=("loss",))
def DiceError(g: GraphBuilder, p: ir.Value, t: ir.Value, *, smooth: ir.Value) -> Value:
    """loss = 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), sums over the last axis.   Source: Dice 1945."""
    smooth = g.cast_like(smooth, p)
    both, either = g.reduce_sum(g.mul(p, t), [-1], keepdims=False), g.reduce_sum(g.add(p, t), [-1], keepdims=False)
    return g.sub(1.0, g.div(g.add(g.mul(both, 2.0), smooth), g.add(either, smooth)))


@dataclass(frozen=True, kw_only=True)
class Dice(OfClasses):
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) for each sample and class, sums over its pixels.

    p = softmax(output).   smooth: what keeps an empty class from 0 / 0.   Source: Dice 1945; Milletari et al. 2016.
    """

    smooth: float = 1.0
    name: ClassVar[str] = "dice"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("smooth", 0.0, above=True)

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output = self.only(outputs)
        axis, classes = class_axis(output), _classes(output)
        pair = [g.op("Softmax", output, axis=axis), self.rows(g, outputs, labels).targets]
        if axis < 0:
            assert output.shape is not None
            rank = len(output.shape)
            pair = [g.transpose(v, [0, rank - 1, *range(1, rank - 1)]) for v in pair]
        losses = DiceError(g, *(g.reshape(v, [0, classes, -1]) for v in pair), smooth=float(self.smooth))
        return g.reduce_sum(losses, keepdims=False), size(g, losses)


def one_hot(g: GraphBuilder, label: ir.Value, logits: ir.Value) -> Value:
    """1 where the index along the classes is the label, else 0, in the shape and element type of the logits."""
    axis = class_axis(logits)
    return g.cast_like(g.equal(g.unsqueeze(label, [axis]), along(np.arange(_classes(logits)), logits)), logits)


def along(array: Array, output: ir.Value) -> Array:
    """A number for each class, as it broadcasts against the output."""
    assert output.shape is not None
    return array.reshape(-1, *[1] * (len(output.shape) - 2)) if class_axis(output) == 1 else array


def classes_last(g: GraphBuilder, x: ir.Value, output: ir.Value) -> Value:
    """`x`, of the shape of the output, as (rows, classes)."""
    if class_axis(output) == 1:
        assert output.shape is not None
        x = g.transpose(x, [0, *range(2, len(output.shape)), 1])
    return g.reshape(x, [-1, _classes(output)])


def check_ignored(loss: Loss, index: int | None) -> None:
    """Raises UsageError unless the index is an integer or None."""
    if index is not None and (isinstance(index, bool) or not isinstance(index, (int, np.integer))):
        raise UsageError(f"{loss.name} expected ignore_index to be an integer; found {index!r}")


def _soft(label: ir.Value) -> bool:
    """Whether labels are probabilities, and no class numbers."""
    return label.dtype is not None and label.dtype.is_floating_point()


def _classes(output: ir.Value) -> int:
    assert output.shape is not None
    classes = output.shape[class_axis(output)]
    assert isinstance(classes, int)
    return classes
