"""Training by name: what `onnxmx train` does."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxmx import models
from onnxmx.builder.layers import Layer
from onnxmx.builder.model import InputSpec, Model, load
from onnxmx.builder.session import cores, providers
from onnxmx.builder.source import line_of, raised_at
from onnxmx.builder.values import Dim
from onnxmx.errors import CheckpointError, ModelFileError, OnnxmxError, UsageError, unknown_name
from onnxmx.trainer.callbacks import Callback
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.data import Dataset, get_dataset, load_npz
from onnxmx.trainer.engine import ENGINES
from onnxmx.trainer.finders import BatchFinding, RateFinding, find_batch_size, find_lr
from onnxmx.trainer.gan.run import centred, go_on_gan, rules_of, settings_of, start_gan
from onnxmx.trainer.gan.steps import Game
from onnxmx.trainer.launch import go_on, start
from onnxmx.trainer.loop import Run
from onnxmx.trainer.resumption import check_changes
from onnxmx.trainer.run_directory import RunDirectory
from onnxmx.trainer.step import StepGraph, settings
from onnxmx.trainer.update import Update
from onnxmx.trainer.user_code import importable, load_function

Parts = tuple[Model | tuple[Model, Model], Dataset, Dataset | None]
"""A model, or a generator and a discriminator; the data and that for validation."""


def train(config: TrainConfig, out: str | os.PathLike[str], *, overwrite: bool = False, progress: bool = True) -> Run:
    """Train as `config` says, into the folder `out`, which must not hold a run yet, unless `overwrite` deletes it.

    A trial, fast_dev_run or overfit_one_batch, leaves that folder alone.
    """
    config.check()
    if config.make_plan().trial:
        return _start(config, None, progress)
    folder = RunDirectory(out)
    folder.claim(overwrite=overwrite)
    providers(config.provider)  # before the first file: without it the run could start nowhere
    config = dataclasses.replace(config, threads=cores() if config.threads is None else config.threads)
    ENGINES[config.engine].differentiator()  # as the provider
    parts = None
    if overwrite:
        parts = _read(config)  # before anything is deleted: the model may be that of the run that goes
        with folder.locked():
            folder.clear()
    # From here on `--resume` can repeat the run from its start.
    config.save(folder.config)
    try:
        return _start(config, out, progress, parts)
    except (CheckpointError, KeyboardInterrupt):
        raise  # another process was here first: the folder is its own; or the run begins with --resume
    except BaseException:  # whatever it is, the user's own code may have raised it: a mended one begins here
        folder.release()
        raise


def find_lr_of(config: TrainConfig) -> RateFinding:
    """`find_lr` for the model, data and settings of a configuration. Raises UsageError for a GAN."""
    model, data, options = _to_try(config)
    plan = config.make_plan()
    return find_lr(model, data, batch_size=plan.batch_size, micro_batch=plan.micro_batch, **options)


def find_batch_size_of(config: TrainConfig) -> BatchFinding:
    """`find_batch_size` for the model, data and settings of a configuration. Raises UsageError for a GAN."""
    model, data, options = _to_try(config)
    if config.micro_batches > 1:
        raise UsageError(
            f"a batch size is found for a step that takes it at once; found {config.micro_batches} micro-batches",
            mend="Leave --micro-batches out: it lowers the memory of the batch that is found.",
        )
    return find_batch_size(model, data, **options)


def _to_try(config: TrainConfig) -> tuple[Model, Dataset, dict[str, Any]]:
    model, data, _ = _read(config)
    if isinstance(model, tuple):
        raise UsageError("a finder expected one model; found a GAN", mend="Try values by hand: --epochs 1 --lr ...")
    plan, update = config.make_plan(), config.make_update()
    if plan.trial or config.teacher is not None:
        name = "teacher" if config.teacher is not None else "fast_dev_run" if plan.fast_dev_run else "overfit_one_batch"
        raise UsageError(
            f"a finder expected {name} to be left out; found it", mend="Find without it, then train with it."
        )
    options = {
        name: getattr(plan, name)
        for name in ("loss", "measure", "seed", "threads", "provider", "engine", "mix", "precision")
    }
    options |= {"optimizer": update.optimizer, "clip": update.clip, "regularize": update.regularize}
    return model, data, options


def resume_run(
    folder: str | os.PathLike[str],
    changes: Mapping[str, Any] | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Go on with the run in `folder`, or begin it when it was stopped before its first step.

    changes: values for keys of its config.toml that may change, which it then holds (trainer/resumption.py).
    Raises UsageError for others, CheckpointError where there is no run, or it cannot go on as it was begun.
    """
    run = RunDirectory(folder)
    if not run.config.is_file():
        raise CheckpointError(
            f"{run.path} expected a run; found no config.toml",
            mend=f"It was begun in Python, and goes on there: {run.resumption}"
            if run.started
            else "Check the path, or start a run: onnxmx train ... -o DIR",
        )
    check_changes(changes or {})
    config = TrainConfig.load(run.config, changes)
    config.check()
    keep = keeping(run, changes)
    if not run.started:
        keep()
        return _start(config, folder, progress, callbacks=callbacks)
    _check_settings(run, config)
    data, validation = _datasets(config)
    plan = config.make_plan()
    options: dict[str, Any] = {"callbacks": callbacks, "progress": progress, "accepted": keep}
    if config.gan is not None:
        return go_on_gan(run, centred(data), plan, **options)
    return go_on(folder, data, validation, plan, **options)


def keeping(run: RunDirectory, changes: Mapping[str, Any] | None) -> Callable[[], None]:
    """What writes `changes` into the config.toml of a run, where it has one. Raises DataError where that is no TOML."""
    config = TrainConfig.load(run.config, changes) if changes and run.config.is_file() else None
    return lambda: config.save(run.config) if config is not None else None


def _read(config: TrainConfig) -> Parts:
    data, validation = _datasets(config)
    resolve = resolve_pair if config.gan is not None else resolve_model
    return resolve(config.model, data, config.seed), data, validation


def _start(
    config: TrainConfig,
    out: str | os.PathLike[str] | None,
    progress: bool,
    parts: Parts | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    model, data, validation = parts or _read(config)
    if isinstance(model, tuple):
        plan, (game, samples, updates) = config.make_plan(), _rules(config)
        options: dict[str, Any] = {"out": out, "callbacks": callbacks, "progress": progress}
        return start_gan(*model, centred(data), plan, game, updates, samples=samples, **options)
    return start(
        model,
        data,
        dataclasses.replace(config.make_plan(), teach=config.make_teacher()),
        validation=validation,
        update=config.make_update(),
        out=out,
        callbacks=callbacks,
        progress=progress,
    )


def _rules(config: TrainConfig) -> tuple[Game, int, tuple[Update, Update]]:
    """Of a GAN: the rules, samples in a picture, and the updates of generator and discriminator."""
    return config.make_game() or Game(), config.samples, config.make_updates()


def resolve_model(name: str, data: Dataset | None = None, seed: int = 0) -> Model:
    """A model by a name of the zoo, as `path.py:name`, or from an ONNX file.

    `name` in the file is a layer, a model, or a function that returns one of them.

    A function that takes `input` (the shape of a sample) and `classes` is given those of `data`.
    Raises UsageError for an unknown name, ModelFileError for a file that cannot be used.
    """
    path, _, function_name = name.rpartition(":")
    if path.endswith(".py"):
        with importable(Path(path).parent):
            return _build(load_function(Path(path), function_name), data, seed)
    if name in models.MODELS:
        return _build(models.get_model(name), data, seed)
    if name.endswith(".py"):
        raise UsageError(f"{name} expected the name of a function after the file", mend=f"For example {name}:net")
    if name.endswith(".onnx") or os.sep in name or Path(name).exists():
        return load(name)
    if Path(f"{path}.py").is_file():
        raise UsageError(f"no model named {name!r}", mend=f"One in a file is {path}.py:{function_name}.")
    raise unknown_name("model", name, models.MODELS)


def resolve_pair(name: str, data: Dataset, seed: int = 0) -> tuple[Model, Model]:
    """A generator and a discriminator, by a name of the zoo or as `path.py:name`, a function that returns both.

    Raises UsageError for what is no GAN, and what `resolve_model` raises.
    """
    path, _, function_name = name.rpartition(":")
    shape = next(iter(data.input_shapes.values()))
    if path.endswith(".py"):
        with importable(Path(path).parent):
            function = load_function(Path(path), function_name)
            made = _called(function, {"input": shape})
    else:
        function = models.get_model(name)
        made = function(input=shape)
    noise = (models.inputs_of(function) or {}).get("noise")
    if isinstance(made, models.GAN) and noise is not None:
        image: tuple[Dim, ...] = ("batch", *shape)
        made = made.generator.build(seed=seed, noise=noise), made.discriminator.build(seed=seed, image=image)
    if not (isinstance(made, tuple) and len(made) == 2 and all(isinstance(m, Model) for m in made)):
        raise UsageError(
            f"{name} expected to be a GAN, which the table `gan` asks for; found {_shown(made)}",
            at=line_of(function),
            mend="Return a generator and a discriminator, both built; of another model leave `gan` out.",
        )
    return made


def _check_settings(run: RunDirectory, config: TrainConfig) -> None:
    """Raises CheckpointError where config.toml asks for another step than the one that the run was started with."""
    made: dict[str, Any]
    asked: dict[str, Any]
    if config.gan is not None:
        made, asked = settings_of(run) or {}, rules_of(*_rules(config))
    else:
        made, plan = StepGraph.load(run.path).spec.get("settings", {}), config.make_plan()
        asked = settings(plan.loss, config.make_update(), plan.micro_batch, plan.mix, plan.precision)
        asked |= {"engine": config.engine}
    keys = [k for k in dict.fromkeys([*made, *asked]) if k != "teach"]  # a run that goes on needs no teacher's file
    differ = [f"{k} (expected {made.get(k)}, found {asked.get(k)})" for k in keys if made.get(k) != asked.get(k)]
    if differ:
        raise CheckpointError(
            f"{run.config} differs from the run that was started here in {', '.join(differ)}",
            mend="Put the former settings back, or start a new run in another folder.",
        )


def _datasets(config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """What to train and to validate on. A GAN is not validated, so of a file without a test split it takes all."""
    if config.gan is not None:
        own = config.data.endswith(".npz")
        path = Path(config.data_dir or ".") / config.data
        return load_npz(path) if own else get_dataset(config.data, "train", config.data_dir), None
    return get_dataset(config.data, "train", config.data_dir), get_dataset(config.data, "test", config.data_dir)


def _build(function: Any, data: Dataset | None, seed: int) -> Model:
    """What `function` returns, built for the data where it is a layer; or a layer or model that stands there itself."""
    if isinstance(function, Model):
        return function
    if isinstance(function, Layer):
        return _build(_returning(function), data, seed)
    given: dict[str, Any] = {}
    if data is not None:
        given = {
            "input": next(iter(data.input_shapes.values())),
            "classes": len(data.classes) if data.classes else None,
        }
    made = _called(function, given)
    if isinstance(made, Model):
        return made
    if not isinstance(made, Layer):
        raise UsageError(
            f"{_name(function)} expected to return a layer or a model; found {_shown(made)}",
            at=line_of(function),
            mend="End it with, for example, return L.Sequential(L.Flatten(), L.Dense(10)).",
        )
    with _users_code(function, given):
        return made.build(seed=seed, **_inputs(function, _taken(function, given), data))


def _called(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What `function` returns for those of the arguments that it takes."""
    with _users_code(function, given):
        return function(**_taken(function, given))


def _taken(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    takes = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in takes and value is not None}


@contextmanager
def _users_code(function: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[None]:
    """Answers whatever the user's own code raises by a ModelFileError at its line."""
    try:
        yield
    except OnnxmxError:
        raise
    except Exception as error:
        inside = raised_at(error)
        raise ModelFileError(
            f"{_name(function)} expected to build a model from {sorted(given)} or nothing; "
            f"it raised {type(error).__name__}: {error}",
            at=inside or line_of(function),
            mend="That line raised it; --debug shows how it came there."
            if inside
            else f"Of its parameters only {' and '.join(given)} are filled in: give the others defaults."
            if given
            else "None of its parameters is filled in: give them defaults.",
        ) from error


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))


def _shown(made: Any) -> str:
    """What a function returned, in few words."""
    return f"a layer, {type(made).__name__}" if isinstance(made, Layer) else " ".join(f"{made!r:.80}".split())


def _returning(layer: Layer) -> Callable[[], Layer]:
    def made() -> Layer:
        return layer

    made.__name__ = type(layer).__name__
    return made


def _inputs(function: Any, options: dict[str, Any], data: Dataset | None) -> dict[str, InputSpec]:
    """What to build the layer of `function` on: of a user's own, the data's inputs; an only input is named as there."""
    found: dict[str, InputSpec] = dict(models.inputs_of(function, **options) or {})
    if not found and data is not None and len(data.input_shapes) > 1:
        return {name: ("batch", *shape) for name, shape in data.input_shapes.items()}
    if not found:
        found = {"image": ("batch", *_sample_shape(function, data))}
    if data is None or len(found) > 1:
        return found
    (spec,) = found.values()
    return {next(iter(data.input_shapes)): spec}


def _sample_shape(function: Any, data: Dataset | None) -> tuple[Dim, ...]:
    """The shape of one sample of the data, or else the one that a function of the user's has by default."""
    if data is not None:
        return next(iter(data.input_shapes.values()))
    takes = inspect.signature(function).parameters
    if "input" not in takes or takes["input"].default is inspect.Parameter.empty:
        raise UsageError(
            f"{_name(function)} expected its input's shape; found none", mend="Name a dataset with --data."
        )
    return tuple(takes["input"].default)
