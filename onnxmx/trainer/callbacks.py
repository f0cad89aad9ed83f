"""What may listen to a run: a few moments, and the callbacks that come with the package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxmx.builder.arguments import CheckedArguments, integer
from onnxmx.builder.literals import is_number
from onnxmx.errors import CheckpointError, UsageError, unknown_name
from onnxmx.files import write_atomic
from onnxmx.trainer.qat import deployed
from onnxmx.trainer.schedules import Schedule

if TYPE_CHECKING:
    from onnxmx.trainer.loop import Loop

__all__ = ["Callback", "EarlyStopping", "KeepBest", "Measures"]

Measures = Mapping[str, Any]


class Callback(CheckedArguments):
    """Listens to a run: override the moments that you need, and no other costs anything.

        class Note(mx.Callback):
            def epoch(self, loop, measures):
                if measures["validation_accuracy"] > 0.99:
                    loop.stop("good enough")

    loop: `trainer` (its state, and the model as it is now), `position` (epoch, batch, history, best so far), `plan`,
    `folder` (where the run's files are, or None), and `stop`.
    """

    def __init__(self) -> None:
        """Takes nothing; one of your own may."""

    def begin(self, loop: Loop) -> None:
        """Before the first step, of a resumed run too."""

    def step(self, loop: Loop, measured: Mapping[str, float]) -> None:
        """After each step. measured: loss, metrics, grad_norm and lr of its batch."""

    def log(self, loop: Loop, line: Measures) -> None:
        """At each line of metrics.jsonl: those of steps hold `batch`. One is due every `log_every` steps and epoch."""

    def epoch(self, loop: Loop, measures: Measures) -> None:
        """After each epoch, when it is validated, and before its checkpoint."""

    def end(self, loop: Loop) -> None:
        """When the run ends, however it ends."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know again: plain values, kept in each checkpoint. `restore` gets it back."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


@dataclass
class EarlyStopping(Callback):
    """Ends the run when `monitor` has not become better by more than `min_delta` for `patience` epochs.

    monitor: a measure of the epochs; by default that by which the best epoch is chosen.
    larger: whether more of it is better.
    An epoch without it counts as no epoch: one of a GAN in which the generator had no turn has no `generator_loss`.
    The run's model is that of the best epoch, as always. What it waits for is seen in the history of the run, so a
    resumed run waits no longer than one that was never stopped.
    """

    patience: int = 5
    min_delta: float = 0.0
    monitor: str | None = None
    larger: bool = False

    def __post_init__(self) -> None:
        self.patience = integer("patience", self.patience, 1)
        if not (is_number(self.min_delta) and self.min_delta >= 0):
            raise UsageError(f"min_delta expected a number of at least 0; found {self.min_delta!r}")

    def begin(self, loop: Loop) -> None:
        name, measures = self.monitor or loop.criterion[0], loop.measures_of_nothing()
        if name not in measures:
            raise _unknown_measure(name, measures)
        if isinstance(measures[name], list):
            raise UsageError(f"EarlyStopping expected to monitor a number; found {name!r}, which is a list of them")

    def epoch(self, loop: Loop, measures: Measures) -> None:
        name, sign = (self.monitor, 1 if self.larger else -1) if self.monitor else loop.criterion
        waited = self.waited([sign * past[name] for past in loop.position.history if name in past])
        if waited >= self.patience:
            loop.stop(f"{name} has not become better for {waited} epoch{'s' * (waited > 1)}")

    def waited(self, values: Sequence[float]) -> int:
        """Epochs since the last that was better than all before it. values: more is better."""
        best, since = -math.inf, 0
        for value in values:
            since += 1
            if value > best + self.min_delta:
                best, since = value, 0
        return since


@dataclass
class KeepBest(Callback):
    """Keeps the models of the `count` best epochs, as best/epoch-<n>.onnx in the run's folder."""

    count: int = 3

    def __post_init__(self) -> None:
        self.count = integer("keep_best", self.count, 1)

    def begin(self, loop: Loop) -> None:
        if loop.folder is None:
            raise UsageError("keep_best expected a run with a folder; found none", mend='Name one: out="runs/first".')

    def epoch(self, loop: Loop, measures: Measures) -> None:
        assert loop.folder is not None
        folder = loop.folder / "best"
        name, sign = loop.criterion
        # NaN last; of equals the earlier one. All of it is seen in the history: a resumed run keeps the same files.
        ranked = sorted(
            loop.position.history,
            key=lambda past: (math.isnan(past[name]), 0.0 if math.isnan(past[name]) else -sign * past[name]),
        )
        kept = {f"epoch-{past['epoch']}.onnx" for past in ranked[: self.count]}
        latest = f"epoch-{loop.position.epoch}.onnx"
        if latest in kept:
            write_atomic(folder / latest, deployed(loop.current()).to_bytes())
        for path in folder.glob("epoch-*.onnx"):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def states_of(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """What the callbacks must know again, as `_by_kind` names them."""
    found = {name: callback.state() for name, callback in _by_kind(callbacks).items()}
    return {name: kept for name, kept in found.items() if kept}


def restore(callbacks: Sequence[Callback], states: Mapping[str, Any]) -> None:
    """Give them back what `states_of` found. Raises CheckpointError where they are others."""
    # The first checkpoints named a callback by its place among all, and then its kind.
    names = {f"{k} {type(c).__name__}": c for k, c in enumerate(callbacks)} | _by_kind(callbacks)
    if lost := [name for name in states if name not in names]:
        kind, _, before = lost[0].partition(" ")
        if kind.isdigit():
            kind, before = before, "0"
        raise CheckpointError(
            f"the run expected {int(before) + 1} of the callback {kind}; "
            f"found {', '.join(type(c).__name__ for c in callbacks) or 'none'}",
            mend="Resume with the callbacks that the run was started with, in their order.",
        )
    for name, kept in states.items():
        names[name].restore(kept)


def _by_kind(callbacks: Sequence[Callback]) -> dict[str, Callback]:
    """Each by its kind and how many of that are before it. Not by its place: a run may go on with other logs."""
    found: dict[str, list[Callback]] = {}
    for callback in callbacks:
        found.setdefault(type(callback).__name__, []).append(callback)
    return {f"{kind} {k}": callback for kind, those in found.items() for k, callback in enumerate(those)}


def listening(callbacks: Sequence[Callback], moment: str) -> list[Any]:
    """The methods of those callbacks that override `moment`."""
    return [getattr(c, moment) for c in callbacks if getattr(type(c), moment) is not getattr(Callback, moment)]


def _unknown_measure(name: str, measured: Measures) -> UsageError:
    if name.startswith(("val_", "validation_")) and not any(known.startswith("validation_") for known in measured):
        return UsageError(
            f"no measure named {name!r}", mend="Give the data that it is taken on: mx.fit(..., validation=test)."
        )
    return unknown_name("measure", name, measured)


MOMENTS = ("begin", "step", "log", "epoch", "end")


def checked(callbacks: Any) -> Sequence[Callback]:
    """The callbacks that a user gives. Raises UsageError for what is none, or overrides no moment of mx.Callback."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise UsageError(f"callbacks expected a list; found {callbacks!r}", mend="Such as callbacks=[Note()].")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            made = f"{callback.__name__}()" if isinstance(callback, type) else "mx.EarlyStopping()"
            schedule = isinstance(callback, Schedule)  # a callback elsewhere
            raise UsageError(
                f"callbacks expected objects of mx.Callback; found {callback!r}",
                mend=f"It is a learning rate: optimizer=mx.Adam(lr=mx.{type(callback).__name__}(...))."
                if schedule
                else f"Such as {made}.",
            )
        if not any(listening([callback], moment) for moment in MOMENTS):
            raise UsageError(
                f"{type(callback).__name__} expected to override a moment of mx.Callback; found none",
                mend=f"They are called {', '.join(MOMENTS)}: epoch(self, loop, measures) comes after each epoch.",
            )
    return callbacks
