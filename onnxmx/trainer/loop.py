"""The training loop: it moves data, talks to a person and a disk, and leaves every number to the step graph."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from onnxmx.builder.metadata import CLASSES, LOSS, PREPROCESSING, PROVENANCE
from onnxmx.builder.model import Model, from_bytes, load
from onnxmx.builder.session import runtime
from onnxmx.errors import CheckpointError, StoppedError, TrainingError
from onnxmx.files import write_atomic
from onnxmx.trainer import losses
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.engine import ENGINES
from onnxmx.trainer.evaluate import Evaluator, Figures, add, fit_data, specs_of
from onnxmx.trainer.objective import Objective, outputs_of
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.progress import Reporter, Silent, default_reporter
from onnxmx.trainer.run_directory import Log, Position, RunDirectory
from onnxmx.trainer.step import StepGraph, compile_step, initial_state
from onnxmx.trainer.update import Update

Array = np.ndarray[Any, Any]
Measures = dict[str, Any]


@dataclass
class Run:
    """A finished run.

    model: the model of the best epoch; last: that of the last one.
    best: the measures of the best epoch, its number `epoch` among them.
    history: those of each epoch, `validation_*` among them where there was validation data; those from before a
    resumption too.
    """

    model: Model
    last: Model
    best: Measures
    history: list[Measures]


def start(
    model: Model,
    data: Dataset,
    plan: Plan,
    *,
    validation: Dataset | None,
    update: Update,
    out: str | os.PathLike[str] | None,
    overwrite: bool = False,
    progress: bool = True,
) -> Run:
    """Begin a run and go on to its end: what `fit` does, once its arguments are checked."""
    folder = RunDirectory(out) if out is not None else None
    if folder:
        folder.claim(configured=True, overwrite=overwrite)
    # Through bytes, as a resumed run reads it: both go on from the same graph.
    model = from_bytes(_with_facts(model, data, plan).to_bytes())
    data, validation = _fit_both(model, data, validation, plan)
    step = compile_step(
        model,
        loss=plan.loss,
        optimizer=update.optimizer,
        clip=update.transforms,
        regularize=update.regularizers,
        average=update.average,
        measure=plan.measure,
        total=len(Loader(data, plan.batch_size)) * plan.epochs,
        micro_batch=plan.micro_batch,
        mix=plan.mix,
        labels=specs_of(data),
        differentiator=ENGINES[plan.engine].differentiator(),
        tune=plan.tuner(),
    )
    state = initial_state(model, update.optimizer, plan.seed, update.average)
    # Before the first file: what cannot be trained leaves nothing behind.
    trainer = _Trainer(model, step, state, data, validation, plan, folder, _reporter(progress))
    if folder is None:
        return trainer.run(Position())
    with folder.locked():
        if overwrite:
            folder.clear()
        folder.claim(configured=True)  # once more: another process may have been here meanwhile
        folder.sweep()
        model.save(folder.last)
        step.save(folder.path, state, {"identity": trainer.identity})
        return trainer.run(Position())


def go_on(
    folder: str | os.PathLike[str], data: Dataset, validation: Dataset | None, plan: Plan, *, progress: bool = True
) -> Run:
    """Go on with the run in `folder` from its newest checkpoint: what `resume` does.

    Raises CheckpointError where the checkpoint is damaged, another process trains here, or data or settings are not
    those of the run.
    """
    run = RunDirectory(folder)
    if not run.started:
        raise CheckpointError(f"{run.path} expected a run that has started; found none", mend="Train it with -o first.")
    ENGINES[plan.engine].differentiator()  # its package must be here to run the step too
    with run.locked():
        model, step = load(run.last), StepGraph.load(run.path)
        data, validation = _fit_both(model, data, validation, plan)
        state, position = run.load_checkpoint(_identity(step, data, validation, plan))
        run.sweep()
        run.rewind_log(position.log_bytes)
        return _Trainer(model, step, state, data, validation, plan, run, _reporter(progress)).run(position)


class _Trainer:
    """One run at work."""

    def __init__(
        self,
        model: Model,
        step: StepGraph,
        state: dict[str, Array],
        data: Dataset,
        validation: Dataset | None,
        plan: Plan,
        folder: RunDirectory | None,
        reporter: Reporter,
    ) -> None:
        self._model, self._plan, self._folder, self._reporter = model, plan, folder, reporter
        self._validation = validation
        self._loader = Loader(data, plan.batch_size, plan.seed)
        self.identity = _identity(step, data, validation, plan)
        self._engine = ENGINES[plan.engine].run(step, state, threads=plan.threads, provider=plan.provider)
        for size in {min(plan.batch_size, len(data)), len(data) % plan.batch_size} - {0}:
            self._engine.check(data.batch(slice(size)))
        self._evaluator = (
            Evaluator(
                model,
                validation,
                loss=plan.loss,
                measure=plan.measure,
                threads=plan.threads,
                provider=plan.provider,
                live=True,
            )
            if validation
            else None
        )
        # By parameter, the part of the state that a model file holds: an average of it, where there is one to use.
        prefix = step.spec.get("average")
        averages = {name: f"{prefix}.{name}" for name in model.parameters()} if prefix else {}
        self._weights = {name: averages[name] if averages.get(name) in state else name for name in model.parameters()}
        objective = Objective.of(losses.get(plan.loss), outputs_of(model), specs_of(data), plan.measure)
        self._figures = Figures(objective, {name: total.shape for name, total in self._engine.sums.items()})
        self._totals: dict[str, Array] = {}
        name, larger = objective.best_by
        self._criterion = (f"validation_{name}", 1 if larger else -1) if validation is not None else ("loss", -1)
        self._best: Model | None = None
        self._log: Log | None = None

    def run(self, position: Position) -> Run:
        self._position = position
        self._totals = {name: np.array(total) for name, total in position.sums.items()}
        steps = len(self._loader)
        self._reporter.begin(steps * self._plan.epochs, position.epoch * steps + position.batch)
        self._saved = time.monotonic()
        try:
            if self._folder:
                self._log = Log(self._folder.log)
            with _interrupts(self._folder is not None) as interrupted:
                while position.epoch < self._plan.epochs:
                    self._epoch(interrupted)
                    self._end_epoch()
        finally:
            self._reporter.end()
            if self._log:
                self._log.close()
        last = self._current()
        best = load(self._folder.best) if self._folder else self._best or last
        return Run(best, last, position.best or {}, position.history)

    def _epoch(self, interrupted: threading.Event) -> None:
        position, plan = self._position, self._plan
        epoch = f"{position.epoch + 1}/{plan.epochs}"
        with closing(self._loader.epoch(position.epoch, position.batch)) as batches:  # type: ignore[type-var]
            for index, batch in batches:
                measured = self._engine.step(batch)
                for name in ("loss", "grad_norm"):
                    if not math.isfinite(measured[name]):
                        raise self._diverged(name, measured[name], index)
                size = len(next(iter(batch.values())))
                lr = measured.pop("lr")
                add(self._totals, self._engine.sums)
                add(self._totals, {"grad_norm": np.array(measured["grad_norm"] * size)})
                position.samples += size
                position.batch = index + 1
                self._reporter.step(epoch, size, functools.partial(self._measures, lr=lr))
                if (index + 1) % plan.log_every == 0:
                    self._write_log({"epoch": position.epoch + 1, "batch": index + 1, **measured, "lr": lr})
                if interrupted.is_set() and self._folder:
                    self._checkpoint()
                    raise StoppedError(
                        f"stopped after batch {index + 1} of epoch {epoch}; the run is saved",
                        mend=f"Go on with: {self._folder.resumption}",
                    )
                if time.monotonic() - self._saved >= plan.checkpoint_s:
                    self._checkpoint()

    def _end_epoch(self) -> None:
        position = self._position
        measures = self._measures()
        if self._evaluator and self._validation:
            weights = {name: self._engine.values[kept] for name, kept in self._weights.items()}
            found = self._evaluator.run(self._validation, max(self._plan.batch_size, 256), weights)
            measures |= {f"validation_{name}": value for name, value in found.items()}
        position.epoch += 1
        position.batch, position.samples = 0, 0
        self._totals = {}
        measures = {"epoch": position.epoch, **measures}
        position.history.append(measures)
        self._reporter.epoch(
            f"{position.epoch}/{self._plan.epochs}", {k: v for k, v in measures.items() if k != "epoch"}
        )
        self._write_log(measures)
        if better := self._is_best(measures):
            position.best = measures
        if self._folder is None:
            self._best = self._current() if better else self._best
            return
        # The files first: a kill between them and the checkpoint repeats the epoch's end and writes them again.
        current = self._current().to_bytes()
        if better:
            write_atomic(self._folder.best, current)
        write_atomic(self._folder.last, current)
        self._checkpoint()

    def _is_best(self, measures: Measures) -> bool:
        key, sign = self._criterion
        best = self._position.best
        return best is None or math.isnan(best[key]) or sign * measures[key] > sign * best[key]

    def _measures(self, **others: float) -> Measures:
        """Loss and metrics of the epoch so far, the mean of the gradient's norm, and others."""
        sums = dict(self._totals)
        norm = float(sums.pop("grad_norm")) / self._position.samples
        return {**self._figures(sums), "grad_norm": norm, **others}

    def _current(self) -> Model:
        """The model as it is now, with what it was made from in its metadata."""
        state = self._engine.state()
        model = self._model.with_parameters({name: state[kept] for name, kept in self._weights.items()})
        made = {**self.identity, "epoch": self._position.epoch, "steps": int(state["step"])}
        made.pop("step_digest")
        model.metadata[PROVENANCE] = json.dumps(made)
        return model

    def _checkpoint(self) -> None:
        if self._folder:
            self._position.sums = {name: total.tolist() for name, total in self._totals.items()}
            self._position.log_bytes = self._log.tell() if self._log else 0
            self._folder.save_checkpoint(self._engine.state(), self._position, self.identity)
            self._saved = time.monotonic()

    def _write_log(self, line: dict[str, Any]) -> None:
        if self._log:
            self._log.write(line)

    def _diverged(self, name: str, found: float, index: int) -> TrainingError:
        samples = self._loader.indices(self._position.epoch, index)[:8].tolist()
        return TrainingError(
            f"{name} expected a finite number; found {found} at batch {index + 1} of epoch {self._position.epoch + 1} "
            f"(samples {', '.join(map(str, samples))} ...)",
            mend="Lower the learning rate, clip the gradients (--clip 1.0), or look at those samples.",
        )


def _with_facts(model: Model, data: Dataset, plan: Plan) -> Model:
    """A copy of the model that says what its classes are and how its input is prepared."""
    copy = model.with_parameters({})
    copy.metadata[LOSS] = str(losses.get(plan.loss))
    copy.metadata[PREPROCESSING] = json.dumps(data.preprocessing.to_dict())
    copy.metadata.pop(CLASSES, None)  # those of what the model learned before
    if data.classes is not None:
        copy.metadata[CLASSES] = json.dumps(list(data.classes))
    return copy


def _fit_both(model: Model, data: Dataset, validation: Dataset | None, plan: Plan) -> tuple[Dataset, Dataset | None]:
    return fit_data(model, data, plan.loss), None if validation is None else fit_data(model, validation, plan.loss)


def _identity(step: StepGraph, data: Dataset, validation: Dataset | None, plan: Plan) -> dict[str, Any]:
    """What a run and its continuation must share to end in the same bytes."""
    return {
        "step_digest": step.spec["digest"],
        "data": data.name,
        "data_digest": data.digest(),
        "validation_digest": validation.digest() if validation is not None else None,
        "epochs": plan.epochs,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "threads": plan.threads,
        "provider": plan.provider,
        "engine": plan.engine,
        "onnxruntime": runtime().__version__,
    }


def _reporter(progress: bool) -> Reporter:
    return default_reporter() if progress else Silent()


@contextmanager
def _interrupts(graceful: bool) -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C, so that the loop stops between two steps; a second one stops at once."""
    event = threading.Event()
    if not graceful or threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, former)

    former = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, former)
