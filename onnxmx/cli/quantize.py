"""`onnxmx quantize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onnxmx.cli.command import command, data_options, given, library_option, threads_option
from onnxmx.cli.output import Answer, Result

_QUANTIZE = "onnxmx.exporter:quantize"


@command(
    example="""\
onnxmx quantize runs/lenet-digits/model.onnx --data digits --max-drop 0.005
onnxmx quantize runs/lenet-digits/model.onnx --data digits --finetune 5"""
)
@click.argument("model")
@data_options()
@click.option("-o", "--out", metavar="FILE", help="The quantized file; by default MODEL.int8.onnx beside the model.")
@library_option("--loss", default_in=f"{_QUANTIZE}.loss", help="By default that of the model's training.")
@library_option("--max-drop", type=float, default_in=f"{_QUANTIZE}.max_drop", help="How much worse it may become.")
@library_option(
    "--calibration-samples",
    type=int,
    default_in=f"{_QUANTIZE}.calibration_samples",
    help="Samples of the train split that ranges are taken from.",
)
@library_option(
    "--finetune",
    type=int,
    metavar="EPOCHS",
    default_in=f"{_QUANTIZE}.finetune",
    help="Epochs of quantization-aware training on the train split.",
)
@library_option(
    "--lr", type=float, default_in=f"{_QUANTIZE}.lr", help="The learning rate of --finetune at its highest."
)
@threads_option(_QUANTIZE)
def quantize(model: str, data: str, data_dir: str | None, out: str | None, **options: Any) -> Answer:
    """Quantize a model to 8-bit integers, and measure what that changes.

    MODEL is an .onnx file. Ranges are calibrated on the train split of the dataset; accuracy, size and latency before
    and after are measured on the test split and this machine, and written to report.json beside the quantized file.
    With --finetune the model is then still trained, computing in 8 bits (docs/quantization.md). Nothing is written
    where the model would become worse by more than --max-drop.
    """
    from onnxmx.exporter import quantize as library
    from onnxmx.exporter.quantization import report_path
    from onnxmx.trainer.data import get_dataset

    path = Path(out) if out else Path(model).with_suffix(".int8.onnx")
    calibration, evaluation = (get_dataset(data, split, data_dir) for split in ("train", "test"))
    report = library(model, calibration, evaluation, path, progress=_tell, **given(options))
    answer = {"model": model, "quantized": str(path), "report": str(report_path(path)), **report.to_dict()}
    return Result(answer, f"{report}\n\nquantized model {path}\nreport {report_path(path)}")


def _tell(stage: str) -> None:
    print(f"onnxmx: {stage}", file=sys.stderr)
