"""Metrics: figures that say how good a model is, right over a whole dataset and not the mean over its batches.

base.py       what a metric is: sums of a batch, in the graph, and the figure that is made of added sums
decisions.py  of choices      ranking.py  of scores      numbers.py  of numbers and probabilities
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.source import user_line
from onnxmx.errors import UsageError
from onnxmx.trainer.losses import Custom, Loss
from onnxmx.trainer.losses.own import called
from onnxmx.trainer.metrics.base import Mean, Metric, Values
from onnxmx.trainer.metrics.decisions import MCC, Accuracy, ConfusionMatrix, FBeta, IoU, Precision, Recall, TopK
from onnxmx.trainer.metrics.numbers import MAE, MSE, R2, RMSE, Pearson, Perplexity
from onnxmx.trainer.metrics.ranking import AUC
from onnxmx.trainer.named import named
from onnxmx.trainer.user_code import load_function

METRICS: dict[str, type[Metric]] = {
    metric.kind: metric
    for metric in (
        Accuracy,
        TopK,
        Precision,
        Recall,
        FBeta,
        MCC,
        AUC,
        ConfusionMatrix,
        IoU,
        MAE,
        MSE,
        RMSE,
        R2,
        Pearson,
        Perplexity,
    )
}
SHORT = {"acc": Accuracy, "mae": MAE, "mse": MSE, "rmse": RMSE, "f1": FBeta}


@dataclass(frozen=True, kw_only=True)
class OwnMetric(Mean):
    """The mean of what `function` returns, a value for each sample or element, or a scalar that is a mean already.

    function: (output, label) -> value, as for a loss.
    larger: whether more is better; where it is not said, the metric does not tell the best epoch.
    """

    function: Callable[..., Any]
    larger: bool | None = None
    kind: ClassVar[str] = "custom"

    def usual_name(self) -> str:
        return called(self.function)

    @property
    def larger_is_better(self) -> bool | None:  # type: ignore[override]
        return self.larger

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        return Custom(function=self.function).terms(g, outputs, labels)


@dataclass(frozen=True, kw_only=True)
class LossValue(Metric):
    """The loss itself, as a metric."""

    kind: ClassVar[str] = "loss"
    larger_is_better: ClassVar[bool] = False
    of: Loss

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        return self.of.compute(g, outputs, labels)[1]

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        return self.of.finish(g, sums)


MetricLike = str | Metric | Callable[..., Any]
"""A metric, its name, or a function of graph values."""


def get(metric: MetricLike) -> Metric:
    """A metric from what a user gives: "top_k:k=3", "path.py:function", a Metric, or a function.

    Raises UsageError for an unknown name or option, ModelFileError for a file that cannot be used.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type):
        raise UsageError(
            f"measure expected a metric; found the class {metric.__name__}",
            at=user_line(),
            mend=f"Call it: {metric.__name__}()."
            if issubclass(metric, Metric)
            else "For example measure=['accuracy'].",
        )
    if callable(metric):
        return OwnMetric(function=metric)
    if not isinstance(metric, str):
        raise UsageError(
            f"measure expected a name, a metric of mx.metrics, or a function of graph values; found {metric!r}",
            mend="For example measure=['accuracy'].",
        )
    path, _, name = metric.rpartition(":")
    if path.endswith(".py"):
        return OwnMetric(function=load_function(Path(path), name))
    made: Metric = named("metric", metric, METRICS, SHORT)
    return made


def chosen(measure: Sequence[MetricLike] | None, loss: Loss) -> list[Metric]:
    """The metrics asked for; None stands for the one that goes with the loss, if there is one.

    Raises UsageError for a name that comes twice or is that of another output of a step.
    """
    if measure is None:
        return [METRICS[loss.metric]()] if loss.metric else []
    if isinstance(measure, (str, Metric)) or callable(measure):
        measure = [measure]
    found = [get(m) for m in measure]
    names = ["loss", "grad_norm", "lr", *(m.name for m in found)]
    if taken := [name for k, name in enumerate(names) if name in names[:k]]:
        raise UsageError(
            f"measure expected metrics of different names; found {taken[0]!r} twice",
            mend="Name one, as in mx.metrics.FBeta(beta=2, name='f2').",
        )
    return found


__all__ = [
    "AUC",
    "MAE",
    "MCC",
    "METRICS",
    "MSE",
    "R2",
    "RMSE",
    "Accuracy",
    "ConfusionMatrix",
    "FBeta",
    "IoU",
    "LossValue",
    "Metric",
    "MetricLike",
    "OwnMetric",
    "Pearson",
    "Perplexity",
    "Precision",
    "Recall",
    "TopK",
    "chosen",
    "get",
]
