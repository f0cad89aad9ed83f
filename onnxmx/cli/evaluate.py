"""`onnxmx evaluate`."""

from __future__ import annotations

import time
from typing import Any

import click

from onnxmx.cli.command import command, data_options, given, library_option, provider_option, threads_option
from onnxmx.cli.output import Answer, Result

_EVALUATE = "onnxmx.trainer.evaluate:evaluate"


@command(example="onnxmx evaluate runs/lenet-digits/model.onnx --data digits")
@click.argument("model")
@data_options()
@click.option("--split", default="test", show_default=True, help="Which part of the dataset: train or test.")
@library_option("--loss", default_in=f"{_EVALUATE}.loss", help="By default that of the model's training.")
@click.option(
    "--measure",
    multiple=True,
    metavar="METRIC",
    help="What to measure, such as mcc, or of one output digit=mcc; again for another.",
)
@library_option("--batch-size", type=int, default_in=f"{_EVALUATE}.batch_size", help="Samples a run.")
@threads_option(_EVALUATE)
@provider_option(_EVALUATE)
def evaluate(
    model: str, data: str, data_dir: str | None, split: str, measure: tuple[str, ...], **options: Any
) -> Answer:
    """Measure a model's loss and accuracy on a dataset.

    MODEL is an .onnx file, quantized or not; it runs as it is. The loss is the one that it was trained with, or, in a
    file from elsewhere, softmax cross-entropy where labels are classes and mean squared error where they are not.
    """
    from onnxmx.builder.model import load
    from onnxmx.trainer.data import get_dataset
    from onnxmx.trainer.evaluate import evaluate as library
    from onnxmx.trainer.progress import show

    found, dataset = load(model), get_dataset(data, split, data_dir)
    started = time.perf_counter()
    measures = library(found, dataset, measure=measure or None, **given(options))
    seconds = time.perf_counter() - started
    lines = [f"{show(measures)}  ({len(dataset):,} samples of {data} {split}, {seconds:.2f} s)"]
    for name, table in measures.items():
        if isinstance(table, list):
            lines += ["", name, *("  ".join(f"{count:6.0f}" for count in row) for row in table)]
    return Result(
        {"model": model, "data": data, "split": split, "samples": len(dataset), **measures, "seconds": seconds},
        "\n".join(lines),
    )
