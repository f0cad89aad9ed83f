"""checkpoint=True: the same numbers, from activations that are computed again, in less memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.errors import UsageError
from onnxmx.trainer.step import StepGraph, initial_state
from tests.trainer.nets import batch_for, feeds

Array = np.ndarray[Any, Any]
IMAGE = ("batch", 3, 8, 8)
SGD = mx.SGD(lr=0.1)


def pooled(c: bool) -> L.Layer:
    """Relu and max pooling change places in training, across the end of a region."""
    whole = L.Sequential(L.Conv2D(4, 3, padding="same", activation="relu"), L.MaxPool2D(2), checkpoint=c)
    start = L.Sequential(L.Conv2D(5, 1), L.Conv2D(4, 3, padding="same", activation="relu"), checkpoint=c)
    return L.Sequential(whole, start, L.MaxPool2D(2), L.Flatten(), L.Dense(4))


def nested(c: bool) -> L.Layer:
    inner = L.Sequential(L.Dense(6, activation="tanh"), L.Dense(6), checkpoint=c)
    return L.Sequential(L.Flatten(), L.Dense(5), inner, L.Activation("sigmoid"), L.Dense(4), checkpoint=c)


def twice(c: bool) -> L.Layer:
    shared = L.Sequential(L.Dense(6, activation="tanh"), L.Dense(6), name="shared", checkpoint=c)
    return L.Sequential(L.Flatten(), L.Dense(6), shared, shared, L.Dense(4))


NETS: dict[str, Callable[[bool], L.Layer]] = {
    "resnet8": lambda c: mx.models.resnet8(input=IMAGE[1:], checkpoint=c),
    "pooled": pooled,
    "nested": nested,
    "twice": twice,
    "dropout": lambda c: L.Sequential(
        L.Flatten(),
        L.Sequential(L.Dense(9), L.Dropout(0.4), L.Dense(9, activation="tanh"), checkpoint=c),
        L.Sequential(L.BatchNorm(), L.Dropout(0.3), checkpoint=c),
        L.Dense(4),
    ),
    "branches": lambda c: L.Sequential(
        L.Concat(L.Conv2D(2, 3, padding="same"), L.Conv2D(3, 1), checkpoint=c),
        L.Residual(L.Conv2D(5, 3, padding="same", activation="tanh"), checkpoint=c),
        L.Add(L.Identity(), L.Conv2D(5, 1), checkpoint=c),
        L.Multiply(L.Identity(), L.Conv2D(5, 1, activation="sigmoid"), checkpoint=c),
        L.GlobalAvgPool2D(),
        L.Dense(4),
    ),
    "recurrent": lambda c: L.Sequential(
        L.Reshape(8, -1), L.Sequential(L.LSTM(5), L.LayerNorm(), checkpoint=c), L.Flatten(), L.Dense(4)
    ),
}


def step_of(net: L.Layer) -> tuple[mx.Model, StepGraph]:
    model = net.build(image=IMAGE)
    return model, mx.compile_step(model, loss="softmax_cross_entropy", optimizer=SGD)


def run(model: mx.Model, step: StepGraph) -> dict[str, Array]:
    session = open_session(step.data, threads=1, tidy=True)
    names = [p["name"] for p in step.spec["outputs"]]
    values = feeds(batch_for(model, 6), initial_state(model, SGD, 3) | {"step": np.array(2)})
    return dict(zip(names, session.run(names, values), strict=True))


def operators(step: StepGraph, *names: str) -> int:
    return sum(node.op_type in names for node in onnx.load_from_string(step.data).graph.node)


@pytest.mark.parametrize("name", NETS)
def test_the_same_step(name: str) -> None:
    plain, again = (step_of(NETS[name](c)) for c in (False, True))
    assert plain[1].spec["inputs"] == again[1].spec["inputs"]  # the same parameters, by the same names
    # More is computed, and no pass over the graph has taken the second time for the first.
    computed = ("Conv", "Gemm", "MatMul", "LSTMSteps", "GRUSteps", "BatchNorm", "BatchNorm2D")
    assert operators(again[1], *computed) > operators(plain[1], *computed)
    expected, found = run(*plain), run(*again)
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-6, atol=1e-7, err_msg=key)


def test_what_no_rule_reads_is_not_computed_again() -> None:
    """The last product of a region is not read by any rule."""
    net = L.Sequential(
        L.Flatten(), L.Sequential(L.Dense(6, activation="tanh"), L.Dense(5), checkpoint=True), L.Dense(4)
    )
    plain = L.Sequential(L.Flatten(), L.Sequential(L.Dense(6, activation="tanh"), L.Dense(5)), L.Dense(4))
    assert operators(step_of(net)[1], "Gemm") == operators(step_of(plain)[1], "Gemm") + 1


def test_a_file_keeps_it(tmp_path: Path) -> None:
    model = NETS["branches"](True).build(image=IMAGE)
    model.save(tmp_path / "model.onnx")
    steps = [
        mx.compile_step(m, loss="softmax_cross_entropy", optimizer=SGD).data
        for m in (model, mx.load(tmp_path / "model.onnx"))
    ]
    assert len(onnx.load_from_string(steps[0]).graph.node) == len(onnx.load_from_string(steps[1]).graph.node)


def test_layers_of_a_finished_model() -> None:
    """The same regions as those of the layers' own option, and so the same step."""
    plain, own = (NETS["resnet8"](c).build(image=IMAGE) for c in (False, True))
    marked = plain.checkpoint("stage?.*")
    steps = [mx.compile_step(m, loss="softmax_cross_entropy", optimizer=SGD) for m in (marked, own)]
    assert (
        operators(steps[0], "Conv")
        == operators(steps[1], "Conv")
        > operators(step_of(NETS["resnet8"](False))[1], "Conv")
    )
    with pytest.raises(UsageError, match=r"(?s)no layer named 'stage1\.O'.*'stage1\.0'"):
        plain.checkpoint("stage1.O")


_PEAK = """
import sys
import numpy as np
import onnxmx as mx
from onnxmx import layers as L
from onnxmx.trainer.step import initial_state
import onnxruntime as ort

def block(): return L.Sequential(*[L.Conv2D(8, 3, padding="same", activation="tanh") for _ in range(4)], checkpoint=c)
c = sys.argv[1] == "True"
net = L.Sequential(*[block() for _ in range(4)], L.GlobalAvgPool2D(), L.Dense(4))
model = net.build(image=("batch", 3, 64, 64))
step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD())
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.enable_cpu_mem_arena = False  # memory goes back at once: the peak is that of the order
session = ort.InferenceSession(step.data, options, disabled_optimizers=["CommonSubexpressionElimination"])
feeds = {f"state.{k}": v for k, v in initial_state(model, mx.SGD(), 0).items()}
feeds |= {"batch.image": np.ones((24, 3, 64, 64), np.float32), "batch.label": np.zeros(24, np.int64)}
def memory(what): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what))
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew: a process inherits that of its parent
before = memory("VmRSS")
session.run(None, feeds)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is of Linux")
def test_it_takes_less_memory() -> None:
    """16 convolutions of 3 MB each in 4 regions: what is kept and one region, not everything.

    Were the copies run right after their originals, nothing would be won.
    """
    kept, again = (
        int(subprocess.run([sys.executable, "-c", _PEAK, str(c)], check=True, capture_output=True, text=True).stdout)
        for c in (False, True)
    )
    assert again < 0.65 * kept
