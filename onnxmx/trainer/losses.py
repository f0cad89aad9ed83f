"""Losses: functions of graph values that return a scalar, the mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.errors import ShapeError, unknown_name

LossFunction = Callable[[GraphBuilder, ir.Value, ir.Value], Value]


@dataclass(frozen=True)
class Loss:
    """A loss by name.

    compute: (builder, output, label) -> scalar.
    classes: whether labels are class numbers, int64 of the output's shape without that of the classes (`class_axis`);
    otherwise they are float32 of the output's own shape.
    activation: the operator of which the outputs it takes are the logits, where it computes that by itself.
    """

    name: str
    compute: LossFunction
    classes: bool
    activation: str | None = None

    def label(self, output: ir.Value) -> tuple[list[int | str | None], ir.DataType]:
        """Shape and element type of the labels for a model's output."""
        if output.shape is None:
            raise ShapeError(f"{self.name} expected an output of known rank; found {describe(output)}")
        dims = [d if isinstance(d, int) else d.value for d in output.shape]
        if not self.classes:
            return dims, FLOAT
        axis = class_axis(output)
        if not dims or not isinstance(dims[axis], int):
            raise ShapeError(
                f"{self.name} expected an output whose {'last' if axis < 0 else 'second'} dimension is the number of "
                f"classes; found {describe(output)}",
                mend="End the model in a Dense layer with one unit for each class; for each pixel, in a Conv2D.",
            )
        del dims[axis]
        return dims, INT64


def class_axis(output: ir.Value) -> int:
    """Where the classes of an output are: the last axis of (batch, classes) and (batch, time, classes), axis 1 of
    images, (batch, classes, height, width), and of volumes.

    Source: ONNX's SoftmaxCrossEntropyLoss, for which it is always axis 1.
    """
    return 1 if output.shape is not None and len(output.shape) > 3 else -1


def softmax_cross_entropy(g: GraphBuilder, logits: ir.Value, label: ir.Value) -> Value:
    """-log softmax(logits)[label], the mean over all labels.

    logits: (batch, ..., classes), or (batch, classes, height, width)   label: the same without classes, int64
    """
    axis = class_axis(logits)
    chosen = g.mul(one_hot(g, label, logits), g.op("LogSoftmax", logits, axis=axis))
    return g.neg(g.reduce_mean(g.reduce_sum(chosen, [axis], keepdims=False), keepdims=False))


def mean_squared_error(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """(output - label)^2, the mean over all elements.   output, label: one shape"""
    error = g.sub(output, label)
    return g.reduce_mean(g.mul(error, error), keepdims=False)


def one_hot(g: GraphBuilder, label: ir.Value, logits: ir.Value) -> Value:
    """1 where the index along the classes is the label, else 0, in the shape and element type of the logits."""
    assert logits.shape is not None
    axis = class_axis(logits)
    classes = logits.shape[axis]
    assert isinstance(classes, int)
    numbers = np.arange(classes, dtype=np.int64)
    if axis == 1:
        numbers = numbers.reshape(-1, *[1] * (len(logits.shape) - 2))
    return g.cast_like(g.equal(g.unsqueeze(label, [axis]), numbers), logits)


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("softmax_cross_entropy", softmax_cross_entropy, classes=True, activation="Softmax"),
        Loss("mean_squared_error", mean_squared_error, classes=False),
    )
}


def get(loss: str | Loss) -> Loss:
    """A loss by name, or as it is. Raises UsageError for an unknown name."""
    if isinstance(loss, Loss):
        return loss
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    return LOSSES[loss]
