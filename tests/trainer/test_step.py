"""The compiled step: what it is made of, what its file says, and that it is one pure function."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.errors import CheckpointError, GradientError, GraphError, ShapeError, UsageError
from onnxmx.trainer.losses import LOSSES
from onnxmx.trainer.metrics import METRICS, Accuracy
from onnxmx.trainer.optimizers import OPTIMIZERS
from onnxmx.trainer.step import StepGraph, initial_state
from tests.trainer.nets import TINY, ZOO, batch_for, feeds

Array = np.ndarray[Any, Any]
MODELS = TINY | ZOO


@cache
def compiled(name: str) -> tuple[mx.Model, StepGraph]:
    model = MODELS[name]()
    return model, compile_as_everywhere(model)


def compile_as_everywhere(model: mx.Model) -> StepGraph:
    return mx.compile_step(
        model,
        loss="softmax_cross_entropy",
        optimizer=mx.AdamW(lr=mx.WarmupCosine(1e-3, warmup=2)),
        clip=mx.clip_global_norm(1.0),
        total=10,
    )


def bodies(proto: onnx.ModelProto) -> list[Any]:
    """The graph and the functions."""
    return [proto.graph, *proto.functions]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_plain_onnx(name: str) -> None:
    proto = onnx.load_from_string(compiled(name)[1].data)
    onnx.checker.check_model(proto, full_check=True)
    assert {o.domain for o in proto.opset_import} <= {"", "ai.onnxmx"}
    defined = {f.name for f in proto.functions}
    for body in bodies(proto):
        for node in body.node:
            if node.domain == "ai.onnxmx":
                assert node.op_type in defined
            else:
                assert node.domain == ""
                onnx.defs.get_schema(node.op_type, 20, "")
    assert {f.domain for f in proto.functions} == {"ai.onnxmx"}
    assert {"ClipScale", "WarmupCosineRate", "AdamRate", "AdamUpdate", "DecoupledDecay"} <= defined


@pytest.mark.parametrize("name", MODELS)
def test_nothing_in_it_is_dead_or_done_twice(name: str) -> None:
    proto = onnx.load_from_string(compiled(name)[1].data)
    read = {n for node in proto.graph.node for n in node.input} | {o.name for o in proto.graph.output}
    for node in proto.graph.node:
        assert read.intersection(node.output), f"{node.name} is read by nobody"
    assert {i.name for i in proto.graph.initializer} <= read
    assert {i.name for i in proto.graph.input} <= read
    called = {n.op_type for b in bodies(proto) for n in b.node if n.domain == "ai.onnxmx"}
    assert {f.name for f in proto.functions} == called
    work = Counter(
        (n.domain, n.op_type, tuple(n.input), tuple(sorted(a.SerializeToString() for a in n.attribute)))
        for n in proto.graph.node
        if n.op_type != "Identity"
    )
    assert {w: count for w, count in work.items() if count > 1} == {}
    for function in proto.functions:
        inside = {n for node in function.node for n in node.input} | set(function.output)
        assert all(inside.intersection(node.output) for node in function.node), function.name


def test_what_a_model_computes_for_nobody_is_left_out() -> None:
    def net(x: Any) -> Any:
        L.Dropout(0.5)(L.tanh(x))
        return L.Dense(2)(x)

    step = mx.compile_step(mx.build(net, x=("batch", 3)), loss="softmax_cross_entropy", optimizer=mx.SGD())
    proto = onnx.load_from_string(step.data)
    assert "Tanh" not in {n.op_type for n in proto.graph.node}
    assert "Dropout" not in {f.name for f in proto.functions}


@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_outputs(name: str) -> None:
    model, step = compiled(name)
    state = initial_state(model, mx.AdamW(), 3)
    ports = {p["name"]: p for p in step.spec["inputs"]}
    assert set(ports) == {f"batch.{n}" for n in (*model.inputs, "label")} | {f"state.{n}" for n in state}
    assert {n for n in state if n.endswith((".m", ".v"))} == {f"{p}.{s}" for p in model.trainable for s in "mv"}
    outputs = [p["name"] for p in step.spec["outputs"]]
    assert outputs[:6] == ["loss", "metric.accuracy", "grad_norm", "lr", "sum.loss", "sum.accuracy"]
    assert sorted(outputs[6:]) == sorted(f"next.{n}" for n in state)
    for key, array in state.items():
        assert (ports[f"state.{key}"]["shape"], ports[f"state.{key}"]["dtype"]) == (list(array.shape), array.dtype.name)
    session = open_session(step.data, threads=1)
    found = dict(zip(outputs, session.run(outputs, feeds(batch_for(model), state)), strict=True))
    for port in step.spec["outputs"]:
        assert (list(found[port["name"]].shape), found[port["name"]].dtype.name) == (port["shape"], port["dtype"])
    assert found["next.step"] == 1
    assert found["next.seed"] == 3


@pytest.mark.parametrize("name", MODELS)
def test_json_describes_the_file(name: str) -> None:
    _, step = compiled(name)
    proto = onnx.load_from_string(step.data)
    assert step.spec["format"] == "onnxmx.step/1"
    for kind, ports in (("inputs", proto.graph.input), ("outputs", proto.graph.output)):
        assert [p["name"] for p in step.spec[kind]] == [p.name for p in ports]
        for port in step.spec[kind]:
            assert port["meaning"]
            assert np.dtype(port["dtype"])
            assert all(isinstance(d, (int, str)) for d in port["shape"])
    assert step.spec["settings"]["loss"] == "softmax_cross_entropy"
    assert "warmup=2" in step.spec["settings"]["optimizer"]
    assert "max_norm=1.0" in step.spec["settings"]["clip"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["dropout", "conv", "lenet", "resnet8"])
def test_same_inputs_same_bits(name: str, threads: int) -> None:
    model, step = compiled(name)
    values = feeds(batch_for(model, 64 if name in ZOO else 5), initial_state(model, mx.AdamW(), 1))
    sessions = [open_session(step.data, threads=threads) for _ in range(2)]
    first, *others = [[a.tobytes() for a in s.run(None, values)] for s in sessions for _ in range(3)]
    assert all(other == first for other in others)


def test_compiles_to_the_same_bytes() -> None:
    model, step = compiled("conv")
    again = compile_as_everywhere(TINY["conv"]())
    on_another_line = mx.compile_step(
        model,
        loss=LOSSES["softmax_cross_entropy"](),
        optimizer=mx.AdamW(lr=mx.WarmupCosine(1e-3, warmup=2)),
        clip=mx.clip_global_norm(1.0),
        measure=["accuracy"],
        total=10,
    )
    assert step.data == again.data == on_another_line.data


def test_compiles_to_the_same_bytes_in_every_process() -> None:
    script = (
        "import onnxmx as mx\n"
        "model = mx.models.resnet8(input=(3, 16, 16)).build(image=('batch', 3, 16, 16))\n"
        "print(mx.compile_step(model, loss='softmax_cross_entropy', optimizer=mx.Adam()).spec['digest'])\n"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": ":".join(sys.path)}
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        digests.add(run.stdout)
    assert len(digests) == 1


def test_backward_nodes_name_the_line_of_their_layer() -> None:
    proto = onnx.load_from_string(compiled("forked")[1].data)
    lines = {p.value for n in proto.graph.node if n.name.startswith("grad.") for p in n.metadata_props}
    assert any(line.startswith("tests/trainer/nets.py:") for line in lines)
    assert not any("test_step.py" in line for line in lines)


DRIVER = """
import json, sys
sys.modules["onnxmx"] = sys.modules["onnx"] = None  # whoever needs them fails
import numpy as np, onnxruntime as ort
from safetensors.numpy import load_file

spec = json.load(open("step.json"))
state = {f"state.{k}": v for k, v in load_file("state.safetensors").items()}
session = ort.InferenceSession("step.onnx", providers=["CPUExecutionProvider"])
random = np.random.default_rng(0)
batch = {}
for port in spec["inputs"]:
    if port["name"].startswith("batch."):
        shape = [d if isinstance(d, int) else 16 for d in port["shape"]]
        if port["dtype"] == "int64":
            batch[port["name"]] = random.integers(0, 4, shape)
        else:
            batch[port["name"]] = random.normal(size=shape).astype(port["dtype"])
names = [port["name"] for port in spec["outputs"]]
for _ in range(150):
    out = dict(zip(names, session.run(names, batch | state)))
    state = {f"state.{n[5:]}": v for n, v in out.items() if n.startswith("next.")}
    print(float(out["loss"]))
"""


def test_a_program_that_knows_nothing_of_this_can_drive_it(tmp_path: Path) -> None:
    model = TINY["conv"]()
    optimizer = mx.Adam(lr=0.03)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer, clip=mx.clip_global_norm(1.0))
    step.save(tmp_path, initial_state(model, optimizer, 0))
    run = subprocess.run([sys.executable, "-c", DRIVER], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    losses = list(map(float, run.stdout.split()))
    assert losses[-1] < 0.2 * losses[0]


def test_save_and_load(tmp_path: Path) -> None:
    model, step = compiled("mlp")
    step.save(tmp_path, initial_state(model, mx.AdamW(), 0))
    loaded = StepGraph.load(tmp_path)
    assert (loaded.data, loaded.spec) == (step.data, step.spec)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("step.onnx", lambda b: b[:-1]),
        ("step.onnx", lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:]),
        ("step.json", lambda b: b[:-3]),
        ("step.json", lambda b: b"[]"),
        ("step.json", lambda b: b"{}"),
        ("step.json", None),
    ],
)
def test_a_damaged_step_is_refused(tmp_path: Path, file: str, damage: Any) -> None:
    model, step = compiled("mlp")
    step.save(tmp_path, initial_state(model, mx.AdamW(), 0))
    if damage is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    with pytest.raises(CheckpointError, match=r"step\.(onnx|json) expected|expected step\.onnx and step\.json"):
        StepGraph.load(tmp_path)


RATES = {"adadelta": 30.0, "ftrl": 0.5, "lars": 30.0}
"""Learning rates that suit a small model, where 0.05 does not."""


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [
        *((loss, "adam") for loss in ("softmax_cross_entropy", "sigmoid_bce", "mean_squared_error")),
        *(("softmax_cross_entropy", name) for name in OPTIMIZERS if name != "adam"),
    ],
)
def test_losses_and_every_optimizer_learn(loss: str, optimizer: str) -> None:
    """What each loss computes is in test_losses.py."""
    model = L.Dense(2).build(x=("batch", 3))
    made = OPTIMIZERS[optimizer](lr=RATES.get(optimizer, 0.05))
    step = mx.compile_step(model, loss=loss, optimizer=made, measure=[m for m in METRICS if fits(m, loss)])
    onnx.checker.check_model(onnx.load_from_string(step.data), full_check=True)
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 3)).astype(np.float32)
    label = (x[:, 0] > 0).astype(np.int64) if loss == "softmax_cross_entropy" else (x[:, :2] > 0).astype(np.float32)
    state, losses = initial_state(model, made, 0), []
    session = open_session(step.data, threads=1)
    names = [p["name"] for p in step.spec["outputs"]]
    for _ in range(20):
        out = dict(zip(names, session.run(names, feeds({"x": x, "label": label}, state)), strict=True))
        state = {n.removeprefix("next."): v for n, v in out.items() if n.startswith("next.")}
        losses.append(out["loss"])
    assert losses[-1] < 0.9 * losses[0]


def fits(metric: str, loss: str) -> bool:
    """top_k asks for five classes, and only classes have a perplexity."""
    numbers = METRICS[metric].__module__.endswith("numbers") and metric != "perplexity"
    if metric == "top_k" or (metric == "perplexity" and loss == "sigmoid_bce"):
        return False
    return numbers if loss == "mean_squared_error" else not numbers


def test_a_metric_that_computes_the_loss_is_computed_once() -> None:
    model = L.Dense(2).build(x=("batch", 3))
    loss = LOSSES["softmax_cross_entropy"]()
    step = mx.compile_step(model, loss=loss, optimizer=mx.SGD(), measure=["perplexity"])
    proto = onnx.load_from_string(step.data)
    assert sum(n.op_type == "SoftmaxCrossEntropyRows" for n in proto.graph.node) == 1
    values = feeds({"x": np.ones((2, 3), np.float32), "label": np.zeros(2, np.int64)},
                   initial_state(model, mx.SGD(), 0))  # fmt: skip
    found, metric = open_session(step.data).run(["loss", "metric.perplexity"], values)
    assert metric == pytest.approx(np.exp(found), rel=1e-6)


def two_outputs() -> mx.Model:
    return mx.build(lambda x: {"a": L.Dense(2)(x), "b": L.Dense(2)(x)}, x=("batch", 3))


def with_trainable(names: list[str]) -> mx.Model:
    model = L.Dense(2).build(x=("batch", 3))
    model.metadata["onnxmx.trainable"] = json.dumps(names)
    return model


def parameter_named(*names: str) -> mx.Model:
    def net(x: Any) -> Any:
        for name in names:
            x = x * x.builder.parameter(name, (3,), "ones")
        return x

    return mx.build(net, x=("batch", 3))


BAD: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (two_outputs, {}, ShapeError, r"one output; found \['a', 'b'\]"),
    (lambda: L.Dense(2).build(label=("batch", 3)), {}, ShapeError, "both named 'label'"),
    (lambda: L.Dense(2).build(x=("batch", 3)), {"loss": "softmax_cross_entropi"}, UsageError, "softmax_cross_entropy"),
    (lambda: L.Dense(2).build(x=("batch", 3)), {"measure": ["acuracy"]}, UsageError, "Did you mean 'accuracy'"),
    (lambda: L.Dense(2).build(x=("batch", 3)), {"measure": ["accuracy"] * 2}, UsageError, "'accuracy' twice"),
    (lambda: L.Dense(2).build(x=("batch", 3)), {"measure": [Accuracy(name="lr")]}, UsageError, "'lr' twice"),
    (lambda: L.Flatten().build(x=("batch", 3)), {}, GradientError, "no trainable parameter"),
    (lambda: with_trainable([]), {}, GradientError, "no trainable parameter"),
    (lambda: with_trainable(["weigth"]), {}, GradientError, "no trainable parameter"),
    (lambda: parameter_named("step"), {}, GraphError, "one part named 'step'"),
    (lambda: parameter_named("w", "w.m"), {}, GraphError, r"one part named 'w\.m'"),
    (lambda: mx.build(lambda x: x * x.builder.parameter("w", (1,), "ones"), x=("batch", None)), {}, ShapeError,
     "last dimension is the number of classes"),
    (lambda: L.Dense(2).build(x=("batch", 3)), {"optimizer": mx.Adam(lr=mx.WarmupCosine(1.0, warmup=9)), "total": 1},
     UsageError, "warmup no longer than its 1 updates; found 9"),
    (lambda: L.Dense(2).build(x=("batch", 3)), {"total": 0}, UsageError, "total of at least 1 update; found 0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "error", "text"), BAD, ids=[row[3] for row in BAD])
def test_what_cannot_be_compiled(make: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    options = {"loss": "softmax_cross_entropy", "optimizer": mx.SGD()} | options
    if "w.m" in text or "w\\.m" in text:
        options["optimizer"] = mx.Adam()
    with pytest.raises(error, match=text):
        mx.compile_step(make(), **options)
