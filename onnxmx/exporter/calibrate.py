"""Calibration: the range of every activation, from one pass over samples, a batch at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxmx.builder.model import Model
from onnxmx.builder.session import run_errors
from onnxmx.errors import DataError, OnnxmxError, UsageError
from onnxmx.exporter.quiet import quiet
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.evaluate import fit_inputs

Array = np.ndarray[Any, Any]
Ranges = dict[str, tuple[np.float32, np.float32]]

BATCH = 32
"""Samples computed together. One batch's activations are all the memory that calibration needs."""


class Extremes:
    """The least and the greatest value of each activation, a batch: 8 bytes for each tensor, whatever its size."""

    def __init__(self) -> None:
        self._batches: dict[str, list[tuple[np.float32, np.float32]]] = {}

    def add(self, name: str, low: np.float32, high: np.float32) -> None:
        """Note those of a batch."""
        self._batches.setdefault(name, []).append((low, high))

    def min_max(self) -> Ranges:
        """All that was seen. A single outlier makes the steps of all other values coarse."""
        return self._over_batches(lambda pairs: (pairs[:, 0].min(), pairs[:, 1].max()))

    def median(self) -> Ranges:
        """What is usual for a batch. The few values outside are cut off, so an outlier costs nothing."""
        return self._over_batches(lambda pairs: (np.median(pairs[:, 0]), np.median(pairs[:, 1])))

    def _over_batches(self, reduce: Callable[[Array], tuple[Any, Any]]) -> Ranges:
        ranges = {}
        for name, pairs in self._batches.items():
            low, high = reduce(np.array(pairs, np.float32))
            ranges[name] = np.float32(low), np.float32(high)
        return ranges


def calibrate(proto: onnx.ModelProto, data: Dataset, samples: int, op_types: list[str], folder: Path) -> Extremes:
    """Run `samples` samples of `data`, evenly spread over it, and note the extremes of what flows into `op_types`.

    ONNX Runtime's calibrator takes them inside the graph, and is asked after each batch: it never holds a second one.
    Its own histogram methods would keep every activation, and CalibMaxIntermediateOutputs would drop all but the last.
    Raises DataError where the model cannot compute the data, or gives NaN or infinity.
    """
    with quiet() as ort:
        source = folder / "calibrated.onnx"
        onnx.save(proto, source)
        calibrator = ort.create_calibrator(source, op_types, str(folder / "augmented.onnx"))
        extremes = Extremes()
        for batch in _batches(data, samples):
            for name, (low, high) in _of_batch(calibrator, batch).items():
                extremes.add(name, low, high)
        return extremes


class _Reader:
    """One batch, then the end: what ONNX Runtime calls a CalibrationDataReader."""

    def __init__(self, batch: dict[str, Array]) -> None:
        self._batch: dict[str, Array] | None = batch

    def get_next(self) -> dict[str, Array] | None:
        batch, self._batch = self._batch, None
        return batch


def _of_batch(calibrator: Any, batch: dict[str, Array]) -> Ranges:
    with run_errors("expected calibration data that the model can compute", mend="Check its shape and values."):
        calibrator.collect_data(_Reader(batch))
    found = calibrator.compute_data()
    calibrator.calibrate_tensors_range = None  # or it would merge this batch into the next
    ranges: Ranges = {}
    for name in found.keys():  # noqa: SIM118 - not a dict
        low, high = (np.float32(np.asarray(v).item()) for v in found[name].range_value)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                f"calibration expected finite values in the model's tensor {name!r}; found a range of {low} to {high}",
                mend="Train the model again with a lower learning rate or with clipping, or repair the data.",
            )
        ranges[name] = low, high
    return ranges


def _batches(data: Dataset, samples: int) -> Iterator[dict[str, Array]]:
    """Evenly spread, since a dataset may be sorted by class."""
    chosen = np.linspace(0, len(data) - 1, min(samples, len(data))).round().astype(np.int64)
    for start in range(0, len(chosen), BATCH):
        batch = data.batch(chosen[start : start + BATCH])
        yield {name: batch[name] for name in data.inputs}


def fit_samples(model: Model, data: Dataset) -> Dataset:
    """`data` without its labels, which calibration has no use for: with the one label that `fit_inputs` asks for."""
    return fit_inputs(model, replace(data, labels={"onnxmx.unused": np.zeros(len(data), np.int64)}, classes=None))


def check_samples(count: int) -> None:
    """Raises UsageError for a count of calibration samples that is none."""
    if not isinstance(count, int) or count < 1:
        raise UsageError(
            f"calibration_samples expected a whole number of 1 or more; found {count!r}",
            mend="A few hundred do for most models.",
        )


def check_batch(model: Model) -> None:
    """Raises DataError for a model that takes batches of one size alone."""
    for port in model.inputs.values():
        if port.shape and isinstance(port.shape[0], int):
            raise DataError(
                f"the model's input {port.name!r} expected a batch of any size as its first dimension; "
                f"found the shape {port.shape}",
                mend=f"Free it: mx.load(...).resize({port.name}={('batch', *(port.shape or ())[1:])}).save(...).",
            )


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for temporary files, gone afterwards. Raises OnnxmxError where they cannot be written."""
    try:
        with tempfile.TemporaryDirectory(prefix="onnxmx-") as folder:
            yield Path(folder)
    except OSError as error:
        raise OnnxmxError(
            f"cannot write temporary files in {tempfile.gettempdir()}: {error.strerror or error}; nothing was written",
            mend="Free some space there, or name another folder in the variable TMPDIR.",
        ) from error
