"""What tests of runs share: data and options for a quick one, and what a run's folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import onnxmx as mx
from onnxmx.builder.ops import INT64
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.metrics import OwnMetric
from tests.trainer.nets import blobs

TRAIN, TEST = blobs(90), blobs(31, seed=1)
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 16, "progress": False, "threads": 1}


def lines(path: Path) -> list[dict[str, Any]]:
    """What a file of JSON lines says; numbers must be JSON's, so no NaN."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def state_of(run: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def scored(path: list[float], larger: bool) -> OwnMetric:
    """A metric whose value in the k-th epoch is path[k]; the model's weight counts the epochs."""

    def compute(output: Any) -> Any:
        g = output.builder
        table = g.constant(np.array([9.0, *path], np.float32))
        place = g.cast(g.op("Round", g.reduce_mean(output, keepdims=False)), INT64)
        return g.gather(table, g.min(place, np.array(len(path))))

    return OwnMetric(function=compute, name="score", larger=larger)


def counter_run(path: list[float], larger: bool, validation: bool, **options: Any) -> Any:
    """A model y = w whose gradient is always -1: with lr 1 and a batch an epoch, w is the number of epochs."""

    def net(x: Any) -> Any:
        return x * x.builder.parameter("w", (1,), "zeros")

    def fall(y: Any, t: Any) -> Any:
        return -(y - t * 0.0)

    data = Dataset.from_arrays(np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32))
    return mx.fit(mx.build(net, x=("batch", 1)), data, validation=data if validation else None, loss=fall,
                  measure=[scored(path, larger)], optimizer=mx.SGD(lr=1.0, momentum=0.0), epochs=len(path),
                  batch_size=4, progress=False, **options)  # fmt: skip
