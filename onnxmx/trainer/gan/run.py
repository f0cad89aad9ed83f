"""`mx.fit_gan`: a GAN from Python, and going on with one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxmx.builder.arguments import checked_arguments, integer, refused_arguments
from onnxmx.builder.metadata import LOSS
from onnxmx.builder.model import Model, from_bytes, load
from onnxmx.errors import CheckpointError, DataError, OnnxmxWarning
from onnxmx.files import write_atomic
from onnxmx.trainer import state as states
from onnxmx.trainer.averages import AverageLike
from onnxmx.trainer.callbacks import Callback, checked
from onnxmx.trainer.clipping import ClipLike
from onnxmx.trainer.data import Dataset, Loader, Preprocessing
from onnxmx.trainer.evaluate import fit_inputs
from onnxmx.trainer.gan.pictures import Samples
from onnxmx.trainer.gan.refused import NOT_OF_A_GAN
from onnxmx.trainer.gan.rounds import Array, GanTrainer
from onnxmx.trainer.gan.steps import DISCRIMINATOR, GENERATOR, Game, pair
from onnxmx.trainer.joint import Joint
from onnxmx.trainer.launch import TRIAL, begin, claimed, identity_of, reporter
from onnxmx.trainer.loop import Loop, Run
from onnxmx.trainer.optimizers import Adam, OptimizerLike
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.regularizers import RegularizerLike
from onnxmx.trainer.run_directory import RunDirectory
from onnxmx.trainer.step import StepGraph
from onnxmx.trainer.update import Update

FORMAT = "onnxmx.steps/1"


@refused_arguments(NOT_OF_A_GAN)
@checked_arguments
def fit_gan(
    generator: Model,
    discriminator: Model,
    data: Dataset,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    loss: str = "non_saturating_gan",
    k: int = 1,
    smoothing: float = 0.0,
    penalty: float | None = None,
    optimizer: OptimizerLike | None = None,
    discriminator_optimizer: OptimizerLike | None = None,
    clip: ClipLike | None = None,
    regularize: RegularizerLike | None = None,
    average: AverageLike | None = None,
    samples: int = 64,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    provider: str = "cpu",
    checkpoint_s: float = 15.0,
    log_every: int = 50,
    time_budget_s: float | None = None,
    logs: Sequence[str] = (),
    profile: bool = False,
    fast_dev_run: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Train a generator against a discriminator. The run's model is the generator; both given ones stay as they are.

        g = mx.models.build("dcgan_generator", output=(1, 28, 28))
        d = mx.models.build("dcgan_discriminator", input=(1, 28, 28))
        run = mx.fit_gan(g, d, mx.gan.centred(mx.data.mnist("train")), epochs=5, out="runs/gan")

    generator: noise, which is drawn inside the steps, to samples.   discriminator: samples to scores.
    data: samples as the generator makes them, so mostly from -1 to 1; labels are passed over.
    loss, k, smoothing, penalty: as in `mx.gan.Game`. An epoch in which the generator had no turn has no
    `generator_loss`; a warning says so of a whole run.
    optimizer: of the generator, Adam(2e-4, beta1=0.5) by default; the discriminator has the same unless it has one of
    its own.   clip, regularize: of the gradients and weights of both.   average: of the generator's weights.
    samples: how many the picture of each epoch shows, samples/epoch-<n>.png in the folder `out`.
    The folder has step-discriminator.onnx and step-generator.onnx over one state.safetensors, model.onnx (the
    generator) and discriminator.onnx; with profile=True the traces of both steps, profile-discriminator.json and
    profile-generator.json, and a .txt of each. The rest as in `fit`, of which the other options are refused, each with
    a reason; fast_dev_run takes as many steps as the generator's first needs, and two at least. `mx.resume` goes on.
    Raises ShapeError where the two do not fit each other, and what `fit` raises.
    Source: Goodfellow et al. 2014, alg. 1.
    """
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        loss=loss,
        threads=threads,
        provider=provider,
        checkpoint_s=checkpoint_s,
        log_every=log_every,
        time_budget_s=time_budget_s,
        logs=logs,
        profile=profile,
        fast_dev_run=fast_dev_run,
    )
    optimizer = optimizer or Adam(2e-4, beta1=0.5)
    first = Update.of(optimizer, clip, regularize, average)
    second = Update.of(discriminator_optimizer or optimizer, clip, regularize)
    game = Game(loss, k, smoothing, penalty)
    return start_gan(
        generator, discriminator, data, plan, game, (first, second),
        samples=integer("samples", samples, 0), out=out, overwrite=overwrite, callbacks=checked(callbacks),
        progress=progress,
    )  # fmt: skip


def start_gan(
    generator: Model,
    discriminator: Model,
    data: Dataset,
    plan: Plan,
    game: Game,
    updates: tuple[Update, Update],
    *,
    samples: int,
    out: str | os.PathLike[str] | None,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> Run:
    """Begin a run and go on to its end. updates: of the generator and of the discriminator."""
    with claimed(plan, out, overwrite) as folder:
        generator, discriminator = (_named(model, game) for model in (generator, discriminator))
        nets = pair(generator, discriminator, *updates)
        data = _images(discriminator, data)
        batches = len(Loader(data, plan.batch_size)) * plan.epochs
        if game.k > batches:
            warnings.warn(
                f"the generator learns nothing in this run: it has a turn after {game.k} steps of the discriminator, "
                f"and there are {batches}; take a smaller k, smaller batches or more epochs",
                OnnxmxWarning,
                stacklevel=5,  # past fit_gan, and the checks of its arguments
            )
        if plan.fast_dev_run:  # until the generator had a turn, over more than one epoch of little data
            least = max(TRIAL, game.k)
            data = data.take(least * plan.batch_size)
            plan = dataclasses.replace(plan, epochs=math.ceil(least / len(Loader(data, plan.batch_size))))
        steps = game.steps(nets, plan.batch_size, batches, plan.provider)
        read = _ports(steps)
        first = {name: array for name, array in nets.state(plan.seed).items() if name in read}
        about = {"k": game.k, "samples": samples}
        loop = _loop(nets, steps, first, data, plan, about, folder, callbacks, progress)

        def hand_over(path: Path) -> None:
            generator.save(path / "last.onnx")
            discriminator.save(path / "discriminator.onnx")
            for name, step in steps.items():
                step.save_graph(path, f"step-{name}")
            states.save(path / "state.safetensors", first, {"identity": loop.identity})
            rules = rules_of(game, samples, updates)
            index = {"format": FORMAT, "steps": [f"step-{name}" for name in steps], "settings": rules}
            write_atomic(path / "step.json", json.dumps(index, indent=2).encode())

        return begin(loop, folder, overwrite, hand_over)


def go_on_gan(
    folder: RunDirectory,
    data: Dataset,
    plan: Plan,
    *,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    accepted: Callable[[], None] = lambda: None,
) -> Run:
    """Go on from the newest checkpoint, to the same bytes as if it had never stopped. Raises CheckpointError.

    accepted: called once nothing speaks against it, before the first file changes.
    """
    with folder.locked():
        about = settings_of(folder)
        nets = Joint({GENERATOR: load(folder.last), DISCRIMINATOR: load(folder.path / "discriminator.onnx")}, {})
        steps = {name: StepGraph.load(folder.path, f"step-{name}") for name in (DISCRIMINATOR, GENERATOR)}
        data = _images(nets.models[DISCRIMINATOR], data)
        ends = any(step.spec.get("total") is not None for step in steps.values())
        state, position = folder.load_checkpoint(_identity(steps, data, plan), _ports(steps), ends=ends)
        loop = _loop(nets, steps, state, data, plan, about, folder, callbacks, progress)
        accepted()
        folder.sweep()
        folder.rewind_log(position.log_bytes)
        return loop.run(position)


def rules_of(game: Game, samples: int, updates: tuple[Update, Update]) -> dict[str, Any]:
    """What a GAN is trained with, as step.json keeps it. updates: of the generator and of the discriminator."""
    of_each = zip((GENERATOR, DISCRIMINATOR), updates, strict=True)
    return {**dataclasses.asdict(game), "samples": samples, **{name: update.settings() for name, update in of_each}}


def settings_of(folder: RunDirectory) -> dict[str, Any] | None:
    """What the GAN in a folder was started with; None where another run lives there.

    Raises CheckpointError where step.json is missing or damaged.
    """
    try:
        index = json.loads((folder.path / "step.json").read_bytes())
        return dict(index["settings"]) if index["format"] == FORMAT else None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder.path} expected step.json; found {error!r}", mend="Train again.") from error


@checked_arguments
def centred(data: Dataset) -> Dataset:
    """The same images with their least value as -1 and their greatest as 1, as generators make them; no labels.

    Raises DataError for data of several inputs.
    """
    if len(data.inputs) != 1:
        raise DataError(f"a GAN expected data of one input; found {sorted(data.inputs)} in {data.name}")
    (array,) = data.inputs.values()
    low, high = float(array.min()), float(array.max())
    scale = 2 / (high - low) if high > low else 1.0
    return dataclasses.replace(data, labels={}, preprocessing=Preprocessing(scale, -1 - low * scale))


def _loop(
    nets: Joint,
    steps: dict[str, StepGraph],
    state: dict[str, Array],
    data: Dataset,
    plan: Plan,
    about: dict[str, Any] | None,
    folder: RunDirectory | None,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Loop:
    about = about or {}
    trainer: Any = GanTrainer(nets, steps, state, about["k"], threads=plan.threads, provider=plan.provider)
    listening = [Samples(about["samples"], plan.seed), *plan.callbacks(), *callbacks]
    return Loop(trainer, data, None, plan, _identity(steps, data, plan), folder, listening, reporter(progress))


def _identity(steps: dict[str, StepGraph], data: Dataset, plan: Plan) -> dict[str, Any]:
    return identity_of(" ".join(step.spec["digest"] for step in steps.values()), data, None, plan)


def _ports(steps: dict[str, StepGraph]) -> dict[str, Any]:
    """What they read of the state together."""
    return {name: port for step in steps.values() for name, port in step.state_ports.items()}


def _named(model: Model, game: Game) -> Model:
    """Through bytes, as a resumed run reads it: both go on from the same graph."""
    model = model.with_parameters({})
    model.metadata[LOSS] = game.loss
    return from_bytes(model.to_bytes())


def _images(discriminator: Model, data: Dataset) -> Dataset:
    """`data` as the discriminator takes it, without labels."""
    return dataclasses.replace(fit_inputs(discriminator, data), labels={}, classes=None)
