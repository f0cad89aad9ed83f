"""Connectionist temporal classification: labels of a sequence whose places in it are not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.builder.scan import scan
from onnxmx.errors import SampleError, ShapeError, UsageError
from onnxmx.trainer.losses.base import Array, Loss, Spec, Specs, Values, dims_of, refuse, size

_NEVER = np.float32(-(2.0**100))
"""The logarithm of 0, with which sums and differences stay numbers. Multiples of a power of two are exact, so a place
that no path reaches is never a little likelier than its paths together."""


@function(outputs=("loss", "slope"))
def CTCLoss(g: GraphBuilder, logp: ir.Value, label: ir.Value, lengths: ir.Value, *, blank: int) -> tuple[Value, Value]:
    """loss = -log of the sum over all paths that read as the label; slope = its gradient with respect to logp

    A path takes a class at each step; it reads as what is left when repeats are joined and blanks taken out.
    logp: (batch, time, classes), logarithms of probabilities.   label: (batch, most) int64, filled up with -1.
    lengths: (batch,) int64, the steps that count.   blank: the class that stands for nothing.
    loss: (batch,); where no path is as long as the label, loss and slope are 0.
    Source: Graves et al. 2006, section 4.1.
    """
    places = _with_blanks(g, label, blank)
    emitted = g.op("GatherElements", logp, _over_time(g, places, logp), axis=2)
    emitted = g.max(g.transpose(emitted, [1, 0, 2]), _NEVER)  # (time, batch, places)
    number = _count_to(g, logp, 1)
    inside = g.cast(g.less(g.unsqueeze(number, [1]), g.unsqueeze(lengths, [0])), FLOAT)
    inside = g.unsqueeze(inside, [2])  # (time, batch, 1)
    skips = _skips(g, places, blank)
    place = _count_to(g, places, 1)
    start = g.mul(g.cast(g.greater(g.add(g.mul(places, 0), place), 0), FLOAT), _NEVER)
    _, (alpha,) = scan(g, lambda b, s, x: _forwards(b, s[0], x[0], x[1], skips), [start], [emitted, inside])
    last = g.mul(g.reduce_sum(g.cast(g.op("GreaterOrEqual", label, 0), INT64), [1]), 2)  # (batch, 1)
    distance = g.sub(last, place)
    ends = g.op("And", g.op("GreaterOrEqual", distance, 0), g.op("LessOrEqual", distance, 1))
    end = g.where(ends, np.float32(0), _NEVER)
    _, (beta,) = scan(g, lambda b, s, x: _backwards(b, s[0], x[0], x[1], skips), [end], [emitted, inside], reverse=True)
    final = g.gather(alpha, np.int64(-1), axis=0)
    likelihood = g.op("ReduceLogSumExp", g.add(final, end), np.array([1], np.int64), keepdims=1)  # (batch, 1)
    possible = g.cast(g.greater(likelihood, _NEVER / 2), FLOAT)
    # The share of the paths that are at a place at a step, by class.
    share = g.mul(g.exp(g.sub(g.add(alpha, beta), likelihood)), g.mul(inside, possible))
    hot = g.cast(g.equal(g.unsqueeze(places, [2]), _count_to(g, logp, 2)), FLOAT)  # (batch, places, classes)
    slope = g.neg(g.matmul(g.transpose(share, [1, 0, 2]), hot))
    return g.neg(g.squeeze(g.mul(likelihood, possible), [1])), slope


def _with_blanks(g: GraphBuilder, label: ir.Value, blank: Any) -> Value:
    """A blank before each number of the label, and one at the end; what fills it up is blank too."""
    kept = g.where(g.less(label, 0), blank, label)
    blanks = g.add(g.mul(label, 0), blank)
    pairs = g.concat([g.unsqueeze(blanks, [2]), g.unsqueeze(kept, [2])], 2)
    return g.concat([g.reshape(pairs, [0, -1]), g.slice(blanks, [0], [1], [1])], 1)


def _over_time(g: GraphBuilder, places: ir.Value, logp: ir.Value) -> Value:
    """places (batch, places) as (batch, time, places)"""
    time = g.op("Shape", logp, start=1, end=2)
    wide = g.concat([np.array([1], np.int64), time, np.array([1], np.int64)], 0)
    return g.expand(g.unsqueeze(places, [1]), wide)


def _count_to(g: GraphBuilder, x: ir.Value, axis: int) -> Value:
    """0, 1, 2, ... along an axis of x, int64"""
    return g.range(np.int64(0), g.squeeze(g.op("Shape", x, start=axis, end=axis + 1), [0]), np.int64(1))


def _skips(g: GraphBuilder, places: ir.Value, blank: Any) -> Value:
    """0 at a place that may follow the place before the blank before it, else the logarithm of 0.   (batch, places)"""
    # Two further: those at the front see a number that is no class, and blanks are out anyway.
    before = g.op("Pad", places, np.array([0, 2, 0, -2], np.int64), np.int64(-1))
    barred = g.op("Or", g.equal(places, blank), g.equal(places, before))
    return g.mul(g.cast(barred, FLOAT), _NEVER)


def _forwards(b: GraphBuilder, alpha: ir.Value, emitted: ir.Value, inside: ir.Value, skips: ir.Value) -> Any:
    """alpha(s) <- emitted(s) + log(exp(alpha(s)) + exp(alpha(s - 1)) + exp(alpha(s - 2))), that where it may skip"""
    one, two = (_shifted(b, alpha, k) for k in (1, 2))
    after = b.add(emitted, _log_sum(b, alpha, one, b.add(two, skips)))
    after = b.where(b.greater(inside, 0.0), after, alpha)
    return [after], [after]


def _backwards(b: GraphBuilder, beta: ir.Value, emitted: ir.Value, inside: ir.Value, skips: ir.Value) -> Any:
    """The same from the end; what is kept of a step is what follows it."""
    then = b.add(beta, emitted)
    two = _shifted(b, b.add(then, skips), -2)
    before = _log_sum(b, then, _shifted(b, then, -1), two)
    return [b.where(b.greater(inside, 0.0), before, beta)], [beta]


def _shifted(b: GraphBuilder, x: ir.Value, by: int) -> Value:
    """x(s - by), and the logarithm of 0 from outside.   (batch, places)"""
    return b.op("Pad", x, np.array([0, by, 0, -by], np.int64), _NEVER)


def _log_sum(b: GraphBuilder, *xs: ir.Value) -> Value:
    most = b.max(*xs)
    return b.add(most, b.log(b.sum(*(b.exp(b.sub(x, most)) for x in xs))))


@dataclass(frozen=True, kw_only=True)
class CTC(Loss):
    """-log of the probability of a label whose places in the sequence are not known; the mean over the samples.

    The output is (batch, time, classes), of logits.   blank: the class that stands for nothing.
    lengths: the name of a label column with the steps of each sample that count; by default all do.
    A sample whose label does not fit into its steps counts as 0.   Source: Graves et al. 2006.
    """

    blank: int = 0
    lengths: str | None = None
    name: ClassVar[str] = "ctc"
    takes: ClassVar[str] = "class numbers, int64 (batch, most), filled up with -1; lengths: int64 (batch,)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.blank, bool) or not isinstance(self.blank, int) or self.blank < 0:
            raise UsageError(f"{self.name} expected blank to be a class number; found {self.blank!r}")

    def columns(self, main: str | None) -> tuple[str | None, ...]:
        return (main,) if self.lengths is None else (main, self.lengths)

    def labels(self, outputs: Values, found: Mapping[str, Spec | None]) -> Specs:
        output = self.only(outputs)
        shape = dims_of(self, output)
        if len(shape) != 3 or not isinstance(shape[2], int) or self.blank >= shape[2]:
            raise ShapeError(
                f"{self.name} expected an output (batch, time, classes), class {self.blank} among them; "
                f"found {describe(output)}",
                mend="End the model in a Dense layer on a sequence: one unit for each class, and one for the blank.",
            )
        (name, spec), *others = found.items()
        most = spec.shape[1] if spec is not None and len(spec.shape) == 2 else f"{name}_most"
        return {name: Spec((shape[0], most), INT64), **{other: Spec((shape[0],), INT64) for other, _ in others}}

    def check(self, name: str, array: Array, outputs: Values) -> None:
        output = self.only(outputs)
        assert output.shape is not None
        time, classes = output.shape[1], output.shape[2]
        if array.ndim == 1:
            if isinstance(time, int):
                refuse(self, name, array, (array < 1) | (array > time), f"in [1, {time}], the steps of a sample")
            return
        assert isinstance(classes, int)
        allowed = f"in [0, {classes}) but {self.blank}, the blank, or -1 behind the end"
        refuse(self, name, array, (array < -1) | (array >= classes) | (array == self.blank), allowed)
        refuse(self, name, array[:, 1:], (array[:, :-1] < 0) & (array[:, 1:] >= 0), "-1 behind the first -1")
        if isinstance(time, int):
            needed = (array >= 0).sum(1) + ((array[:, 1:] == array[:, :-1]) & (array[:, 1:] >= 0)).sum(1)
            if (needed > time).any():
                row = int(np.argmax(needed > time))
                raise SampleError(
                    f"{self.name} expected {name!r} to fit into {time} steps; found one that needs {needed[row]}, "
                    "a blank between repeats among them,",
                    row,
                    mend="Shorten the label, or give the model more steps.",
                )

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        output, (label, *lengths) = self.only(outputs), labels.values()
        logp = g.op("LogSoftmax", output, axis=-1)
        if lengths:
            steps: ir.Value = lengths[0]
        else:
            batch, time = (g.op("Shape", output, start=k, end=k + 1) for k in (0, 1))
            steps = g.expand(time, batch)
        losses, _ = CTCLoss(g, logp, label, steps, blank=self.blank)
        return g.reduce_sum(losses, keepdims=False), size(g, losses)
