"""What a loss is: what it reads, what labels it takes, and a sum and a count that batches add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments, plain_numbers
from onnxmx.builder.functions import Function
from onnxmx.builder.graph import Dim, GraphBuilder, Value, describe
from onnxmx.builder.literals import is_finite, is_number
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.builder.values import show_shape
from onnxmx.errors import SampleError, ShapeError, UsageError
from onnxmx.trainer.data.arrays import first_bad
from onnxmx.trainer.named import spell

Array = np.ndarray[Any, Any]
Values = Mapping[str, ir.Value]
DOUBLE = ir.DataType.DOUBLE


class Spec(NamedTuple):
    """Shape, samples first, and element type of a label."""

    shape: tuple[Dim, ...]
    dtype: ir.DataType

    def __str__(self) -> str:
        return f"{self.dtype.numpy().name} {show_shape(self.shape)}"


Specs = Mapping[str, Spec]


@dataclass(frozen=True, kw_only=True)
class Loss(CheckedArguments):
    """What a step makes small. Its value over any number of samples is weight * total / count.

    weight: its share in a sum of several losses.
    name: by which text names it.   takes: its labels, in words.   reads: how many outputs of a model it reads.
    metric: the name of the metric that goes with it, or "".
    activation: the operator of which the outputs it takes are the logits, where it computes that by itself.
    """

    weight: float = 1.0
    name: ClassVar[str]
    takes: ClassVar[str]
    reads: ClassVar[int] = 1
    metric: ClassVar[str] = ""
    activation: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        plain_numbers(self)
        self._at_least("weight", 0.0)

    def __str__(self) -> str:
        return spell(self.name, self)

    def columns(self, main: str | None) -> tuple[str | None, ...]:
        """The names of the label columns that it reads; `main` is that of the label itself."""
        return (main,)

    def labels(self, outputs: Values, found: Mapping[str, Spec | None]) -> Specs:
        """What it takes of each column. found: what the data has, by column; None where that is not known.

        Raises ShapeError where no label would do for the outputs.
        """
        ((name, spec),) = found.items()
        return {name: self.label(self.only(outputs), spec)}

    def label(self, output: ir.Value, found: Spec | None = None) -> Spec:
        """The same for a loss of one output and one label."""
        raise NotImplementedError

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        """total and count, float32 scalars."""
        raise NotImplementedError

    def check(self, name: str, array: Array, outputs: Values) -> None:
        """Raises SampleError for labels, of all samples, that hold a value it does not take."""

    def count(self, g: GraphBuilder, outputs: Values, labels: Values) -> ir.Value | None:
        """The count where labels weigh unlike, a float32 scalar; None where each sample counts the same.

        Of the outputs it reads shapes alone, so that it is known of a batch before a part of the batch is computed.
        """
        return None

    def compute(
        self, g: GraphBuilder, outputs: Values, labels: Values, count: ir.Value | None = None
    ) -> tuple[Value, Value]:
        """The loss of a batch, a float32 scalar, and its sums, float64 (2,), which are added over batches.

        count: what to divide by, where these samples are a part of a batch.
        """
        total, own = self.terms(g, outputs, labels)
        divisor = own if count is None else count
        # Where nothing counts the total is 0 too, and so is the loss.
        nothing = g.cast_like(g.equal(divisor, 0.0), divisor)
        loss = g.div(total, g.add(divisor, nothing))
        return self._weighted(g, loss), pack(g, total, own)

    def finish(self, g: GraphBuilder, sums: ir.Value) -> Value:
        """The loss of all samples whose sums were added up."""
        total, count = unpack(g, sums, 2)
        return self._weighted(g, ratio(g, total, count))

    def _weighted(self, g: GraphBuilder, loss: Value) -> Value:
        return loss if self.weight == 1.0 else g.mul(loss, self.weight)

    def only(self, values: Values) -> ir.Value:
        """The only one. Raises ShapeError where there are several."""
        if len(values) != 1:
            raise ShapeError(
                f"{self.name} expected one output; found {list(values)}",
                mend="Give a loss for each output, as in loss={'digit': 'softmax_cross_entropy'}.",
            )
        return next(iter(values.values()))

    def _at_least(self, name: str, low: float, *, above: bool = False, below: float = math.inf) -> None:
        value = getattr(self, name)
        fits = is_finite(value) and (value > low if above else value >= low) and value < below
        if not fits:
            limits = f"{'above' if above else 'of at least'} {low:g}" + (f" and below {below:g}" if below < 9e9 else "")
            several = name == "weight" and np.ndim(value) == 1  # PyTorch: CrossEntropyLoss(weight=...)
            raise UsageError(
                f"{self.name} expected {name} to be a number {limits}; found {value!r}",
                mend="Those of classes are class_weight=[...]." if several else None,
            )


class Decisions(NamedTuple):
    """What a classifier chose, and what is right.

    chosen, label: int64, one shape.   counts: float32 of that shape, 1 where the label counts; None where all do.
    classes: how many there are; None where each element is a question of its own, 0 or 1.
    """

    chosen: ir.Value
    label: ir.Value
    counts: ir.Value | None
    classes: int | None


class Scores(NamedTuple):
    """How sure a classifier is: float32 (rows, columns), larger for more; the labels, 0 or 1; what counts, (rows, 1)"""

    scores: ir.Value
    label: ir.Value
    counts: ir.Value | None


@dataclass(frozen=True, kw_only=True)
class Elementwise(Loss):
    """A loss of each element of an output, beside a label of the same shape; the mean over all elements.

    function: an ai.onnxmx operator (output, label) -> losses, whose attributes are the fields of the loss.
    """

    takes: ClassVar[str] = "float32 of the output's shape"
    metric: ClassVar[str] = "mean_absolute_error"
    function: ClassVar[Function]

    def label(self, output: ir.Value, found: Spec | None = None) -> Spec:
        shape = dims_of(self, output)
        # (batch,) beside an output (batch, 1) can mean one thing alone.
        flat = found is not None and len(found.shape) == len(shape) - 1 and shape[-1] == 1
        return Spec(shape[:-1] if flat else shape, self._dtype(found))

    def _dtype(self, found: Spec | None) -> ir.DataType:
        return FLOAT

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output, label = self.compared(g, outputs, labels)
        values = self.function(g, output, label, **{a: float(getattr(self, a)) for a in self.function.attributes})
        return g.reduce_sum(values, keepdims=False), size(g, values)

    def compared(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        """The output, and the label in its shape and type."""
        output, (label,) = self.only(outputs), labels.values()
        return output, alike(g, label, output)


@dataclass(frozen=True, kw_only=True)
class Binary(Elementwise):
    """A loss of each element of an output, a question of its own: above 0 says yes."""

    takes: ClassVar[str] = "0 or 1, integers or float32, of the output's shape"
    metric: ClassVar[str] = "accuracy"
    allowed: ClassVar[str] = "0 or 1"

    def _dtype(self, found: Spec | None) -> ir.DataType:
        return INT64 if found is not None and found.dtype == INT64 else FLOAT

    def check(self, name: str, array: Array, outputs: Values) -> None:
        refuse(self, name, array, (array != 0) & (array != 1), self.allowed)

    def decisions(self, g: GraphBuilder, outputs: Values, labels: Values) -> Decisions:
        """What is above 0, and what is right."""
        output, label = self.compared(g, outputs, labels)
        return Decisions(g.cast(g.greater(output, 0.0), INT64), g.cast(g.greater(label, 0.5), INT64), None, None)

    def scores(self, g: GraphBuilder, outputs: Values, labels: Values) -> Scores:
        """The outputs as they are, a column for each of a row."""
        output, label = self.compared(g, outputs, labels)
        columns = output.shape[-1] if output.shape is not None and len(output.shape) > 1 else 1
        rows = [-1, columns if isinstance(columns, int) else 1]
        return Scores(g.reshape(output, rows), g.reshape(g.cast(g.greater(label, 0.5), INT64), rows), None)


@dataclass(frozen=True, kw_only=True)
class Signed(Binary):
    """A Binary whose labels may be 1 and -1 too: above 0 is yes."""

    takes: ClassVar[str] = "0 or 1, or -1 or 1, integers or float32, of the output's shape"
    allowed: ClassVar[str] = "0 or 1, or -1 or 1"

    def check(self, name: str, array: Array, outputs: Values) -> None:
        refuse(self, name, array, (array != 0) & (array != 1) & (array != -1), self.allowed)

    def compared(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output, label = super().compared(g, outputs, labels)
        return output, sign(g, label)


def sign(g: GraphBuilder, label: ir.Value) -> Value:
    """1 where the label is above 0, else -1, in its element type."""
    return g.sub(g.mul(g.cast_like(g.greater(label, 0.0), label), 2.0), 1.0)


def dims_of(loss: Loss, output: ir.Value) -> tuple[Dim, ...]:
    """The shape of an output. Raises ShapeError where its rank is unknown, or it has no batch."""
    if output.shape is None or not len(output.shape):
        raise ShapeError(f"{loss.name} expected an output of known rank, samples first; found {describe(output)}")
    return tuple(d if isinstance(d, int) else d.value for d in output.shape)


def refuse(loss: Loss, name: str, array: Array, bad: Array, allowed: str, *, mend: str = "") -> None:
    """Raises SampleError where `bad` is true somewhere. mend: what to do, where more is known."""
    if bad.any():
        row, value = first_bad(array, bad)
        raise SampleError(
            f"{loss.name} expected {name!r} to be {allowed}; found {value}",
            row,
            mend=mend or "Repair the labels, or choose a loss that takes them.",
        )


def alike(g: GraphBuilder, label: ir.Value, output: ir.Value) -> ir.Value:
    """`label` in the element type and shape of `output`."""
    label = label if label.dtype == output.dtype else g.cast_like(label, output)
    same = label.shape is not None and output.shape is not None and len(label.shape) == len(output.shape)
    return label if same else g.reshape_like(label, output)


def size(g: GraphBuilder, x: ir.Value) -> Value:
    """How many elements `x` has, float32."""
    return g.cast(g.op("Size", x), FLOAT)


def pack(g: GraphBuilder, *values: ir.Value) -> Value:
    """Values one after the other, float64, of one axis."""
    flat = [g.cast(g.reshape(v, [-1]), DOUBLE) for v in values]
    return g.concat(flat, 0) if len(flat) > 1 else flat[0]


def unpack(g: GraphBuilder, sums: ir.Value, count: int) -> list[Value]:
    """The first `count` of them, as scalars."""
    return [g.gather(sums, np.int64(k)) for k in range(count)]


def ratio(g: GraphBuilder, a: ir.Value, b: ir.Value) -> Value:
    """a / b, and 0 where b is 0, as then a is too."""
    return g.div(a, g.add(b, g.cast_like(g.equal(b, 0.0), b)))


def numbers(loss: Loss, name: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    """A list of numbers as a tuple. Raises UsageError for others."""
    if values is None:
        return None
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or not all(is_number(v) for v in values):
        raise UsageError(f"{loss.name} expected {name} to be a list of numbers; found {values!r}")
    found = tuple(float(v) for v in values)
    if not found or not all(is_finite(v) and v >= 0 for v in found) or not any(found):
        raise UsageError(f"{loss.name} expected {name} to hold finite numbers of at least 0; found {values!r}")
    return found
