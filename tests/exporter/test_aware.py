"""Quantization-aware training: the trained graph is the 8-bit one, and training mends what rounding broke."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmx as mx
from onnxmx.builder import layers as L
from onnxmx.builder.metadata import AWARE
from onnxmx.builder.model import Model, from_bytes, load
from onnxmx.errors import UsageError
from onnxmx.exporter import quantize, quantize_aware
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.evaluate import evaluate
from onnxmx.trainer.qat import MOMENTUM, deployed
from onnxmx.trainer.step import compile_step, initial_state

from .conftest import train
from .running import all_eight_bit

RANGES = ("tracked", "learned")


def numbers(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.to_proto().graph.initializer}


def kinds(model: Model) -> Counter[tuple[str, tuple[str, ...]]]:
    return Counter((n.op_type, tuple(v.name for v in n.inputs if v.is_initializer())) for n in model.ir.graph)


@pytest.fixture(scope="module", params=RANGES)
def aware(request: pytest.FixtureRequest, lenet: Model, train_data: Dataset) -> Model:
    return quantize_aware(lenet, train_data, ranges=request.param)


@pytest.fixture(scope="module")
def after(aware: Model, train_data: Dataset, test_data: Dataset) -> mx.trainer.loop.Run:
    return mx.fit(aware, train_data, validation=test_data, epochs=3, optimizer=mx.Adam(mx.Cosine(3e-4)), progress=False)


def test_before_training_it_is_what_quantize_writes(
    aware: Model, lenet: Model, train_data: Dataset, test_data: Dataset, tmp_path: Path
) -> None:
    quantize(lenet, train_data, test_data, tmp_path / "q.onnx")
    plain, ours = load(tmp_path / "q.onnx"), from_bytes(deployed(aware).to_bytes())
    expected, found = numbers(plain), numbers(ours)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert kinds(plain) == kinds(ours)
    assert len(deployed(aware).to_bytes()) <= 1.01 * (tmp_path / "q.onnx").stat().st_size
    x = test_data.batch(slice(50))["image"]
    np.testing.assert_array_equal(plain(x), ours(x))
    # And so does what is trained: only the biases are rounded less.
    np.testing.assert_allclose(aware(x), ours(x), atol=0.15)


def test_lenet_loses_nothing(after: mx.trainer.loop.Run, lenet: Model, test_data: Dataset, tmp_path: Path) -> None:
    before = evaluate(lenet, test_data)
    eight = evaluate(after.model, test_data)
    assert eight["accuracy"] >= before["accuracy"] - 0.002
    assert after.best["validation_accuracy"] == pytest.approx(eight["accuracy"], abs=0.003)
    after.model.save(tmp_path / "q.onnx")
    assert (tmp_path / "q.onnx").stat().st_size <= 0.35 * len(lenet.to_bytes())
    assert all_eight_bit(tmp_path / "q.onnx", tmp_path / "optimized.onnx")


def test_the_file_says_what_it_is(after: mx.trainer.loop.Run, aware: Model, lenet: Model) -> None:
    model = from_bytes(after.model.to_bytes())
    assert model.trainable == []
    assert not any("tracked" in key for node in model.ir.graph for key in node.metadata_props)
    assert json.loads(model.metadata["onnxmx.quantization"])["ranges"] in RANGES
    assert "onnxmx.quantization_aware" not in model.metadata
    assert set(aware.trainable) >= set(lenet.trainable)
    assert set(after.last.parameters()) == set(aware.parameters())  # it can be trained on
    moved = [n for n in aware.parameters() if not np.array_equal(aware.parameters()[n], after.last.parameters()[n])]
    assert {"0.weight", "0.bias"} <= set(moved)
    assert {"0.Relu_scale", "0.weight_scale"} <= set(moved) or {"0.Relu.range", "0.weight.range"} <= set(moved)


def test_training_mends_what_rounding_broke(train_data: Dataset, test_data: Dataset, tmp_path: Path) -> None:
    """One hidden unit of 100 times the range of the others leaves these three values of 256."""
    net = L.Sequential(L.Flatten(), L.Dense(24, activation="relu"), L.Dense(10))
    model = train(net.build(image=("batch", 1, 8, 8)), train_data, 12)
    arrays = {name: array.copy() for name, array in model.parameters().items()}
    unit = int(np.argmax(np.abs(arrays["2.weight"]).max(1)))
    arrays["1.weight"][:, unit] *= 100
    arrays["1.bias"][unit] *= 100
    arrays["2.weight"][unit] /= 100
    wide = model.with_parameters(arrays)
    before = evaluate(wide, test_data)["accuracy"]
    assert before == pytest.approx(evaluate(model, test_data)["accuracy"], abs=0.003)
    broken = evaluate(deployed(quantize_aware(wide, train_data)), test_data)["accuracy"]
    assert broken < before - 0.05
    report = quantize(wide, train_data, test_data, tmp_path / "q.onnx", finetune=15, lr=3e-3, max_drop=0.02)
    assert report.after.quality["accuracy"] > broken + 0.03
    assert report.attempts[0].name.startswith("min-max, then tracked in 15 epochs")
    assert "tracked" in json.loads(load(tmp_path / "q.onnx").metadata["onnxmx.quantization"])["ranges"]


def test_a_tracked_scale_is_a_moving_average(train_data: Dataset) -> None:
    net = L.Sequential(L.Flatten(), L.Dense(16, activation="relu"), L.Dense(10))
    model = quantize_aware(net.build(image=("batch", 1, 8, 8)), train_data, calibration_samples=32)
    batch = train_data.batch(slice(200, 300))
    before, found = model.parameters(), one_step(model, batch)
    x = batch["image"].reshape(100, -1)
    image = np.clip(np.round(x / before["0.Flatten_scale"]), 0, 255) * before["0.Flatten_scale"]
    w = before["1.weight"]
    steps = np.abs(w).max(0) / 127
    np.testing.assert_allclose(found["1.weight_scale"], steps, rtol=1e-6)
    w = np.round(w / before["1.weight_scale"]) * before["1.weight_scale"]
    hidden = (image @ w + before["1.bias"]).max() / 255  # the zero point is the least integer: a Relu
    expected = MOMENTUM * before["1.Relu_scale"] + (1 - MOMENTUM) * hidden
    np.testing.assert_allclose(found["1.Relu_scale"], expected, rtol=1e-5)


def one_step(model: Model, batch: dict[str, Any]) -> dict[str, Any]:
    """The state after a step at rate 0, in which ranges alone move."""
    optimizer = mx.SGD(0.0)
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    engine = OrtEngine(step, initial_state(model, optimizer, 0), threads=1)
    engine.step(batch)
    return engine.state()


def test_the_scale_of_a_channel_of_zeros(train_data: Dataset) -> None:
    """Not 0, by which its bias could not be divided."""
    net = L.Sequential(L.Flatten(), L.Dense(10)).build(image=("batch", 1, 8, 8))
    weight = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    weight[:, 3] = 0
    model = quantize_aware(net.with_parameters({"1.weight": weight}), train_data, calibration_samples=32)
    found = one_step(model, train_data.batch(slice(32)))["1.weight_scale"]
    np.testing.assert_allclose(found, np.where(np.arange(10) == 3, 1e-7, np.abs(weight).max(0) / 127), rtol=1e-6)


def test_a_scale_that_several_read_moves_once(train_data: Dataset) -> None:
    """A pooling and a reshaping share that of the Relu before them. Here the Relu gives 0 throughout."""
    net = L.Sequential(L.Conv2D(4, 3, activation="relu"), L.MaxPool2D(2), L.Flatten(), L.Dense(10))
    model = quantize_aware(net.build(image=("batch", 1, 8, 8)), train_data, calibration_samples=32)
    readers = [n for n in model.ir.graph if n.op_type == "QuantizeLinear" and n.inputs[1].name == "0.Relu_scale"]  # type: ignore[union-attr]
    assert len(readers) == 3
    found = one_step(model, {**train_data.batch(slice(32)), "image": np.zeros((32, 1, 8, 8), np.float32)})
    np.testing.assert_allclose(found["0.Relu_scale"], MOMENTUM * model.parameters()["0.Relu_scale"], rtol=1e-5)


def test_frozen_weights_stay_integers(lenet: Model, train_data: Dataset) -> None:
    model = quantize_aware(lenet.freeze("0", "2"), train_data, calibration_samples=32)
    assert model.trainable == ["5.weight", "5.bias", "6.weight", "6.bias"]
    assert model.ir.graph.initializers["0.weight_quantized"].dtype is ir.DataType.INT8


def test_batch_norm_is_folded_and_residuals_are_unsigned(train_data: Dataset, tmp_path: Path) -> None:
    def net(image):
        x = L.Activation("relu")(L.BatchNorm()(L.Conv2D(8, 3, padding="same")(image)))
        x = L.Activation("relu")(x + L.Conv2D(8, 3, padding="same")(x))
        return L.Dense(10)(L.Flatten()(L.AvgPool2D(8)(x)))

    model = mx.build(net, image=("batch", 1, 8, 8))
    for ranges in RANGES:
        aware = quantize_aware(model, train_data, ranges=ranges, calibration_samples=64)
        run = mx.fit(aware, train_data, optimizer=mx.Adam(1e-3), progress=False)
        run.model.save(tmp_path / "q.onnx")
        assert all_eight_bit(tmp_path / "q.onnx", tmp_path / "optimized.onnx")
        batch = train_data.batch(slice(64))["image"]
        np.testing.assert_allclose(run.model(batch), run.last(batch), atol=0.05)


def test_a_run_goes_on_to_the_same_bytes(train_data: Dataset, tmp_path: Path) -> None:
    net = L.Sequential(L.Flatten(), L.Dense(16, activation="relu"), L.Dense(10))
    aware = quantize_aware(net.build(image=("batch", 1, 8, 8)), train_data, calibration_samples=32)
    mx.fit(aware, train_data, out=tmp_path, epochs=3, keep_best=1, checkpoint_s=1000.0, progress=False)
    files = [tmp_path / name for name in ("model.onnx", "last.onnx", "metrics.jsonl")]
    whole = [file.read_bytes() for file in files]
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.stem.removeprefix("step-")))
    newest.unlink()  # as if it had been stopped in the last epoch
    mx.resume(tmp_path, train_data, progress=False)
    assert [file.read_bytes() for file in files] == whole
    assert load(tmp_path / "model.onnx").trainable == []
    (kept,) = (tmp_path / "best").iterdir()
    assert kept.read_bytes() == (tmp_path / "model.onnx").read_bytes()  # the integers, too
    assert load(tmp_path / "last.onnx").trainable == aware.trainable


@pytest.mark.parametrize(
    ("beta", "bias", "whole"),
    [(1.0, 0.5, True), (2.0, 0.5, False), (1.0, 3e4, False)],
    ids=["usual", "beta", "beyond int32"],
)
def test_a_bias_that_integers_cannot_hold_stays_a_float(beta: float, bias: float, whole: bool) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 20]> g (float[n,2] x) => (float[n,2] y)
        <float xs = {{0.001}}, float ws = {{0.001}}, uint8 xz = {{0}}, int8 wz = {{0}},
         float[2,2] w = {{0.1, 0.02, -0.05, 0.1}}, float[2] b = {{{bias}, -{bias}}}> {{
        xq = QuantizeLinear(x, xs, xz) xd = DequantizeLinear(xq, xs, xz)
        wq = QuantizeLinear(w, ws, wz) wd = DequantizeLinear(wq, ws, wz)
        y = Gemm<beta = {beta}>(xd, wd, b)
    }}"""
    proto = onnx.parser.parse_model(text)
    onnx.helper.set_model_props(proto, {AWARE: "{}"})
    model = Model(ir.from_proto(proto))
    found = deployed(model)
    (gemm,) = (n for n in found.ir.graph if n.op_type == "Gemm")
    bias_of = gemm.inputs[2]
    assert bias_of is not None
    assert bias_of.is_initializer() != whole
    x = np.float32([[0.1, 0.2], [0.0, 0.25]])
    np.testing.assert_allclose(found(x), model(x), rtol=1e-5, atol=1e-6)


def test_unknown_ranges(lenet: Model, train_data: Dataset) -> None:
    with pytest.raises(UsageError, match=r"'trackd'\n.*'tracked'"):
        quantize_aware(lenet, train_data, ranges="trackd", calibration_samples=8)
