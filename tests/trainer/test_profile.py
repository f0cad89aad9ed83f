"""Where the time of a step goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import UsageError
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.engine.block_size import block_size
from onnxmx.trainer.profile import layer_of, summarize, traces
from tests.trainer.nets import blob_net, blobs


@pytest.mark.parametrize(
    ("node", "layer", "backward"),
    [
        ("2.Conv", "2", False),
        ("head.Gemm", "head", False),
        ("encoder.0.attention.MatMul_1", "encoder.0.attention", False),
        ("fused 5.Gemm", "5", False),
        ("grad.2.Conv.ConvTranspose", "2", True),
        ("grad.loss.Sqrt.Div", "loss", True),
        ("grad.grad.loss.Exp", "loss", True),
        ("update.Mul_4", "update", False),
        ("_inlfunc_AdamUpdate_token_5_Mul_1", "(AdamUpdate)", False),
        ("_inlfunc_ClipScale_Div", "(ClipScale)", False),
        ("Transpose", "(others)", False),
    ],
)
def test_the_layer_of_a_node(node: str, layer: str, backward: bool) -> None:
    assert layer_of(node) == (layer, backward)


def test_a_trace_added_up(tmp_path: Path) -> None:
    """Five steps of 10 ms, the first three of which do not count; Conv takes 4 and its way back 5."""
    events: list[dict[str, Any]] = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 9}]
    for k in range(5):
        wrong = 1 if k < 3 else 0
        events.append({"cat": "Session", "name": "model_run", "ts": 100_000 * k, "dur": 10_000})
        for name, kind, ms in (("1.Conv", "Conv", 4), ("grad.1.Conv.Gemm", "Gemm", 5), ("0.Loop", "Loop", 9)):
            event = {"cat": "Node", "ts": 100_000 * k + 1, "dur": 1000 * (ms + wrong), "args": {"op_name": kind}}
            events += [{**event, "name": f"{name}_kernel_time"}, {**event, "name": f"{name}_fence_before", "args": {}}]
    (tmp_path / "t.json").write_text(json.dumps(events))
    found = summarize(tmp_path / "t.json")
    assert (found.steps, found.step_ms) == (2, 10.0)
    assert found.layers == {"1": (4.0, 5.0)}
    assert found.operators == {"Gemm": (5.0, 1.0), "Conv": (4.0, 1.0)}
    assert "1                                    4.000     5.000 100.0%" in str(found)


def test_a_profile_changes_nothing_of_the_run(tmp_path: Path) -> None:
    net = L.Sequential(L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(3, name="head"))
    images = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
    data = Dataset.from_arrays({"image": images}, np.arange(64) % 3)
    model = net.build(image=("batch", 1, 8, 8))
    for name, profile in (("plain", False), ("timed", True)):
        mx.fit(model, data, batch_size=16, threads=1, progress=False, out=tmp_path / name, profile=profile)
    last = [(tmp_path / name / "last.onnx").read_bytes() for name in ("plain", "timed")]
    assert last[0] == last[1]
    found = summarize(tmp_path / "timed" / "profile.json")
    assert found.steps == 20
    assert found.step_ms > 0
    assert all(sum(found.layers[name]) > 0 for name in ("0", "head", "loss", "update"))
    assert all(ms >= 0 for ms, _ in found.operators.values())
    assert (tmp_path / "timed" / "profile.txt").read_text() == f"{found}\n"


@pytest.mark.parametrize("parts", [1, 4])
def test_layers_in_the_blocked_layout(tmp_path: Path, parts: int) -> None:
    """What stands for a convolution, and the nodes of a function, are told of as the layer's that they are of."""
    layers = [
        L.Conv2D(16, 3, name="thin"),
        L.BatchNorm(name="norm"),
        L.Activation("relu"),
        L.Conv2D(16, 3, name="deep"),
    ]
    model = L.Sequential(*layers, L.Flatten(), L.Dense(3, name="head")).build(image=("batch", 1, 12, 12))
    images = np.random.default_rng(0).normal(size=(32, 1, 12, 12)).astype(np.float32)
    data = Dataset.from_arrays({"image": images}, np.arange(32) % 3)
    options: dict[str, Any] = {"threads": 1, "progress": False, "out": tmp_path / "run", "profile": True}
    mx.fit(model, data, batch_size=16, micro_batches=parts, **options)
    found = summarize(tmp_path / "run" / "profile.json")
    assert not [name for name in found.layers if name.startswith("blocked")]
    assert found.operators["Conv"][1] >= 2
    assert all(min(found.layers[name]) > 0 for name in ("deep", "head"))
    assert found.layers["thin"][0] > 0
    if block_size() is not None:  # else ONNX Runtime opens functions by itself: (BatchNorm2D)
        assert min(found.layers["norm"]) > 0


def test_the_two_steps_of_a_gan(tmp_path: Path) -> None:
    """Of each a trace of its own; the run is the same as without."""
    generator = L.Sequential(L.Dense(4, activation="tanh"), L.Dense(2, name="made")).build(z=("batch", 3))
    critic = L.Sequential(L.Dense(4, activation="tanh"), L.Dense(1, name="score")).build(x=("batch", 2))
    points = Dataset.from_arrays(np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
    for name, profile in (("plain", False), ("timed", True)):
        options: dict[str, Any] = {"threads": 1, "samples": 0, "progress": False, "profile": profile}
        mx.fit_gan(generator, critic, points, batch_size=8, loss="wasserstein_gan", out=tmp_path / name, **options)
    last = [(tmp_path / name / "last.onnx").read_bytes() for name in ("plain", "timed")]
    assert last[0] == last[1]
    assert traces(tmp_path / "plain") == {}
    found = {name: summarize(path) for name, path in traces(tmp_path / "timed").items()}
    assert list(found) == ["discriminator", "generator"]
    for name, summary in found.items():
        assert summary.steps == 20
        assert (tmp_path / "timed" / f"profile-{name}.txt").read_text() == f"{summary}\n"
    assert found["discriminator"].operators != found["generator"].operators
    assert found["discriminator"].layers.keys() != found["generator"].layers.keys()


def test_a_profile_needs_a_folder() -> None:
    with pytest.raises(UsageError, match="profile expected a run with a folder"):
        mx.fit(blob_net(), blobs(32), profile=True, progress=False)
