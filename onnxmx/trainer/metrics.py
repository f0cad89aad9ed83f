"""Metrics: functions of graph values that return a scalar, the mean over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError, unknown_name
from onnxmx.trainer.losses import Loss, LossFunction, class_axis


@dataclass(frozen=True)
class Metric:
    """A metric by name: compute(builder, output, label) -> scalar. larger_is_better says which of two is best."""

    name: str
    compute: LossFunction
    larger_is_better: bool


def accuracy(g: GraphBuilder, logits: ir.Value, label: ir.Value) -> Value:
    """The share of labels that are the largest logit.   logits, label: as softmax_cross_entropy takes them"""
    chosen = g.op("ArgMax", logits, axis=class_axis(logits), keepdims=0)
    return g.reduce_mean(g.cast(g.equal(chosen, label), FLOAT), keepdims=False)


def mean_absolute_error(g: GraphBuilder, output: ir.Value, label: ir.Value) -> Value:
    """|output - label|, the mean over all elements.   output, label: one shape"""
    return g.reduce_mean(g.op("Abs", g.sub(output, label)), keepdims=False)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, larger_is_better=True),
        Metric("mean_absolute_error", mean_absolute_error, larger_is_better=False),
    )
}


def get(metric: str | Metric) -> Metric:
    """A metric by name, or as it is. Raises UsageError for an unknown name."""
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return METRICS[metric]


def chosen(measure: Sequence[str | Metric] | None, loss: Loss) -> list[Metric]:
    """The metrics asked for; None stands for the one that goes with the loss.

    Raises UsageError for a name that comes twice or is that of another output of a step.
    """
    if measure is None:
        return [METRICS["accuracy" if loss.classes else "mean_absolute_error"]]
    found = [get(m) for m in measure]
    names = ["loss", "grad_norm", "lr", *(m.name for m in found)]
    if taken := [name for k, name in enumerate(names) if name in names[:k]]:
        raise UsageError(f"measure expected metrics of different names; found {taken[0]!r} twice", mend="Rename one.")
    return found
