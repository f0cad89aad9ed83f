"""What a schedule is, and how one is made of others: scaled, warmed up, followed by another."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.literals import is_finite, is_number, is_size
from onnxmx.builder.ops import FLOAT
from onnxmx.builder.source import line_of, raised_at, user_line
from onnxmx.builder.synonyms import instead_of
from onnxmx.builder.values import expects_numbers
from onnxmx.errors import OnnxmxError, UsageError, unknown_name


class Schedule(CheckedArguments):
    """A learning rate as a function of the step, inside the graph."""

    def resolve(self, total: int) -> Schedule:
        """The schedule with what it leaves open filled in from `total`, the number of steps of the run."""
        return self

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        """step: int64 scalar, updates done so far.  Returns a float32 scalar."""
        raise NotImplementedError  # pragma: no cover - every schedule defines it

    def then(self, following: Rate, at: int) -> Then:
        """This schedule for the first `at` updates, then `following`, which counts from there."""
        return Then(self, as_schedule(following), at)

    def warmed_up(self, updates: int | None = None, kind: str = "linear", start: float | None = None) -> Warmup:
        """This schedule after a warm-up: see `Warmup`."""
        return Warmup(self, updates, kind, start)


Rate = float | Schedule | Callable[[Value], Any]
"""What an optimizer takes for its learning rate: a number, a schedule, or a plain function of the step."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step."""

    rate: float

    def __post_init__(self) -> None:
        check_rate("a learning rate", self.rate)

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        return g.constant(np.float32(self.rate))


@dataclass(frozen=True, repr=False)
class Custom(Schedule):
    """A plain function of the step: `Custom(lambda t: 0.1 / (1 + 0.01 * t))`.

    function: takes the updates done so far as a float32 scalar of the graph, with Python's arithmetic and
    `t.builder` for other operators, and returns such a scalar or a number.
    """

    function: Callable[[Value], Any]

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        try:
            found = self.function(g.cast(step, FLOAT))
        except OnnxmxError:
            raise
        except Exception as error:  # the user's own code may raise anything
            inside = raised_at(error)
            raise UsageError(
                f"a schedule expected a function of the update; it raised {type(error).__name__}: {error}",
                at=inside or line_of(self.function),
                mend=expects_numbers(error) if inside else "Give it one parameter, such as lambda t: 0.1 / (1 + t).",
            ) from error
        if isinstance(found, (int, float)):
            check_rate("a schedule", found)
            return g.constant(np.float32(found))
        if not isinstance(found, ir.Value) or found.dtype != FLOAT or found.shape is None or len(found.shape):
            shown = describe(found) if isinstance(found, ir.Value) else repr(found)
            raise UsageError(
                f"a schedule expected its function to return a float32 scalar; found {shown}",
                mend="Make it of t by arithmetic, such as lambda t: 0.1 / (1 + t).",
            )
        return found

    def __repr__(self) -> str:
        return f"Custom({getattr(self.function, '__qualname__', type(self.function).__name__)})"


@dataclass(frozen=True)
class Scaled(Schedule):
    """Another schedule times a number."""

    schedule: Rate
    factor: float

    def resolve(self, total: int) -> Scaled:
        return replace(self, schedule=as_schedule(self.schedule).resolve(total))

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        return g.mul(as_schedule(self.schedule)(g, step), np.float32(self.factor))


@dataclass(frozen=True)
class Then(Schedule):
    """`first` for `at` updates, then `second`, which counts its own updates from there.

    Raises UsageError where the second would begin before the first or after the end of the run.
    """

    first: Schedule
    second: Schedule
    at: int

    def __post_init__(self) -> None:
        check_updates("then", "at", self.at, 1)
        refuse_state(self.first, self.second)

    def resolve(self, total: int) -> Then:
        if self.at >= total:
            raise UsageError(
                f"then expected to begin before the end of the run, update {total}; found {self.at}: what follows "
                "ends before it starts",
                mend="Train for more epochs, or begin it earlier.",
            )
        return replace(self, first=self.first.resolve(self.at), second=self.second.resolve(total - self.at))

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        first = self.first(g, step)
        return g.where(g.less(step, self.at), first, self.second(g, g.max(g.sub(step, self.at), 0)))


@function(outputs=("factor",))
def LinearWarmup(g: GraphBuilder, step: ir.Value, *, start: ir.Value, warmup: ir.Value) -> Value:
    """factor = start + (1 - start) min(1, (t + 1) / warmup).   Source: Goyal et al. 2017, section 2.2."""
    return g.add(g.mul(g.sub(1.0, start), _risen(g, step, warmup)), start)


@function(outputs=("factor",))
def ConstantWarmup(g: GraphBuilder, step: ir.Value, *, start: ir.Value, warmup: ir.Value) -> Value:
    """factor = start while t < warmup, then 1.   Source: He et al. 2016, section 4.2."""
    return g.where(g.less(step, warmup), start, np.float32(1.0))


@function(outputs=("factor",))
def ExponentialWarmup(g: GraphBuilder, step: ir.Value, *, start: ir.Value, warmup: ir.Value) -> Value:
    """factor = start^(1 - min(1, (t + 1) / warmup)): it grows by the same ratio at every update."""
    return g.pow(start, g.sub(1.0, _risen(g, step, warmup)))


def _risen(g: GraphBuilder, step: ir.Value, warmup: ir.Value) -> Value:
    share = g.div(g.add(g.cast(step, FLOAT), 1.0), g.max(g.cast(warmup, FLOAT), 1.0))
    return g.min(share, 1.0)


@dataclass(frozen=True)
class Warmup(Schedule):
    """Another schedule after a warm-up over `updates`: its rate at its first update times a factor that grows to 1.

    schedule: it counts its own updates from the end of the warm-up.   updates: None for a twentieth of the run.
    kind: linear, constant or exponential.   start: the first factor; by default 0, 0.1 and 0.01.
    Raises UsageError for a warm-up longer than the run.
    """

    schedule: Schedule
    updates: int | None = None
    kind: str = "linear"
    start: float | None = None
    KINDS: ClassVar[dict[str, tuple[Any, float]]] = {
        "linear": (LinearWarmup, 0.0),
        "constant": (ConstantWarmup, 0.1),
        "exponential": (ExponentialWarmup, 0.01),
    }

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise unknown_name("warm-up", self.kind, self.KINDS)
        if self.updates is not None:
            check_updates("a warm-up", "updates", self.updates, 0)
        low = self.kind == "exponential"
        if self.start is not None and not (is_number(self.start) and 0 <= self.start <= 1 and (self.start or not low)):
            raise UsageError(
                f"the start of a warm-up expected a number in {'(0' if low else '[0'}, 1]; found {self.start}"
            )
        refuse_state(self.schedule)

    def resolve(self, total: int) -> Warmup:
        updates = total // 20 if self.updates is None else self.updates
        if updates > total:
            raise UsageError(
                f"a warm-up expected to be no longer than the {total} updates of the run; found {updates}",
                mend="Train for more epochs, or warm up for fewer updates.",
            )
        return replace(self, updates=updates, schedule=self.schedule.resolve(max(total - updates, 1)))

    def __call__(self, g: GraphBuilder, step: ir.Value) -> ir.Value:
        if self.updates is None:
            raise open_end("a warm-up")
        rate = self.schedule(g, g.max(g.sub(step, self.updates), 0))
        if self.updates == 0:
            return rate
        factor, start = self.KINDS[self.kind]
        start = start if self.start is None else float(self.start)
        return g.mul(rate, factor(g, step, start=start, warmup=self.updates))


def as_schedule(lr: Rate) -> Schedule:
    """A number is a constant schedule, a function a custom one."""
    if isinstance(lr, Schedule):
        return lr
    if isinstance(lr, type):
        example = f"{lr.__name__}(1e-3)" if issubclass(lr, Schedule) else "mx.Cosine(1e-3)"
        raise UsageError(
            f"a learning rate expected a number, a schedule or a function of the step; found the class {lr.__name__}",
            at=user_line(),
            mend=f"For example {example}.",
        )
    if callable(lr):
        return Custom(lr)
    check_rate("a learning rate", lr)
    return Constant(float(lr))


def check_rate(what: str, rate: float) -> None:
    """Raises UsageError unless `rate` is a finite number that is not negative."""
    if not (is_finite(rate) and rate >= 0):
        raise UsageError(
            f"{what} expected a finite number of at least 0; found {reprlib.repr(rate)}",
            mend=instead_of("parameters", ()) if isinstance(rate, (Mapping, list)) else "For example 1e-3.",
        )


def check_updates(what: str, name: str, found: Any, low: int) -> None:
    """Raises UsageError unless `found` is an integer of at least `low`."""
    if not (is_size(found) or (low == 0 and found == 0 and not isinstance(found, bool))) or found < low:
        updates = "update" if low == 1 else "updates"
        raise UsageError(f"{what} expected {name} of at least {low} {updates}; found {found!r}")


def open_end(what: str) -> UsageError:
    """The error for a schedule that was not told how long the run is."""
    return UsageError(f"{what} expected its total number of updates; found none", mend="Call resolve(total).")


def refuse_state(*schedules: Rate) -> None:
    """A schedule with a state of its own watches the whole run: it holds others, and none holds it."""
    for schedule in schedules:
        if hasattr(schedule, "advance"):
            raise UsageError(
                f"a schedule expected others without state inside; found {type(schedule).__name__}",
                mend="Put it outside: mx.ReduceOnPlateau(mx.Cosine(0.1).warmed_up(100)).",
            )


def position(g: GraphBuilder, step: ir.Value, total: ir.Value) -> Value:
    """The share of a run of `total` updates that has passed: 0 at the first update, 1 at the last one and after it."""
    last = g.max(g.sub(total, np.int64(1)), np.int64(1))
    return g.div(g.cast(g.min(step, last), FLOAT), g.cast(last, FLOAT))
