"""What a metric is: sums that batches add up, and the figure that is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import UsageError
from onnxmx.trainer.losses.base import DOUBLE, Decisions, Loss, Scores, Values, pack, ratio, unpack

__all__ = ["DOUBLE", "Mean", "Metric", "Values", "compared", "decisions", "pack", "ratio", "scores", "unpack"]


@dataclass(frozen=True, kw_only=True)
class Metric(CheckedArguments):
    """A figure that says how good a model is, right over any number of batches.

    `sums` counts and adds up in the graph what a batch holds, `finish` makes the figure of what batches added up.
    name: what it is called among the results.
    kind: by which text names it.   larger_is_better: which of two is best.   scalar: whether it is one number.
    """

    name: str = ""
    kind: ClassVar[str]
    larger_is_better: ClassVar[bool] = True
    scalar: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.usual_name())
        if not isinstance(self.name, str):
            raise UsageError(f"{self.kind} expected a text as its name; found {self.name!r}")

    def usual_name(self) -> str:
        """What it is called where the user says nothing."""
        return self.kind

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        """What is added up over batches: float64 (n,), n known when the graph is built.

        loss: what the model learns by, which knows what outputs and labels mean.
        """
        raise NotImplementedError

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        """The figure, a float64 scalar; a tensor for a metric that is not scalar."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Mean(Metric):
    """A mean: a total and a count."""

    def terms(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        """total and count, scalars."""
        raise NotImplementedError

    def sums(self, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Value:
        return pack(g, *self.terms(g, loss, outputs, labels))

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        return ratio(g, *unpack(g, sums, 2))


def decisions(metric: Metric, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Decisions:
    """What the model chose. Raises UsageError where the loss makes no choices."""
    found: Decisions = _ask(metric, loss, "decisions", "that chooses between classes")(g, outputs, labels)
    return found


def scores(metric: Metric, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> Scores:
    """How sure the model is. Raises UsageError where the loss has no scores."""
    found: Scores = _ask(metric, loss, "scores", "that chooses between classes")(g, outputs, labels)
    return found


def compared(metric: Metric, g: GraphBuilder, loss: Loss, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
    """The output, and the label in its shape. Raises UsageError where the loss compares no such two."""
    found: tuple[ir.Value, ir.Value] = _ask(metric, loss, "compared", "of numbers")(g, outputs, labels)
    return found


def _ask(metric: Metric, loss: Loss, what: str, kind: str) -> Any:
    method = getattr(loss, what, None)
    if method is None:
        raise UsageError(
            f"the metric {metric.name} expected a loss {kind}; found {loss.name}",
            mend="Choose another metric, or write one as a function of graph values.",
        )
    return method
