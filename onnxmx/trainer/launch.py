"""Beginning a run and going on with one: the step compiled, the folder claimed, the loop set going."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.builder.metadata import CLASSES, LOSS, PREPROCESSING
from onnxmx.builder.model import Model, from_bytes, load
from onnxmx.builder.session import runtime
from onnxmx.errors import CheckpointError
from onnxmx.trainer import losses
from onnxmx.trainer.callbacks import Callback
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.engine import ENGINES
from onnxmx.trainer.evaluate import fit_data, specs_of
from onnxmx.trainer.loop import Loop, Run
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.progress import Reporter, Silent, default_reporter, notes
from onnxmx.trainer.run_directory import Position, RunDirectory
from onnxmx.trainer.step import StepGraph, compile_step, initial_state
from onnxmx.trainer.trainer import Trainer
from onnxmx.trainer.update import Update

Array = np.ndarray[Any, Any]


def start(
    model: Model,
    data: Dataset,
    plan: Plan,
    *,
    validation: Dataset | None,
    update: Update,
    out: str | os.PathLike[str] | None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Begin a run and go on to its end: what `fit` does, once its arguments are checked."""
    # Of the whole run, in a trial too: a schedule that fits the one fits the other.
    total = len(Loader(data, plan.batch_size)) * plan.epochs
    if plan.overfit_one_batch:
        data, validation, out, callbacks = data.take(plan.batch_size), None, None, ()
        plan = replace(plan, epochs=total, **_OVERFITTING)
    if plan.fast_dev_run:
        data, plan = data.take(TRIAL * plan.batch_size), replace(plan, epochs=1)
        validation = validation.take(TRIAL * plan.batch_size) if validation is not None else None
    with claimed(plan, out, overwrite) as folder:
        # Through bytes, as a resumed run reads it: both go on from the same graph.
        model = from_bytes(_with_facts(model, data, plan).to_bytes())
        data, validation = _fit_both(model, data, validation, plan)
        step = _compile(model, data, plan, update, total, progress)
        state = initial_state(model, update.optimizer, plan.seed, update.average, plan.precision)
        # Before the first file: what cannot be trained leaves nothing behind.
        loop = _loop(model, step, state, data, validation, plan, folder, callbacks, progress)

        def hand_over(path: Path) -> None:
            model.save(path / "last.onnx")
            step.save(path, state, {"identity": loop.identity})

        return begin(loop, folder, overwrite, hand_over)


@contextlib.contextmanager
def claimed(plan: Plan, out: str | os.PathLike[str] | None, overwrite: bool) -> Iterator[RunDirectory | None]:
    """The folder of a run that is to begin; of a fast_dev_run another, which is deleted afterwards."""
    with contextlib.ExitStack() as trial:
        if plan.fast_dev_run:
            out = trial.enter_context(tempfile.TemporaryDirectory(prefix="onnxmx-"))
        folder = RunDirectory(out) if out is not None else None
        if folder:
            folder.claim(configured=True, overwrite=overwrite)
        yield folder


def _compile(model: Model, data: Dataset, plan: Plan, update: Update, total: int, progress: bool) -> StepGraph:
    """The step of a plan. total: its updates."""
    if plan.teach is not None:
        plan.teach.check(data)
    return compile_step(
        model,
        loss=plan.loss,
        optimizer=update.optimizer,
        clip=update.clip,
        regularize=update.regularize,
        average=update.average,
        measure=plan.measure,
        total=total,
        micro_batch=plan.micro_batch,
        mix=plan.mix,
        teach=plan.teach,
        precision=plan.precision,
        labels=specs_of(data.labels),
        differentiator=ENGINES[plan.engine].differentiator(),
        tune=plan.tuner(notes() if progress else lambda _: None),
        provider=plan.provider,
    )


def begin(loop: Loop, folder: RunDirectory | None, overwrite: bool, hand_over: Callable[[Path], None]) -> Run:
    """Start the loop, in a folder that is free or cleared. hand_over: writes what `go_on` reads, step.json last."""
    if folder is None:
        return loop.run(Position())
    with folder.locked():
        if overwrite:
            folder.clear()
        folder.claim(configured=True)  # once more: another process may have been here meanwhile
        folder.sweep()
        hand_over(folder.path)
        return loop.run(Position())


def go_on(
    folder: str | os.PathLike[str],
    data: Dataset,
    validation: Dataset | None,
    plan: Plan,
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    accepted: Callable[[], None] = lambda: None,
) -> Run:
    """Go on with the run in `folder` from its newest checkpoint: what `resume` does.

    accepted: called once nothing speaks against it, before the first file changes.
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
        identity = identity_of(step.spec["digest"], data, validation, plan)
        state, position = run.load_checkpoint(identity, step.state_ports, ends=step.spec.get("total") is not None)
        loop = _loop(model, step, state, data, validation, plan, run, callbacks, progress)
        accepted()
        run.sweep()
        run.rewind_log(position.log_bytes)
        return loop.run(position)


TRIAL = 2
"""Steps of a fast_dev_run."""
_OVERFITTING: dict[str, Any] = {"logs": (), "keep_best": 0, "patience": None, "min_delta": 0.0, "profile": False}
"""What a plan does without while it overfits one batch; an epoch is a step then."""


def _loop(
    model: Model,
    step: StepGraph,
    state: dict[str, Array],
    data: Dataset,
    validation: Dataset | None,
    plan: Plan,
    folder: RunDirectory | None,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Loop:
    trainer = Trainer.of(
        model,
        step,
        state,
        loss=plan.loss,
        measure=plan.measure,
        threads=plan.threads,
        provider=plan.provider,
        engine=plan.engine,
    )
    identity = identity_of(step.spec["digest"], data, validation, plan)
    listening = [*plan.callbacks(), *callbacks]
    return Loop(
        trainer, data, validation, plan, identity, folder, listening, reporter(progress and not plan.overfit_one_batch)
    )


def reporter(progress: bool) -> Reporter:
    """Who tells a person of the run."""
    return default_reporter() if progress else Silent()


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


def identity_of(digest: str, data: Dataset, validation: Dataset | None, plan: Plan) -> dict[str, Any]:
    """What a run and its continuation must share to end in the same bytes. digest: of the step."""
    return {
        "step_digest": digest,
        "data": data.name,
        "data_digest": data.digest(),
        "validation_digest": validation.digest() if validation is not None else None,
        "epochs": plan.epochs,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "threads": plan.threads,
        "provider": plan.provider,
        "engine": plan.engine,
        **{name: value for name in _STOPPING if (value := getattr(plan, name))},
        "onnxruntime": runtime().__version__,
    }


_STOPPING = ("patience", "min_delta", "keep_best")
"""What chooses when a run ends and which models stay, where it is not left out."""
