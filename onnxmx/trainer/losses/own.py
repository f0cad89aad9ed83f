"""A loss of the user's own: a Python function of graph values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT
from onnxmx.builder.source import line_of, raised_at
from onnxmx.builder.values import agree, describe, dims, expects_numbers
from onnxmx.errors import OnnxmxError, ShapeError, UsageError
from onnxmx.trainer.losses.base import Decisions, Loss, Spec, Specs, Values, dims_of, size
from onnxmx.trainer.losses.classes import SoftmaxCrossEntropy
from onnxmx.trainer.losses.regression import MeanSquaredError

_BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "Equal", "Greater", "Less",
              "GreaterOrEqual", "LessOrEqual"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Custom(Loss):
    """The mean of what `function` returns: a value for each sample or element, or a scalar that is a mean already.

    function: (output, label) -> value, or, of a model of several outputs or labels, with their names as parameters.
    """

    function: Callable[..., Any]
    name: ClassVar[str] = "custom"
    takes: ClassVar[str] = "what the dataset has"

    def __str__(self) -> str:
        return f"{self.name}:{called(self.function)}"

    def columns(self, main: str | None) -> tuple[str | None, ...]:
        return (main,)

    def labels(self, outputs: Values, found: Mapping[str, Spec | None]) -> Specs:
        first = next(iter(outputs.values()))
        return {name: spec or Spec(dims_of(self, first), FLOAT) for name, spec in found.items()}

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        value = call(self.function, outputs, labels)
        _refuse_crossing(self.function, value, {*outputs.values(), *labels.values()})
        if value.dtype != FLOAT:
            raise ShapeError(
                f"{called(self.function)} expected to return float32; found {value.dtype}",
                at=line_of(self.function),
                mend="Cast it: x.builder.cast(x, onnx_ir.DataType.FLOAT).",
            )
        if value.shape is not None and not len(value.shape):
            # A mean already: it counts as often as there are samples.
            first = next(iter(outputs.values()))
            count = g.cast(g.squeeze(g.op("Shape", first, start=0, end=1), [0]), FLOAT)
            return g.mul(value, count), count
        return g.reduce_sum(value, keepdims=False), size(g, value)

    # What metrics ask of a loss. The function may mean anything; shapes and types tell what can be measured beside it.
    def compared(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        """The output, and a label of its shape. Raises UsageError where there are no such two."""
        rule = MeanSquaredError()
        _check_like(rule, "of numbers", outputs, labels)
        return rule.compared(g, outputs, labels)

    def decisions(self, g: GraphBuilder, outputs: Values, labels: Values) -> Decisions:
        """The largest output, and the label, a class number. Raises UsageError where there are no such two."""
        rule = SoftmaxCrossEntropy()
        _check_like(rule, "that chooses between classes", outputs, labels)
        return rule.decisions(g, outputs, labels)


def _check_like(rule: Loss, kind: str, outputs: Values, labels: Values) -> None:
    """Raises UsageError unless there is one output and one label, as `rule` takes them."""
    found = [Spec(dims(v.shape), v.dtype) for v in labels.values() if v.shape is not None and v.dtype is not None]
    if len(outputs) == len(labels) == len(found) == 1:
        try:
            expected = rule.label(rule.only(outputs), found[0])
            if expected.dtype == found[0].dtype and agree(expected.shape, found[0].shape):
                return
        except ShapeError:
            pass
    shapes = ", ".join(f"{name} {describe(v)}" for name, v in {**outputs, **labels}.items())
    raise UsageError(
        f"the metric expected outputs and labels as a loss {kind} has them; found {shapes}",
        mend="Choose another metric, or write one as a function of graph values.",
    )


def call(function: Callable[..., Any], outputs: Values, labels: Values) -> Value:
    """What `function` makes of them, by the names of its parameters, or else of the first output and label.

    Raises UsageError where its parameters cannot be told apart, or it returns no value of the graph.
    """
    values = {**labels, **outputs}
    takes = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    needed = [p.name for p in takes if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if all(name in values for name in needed):
        given: dict[str, Any] = {p.name: values[p.name] for p in takes if p.name in values}
        arguments: list[Any] = []
    elif len(outputs) == 1 and len(needed) <= 1 + len(labels):
        given, arguments = {}, [*outputs.values(), *labels.values()][: len(needed)]
    else:
        raise UsageError(
            f"{called(function)} expected parameters with names among {sorted(values)}; found {needed}",
            at=line_of(function),
            mend="Name its parameters after the model's outputs and the dataset's labels.",
        )
    try:
        made = function(*arguments, **given)
    except OnnxmxError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(
            f"{called(function)} expected to return a value of the graph; it raised {type(error).__name__}: {error}",
            at=raised_at(error) or line_of(function),
            mend=expects_numbers(error),
        ) from error
    if not isinstance(made, Value):
        raise UsageError(
            f"{called(function)} expected to return a value of the graph; found {made!r}",
            at=line_of(function),
            mend="Write x.builder.equal(x, y) for x == y, which is Python's own."
            if isinstance(made, bool)
            else "For example return (output - label) ** 2.",
        )
    return made


def _refuse_crossing(function: Callable[..., Any], made: Value, given: set[ir.Value]) -> None:
    """Raises ShapeError where `made` was computed by broadcasting (batch,) against (batch, 1).

    That pairs every output with every label, in silence, and trains to something else.
    """
    seen = set(given)
    ahead: list[ir.Value] = [made]
    while ahead:
        value = ahead.pop()
        node = value.producer()
        if node is None or value in seen:
            continue
        seen.add(value)
        ahead += (sources := [v for v in node.inputs if v is not None])
        shapes = [dims(v.shape) for v in sources if v.shape is not None]
        vectors = [s for s in shapes if len(s) == 1 and isinstance(s[0], str)]
        if node.op_type in _BROADCAST and any(s[:1] == v and s[-1] == 1 for s in shapes for v in vectors):
            raise ShapeError(
                f"{called(function)} expected each output beside its own label; {node.op_type} of "
                f"{' and '.join(describe(v) for v in sources)} puts each beside every one: {describe(value)}",
                at=line_of(function),
                mend="Give the labels the output's shape, y[:, None] in numpy; or take output[:, 0].",
            )


def called(function: Callable[..., Any]) -> str:
    """What a function is called."""
    return str(getattr(function, "__name__", None) or type(function).__name__)
