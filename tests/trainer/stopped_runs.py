"""Runs that are stopped: what their tests train, wait for and change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxmx.trainer import state
from tests.trainer.worker import Worker

NET = """
from onnxmx import layers as L


def net(input, classes):
    return L.Sequential(
        L.Conv2D(6, 3, padding="same", activation="relu"),
        L.MaxPool2D(2),
        L.BatchNorm(),
        L.Flatten(),
        L.Dropout(0.3),
        L.Dense(32, activation="relu"),
        L.Dropout(0.5),
        L.Dense(classes),
    )
"""
EPOCHS = 12


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of 2,160 steps of the net in `folder`."""
    return {
        "model": f"{folder / 'net.py'}:net",
        "data": "digits",
        "epochs": EPOCHS,
        "batch_size": 8,
        "threads": 2,
        "seed": 5,
        "checkpoint_s": 0.01,
        "logs": [],
        # An average of the weights and a rate that depends on the losses so far: both are state to come back.
        "average": "ema",
        "schedule": {"name": "plateau", "every": 20, "patience": 0, "factor": 0.7},
    } | changes


def begin(worker: Worker, run: Path, settings: dict[str, Any], ready: Callable[[], bool], number: int) -> int:
    """Start a run and send it a signal once `ready`; returns its exit code."""
    child = worker.start("train", config=settings, out=str(run), stderr=run.with_suffix(".err"))
    wait_until(ready)
    os.kill(child, number)
    return worker.wait()


def wait_until(ready: Callable[[], bool]) -> None:
    """At most 30 seconds."""
    limit = time.monotonic() + 30
    while not ready() and time.monotonic() < limit:
        time.sleep(0.002)


def newest(run: Path) -> tuple[int, int]:
    """Epoch and batch of the newest checkpoint, or zeros."""
    found = sorted((run / "checkpoints").glob("step-*"), key=lambda p: int(p.stem[5:]))
    if not found:
        return 0, 0
    position = state.load(found[-1])[1]["position"]  # the newest is never deleted while a run is at work
    return position["epoch"], position["batch"]


def change_config(run: Path, line: str, other: str) -> None:
    """Another text in the place of one that config.toml holds."""
    path = run / "config.toml"
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, other))
