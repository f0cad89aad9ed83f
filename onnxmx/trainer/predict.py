"""Asking a model about samples: raw numbers in, classes with their probabilities or plain outputs out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from onnxmx.builder.metadata import CLASSES, LOSS
from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session, run_errors
from onnxmx.errors import DataError, ModelFileError, ShapeError, UsageError
from onnxmx.trainer import facts, losses
from onnxmx.trainer.data import Preprocessing
from onnxmx.trainer.logits import ends_in_activation
from onnxmx.trainer.samples import Sample, read_file, read_lines, sample_shape

Array = np.ndarray[Any, Any]
Prediction = dict[str, Any]
_TOP = 3
_WHITE = 255.0


class Predictor:
    """Predicts with one model, in batches of bounded size.

        for prediction in Predictor(mx.load("model.onnx")).files(["seven.png", "more.npy"]): ...

    A prediction of a classifier is {"input": "seven.png", "class": "7", "probability": 0.99, "top": [["7", 0.99],
    ["1", 0.01], ["9", 0.0]]}; of any other model {"input": ..., "output": [...]}, or "outputs" by name where it has
    several. A classifier is a model whose metadata says that it was trained with softmax_cross_entropy.

    Values are raw, as the dataset stores them: the preprocessing in the model's metadata is applied here.

    batch_size: samples a run.   threads: worker threads; by default the cores of this machine.
    provider: where to run: "cpu", "cuda", or "cuda_tf32".
    white: the raw value of an image's white pixel. By default 255, or 1 / scale where the preprocessing only scales
    down (x * scale, scale < 1): such data lay between 0 and that, as the digits do between 0 and 16.
    Raises UsageError for values out of range, ModelFileError for metadata that is damaged.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch_size: int = 64,
        white: float | None = None,
        threads: int | None = None,
        provider: str = "cpu",
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size expected an integer of at least 1; found {batch_size}")
        if white is not None and not (math.isfinite(white) and white > 0):
            raise UsageError(f"white expected a finite number above 0; found {white}")
        self._ports, self._outputs = model.inputs, list(model.outputs)
        self._preprocessing = facts.preprocessing(model.metadata) or Preprocessing()
        self._white = _white(self._preprocessing) if white is None else white
        self._classes = facts.classes(model.metadata)
        self._classifies = model.metadata.get(LOSS, "").partition(":")[0] in ("softmax_cross_entropy", "softmax_focal")
        rules = losses.SoftmaxCrossEntropy()
        self._probabilities = self._classifies and len(self._outputs) == 1 and ends_in_activation(model, rules)
        for port in self._ports.values():
            sample_shape(port)  # it has a batch axis, or says so now
        fixed = {p.shape[0] for p in self._ports.values() if p.shape and isinstance(p.shape[0], int)}
        self._fixed = next(iter(fixed), None)
        self._batch_size = self._fixed or batch_size
        self._session = open_session(model.to_bytes(), threads=threads, provider=provider)

    def files(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[Prediction]:
        """A prediction for each sample of each file: images, .npy, .npz (a sample or a batch), .csv (rows).

        Raises DataError for a file that is missing, damaged, empty or does not fit the model.
        """
        samples = (sample for path in paths for sample in _some(path, read_file(path, self._ports, self._white)))
        return self.samples(samples)

    def stream(self, lines: Iterable[bytes | str], first: int = 1) -> Iterator[Prediction]:
        """A prediction for each JSON line, given before the next line is read: who writes may wait for the answer.

        first: the number of the first line.
        Raises DataError for a line that is not JSON or does not fit the model.
        """
        return self.samples(read_lines(lines, self._ports, first), batch_size=1)

    def samples(self, samples: Iterable[Sample], batch_size: int | None = None) -> Iterator[Prediction]:
        """A prediction for each (name, {input: array of the shape of one sample})."""
        for batch in _batches(samples, batch_size or self._batch_size):
            yield from self._run(batch)

    def _run(self, batch: list[Sample]) -> Iterator[Prediction]:
        count = len(batch)
        # A model of a fixed batch size gets its last sample repeatedly.
        rows = batch + batch[-1:] * (max(self._fixed or 0, count) - count)
        feeds = {name: self._prepare(name, np.stack([arrays[name] for _, arrays in rows])) for name in self._ports}
        with run_errors(f"{batch[0][0]}: expected samples that the model can compute"):
            results = self._session.run(self._outputs, feeds)
        for name, result in zip(self._outputs, results, strict=True):
            if not result.ndim or len(result) != len(rows):
                raise ShapeError(
                    f"the model's output {name!r} expected a row for each of {len(rows)} samples; found {result.shape}",
                    mend="Run such a model from Python: onnxmx.load(file)(array).",
                )
            if result.dtype.kind == "f" and not np.isfinite(result[:count]).all():
                row = next(k for k in range(count) if not np.isfinite(result[k]).all())
                raise DataError(
                    f"{batch[row][0]}: expected a finite output {name!r} of the model; found NaN or infinity",
                    mend="The values may be far from those it was trained on, or its parameters damaged.",
                )
        for row, (name, _) in enumerate(batch):
            yield {"input": name, **self._prediction([result[row] for result in results])}

    def _prepare(self, name: str, array: Array) -> Array:
        dtype = self._ports[name].dtype
        return np.asarray(self._preprocessing.apply(array) if dtype.kind == "f" else array, dtype)

    def _prediction(self, outputs: list[Array]) -> Prediction:
        if self._classifies and outputs[0].ndim == 1:
            return self._class(outputs[0])
        if len(outputs) == 1:
            return {"output": outputs[0].tolist()}
        return {"outputs": {name: output.tolist() for name, output in zip(self._outputs, outputs, strict=True)}}

    def _class(self, logits: Array) -> Prediction:
        """The class of the largest logit; probabilities by softmax, in float64, unless the model gives them.

        logits: (classes,)
        """
        names = self._classes or [str(n) for n in range(len(logits))]
        if len(names) != len(logits):
            raise ModelFileError(f"{CLASSES} expected {len(logits)} names, one an output; found {len(names)}")
        p = logits.astype(np.float64)
        if not self._probabilities:
            e = np.exp(p - p.max())
            p = e / e.sum()
        order = np.argsort(-p, kind="stable")[:_TOP]
        top = [[names[k], float(p[k])] for k in order]
        return {"class": top[0][0], "probability": top[0][1], "top": top}


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Runs of samples of the same shapes, at most `size` long, each given as soon as it is full."""
    batch: list[Sample] = []
    for sample in samples:
        if batch and _shapes(batch[0]) != _shapes(sample):
            yield batch
            batch = []
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in sample[1].items()}


def _some(path: str | os.PathLike[str], samples: Iterator[Sample]) -> Iterator[Sample]:
    empty = True
    for sample in samples:
        empty = False
        yield sample
    if empty:
        raise DataError(f"{path}: expected at least one sample; found none", mend="Give a file that is not empty.")


def _white(preprocessing: Preprocessing) -> float:
    only_scales_down = preprocessing.shift == 0 and 0 < preprocessing.scale < 1
    return 1 / preprocessing.scale if only_scales_down else _WHITE
