"""Calibration sees every sample it is given, and holds the activations of one batch at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmx.builder import layers as L
from onnxmx.exporter.calibrate import BATCH, Extremes, calibrate
from onnxmx.exporter.prepare import prepare
from onnxmx.exporter.qdq import OPERATORS
from onnxmx.trainer.data import Dataset

from .graphs import numbers


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A model whose activations are 2 MB a batch of 32, from an input of 8 KB."""
    net = L.Sequential(L.Conv2D(64, 3, padding="same", activation="relu"), L.Conv2D(256, 1), L.Flatten(), L.Dense(4))
    return prepare(net.build(image=("batch", 1, 8, 8)), tmp_path_factory.mktemp("wide"))


def run(proto: onnx.ModelProto, data: Dataset, samples: int, folder: Path) -> Extremes:
    return calibrate(proto, data, samples, list(OPERATORS), folder)


def images(n: int) -> Dataset:
    return Dataset.from_arrays({"image": numbers(n, 1, 8, 8)})


def test_memory_does_not_grow_with_the_number_of_batches(wide: onnx.ModelProto, tmp_path: Path) -> None:
    data = images(64 * BATCH)
    run(wide, data, BATCH, tmp_path)  # whatever is imported and cached once
    peaks = {}
    for batches in (4, 64):
        tracemalloc.start()
        run(wide, data, batches * BATCH, tmp_path)
        peaks[batches] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # 60 batches more: activations of 120 MB, inputs of 480 KB. What is kept is 8 bytes for each of a few tensors.
    assert peaks[64] - peaks[4] < 100_000


def test_the_ranges_are_those_of_all_batches(wide: onnx.ModelProto, tmp_path: Path) -> None:
    x = numbers(5 * BATCH + 7, 1, 8, 8)
    x[0, 0, 0, 0], x[-1, 0, 7, 7] = -50, 70  # in the first batch, and in the last, which is not full
    extremes = run(wide, Dataset.from_arrays({"image": x}), len(x), tmp_path)
    assert extremes.min_max()["image"] == (-50, 70)
    low = [x[i : i + BATCH].min() for i in range(0, len(x), BATCH)]
    high = [x[i : i + BATCH].max() for i in range(0, len(x), BATCH)]
    assert extremes.median()["image"] == (np.median(low), np.median(high))


def test_samples_are_spread_over_the_dataset(wide: onnx.ModelProto, tmp_path: Path) -> None:
    x = np.zeros((1000, 1, 8, 8), np.float32)
    x += np.arange(1000, dtype=np.float32)[:, None, None, None]  # sorted, as by class
    assert run(wide, Dataset.from_arrays({"image": x}), 10, tmp_path).min_max()["image"] == (0, 999)
