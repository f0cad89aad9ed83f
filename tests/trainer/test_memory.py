"""What memory steps hold beside their state."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.trainer.engine.memory import SIZES, cancelled, with_sizes

_PEAKS = """
import sys
import numpy as np
import onnxmx as mx
from onnxmx import layers as L

def memory(what): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
convolutions = [L.Conv2D(16, 3, padding="same", activation="tanh") for _ in range(6)]
model = L.Sequential(*convolutions, L.GlobalAvgPool2D(), L.Dense(4)).build(image=("batch", 16, 32, 32))
engine = mx.Trainer(model, threads=1).engine
arrays = {"image": np.zeros((256, 16, 32, 32), np.float32), "label": np.zeros(256, np.int64)}
held = sys.argv[1] == "True"
if held:
    assert engine.hold(mx.data.Dataset("zeros", "train", {"image": arrays["image"]}, {"label": arrays["label"]}))
engine.open()
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew: a process inherits that of its parent
before = memory("VmRSS")
for size in (64, 64, 256, 256, 192, 192, 256):
    engine.step(np.arange(size) if held else {name: array[:size] for name, array in arrays.items()})
    print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
@pytest.mark.parametrize("held", [True, False])
def test_all_steps_take_what_the_first_one_takes(held: bool) -> None:
    """Left to itself ONNX Runtime holds twice that from the second step on, and more after a smaller batch."""
    command = [sys.executable, "-c", _PEAKS, str(held)]
    child = subprocess.run(command, check=True, capture_output=True, text=True)
    first, *_, last = map(int, child.stdout.split())  # KiB, on 64 samples and on 256
    assert first > 20_000, "too little to tell"
    assert last < 1.15 * 4 * first


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([["batch", 3, 8, 8], ["batch"]], ["batch"]),
        ([["batch", "time"], ["batch"]], ["batch"]),
        ([["batch", "time"], ["batch", "time"]], ["batch", "time"]),
        ([["batch", 4], ["batch", None], ["batch"]], []),
        ([[8, 4], [8]], []),
    ],
)
def test_dimensions_that_cancel_out(shapes: list[list[Any]], found: list[str]) -> None:
    assert cancelled({"shape": shape} for shape in shapes) == found


def test_an_input_that_nothing_reads() -> None:
    model = L.Sequential(L.Dense(4)).build(x=("batch", 3))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD()).data
    assert with_sizes(step, []) == step
    session = open_session(with_sizes(step, ["batch"]))
    assert [port.shape for port in session.get_inputs() if port.name == SIZES] == [["batch", 0]]
