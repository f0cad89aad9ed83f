"""What the training loop costs over bare calls of its step, on mlp at batch 64.

One run of `mx.fit`: after each epoch the same engine takes as many steps by hand, on batches made beforehand, so that
both have the same state, the same memory and the same moment of the machine. The first 50 steps of either are not
counted, nor is the epoch's end. benchmarks/steps.py runs it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import onnxmx as mx
from onnxmx.trainer.loop import Loop

BATCH, WARM, STEPS = 64, 50, 300


class InTurns(mx.Callback):
    """Notes milliseconds a step, of each epoch but the first in `loop` and of the bare steps around it in `bare`."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches, self.loop, self.bare = batches, list[float](), list[float]()

    def log(self, loop: Loop, line: Mapping[str, Any]) -> None:
        if line.get("batch") == WARM:
            self.begun = time.perf_counter()
        elif line.get("batch") == STEPS:
            self.loop.append((time.perf_counter() - self.begun) * 1e3 / (STEPS - WARM))

    def epoch(self, loop: Loop, measures: Mapping[str, Any]) -> None:
        step = loop.trainer.engine.step
        for batch in self.batches[:WARM]:
            step(batch)
        start = time.perf_counter()
        for batch in self.batches[WARM:]:
            step(batch)
        self.bare.append((time.perf_counter() - start) * 1e3 / (STEPS - WARM))

    def costs(self) -> list[float]:
        """Of each epoch but the first: its time over the mean of the bare steps before and after it, less one."""
        around = zip(self.bare, self.bare[1:], strict=False)
        return [2 * loop / (before + after) - 1 for loop, (before, after) in zip(self.loop[1:], around, strict=True)]


def measure(threads: int, rounds: int) -> dict[str, Any]:
    """Medians of milliseconds a step, `bare` and `loop`, and of `cost`; between `half` lies half of all epochs."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH * STEPS, 1, 28, 28), dtype=np.uint8)
    data = mx.data.Dataset.from_arrays({"image": images}, random.integers(0, 10, BATCH * STEPS), scale=1 / 255)
    turns = InTurns([data.batch(slice(k * BATCH, (k + 1) * BATCH)) for k in range(STEPS)])
    with tempfile.TemporaryDirectory() as folder:
        mx.fit(
            mx.models.build("mlp"),
            data,
            batch_size=BATCH,
            epochs=rounds + 1,
            out=f"{folder}/run",
            optimizer=mx.Adam(1e-3),
            clip=mx.clip_global_norm(1.0),
            threads=threads,
            callbacks=[turns],
            progress=False,
        )
    low, cost, high = statistics.quantiles(turns.costs())
    return {
        "bare": statistics.median(turns.bare),
        "loop": statistics.median(turns.loop[1:]),
        "cost": cost,
        "half": [low, high],
    }
