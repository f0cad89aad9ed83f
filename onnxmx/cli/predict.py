"""`onnxmx predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from onnxmx.cli.command import command, given, library_option, provider_option, threads_option
from onnxmx.cli.output import Answer, Result, Stream
from onnxmx.cli.report import to_object
from onnxmx.errors import DataError, UsageError

if TYPE_CHECKING:
    from onnxmx.trainer.predict import Predictor

_PREDICTOR = "onnxmx.trainer.predict:Predictor"
_SHOWN = 8


@command(
    example="""\
onnxmx predict runs/lenet-mnist/model.onnx seven.png more.npy
echo '{"image": [[0, 12, ...], ...]}' | onnxmx predict runs/lenet-digits/model.onnx - --format json"""
)
@click.argument("model")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@library_option("--batch-size", type=int, default_in=f"{_PREDICTOR}.batch_size", help="Samples a run, of files.")
@library_option(
    "--white", type=float, default_in=f"{_PREDICTOR}.white", help="The raw value of an image's white pixel."
)
@threads_option(_PREDICTOR)
@provider_option(_PREDICTOR)
def predict(model: str, inputs: tuple[str, ...], **options: Any) -> Answer:
    """Ask a model about images, .npy arrays, .csv rows, or samples on stdin.

    MODEL is an .onnx file. Each INPUT is an image, an .npy file of one sample or a batch, an .npz file with such an
    array for each input of the model, by its name, or a .csv file with a row a sample; or the only INPUT is -, for JSON
    lines on stdin: a sample a line, as a list or as {"<input>": list}. Each line is answered as soon as it is read, in
    JSON by a line of JSON. One that cannot be answered gets its error, on stderr and in JSON as {"input": "line 7",
    "error": ...}; the others are answered too, and the exit code is 1.

    Numbers are raw, as the dataset stores them: the model's own preprocessing is applied here. An image is brought to
    the model's channels and size, and its white to the raw value of white: 255, or where the model's preprocessing
    only scales down, 1 / scale; or --white.
    """
    from onnxmx.builder.model import load
    from onnxmx.trainer.predict import Predictor

    if "-" in inputs and len(inputs) > 1:
        raise UsageError("- expected to be the only input; found others", mend="Predict the files by another command.")
    predictor = Predictor(load(model), **given(options))
    if inputs == ("-",):
        return Stream(_each(predictor, sys.stdin.buffer))
    answers = list(_answers(predictor.files(inputs)))
    return Result({"predictions": [data for data, _ in answers]}, "\n".join(text for _, text in answers))


def _each(predictor: Predictor, lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], str]]:
    """An answer for each line; for one that cannot be answered, its error."""
    for number, line in enumerate(lines, 1):
        try:
            yield from _answers(predictor.stream([line], number))
        except DataError as error:
            yield {"input": f"line {number}", **to_object(error)}, f"{type(error).__name__}: {error}"


def _answers(predictions: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    return ((prediction, _line(prediction)) for prediction in predictions)


def _line(prediction: dict[str, Any]) -> str:
    """`seven.png  7  0.9981   (1 0.0012, 9 0.0004)`"""
    if "outputs" in prediction:
        outputs = prediction["outputs"].items()
        return f"{prediction['input']}  " + "  ".join(f"{name} {_short(output)}" for name, output in outputs)
    if "class" not in prediction:
        return f"{prediction['input']}  {_short(prediction['output'])}"
    others = ", ".join(f"{name} {p:.4f}" for name, p in prediction["top"][1:])
    chosen = f"{prediction['input']}  {prediction['class']}  {prediction['probability']:.4f}"
    return f"{chosen}  ({others})" if others else chosen


def _short(output: Any) -> str:
    """Numbers as a person wants them: few digits, the first few values."""
    if not isinstance(output, list):
        return f"{output:.6g}"
    more = [f"... {len(output) - _SHOWN} more"] if len(output) > _SHOWN else []
    return f"[{', '.join([*map(_short, output[:_SHOWN]), *more])}]"
