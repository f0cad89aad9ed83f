"""`mx.fit` and `mx.resume`: training from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.metadata import LOSS
from onnxmx.builder.model import Model, load
from onnxmx.errors import CheckpointError, UsageError
from onnxmx.trainer import losses, mixing
from onnxmx.trainer.averages import AverageLike
from onnxmx.trainer.callbacks import Callback, checked
from onnxmx.trainer.clipping import ClipLike
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.evaluate import check_kinds
from onnxmx.trainer.gan.run import go_on_gan, settings_of
from onnxmx.trainer.launch import go_on, start
from onnxmx.trainer.loop import Run
from onnxmx.trainer.losses import LossLike
from onnxmx.trainer.mixing import MixLike
from onnxmx.trainer.objective import Measure
from onnxmx.trainer.optimizers import Adam, OptimizerLike
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.regularizers import RegularizerLike
from onnxmx.trainer.run import keeping, resume_run
from onnxmx.trainer.run_directory import RunDirectory
from onnxmx.trainer.teacher import Teacher
from onnxmx.trainer.update import Update


@checked_arguments
def fit(
    model: Model,
    data: Dataset,
    *,
    validation: Dataset | None = None,
    epochs: int = 1,
    batch_size: int = 64,
    micro_batches: int = 1,
    mix: MixLike | None = None,
    teach: Teacher | None = None,
    precision: str = "float32",
    seed: int = 0,
    loss: LossLike = "softmax_cross_entropy",
    measure: Measure = None,
    optimizer: OptimizerLike | None = None,
    clip: ClipLike | None = None,
    regularize: RegularizerLike | None = None,
    average: AverageLike | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    provider: str = "cpu",
    engine: str = "ort",
    tune: str = "cached",
    checkpoint_s: float = 15.0,
    log_every: int = 50,
    patience: int | None = None,
    min_delta: float = 0.0,
    keep_best: int = 0,
    time_budget_s: float | None = None,
    logs: Sequence[str] = (),
    profile: bool = False,
    fast_dev_run: bool = False,
    overfit_one_batch: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Train `model` on `data`; the model itself stays as it is.

        run = mx.fit(model, mx.data.mnist("train"), validation=mx.data.mnist("test"), epochs=3, out="runs/lenet")

    validation: evaluated after each epoch; the best epoch is the one best by the first metric on it, or, without it,
    by the mean training loss.
    epochs: passes over the data.   batch_size: samples a step.
    micro_batches: in how many parts a step goes through its batch, to use less memory.
    mix: of the samples of a batch, mx.Mixup, mx.CutMix or a name.   teach: mx.Teacher, learned from besides labels.
    precision: what products are computed in: "float32", "float16" or "bfloat16" (docs/precision.md).
    seed: what the order of the samples and dropout are drawn from.
    loss: what to make small: a loss of mx.losses, its name, a function (output, label) of graph values, or a mapping of
    such by the outputs that they read, whose labels have the outputs' names.
    measure: metrics of mx.metrics, their names or functions; by default the one that goes with the loss.
    optimizer: one, or its name, with options after a colon: "sgd:lr=0.1,momentum=0.9"; Adam by default.
    clip: how gradients are clipped, for example mx.clip_global_norm(1.0), or 1.0 for that, or "value:limit=0.5"; or
    several changes of theirs in a list.   regularize: mx.L1, mx.L2, mx.MaxNorm or "l2:strength=1e-4", one or a list.
    average: of the weights, mx.EMA, mx.SWA or a name ("ema:decay=0.99"), which is then what is validated and saved.
    out: a folder for the run, from which `mx.resume` goes on.
    overwrite: a run that is in that folder is deleted, and nothing else there.
    threads: worker threads inside an operator; by default the cores that this process may use.
    provider: "cpu", "cuda", or "cuda_tf32".   engine: "ort", or "ort-training" for the retired onnxruntime-training.
    tune: "full" measures which formulation of a gradient is fastest on this machine and remembers it, "cached" takes
    what was remembered, "off" neither.
    checkpoint_s: seconds between checkpoints; one is written at the end of every epoch too.
    log_every: steps between the lines of metrics.jsonl.   progress: whether to show it on stderr.
    patience: epochs without a better one, by more than min_delta, after which the run ends.
    keep_best: how many of the best epochs' models to keep in `out`, besides the best one.
    time_budget_s: seconds after which the run stops, saved so that it can go on.
    logs: what to write into `out` besides metrics.jsonl: "csv", "tensorboard", "curves".
    profile: whether to time the operators of a step first, and to write profile.json, ONNX Runtime's trace, and
    profile.txt, where the time goes by layer and operator.
    fast_dev_run: only two steps, validation and every file, in a folder that is deleted: whether all of it works.
    overfit_one_batch: every step on the first batch, without validation, files and callbacks; `history` is that of the
    steps.
    callbacks: what else listens to the run, in this order: see mx.Callback.
    Raises DataError where data and model do not fit, UsageError for an option out of its range, GradientError,
    CheckpointError where `out` holds a run, TrainingError when the loss is not a number, StoppedError after Ctrl-C:
    with a folder a first one ends the run after its step, saved, and a second one at once.
    """
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        micro_batches=micro_batches,
        mix=mixing.get(mix),
        teach=teach,
        precision=precision,
        tune=tune,
        seed=seed,
        loss=loss,
        measure=measure,
        threads=threads,
        provider=provider,
        engine=engine,
        checkpoint_s=checkpoint_s,
        log_every=log_every,
        patience=patience,
        min_delta=min_delta,
        keep_best=keep_best,
        time_budget_s=time_budget_s,
        logs=logs,
        profile=profile,
        fast_dev_run=fast_dev_run,
        overfit_one_batch=overfit_one_batch,
    )
    optimizer = Adam() if optimizer is None else optimizer
    check_kinds("fit", model, data, validation)
    return start(
        model,
        data,
        plan,
        validation=validation,
        update=Update.of(optimizer, clip, regularize, average),
        out=out,
        overwrite=overwrite,
        callbacks=checked(callbacks),
        progress=progress,
    )


@checked_arguments
def distill(
    student: Model,
    teacher: Model,
    data: Dataset,
    *,
    temperature: float = 4.0,
    alpha: float = 0.5,
    features: Mapping[str, str] | None = None,
    feature_weight: float = 1.0,
    **options: Any,
) -> Run:
    """Train `student` to do as `teacher` does: `fit` with teach=mx.Teacher(...), and all other options of `fit`.

    run = mx.distill(small, mx.load("lenet.onnx"), mx.data.mnist("train"), epochs=3, features={"0": "0"})
    """
    teach = Teacher(teacher, temperature, alpha, features or {}, feature_weight)
    return fit(student, data, teach=teach, **options)


@checked_arguments
def resume(
    folder: str | os.PathLike[str],
    data: Dataset | None = None,
    *,
    validation: Dataset | None = None,
    loss: LossLike | None = None,
    measure: Measure = None,
    epochs: int | None = None,
    checkpoint_s: float | None = None,
    log_every: int | None = None,
    time_budget_s: float | None = None,
    logs: Sequence[str] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Go on with the run in `folder` from its newest checkpoint, to the same bytes as if it had never stopped.

        run = mx.resume("runs/lenet", mx.data.mnist("train"), validation=mx.data.mnist("test"))

    data, validation: those that the run was started with. A run of `onnxmx train` needs no more than its folder.
    loss, measure: those that `fit` was given, where the loss was a function, or measure was given at all.
    epochs: more than before, of a run whose learning rate and average do not end with it; to the same weights as if it
    had been begun with them.
    checkpoint_s, log_every, logs, progress: as in `fit`; log_every must be that of the run for the same metrics.jsonl.
    time_budget_s: counted anew.
    callbacks: those of the run, in their order; they go on from what they knew.
    Of a run of `onnxmx train` its config.toml keeps what is given for epochs to logs; what is not stays.
    Raises CheckpointError where there is no run, its checkpoint is damaged, another process trains there, or data or
    settings are not those of the run; UsageError for what such a run does not take.
    """
    run, callbacks = RunDirectory(folder), checked(callbacks)
    others = {"validation": validation, "loss": loss, "measure": measure}
    found = {"epochs": epochs, "checkpoint_s": checkpoint_s, "log_every": log_every, "time_budget_s": time_budget_s}
    changes = {name: _plain(value) for name, value in {**found, "logs": logs}.items() if value is not None}
    if data is None and (run.config.is_file() or not run.started):
        _refuse(others, run, "config.toml says it")
        return resume_run(folder, changes, callbacks=callbacks, progress=progress)
    if not isinstance(data, Dataset):
        raise UsageError(
            f"{run.path} expected the data that the run was started with; found {type(data).__name__}",
            mend=f"For example {run.resumption}.",
        )
    if not run.started:
        raise CheckpointError(f"{run.path} expected a run that has started; found none", mend="Train it by fit first.")
    made = run.identity()
    kept = {name: made[name] for name in _KEPT if name in made}
    rules = losses.get(loss) if loss is not None else losses.kept(load(run.last).metadata.get(LOSS, ""))
    plan = Plan(loss=rules, measure=measure, **kept | changes)
    keep = keeping(run, changes)
    if settings_of(run) is not None:
        _refuse(others, run, "it is the run of a GAN")
        return go_on_gan(run, data, plan, callbacks=callbacks, progress=progress, accepted=keep)
    return go_on(folder, data, validation, plan, callbacks=callbacks, progress=progress, accepted=keep)


def _plain(value: Any) -> Any:
    """A number or a sequence as config.toml holds it."""
    return value.item() if isinstance(value, np.generic) else list(value) if isinstance(value, tuple) else value


def _refuse(given: Mapping[str, Any], run: RunDirectory, why: str) -> None:
    if name := next((name for name, value in given.items() if value is not None), None):
        raise UsageError(f"{run.path} expected {name} to be left out; found it", mend=f"Leave it out: {why}.")


_KEPT = ("epochs", "batch_size", "seed", "threads", "provider", "engine", "patience", "min_delta", "keep_best")
"""What of its plan a run's identity keeps."""
