"""What the training loop costs over bare calls of its step, on mlp at batch 64.

An epoch of `mx.fit` in a run folder and the same steps by hand, on batches made beforehand, take turns; the figures
are medians of milliseconds a step, without the epoch's end. benchmarks/steps.py runs it.
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

BATCH, STEPS = 64, 300


class Stopwatch(mx.Callback):
    """Seconds from the first step of a run to the end of its last one."""

    def begin(self, loop: Loop) -> None:
        self.begun = time.perf_counter()

    def log(self, loop: Loop, line: Mapping[str, Any]) -> None:
        if line.get("batch") == STEPS:
            self.seconds = time.perf_counter() - self.begun


def by_hand(trainer: mx.Trainer, batches: list[dict[str, Any]]) -> float:
    """Seconds of bare steps."""
    step = trainer.engine.step
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    return time.perf_counter() - start


def measure(threads: int, rounds: int) -> dict[str, Any]:
    """Medians of milliseconds a step: `bare`, `loop`, and `cost`, the median ratio of neighbours less one."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH * STEPS, 1, 28, 28), dtype=np.uint8)
    data = mx.data.Dataset.from_arrays({"image": images}, random.integers(0, 10, BATCH * STEPS), scale=1 / 255)
    model = mx.models.build("mlp")
    options: dict[str, Any] = {"optimizer": mx.Adam(1e-3), "clip": mx.clip_global_norm(1.0), "threads": threads}
    trainer = mx.Trainer(model, **options)
    batches = [data.batch(slice(k * BATCH, (k + 1) * BATCH)) for k in range(STEPS)]
    bare, loop = [], []
    for _ in range(rounds):
        bare.append(by_hand(trainer, batches) * 1e3 / STEPS)
        watch = Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            mx.fit(model, data, batch_size=BATCH, out=f"{folder}/run", callbacks=[watch], progress=False, **options)
        loop.append(watch.seconds * 1e3 / STEPS)
    cost = statistics.median(after / before for before, after in zip(bare, loop, strict=True)) - 1
    return {"bare": statistics.median(bare), "loop": statistics.median(loop), "cost": cost}
