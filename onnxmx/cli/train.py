"""`onnxmx train`."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxmx.cli.command import Decorator, command, given, library_option, provider_option, threads_option
from onnxmx.cli.output import Answer, Result
from onnxmx.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from onnxmx.trainer.config import TrainConfig
    from onnxmx.trainer.loop import Run

CONFIG = "onnxmx.trainer.config:TrainConfig"


def option(*names: str, field: str, **attributes: Any) -> Decorator:
    """An option for one field of TrainConfig, whose default it shows."""
    return library_option(*names, field, default_in=f"{CONFIG}.{field}", **attributes)


def _flag(name: str, *, field: str, help: str) -> Decorator:
    """An option that is there or not; what config.toml says stands where it is not."""
    return click.option(name, field, is_flag=True, default=None, help=help)


@command(
    example="""\
onnxmx train lenet --data digits -o runs/first
onnxmx train dcgan --data mnist --epochs 10 -s gan.smoothing=0.1
onnxmx train my_model.py:net --data my_data.npz --epochs 20 --optimizer adamw --lr 3e-4
onnxmx train runs/first/config.toml --seed 2 -s optimizer.lr=3e-4 -o runs/second
onnxmx train --resume runs/first --time-budget 3600"""
)
@click.argument("model", required=False, metavar="MODEL|CONFIG.toml")
@option(
    "--data", field="data", metavar="DATASET", help="A name from `onnxmx datasets`, or an .npz file (docs/data.md)."
)
@option("--data-dir", field="data_dir", metavar="DIR", help="Where the dataset's files are.")
@click.option("-o", "--out", metavar="DIR", help="The new run's folder; by default runs/MODEL-DATASET.")
@click.option("--overwrite", is_flag=True, help="Delete the run that is in that folder, and start anew in its place.")
@click.option("--resume", metavar="DIR", help="Go on with the run in DIR, to the same bytes as if it never stopped.")
@option("--epochs", field="epochs", type=int, help="Passes over the data.")
@option("--batch-size", field="batch_size", type=int, help="Samples a step.")
@option("--seed", field="seed", type=int, help="What initial parameters, shuffling and dropout are drawn from.")
@option("--loss", field="loss", choices_in="onnxmx.trainer.losses:LOSSES", help="What to make small.")
@option("--optimizer", field="optimizer", choices_in="onnxmx.trainer.optimizers:OPTIMIZERS", help="What takes steps.")
@option("--lr", field="lr", type=float, help="The learning rate at its highest; by default the optimizer's own.")
@option("--schedule", field="schedule", choices_in="onnxmx.trainer.schedules:SCHEDULES", help="How the rate goes.")
@option("--warmup", field="warmup", type=int, help="Updates until the highest rate; by default 1/20 of the run.")
@option(
    "--clip",
    field="clip",
    multiple=True,
    metavar="NORM|CLIPPING",
    help="The largest global norm of the gradients, 0 for no clipping, or text such as value:limit=0.5; again for "
    "another.",
)
@option(
    "--regularize",
    field="regularize",
    multiple=True,
    choices_in="onnxmx.trainer.regularizers:REGULARIZERS",
    help="What bounds the weights, such as l2:strength=1e-4; again for another.",
)
@option(
    "--average", field="average", choices_in="onnxmx.trainer.averages:AVERAGES", help="What to keep of the weights."
)
@option("--mix", field="mix", choices_in="onnxmx.trainer.mixing:MIXES", help="How to mix the samples of a batch.")
@option("--precision", field="precision", choices_in="onnxmx.trainer.precision:PRECISIONS", help="What to multiply in.")
@option("--micro-batches", field="micro_batches", type=int, help="In how many parts a step goes through its batch.")
@click.option(
    "-s",
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any key of config.toml, such as optimizer.lr=3e-4 or schedule.name=cosine; again for another.",
)
@threads_option(CONFIG)
@provider_option(CONFIG)
@option("--engine", field="engine", choices_in="onnxmx.trainer.engine:ENGINES", help="Who makes and runs the step.")
@option(
    "--tune",
    field="tune",
    choices_in="onnxmx.trainer.tune:MODES",
    help="Measure which formulations are fastest here (full), or take what was measured before (cached).",
)
@option("--checkpoint-every", field="checkpoint_s", type=float, metavar="SECONDS", help="Seconds between checkpoints.")
@option("--log-every", field="log_every", type=int, metavar="STEPS", help="Steps between lines of metrics.jsonl.")
@option("--patience", field="patience", type=int, metavar="EPOCHS", help="End after so many without a better one.")
@option("--min-delta", field="min_delta", type=float, help="By how much an epoch must be better, for --patience.")
@option("--keep-best", field="keep_best", type=int, metavar="N", help="Keep the models of the N best epochs in best/.")
@option(
    "--log",
    field="logs",
    multiple=True,
    choices_in="onnxmx.trainer.logs:LOGS",
    help="What to write besides metrics.jsonl; again for another. By default curves, where matplotlib is installed.",
)
@option("--measure", field="measure", multiple=True, metavar="METRIC", help="What to measure; again for another.")
@_flag("--profile", field="profile", help="Time a step's operators first; say where the time goes, by layer.")
@_flag("--fast-dev-run", field="fast_dev_run", help="Two steps, validation and every file, and no run is left behind.")
@_flag("--overfit-one-batch", field="overfit_one_batch", help="Every step on the first batch, to see its loss fall.")
@click.option("--find-lr", metavar="FILE.png", help="Show the loss over learning rates, advise one, and do no more.")
@click.option("--find-batch-size", is_flag=True, help="Time batch sizes, advise one, and do no more.")
@option("--time-budget", field="time_budget_s", type=float, metavar="SECONDS", help="Stop after so long, saved.")
def train(
    model: str | None,
    out: str | None,
    overwrite: bool,
    resume: str | None,
    settings: tuple[str, ...],
    clip: tuple[str, ...],
    regularize: tuple[str, ...],
    logs: tuple[str, ...],
    measure: tuple[str, ...],
    find_lr: str | None,
    find_batch_size: bool,
    **options: Any,
) -> Answer:
    """Train a model and write the run to a folder.

    MODEL is a name from `onnxmx models`, path.py:function, or an .onnx file. With a CONFIG.toml instead, such as a
    run's own config.toml, the options override what it says.

    The folder holds model.onnx (the best epoch's), last.onnx, step.onnx (the training step, itself plain ONNX),
    metrics.jsonl, config.toml and checkpoints. A run that was stopped, even by kill -9, goes on with --resume;
    so does one that Ctrl-C stopped: it ends after the step, saves and exits with 130 (a second
    Ctrl-C ends it at once); and one whose --time-budget is
    used up, which exits with 0. Beside --resume go --time-budget, --checkpoint-every, --log-every, --log, --data-dir,
    and --epochs, more than before, where the learning rate and an average do not end with the run; config.toml then
    holds them. A GAN's folder holds a step for each of the two, and samples/epoch-<n>.png.
    """
    from onnxmx.trainer import run as library
    from onnxmx.trainer.config import TrainConfig
    from onnxmx.trainer.tables import parse_setting

    started = time.perf_counter()
    options |= {"logs": list(logs) or None, "measure": list(measure) or None}
    options |= {"clip": _clips(clip), "regularize": list(regularize) or None}
    if resume is not None:
        _alone(model=model, out=out, overwrite=overwrite, find_lr=find_lr, find_batch_size=find_batch_size)
        folder = Path(resume)
        trained = library.resume_run(folder, {**given(options), **dict(map(parse_setting, settings))})
        config = TrainConfig.load(folder / "config.toml")
    else:
        config = _configuration(model, {**given(options), **dict(map(parse_setting, settings))})
        if find_lr and find_batch_size:
            raise UsageError("expected --find-lr or --find-batch-size; found both", mend="Do one after the other.")
        if find_lr or find_batch_size:
            return _find(config, find_lr)
        if config.make_plan().trial:
            return _try(config, library.train(config, ""))
        out = out or config.out
        folder = Path(out) if out else free_folder(config, overwrite)
        print(f"onnxmx: training {config.model} on {config.data} into {folder}", file=sys.stderr)
        trained = library.train(config, folder, overwrite=overwrite)
    return answer(folder, config, trained, time.perf_counter() - started)


def _clips(given: tuple[str, ...]) -> Any:
    """As config.toml holds them: one, a list of several, or None; a number is the largest global norm."""

    def read(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    found = [read(text) for text in given]
    return found if len(found) > 1 else next(iter(found), None)


def _alone(**others: object) -> None:
    if name := next((name for name, value in others.items() if value), None):
        raise UsageError(
            f"--resume expected no {name.replace('_', '-')} beside it: a run goes on as it began; found one",
            mend="For another start a new run from its config.toml: onnxmx train DIR/config.toml ...",
        )


def _configuration(model: str | None, options: dict[str, Any]) -> TrainConfig:
    from onnxmx.trainer.config import TrainConfig

    if model is None:
        raise UsageError(
            "expected a model, a config.toml or --resume; found none of them",
            mend="For example: onnxmx train lenet --data digits",
        )
    if model.endswith(".toml"):
        return TrainConfig.load(model, options)
    if "data" not in options:
        raise UsageError(
            "expected a dataset; found none",
            mend="Name one with --data; `onnxmx datasets` lists those that go by a name.",
        )
    return TrainConfig.of_settings({"model": model, **options})


def free_folder(config: TrainConfig, overwrite: bool) -> Path:
    """runs/<model>-<data>, or, unless it may be overwritten, the first of -2, -3 ... that is not there yet."""
    path, _, function = config.model.rpartition(":")
    model = function if path.endswith(".py") else Path(config.model).stem
    folder = Path("runs") / f"{model}-{Path(config.data).stem}"
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(f for f in itertools.chain([folder], numbered) if overwrite or not f.exists())


def _find(config: TrainConfig, picture: str | None) -> Result:
    """What a finder advises: a learning rate where there is a file for its picture, else a batch size."""
    from onnxmx.trainer import run as library

    if picture:
        rate = library.find_lr_of(config)
        tried = zip(rate.rates[::5], rate.losses[::5], strict=True)
        said = [
            *(f"{lr:8.1e}  loss {loss:.4f}" for lr, loss in tried),
            f"--lr {rate.lr:.2g}  the loss falls fastest there",
        ]
        try:
            rate.plot(picture)
            said[-1] += f": {picture}"
        except MissingExtraError as error:  # what it found stands in the figures too
            print(f"onnxmx: {picture} is not written: {error.problem}. {error.mend}", file=sys.stderr)
        return Result(dataclasses.asdict(rate), "\n".join(said))
    found = library.find_batch_size_of(config)
    lines = [
        f"{size:6}  {speed:12,.0f} samples/s" for size, speed in zip(found.sizes, found.samples_per_s, strict=True)
    ]
    advice = f"--batch-size {found.batch_size}  the smallest within 5% of the fastest; {found.stopped}"
    return Result(dataclasses.asdict(found), "\n".join([*lines, advice]))


def _try(config: TrainConfig, trained: Run) -> Result:
    """What a trial found, which leaves no run behind."""
    from onnxmx.trainer.progress import show

    history = trained.history
    if config.fast_dev_run:
        said = f"it all works: {show(trained.best)}\nnext: the same without --fast-dev-run"
    else:
        first, last = history[0]["loss"], history[-1]["loss"]
        said = f"loss {first:.4f} -> {last:.4f} in {len(history)} steps on one batch of {config.batch_size}"
        if not last < first:
            said += "\nit did not fall: look for a fault in the model, the loss or the labels, or lower --lr"
        elif last > first / 2:
            said += "\nit fell little: try more --epochs or another --lr; then look for a fault in model or labels"
    return Result({"best": trained.best, "history": history, "timing": trained.timing}, said)


def answer(folder: Path, config: TrainConfig, trained: Run, seconds: float) -> Result:
    """What a run came to, in words and as JSON, and the commands that come next. seconds: those of this call."""
    from onnxmx.trainer.profile import summarize, traces
    from onnxmx.trainer.progress import show
    from onnxmx.trainer.timing import show_timing

    model, last = folder / "model.onnx", folder / "last.onnx"
    data = shlex.join(["--data", config.data, *(["--data-dir", config.data_dir] if config.data_dir else [])])
    # A model's file names a loss of onnxmx; one of the user's own has to be given again.
    measured = f"{data} {shlex.join(['--loss', config.loss])}" if ".py:" in config.loss else data
    file = shlex.quote(str(model))
    lines = [
        *([f"stopped: {trained.stopped}"] if trained.stopped else []),
        f"best epoch {trained.best['epoch']} of {config.epochs}  {show(trained.best)}",
        *([timing] if (timing := show_timing(trained.timing)) else []),
        f"best model {model}",
        f"last model {last}",
        *([f"samples {folder / 'samples'}"] if config.gan is not None else []),
        "next:",
        *([f"  onnxmx train --resume {shlex.quote(str(folder))}"] if trained.paused else []),
        *([f"  onnxmx {word} {file} {measured}" for word in ("evaluate", "quantize")] if config.gan is None else []),
        f"  onnxmx serve {file}",
    ]
    answer = {
        "run": str(folder),
        "model": str(model),
        "last": str(last),
        "epochs": config.epochs,
        "history": trained.history,
        "best": trained.best,
        "seconds": seconds,
        "stopped": trained.stopped,
        "timing": trained.timing,
    }
    if config.profile and (found := {name: summarize(path) for name, path in traces(folder).items()}):
        for name, summary in found.items():
            lines += ["", *([f"the {name}'s step"] if name else []), str(summary)]
        shown = {name: dataclasses.asdict(summary) for name, summary in found.items()}
        answer["profile"] = shown.get("", shown)
    return Result(answer, "\n".join(lines))
