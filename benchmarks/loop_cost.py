"""What the training loop costs over bare calls of its step, on mlp at batch 64.

In a run of `mx.fit`, a callback has the same engine take fifty steps by hand after every fifty of the loop, on batches
made beforehand: both have the same state, the same memory and the same moment of the machine. The loop's fifty include
the line of metrics.jsonl that is due after them, and not an epoch's end. benchmarks/steps.py runs it.
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

BATCH, STEPS, TURN = 64, 300, 50


class InTurns(mx.Callback):
    """Notes milliseconds a step of each turn, in `bare` and `loop`.

    costs: of each turn of the loop its time over the mean of the bare ones before and after it, less one.
    """

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches, self.bare, self.loop, self.costs = batches, list[float](), list[float](), list[float]()

    def log(self, loop: Loop, line: Mapping[str, Any]) -> None:
        now = time.perf_counter()
        if "batch" not in line:  # that of an epoch
            return
        first = loop.position.batch - TURN
        ran = (now - self.begun) * 1e3 / TURN if first else None
        self.bare.append(self.by_hand(loop.trainer.engine, self.batches[first : first + TURN]))
        if ran:
            self.loop.append(ran)
            self.costs.append(2 * ran / sum(self.bare[-2:]) - 1)
        self.begun = time.perf_counter()

    def by_hand(self, engine: Any, batches: list[dict[str, Any]]) -> float:
        start = time.perf_counter()
        for batch in batches:
            engine.step(batch)
        return (time.perf_counter() - start) * 1e3 / TURN


def measure(threads: int, epochs: int) -> dict[str, Any]:
    """Medians of milliseconds a step, `bare` and `loop`, and of `cost` over all turns, five an epoch.

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
            log_every=TURN,
            progress=False,
        )
    low, cost, high = statistics.quantiles(turns.costs)
    return {
        "bare": statistics.median(turns.bare),
        "loop": statistics.median(turns.loop),
        "cost": cost,
        "half": [low, high],
    }
