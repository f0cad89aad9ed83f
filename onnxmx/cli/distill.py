"""`onnxmx distill`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from onnxmx.cli.command import command, given, library_option, threads_option
from onnxmx.cli.output import Answer
from onnxmx.cli.train import CONFIG, answer, free_folder, option
from onnxmx.errors import UsageError

_TEACHER = "onnxmx.trainer.teacher:Teacher"


@command(
    example="""\
onnxmx distill my_model.py:small --teacher runs/lenet/model.onnx --data mnist
onnxmx distill small.onnx --teacher large.onnx --data mnist --temperature 8 --feature 0=conv1 --epochs 10"""
)
@click.argument("student", metavar="STUDENT")
@click.option("--teacher", required=True, metavar="FILE", help="The trained model to learn from.")
@option("--data", field="data", metavar="DATASET", required=True, help="A name from `onnxmx datasets`, or a file.")
@option("--data-dir", field="data_dir", metavar="DIR", help="Where the dataset's files are.")
@click.option("-o", "--out", metavar="DIR", help="The new run's folder; by default runs/STUDENT-DATASET.")
@click.option("--overwrite", is_flag=True, help="Delete the run that is in that folder, and start anew in its place.")
@library_option(
    "--temperature", "temperature", default_in=f"{_TEACHER}.temperature", type=float, help="What logits are divided by."
)
@library_option("--alpha", "alpha", default_in=f"{_TEACHER}.alpha", type=float, help="The share of the soft targets.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="STUDENT=TEACHER",
    help="A value or layer to be like one of the teacher; again for another.",
)
@option("--epochs", field="epochs", type=int, help="Passes over the data.")
@option("--batch-size", field="batch_size", type=int, help="Samples a step.")
@option("--lr", field="lr", type=float, help="The learning rate at its highest; by default the optimizer's own.")
@option("--seed", field="seed", type=int, help="What initial parameters, shuffling and dropout are drawn from.")
@threads_option(CONFIG)
@click.option(
    "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of config.toml; again for another."
)
def distill(
    student: str,
    teacher: str,
    out: str | None,
    overwrite: bool,
    temperature: float | None,
    alpha: float | None,
    features: tuple[str, ...],
    settings: tuple[str, ...],
    **options: Any,
) -> Answer:
    """Train a model to do as a larger one does.

    STUDENT is what MODEL is to `onnxmx train`. It learns from the labels and from the teacher's softened outputs; the
    teacher is a part of step.onnx, as constants. The run is like any other: `onnxmx train --resume` goes on with it,
    which needs the teacher's file no more.
    """
    from onnxmx.trainer import run as library
    from onnxmx.trainer.config import TrainConfig
    from onnxmx.trainer.tables import parse_setting

    started = time.perf_counter()
    table = given({"temperature": temperature, "alpha": alpha}) | {"model": teacher}
    if features:
        table["features"] = dict(map(_pair, features))
    told = {**given(options), **{f"teacher.{name}": value for name, value in table.items()}}
    config = TrainConfig.of_settings({"model": student, **told, **dict(map(parse_setting, settings))})
    folder = Path(out) if out else free_folder(config, overwrite)
    print(f"onnxmx: {config.model} learns {config.data} from {teacher} into {folder}", file=sys.stderr)
    trained = library.train(config, folder, overwrite=overwrite)
    return answer(folder, config, trained, time.perf_counter() - started)


def _pair(text: str) -> tuple[str, str]:
    student, equals, teacher = text.partition("=")
    if not (student and equals and teacher):
        raise UsageError(f"--feature expected STUDENT=TEACHER; found {text!r}", mend="For example --feature 0=conv1.")
    return student, teacher
