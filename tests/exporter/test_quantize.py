"""Quantizing real models: smaller, as good, ordinary ONNX, and a report that says the truth."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.helper import make_node

from onnxmx.builder import init
from onnxmx.builder import layers as L
from onnxmx.builder.model import Model, build, load
from onnxmx.exporter import Report, qdq, quantize
from onnxmx.exporter.quantization import report_path
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.evaluate import evaluate

from .conftest import train
from .graphs import graph, labelled, numbers
from .running import all_eight_bit


@pytest.fixture(scope="module")
def done(lenet: Model, train_data: Dataset, test_data: Dataset, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("lenet") / "lenet.int8.onnx"
    lines: list[str] = []
    report = quantize(lenet, train_data, test_data, out, progress=lines.append)
    return out, report, lines


def test_lenet_is_smaller_and_as_good(done: tuple[Path, Report, list[str]], lenet: Model, test_data: Dataset) -> None:
    out, report, lines = done
    before, after = evaluate(lenet, test_data), evaluate(load(out), test_data)
    assert before["accuracy"] >= 0.96
    assert before["accuracy"] - after["accuracy"] <= 0.01
    assert out.stat().st_size / len(lenet.to_bytes()) <= 0.35
    # The report says the same of it.
    assert report.before.quality == pytest.approx(before)
    assert report.after.quality == pytest.approx(after)
    assert report.drop == pytest.approx(before["accuracy"] - after["accuracy"])
    assert (report.before.size_bytes, report.after.size_bytes) == (len(lenet.to_bytes()), out.stat().st_size)
    assert report.digest == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (report.metric, report.max_drop) == ("accuracy", 0.01)
    assert [line.split(":")[0].split()[0] for line in lines] == [
        *("calibrating", "measuring", "quantizing", "measuring", "writing")
    ]


def test_the_file_is_ordinary_onnx(done: tuple[Path, Report, list[str]], lenet: Model) -> None:
    proto = onnx.load(done[0])
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 20)]
    assert proto.ir_version == 10
    original = lenet.to_proto()
    assert list(proto.graph.input) == list(original.graph.input)  # names, shapes, the symbolic batch
    assert list(proto.graph.output) == list(original.graph.output)
    assert not proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    used = {name for node in proto.graph.node for name in node.input}
    assert {t.name for t in proto.graph.initializer} <= used
    assert not any("bias" in t.name and "zero_point" in t.name for t in proto.graph.initializer)
    weights = {t.name: t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1}
    assert len(weights) == 4
    for tensor in weights.values():
        scale = next(t for t in proto.graph.initializer if t.name == tensor.name.replace("_quantized", "_scale"))
        assert scale.dims[0] in tensor.dims, "a scale for each channel"
    model = load(done[0])
    for size in (1, 7):
        assert model(np.zeros((size, 1, 8, 8), np.float32)).shape == (size, 10)


def test_the_metadata_stays_and_says_what_was_done(done: tuple[Path, Report, list[str]], lenet: Model) -> None:
    metadata = dict(load(done[0]).metadata)
    origin = json.loads(metadata.pop("onnxmx.quantization"))
    assert (origin["samples"], origin["ranges"], origin["kept_float"]) == (512, "min-max", [])
    assert metadata == {**lenet.metadata, "onnxmx.trainable": "[]"}
    assert load(done[0]).trainable == []


def test_the_report_lies_beside_the_file(done: tuple[Path, Report, list[str]]) -> None:
    out, report, _ = done
    assert report_path(out) == out.with_name("report.json")
    assert json.loads(report_path(out).read_text()) == report.to_dict()
    assert report.to_dict()["ratio"]["size"] == report.size_ratio
    assert sorted(p.name for p in out.parent.iterdir()) == ["lenet.int8.onnx", "report.json"]
    assert report.eight_bit == ("0.Conv", "1.MaxPool", "2.Conv", "3.MaxPool", "4.Flatten", "5.Gemm", "6.Gemm")
    assert report.float_nodes == ()
    assert (report.calibration.samples, report.calibration.split) == (512, "train")
    assert (report.evaluation.samples, report.evaluation.split) == (359, "test")
    for side in (report.before, report.after):
        assert sorted(side.latency) == [1, 32]
        for latency in side.latency.values():
            assert 0 < latency.median_ms <= latency.p95_ms < 1000
    assert report.before.latency[32].median_ms > report.before.latency[1].median_ms
    text = str(report)
    assert "all 7 nodes compute in 8 bits" in text
    assert f"x {report.size_ratio:.3f}" in text
    assert report.machine.cpu in text


def test_the_same_inputs_give_the_same_bytes_in_another_process(
    done: tuple[Path, Report, list[str]], lenet: Model, tmp_path: Path
) -> None:
    lenet.save(tmp_path / "lenet.onnx")
    code = f"""
from onnxmx.exporter import quantize
from onnxmx.trainer.data import digits
quantize({str(tmp_path / "lenet.onnx")!r}, digits("train"), digits("test"), {str(tmp_path / "q.onnx")!r})
"""
    # Sets of strings have another order in each process: the bytes must not depend on it.
    subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, timeout=60, check=True)
    assert (tmp_path / "q.onnx").read_bytes() == done[0].read_bytes()


def test_batch_norm_becomes_part_of_the_convolution(train_data: Dataset, test_data: Dataset, tmp_path: Path) -> None:
    net = L.Sequential(L.Conv2D(16, 3), L.BatchNorm(), L.Activation("relu"), L.Flatten(), L.Dense(10))
    model = train(net.build(image=("batch", 1, 8, 8)), train_data, 4)
    report = quantize(model, train_data, test_data, tmp_path / "q.onnx")
    assert "BatchNormalization" not in [n.op_type for n in onnx.load(tmp_path / "q.onnx").graph.node]
    assert report.drop <= 0.01
    assert report.float_nodes == ()


def test_mlp(train_data: Dataset, test_data: Dataset, tmp_path: Path) -> None:
    net = L.Sequential(L.Flatten(), L.Dense(256, activation="relu"), L.Dense(10))
    model = train(net.build(image=("batch", 1, 8, 8)), train_data, 8)
    report = quantize(model, train_data, test_data, tmp_path / "q.onnx")
    assert report.before.quality["accuracy"] > 0.9
    assert report.drop <= 0.01
    assert report.size_ratio <= 0.35
    assert [(n.op, n.reason) for n in report.float_nodes] == [
        ("Flatten", "reads the model's input 'image' as it comes, in float")
    ]


def test_calibration_needs_no_labels(lenet: Model, train_data: Dataset, test_data: Dataset, tmp_path: Path) -> None:
    bare = replace(train_data, labels={}, classes=None)
    report = quantize(lenet, bare, test_data, tmp_path / "q.onnx", calibration_samples=40)
    assert report.calibration.samples == 40
    assert report.drop <= 0.01


def test_regression_is_compared_by_its_error(tmp_path: Path) -> None:
    model = L.Sequential(L.Dense(32, activation="relu"), L.Dense(1)).build(x=("batch", 8))
    x = numbers(512, 8)
    noise = numbers(512, 1, seed=3) * np.float32(0.1)
    samples = Dataset.from_arrays(x, model(x) + noise)
    report = quantize(model, samples, samples, tmp_path / "q.onnx", max_drop=0.05)
    before, after = report.before.quality, report.after.quality
    assert list(before) == ["loss", "mean_absolute_error"]
    labels = samples.labels["label"]
    spread = np.abs(labels - labels.mean()).mean()
    grown = after["mean_absolute_error"] - before["mean_absolute_error"]
    assert report.metric == "mean_absolute_error"
    assert report.drop == pytest.approx(grown / spread, rel=1e-3)
    assert "mean absolute error" in report.drop_is
    # The result is not rounded to 256 values.
    assert len(np.unique(load(tmp_path / "q.onnx")(x))) > 300


def test_residual_blocks_compute_in_eight_bits(tmp_path: Path) -> None:
    def net(image):
        x = L.Conv2D(8, 3, padding="same", activation="relu")(image)
        x = L.Activation("relu")(x + L.Conv2D(8, 3, padding="same")(x))
        return L.Dense(4)(L.Flatten()(L.AvgPool2D(8)(x)))

    model = build(net, image=("batch", 3, 8, 8))
    x = numbers(64, 3, 8, 8)
    samples = Dataset.from_arrays({"image": x}, model(x).argmax(-1))
    report = quantize(model, samples, samples, tmp_path / "q.onnx", max_drop=0.2)
    assert report.float_nodes == ()
    # And so it runs: with signed activations, ONNX Runtime 1.31 would fuse none of the block.
    assert all_eight_bit(tmp_path / "q.onnx", tmp_path / "optimized.onnx")


def test_nothing_foreign_is_printed_or_logged(
    lenet: Model, train_data: Dataset, test_data: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers, filters = list(logging.root.handlers), list(logging.root.filters)
    records: list[logging.LogRecord] = []
    own = logging.Handler()
    own.emit = records.append  # type: ignore[method-assign]
    logging.root.addHandler(own)
    try:
        quantize(
            lenet, train_data, test_data, tmp_path / "q.onnx", progress=lambda line: logging.warning("mine: %s", line)
        )
    finally:
        logging.root.removeHandler(own)
    assert capfd.readouterr() == ("", "")
    assert records
    assert all(r.getMessage().startswith("mine: ") for r in records)
    assert (logging.root.handlers, logging.root.filters) == (handlers, filters)


def test_the_quantizers_own_warnings_stay_inside() -> None:
    code = """
import importlib, logging, warnings
from onnxmx.exporter.quiet import quiet
with quiet() as ort:
    module = importlib.import_module("onnxruntime.quantization.quantize")
    # One goes to the root logger, one to a logger of its own, one to warnings.
    module.check_static_quant_arguments(ort.QuantFormat.QOperator, ort.QuantType.QInt8, ort.QuantType.QInt8)
    logging.getLogger("onnxruntime.quantization.shape_inference").error("chatter")
    warnings.warn("chatter")
assert not logging.root.handlers, "logging.warning installed one"
logging.getLogger("onnxruntime").warning("and after it all is as before")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("", "and after it all is as before\n")


def test_functions_of_a_model_are_inlined(tmp_path: Path) -> None:
    proto = graph(
        [make_node("Twice", ["x"], ["h"], "t", domain="ai.onnxmx"), make_node("MatMul", ["h", "w"], ["y"])],
        {"w": numbers(8, 4)},
        domains={"ai.onnxmx": 1},
    ).ir
    twice = onnx.helper.make_function(
        "ai.onnxmx", "Twice", ["a"], ["b"], [make_node("Add", ["a", "a"], ["b"])], [onnx.helper.make_opsetid("", 20)]
    )
    whole = ir.to_proto(proto)
    whole.functions.append(twice)
    model = Model(ir.from_proto(whole))
    x = numbers(64, 8)
    report = quantize(model, Dataset.from_arrays({"x": x}), labelled(model, x), tmp_path / "q.onnx", max_drop=0.1)
    assert not onnx.load(tmp_path / "q.onnx").functions
    assert report.before.quality["accuracy"] == 1.0


def test_importing_the_exporter_imports_no_runtime() -> None:
    code = "import sys, onnxmx.exporter; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_a_report_of_another_model_or_of_the_user_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "lenet.int8.onnx"
    own = out.with_name("lenet.int8.report.json")
    for text, expected in (
        ('{"output": "lenet.int8.onnx"}', "report.json"),
        ('{"output": "other.onnx"}', own.name),
        ("[1]", own.name),
        ("not JSON", own.name),
    ):
        (tmp_path / "report.json").write_text(text)
        assert report_path(out).name == expected, text


def test_activations_are_signed_on_a_chain_and_unsigned_elsewhere(done: tuple[Path, Report, list[str]]) -> None:
    zero_points = {n.input[2] for n in onnx.load(done[0]).graph.node if n.op_type == "QuantizeLinear"}
    types = {t.data_type for t in onnx.load(done[0]).graph.initializer if t.name in zero_points}
    assert types == {onnx.TensorProto.INT8}
    assert json.loads(load(done[0]).metadata["onnxmx.quantization"])["activations"] == "int8"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda g, x, w, b: g.matmul(L.relu(g.matmul(x, w)), w), "int8"),  # two layers of one weight are a chain
        (lambda g, x, w, b: g.matmul(L.relu(x), g.transpose(x, [1, 0])), "uint8"),  # two readers of x
        (lambda g, x, w, b: L.relu(g.matmul(x, w)) + b, "uint8"),  # an elementwise operator on a chain
    ],
    ids=["shared weight", "two readers", "Add"],
)
def test_what_a_chain_is(body: Callable[..., Any], expected: str) -> None:
    def net(x: Any) -> Any:
        g = x.builder
        return body(g, x, g.parameter("w", (4, 4), init.zeros()), g.parameter("b", (4,), init.zeros()))

    assert qdq.activation_type(build(net, x=(4, 4)).to_proto()) == expected
