"""The training loop: it moves data, talks to a person and a disk, and leaves every number to the step graph."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import numpy as np

from onnxmx.builder.elsewhere import RUN, KnowsOthers
from onnxmx.builder.metadata import PROVENANCE
from onnxmx.builder.model import Model, load
from onnxmx.errors import DivergedError, StoppedError
from onnxmx.files import write_atomic
from onnxmx.trainer import callbacks as moments
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.offender import find_offender
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.progress import Reporter
from onnxmx.trainer.qat import deployed
from onnxmx.trainer.run_directory import Log, Position, RunDirectory
from onnxmx.trainer.tally import LIMIT, Tally
from onnxmx.trainer.trainer import Trainer

Array = np.ndarray[Any, Any]
Measures = dict[str, Any]


@dataclass
class Run(KnowsOthers):
    """A finished run.

    model: the model of the best epoch; last: that of the last one.
    best: the measures of the best epoch, its number `epoch` among them.
    history: those of each epoch, `validation_*` among them where there was validation data; those from before a
    resumption too.
    stopped: why it ended before its last epoch, or None.   paused: whether it can go on from there by `resume`.
    timing: what this process measured: samples_per_s, and step_ms and data_ms with their percentiles.
    """

    model: Model
    last: Model
    best: Measures
    history: list[Measures]
    stopped: str | None = None
    paused: bool = False
    timing: dict[str, Any] = field(default_factory=dict)
    _others: ClassVar[Mapping[str, str]] = RUN


class Loop:
    """One run at work, as callbacks see it.

    trainer: the step and its state.   position: epoch, batch, best and history so far.   plan: how the run goes.
    data: what it trains on.   criterion: the measure that chooses the best epoch, and 1 where more is better or -1.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: Dataset,
        validation: Dataset | None,
        plan: Plan,
        identity: dict[str, Any],
        folder: RunDirectory | None,
        callbacks: Sequence[moments.Callback],
        reporter: Reporter,
    ) -> None:
        self.trainer, self.plan, self.identity = trainer, plan, identity
        self.position = Position()
        self.data, self._validation, self._files, self._reporter = data, validation, folder, reporter
        self._loader = Loader(data, plan.batch_size, plan.seed)
        for size in {min(plan.batch_size, len(data)), len(data) % plan.batch_size} - {0}:
            trainer.engine.check(data.batch(slice(size)))
        self._held = trainer.engine.hold(data)
        if validation:
            trainer.prepare_evaluation(validation)
        self._figures, self.criterion = trainer.figures(data, validation is not None)
        self._tally = Tally(trainer.engine.sums, plan.batch_size, len(data))
        self._measured: dict[str, float] = {}
        self._best: Model | None = None
        self._log: Log | None = None
        self._stop: str | None = None
        self._callbacks = callbacks
        self._at_step = moments.listening(callbacks, "step")
        self._at_log = moments.listening(callbacks, "log")

    @property
    def folder(self) -> Path | None:
        """Where the files of the run are, or None."""
        return self._files.path if self._files else None

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return len(self._loader)

    @property
    def steps(self) -> int:
        """Steps done, of every epoch so far."""
        return self.position.epoch * len(self._loader) + self.position.batch

    def measures_of_nothing(self) -> Measures:
        """The measures of an epoch without a sample, for a callback to see which there will be and of which kind."""
        sums = self.trainer.engine.sums
        figures = {name.removeprefix("sum."): 0.0 for name in sums}  # of a GAN, those that wait for a turn too
        figures |= self._figures({name: np.zeros_like(total) for name, total in sums.items()})
        skipped = {"skipped": 0} if "skipped" in self.trainer.engine.values else {}
        validated = {f"validation_{name}": value for name, value in figures.items()} if self._validation else {}
        return {"epoch": 0, **figures, "grad_norm": 0.0, **skipped, **validated}

    def stop(self, reason: str) -> None:
        """End the run: after this step, from where a resumed run goes on; or, from an epoch's end, for good."""
        self._stop = reason

    def run(self, position: Position) -> Run:
        """Go on from `position` to the end."""
        self.position = position
        self._tally.restore(position.sums, position.batch)
        moments.restore(self._callbacks, position.callbacks)
        self._reporter.begin(len(self._loader) * self.plan.epochs, self.steps, self._samples)
        self._saved = self._told = time.perf_counter()
        budget = self.plan.time_budget_s
        self._deadline = math.inf if budget is None else self._saved + budget
        try:
            if self._files:
                self._log = Log(self._files.log)
            for callback in self._callbacks:
                callback.begin(self)
            with _interrupts(self._files is not None) as interrupted:
                while position.epoch < self.plan.epochs and not (position.ended or self._stop):
                    self._epoch(interrupted)
                    if not self._stop:
                        self._end_epoch()
        except KeyboardInterrupt:
            if self._files is None:
                raise
            newest = next(iter(self._files.checkpoints()), None)
            raise StoppedError(
                f"stopped at once; saved is what was there {f'at {newest.stem}' if newest else 'at the start'}",
                mend=f"Go on from there with: {self._files.resumption}",
            ) from None
        finally:
            self._reporter.end(self.steps)
            if self._log:
                self._log.close()
            for callback in self._callbacks:
                callback.end(self)
        return self._paused() if self._stop and not position.ended else self._ended()

    def _epoch(self, interrupted: list[int]) -> None:
        """Every line in here costs what it takes with cold caches: a step has just filled them."""
        position, plan, at_step = self.position, self.plan, self._at_step
        step, clock, isfinite = self.trainer.engine.step, time.perf_counter, math.isfinite
        draw = self._loader.numbers if self._held else self._loader.epoch
        with closing(draw(position.epoch, position.batch)) as batches:  # type: ignore[type-var]
            noted, note, note_sums, sums = self._tally.begin()
            due = self._next_due()
            for index, batch in batches:
                begun = clock()
                self._measured = measured = step(batch)
                now = clock()
                norm = measured["grad_norm"]
                if not isfinite(measured["loss"] + norm):
                    raise self._diverged(index)
                note((begun, now, norm))
                note_sums(sums)
                position.batch = done = index + 1
                if len(noted) >= LIMIT:
                    self._tally.add()
                if done % plan.log_every == 0:
                    self._write_log({"epoch": position.epoch + 1, "batch": done, **measured})
                for listen in at_step:
                    listen(self, measured)
                if now >= due:
                    due = self._attend(now)
                if interrupted and self._files:
                    self._checkpoint()
                    raise StoppedError(
                        f"stopped after batch {done} of epoch {self._epoch_shown}; the run is saved",
                        mend=f"Go on with: {self._files.resumption}",
                    )
                if self._stop:
                    self._checkpoint()
                    return

    def _attend(self, now: float) -> float:
        """What goes by the clock: a word to the person, the end of the time budget, a checkpoint. Returns when next."""
        if now >= self._told + self._reporter.every_s:
            self._told = now
            measures = self._measures(lr=self._measured["lr"])
            self._reporter.step(self._epoch_shown, self.steps, self._samples, measures)
        if now >= self._deadline:
            self.stop(f"the time budget of {self.plan.time_budget_s:g} s is used up")
        elif now >= self._saved + self.plan.checkpoint_s:
            self._checkpoint()
        return self._next_due()

    def _next_due(self) -> float:
        return min(self._told + self._reporter.every_s, self._saved + self.plan.checkpoint_s, self._deadline)

    def _end_epoch(self) -> None:
        position = self.position
        measures = self._validated()
        self._reporter.epoch(self._epoch_shown, {k: v for k, v in measures.items() if k != "epoch"})
        position.epoch += 1
        position.batch = 0
        self._tally.restore({}, 0)
        position.history.append(measures)
        self._write_log(measures)
        if better := self._is_best(measures):
            position.best = measures
        # The files first: a kill between them and the checkpoint repeats the epoch's end and writes them again.
        self._keep(best=better)
        for callback in self._callbacks:
            callback.epoch(self, measures)
        position.ended = self._stop
        self._checkpoint()

    def _keep(self, best: bool) -> None:
        """Keep the model as it is now: as the last one, and as the best one."""
        if self._files is None:
            self._best = deployed(self.current()) if best else self._best
            return
        current = self.current()
        if best:
            write_atomic(self._files.best, deployed(current).to_bytes())
        write_atomic(self._files.last, current.to_bytes())

    def _ended(self, best: Measures | None = None) -> Run:
        last = self.current()
        model = load(self._files.best) if self._files else self._best or last
        position = self.position
        best = best or position.best or {}
        stopped, paused = position.ended or self._stop, bool(self._stop and not position.ended)
        return Run(model, last, best, position.history, stopped, paused, self._tally.timing())

    def _paused(self) -> Run:
        """Stopped in the middle of an epoch. The best model stays that of a whole one, where there is one."""
        best = self.position.best
        measures = self._validated() if best is None and self.position.batch else best
        self._keep(best=best is None)
        return self._ended(measures)

    def _validated(self) -> Measures:
        """The measures of this epoch so far, those of validation among them."""
        measures = {"epoch": self.position.epoch + 1, **self._measures()}
        if (skipped := self.trainer.engine.values.get("skipped")) is not None:
            measures["skipped"] = int(skipped.numpy())
        if self._validation:
            found = self.trainer.validate(self._validation, max(self.plan.batch_size, 256))
            measures |= {f"validation_{name}": value for name, value in found.items()}
        return measures

    def _is_best(self, measures: Measures) -> bool:
        key, sign = self.criterion
        best = self.position.best
        return best is None or math.isnan(best[key]) or sign * measures[key] > sign * best[key]

    def _measures(self, **others: float) -> Measures:
        """Loss and metrics of the epoch so far, the mean of the gradient's norm, and others."""
        self._tally.add()
        norm = self._tally.norms / self._tally.samples
        return {**self._figures(self._tally.sums), "grad_norm": norm, **others}

    @property
    def _epoch_shown(self) -> str:
        return f"{self.position.epoch + 1}/{self.plan.epochs}"

    @property
    def _samples(self) -> int:
        """Samples trained on, of every epoch so far."""
        return self.position.epoch * len(self.data) + self._tally.samples

    def current(self) -> Model:
        """The model as it is now, with what it was made from in its metadata."""
        model = self.trainer.model
        made = {**self.identity, "epoch": self.position.epoch, "steps": self.trainer.updates}
        made.pop("step_digest")
        model.metadata[PROVENANCE] = json.dumps(made)
        return model

    def _checkpoint(self) -> None:
        if self._files:
            self.position.sums = self._tally.state() if self.position.batch else {}
            self.position.log_bytes = self._log.tell() if self._log else 0
            self.position.callbacks = moments.states_of(self._callbacks)
            self._files.save_checkpoint(self.trainer.engine.state(), self.position, self.identity)
            self._saved = time.perf_counter()

    def _write_log(self, line: dict[str, Any]) -> None:
        if self._log:
            self._log.write(line)
        for listen in self._at_log:
            listen(self, line)

    def _diverged(self, index: int) -> DivergedError:
        name, found = next((n, x) for n in ("loss", "grad_norm") if not math.isfinite(x := self._measured[n]))
        chosen = self._loader.indices(self.position.epoch, index)
        batch, samples, rows = self.data.batch(chosen), chosen.tolist(), self.data.rows[chosen].tolist()
        shown = ", ".join(map(str, rows[:_SHOWN])) + (f" ... of {len(rows)}" if len(rows) > _SHOWN else "")
        shown += f", in {self.data.origin.name}" if self.data.origin else ""
        engine = self.trainer.engine
        state, part = engine.state(former=True), self.plan.micro_batch
        offender = find_offender(self.trainer.graph.data, state, batch, name, part)
        row = offender.row if offender else None
        first = f"\n  first not finite: {offender}" if offender else ""
        first += f", of sample {rows[row]}" if row is not None else ""
        return DivergedError(
            f"{name} expected a finite number; found {found} at step {self.steps + 1}, batch {index + 1} of epoch "
            f"{self.position.epoch + 1} (samples {shown}){first}",
            step=self.steps + 1,
            samples=samples,
            mend="Lower the learning rate, clip the gradients (--clip 1.0), or look at those samples.",
        )


_SHOWN = 64
"""Indices of samples that an error names."""


@contextmanager
def _interrupts(graceful: bool) -> Iterator[list[int]]:
    """A list that is no longer empty after the first Ctrl-C: the loop stops between two steps; a second stops at once.

    A list, for the loop asks after each step whether it is empty.
    """
    caught: list[int] = []
    if not graceful or threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, former)

    former = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, note)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, former)
