"""What the training loop costs over bare calls of its step, on mlp at batch 64.

In a run of `mx.fit`, a callback has the same engine take fifty steps by hand after every fifty of the loop, on batches
made beforehand: both have the same state, the same memory and the same moment of the machine. The first ten of either
are not counted, nor is an epoch's end; the line of metrics.jsonl that is due after fifty steps is. benchmarks/steps.py
runs it.
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

BATCH, STEPS, TURN, WARM = 64, 300, 50, 10


class InTurns(mx.Callback):
    """Notes milliseconds a step: of each turn of the loop in `loop`, of the bare steps after it in `bare`."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches, self.loop, self.bare = batches, list[float](), list[float]()

    def step(self, loop: Loop, measured: Mapping[str, float]) -> None:
        place = loop.position.batch % TURN
        if place == WARM:
            self.begun = time.perf_counter()
        elif place == 0:
            self.loop.append((time.perf_counter() - self.begun) * 1e3 / (TURN - WARM))
            self.bare.append(self.by_hand(loop.trainer.engine, loop.position.batch - TURN))

    def by_hand(self, engine: Any, first: int) -> float:
        for batch in self.batches[first : first + WARM]:
            engine.step(batch)
        start = time.perf_counter()
        for batch in self.batches[first + WARM : first + TURN]:
            engine.step(batch)
        return (time.perf_counter() - start) * 1e3 / (TURN - WARM)

    def costs(self) -> list[float]:
        """Of each turn but the first: its time over the mean of the bare steps before and after it, less one."""
        around = zip(self.bare, self.bare[1:], strict=False)
        return [2 * loop / (before + after) - 1 for loop, (before, after) in zip(self.loop[1:], around, strict=True)]


def measure(threads: int, epochs: int) -> dict[str, Any]:
    """Medians of milliseconds a step, `bare` and `loop`, and of `cost` over all turns, six an epoch.

    Between `half` lies half of the turns.
    """
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH * STEPS, 1, 28, 28), dtype=np.uint8)
    data = mx.data.Dataset.from_arrays({"image": images}, random.integers(0, 10, BATCH * STEPS), scale=1 / 255)
    turns = InTurns([data.batch(slice(k * BATCH, (k + 1) * BATCH)) for k in range(STEPS)])
    with tempfile.TemporaryDirectory() as folder:
        mx.fit(
            mx.models.build("mlp"),
            data,
            batch_size=BATCH,
            epochs=epochs,
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
        "loop": statistics.median(turns.loop),
        "cost": cost,
        "half": [low, high],
    }
