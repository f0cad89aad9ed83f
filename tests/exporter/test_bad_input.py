"""What cannot be quantized: each a clear error with the way out, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from onnxmx.builder import layers as L
from onnxmx.builder.model import Model
from onnxmx.errors import DataError, GraphError, ModelFileError, OnnxmxError, UsageError
from onnxmx.exporter import quantize
from onnxmx.trainer.data import Dataset

from .graphs import data, graph, numbers

W = {"w": numbers(8, 4)}


def plain(**changes: Any) -> Model:
    return graph([make_node("MatMul", ["x", "w"], ["y"], "m")], W, **changes)


def of_nan() -> Model:
    return graph([make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": np.full((8, 4), np.nan, np.float32)})


def custom() -> Model:
    nodes = [make_node("MatMul", ["x", "w"], ["h"], "m"), make_node("Twist", ["h"], ["y"], "t", domain="com.example")]
    return graph(nodes, W, domains={"com.example": 1})


def quantized() -> Model:
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "d"),
        make_node("MatMul", ["d", "w"], ["y"], "m"),
    ]
    return graph(nodes, {**W, "s": np.float32(0.1), "z": np.int8(0)})


def no_weight() -> Model:
    return graph([make_node("Relu", ["x"], ["y"], "r")], {}, y=("batch", 8))


def of_integers() -> Model:
    nodes = [make_node("Cast", ["x"], ["f"], "c", to=1), make_node("MatMul", ["f", "w"], ["y"], "m")]
    return graph(nodes, W, dtype=onnx.TensorProto.INT64)


def lookup() -> Model:
    nodes = [
        make_node("Cast", ["x"], ["i"], "c", to=onnx.TensorProto.INT64),
        make_node("Gather", ["table", "i"], ["h"], "g"),
        make_node("MatMul", ["h", "w"], ["y"], "m"),
    ]
    return graph(nodes, {**W, "table": numbers(3, 8)}, x=("batch",))


def indices(last: float) -> Dataset:
    return Dataset.from_arrays({"x": np.array([0, 1, last], np.float32)}, np.zeros(3, np.int64), name="indices")


def regression(*label: int) -> Dataset:
    return Dataset.from_arrays({"x": numbers(32, 8)}, numbers(32, *label), name="targets")


@dataclass(frozen=True)
class Bad:
    name: str
    error: type[OnnxmxError]
    says: tuple[str, ...]
    model: Callable[[], Model] = plain
    calibration: Dataset = field(default_factory=lambda: data(8))
    evaluation: Dataset = field(default_factory=lambda: data(8))
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Bad("custom operator", GraphError, ("standard ONNX operators", "Twist 't'", "com.example"), custom),
    Bad("already quantized", GraphError, ("model in float", "QuantizeLinear 'q'", "quantized already"), quantized),
    Bad("nothing to quantize", GraphError, ("Conv, Gemm or MatMul", "found only Relu", "as it is"), no_weight),
    Bad("integer input", DataError, ("'x' expected int64", "found float32"), of_integers),
    Bad("fixed batch", DataError, ("batch of any size", "(3, 8)", "('batch', 8)"), lambda: plain(x=(3, 8), y=(3, 4))),
    Bad("values beyond the model", DataError, ("calibration data", "indices"), lookup, indices(9), indices(2)),
    Bad("weights of NaN", DataError, ("finite values in the model's tensor 'y'",), of_nan),
    Bad("calibration of another shape", DataError, ("shape (8,)", "(9,)"), calibration=data(9)),
    Bad("evaluation of another shape", DataError, ("shape (8,)", "(9,)"), evaluation=data(9)),
    Bad(
        "no labels to evaluate by",
        DataError,
        ("one label",),
        evaluation=Dataset.from_arrays({"x": numbers(4, 8)}),
    ),
    Bad(
        "classes beyond the outputs",
        DataError,
        ("[0, 4)", "found"),
        evaluation=Dataset.from_arrays({"x": numbers(9, 8)}, np.arange(9), classes=list("abcdefghi")),
    ),
    Bad(
        "targets of another shape",
        DataError,
        ("labels of float32 (batch, 4)", "float32 (batch, 3)"),
        evaluation=regression(3),
    ),
    Bad(
        "targets of another rank",
        DataError,
        ("labels of float32 (batch, 4)", "float32 (batch,)"),
        evaluation=regression(),
    ),
    Bad(
        "floats where classes are due",
        DataError,
        ("labels of int64", "probabilities"),
        evaluation=regression(4),
        options={"loss": "softmax_cross_entropy"},
    ),
    Bad(
        "unknown loss",
        UsageError,
        ("softmax_cross_entropi", "softmax_cross_entropy"),
        options={"loss": "softmax_cross_entropi"},
    ),
    Bad("negative drop", UsageError, ("max_drop", "-0.1"), options={"max_drop": -0.1}),
    Bad("drop of NaN", UsageError, ("max_drop", "nan"), options={"max_drop": float("nan")}),
    Bad("no samples", UsageError, ("calibration_samples", "found 0"), options={"calibration_samples": 0}),
]


@pytest.mark.parametrize("bad", CASES, ids=lambda b: b.name)
def test_bad_input_is_explained_and_nothing_is_written(
    bad: Bad, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q.onnx"
    out.write_bytes(b"the former one")
    with pytest.raises(bad.error) as caught:
        quantize(bad.model(), bad.calibration, bad.evaluation, out, **bad.options)
    for part in bad.says:
        assert part in str(caught.value)
    assert out.read_bytes() == b"the former one"
    assert [p.name for p in tmp_path.iterdir()] == ["q.onnx"]
    assert capfd.readouterr() == ("", "")


def test_values_beyond_the_model_in_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected samples in indices that the model can compute"):
        quantize(lookup(), indices(2), indices(9), tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_overflows_in_the_evaluation(tmp_path: Path) -> None:
    huge = Dataset.from_arrays({"x": np.full((4, 8), 3e38, np.float32)}, np.zeros(4, np.int64), name="huge")
    model = graph([make_node("MatMul", ["x", "w"], ["y"], "m")], {"w": np.full((8, 4), 10, np.float32)})
    with pytest.raises(DataError, match="expected a finite loss on huge"):
        quantize(model, data(8), huge, tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="found nothing"):
        quantize(tmp_path / "none.onnx", data(8), data(8), tmp_path / "q.onnx")


def test_the_float_model_is_not_overwritten(tmp_path: Path) -> None:
    plain().save(tmp_path / "m.onnx")
    former = (tmp_path / "m.onnx").read_bytes()
    with pytest.raises(UsageError, match="another file than the model's own"):
        quantize(tmp_path / "m.onnx", data(8), data(8), tmp_path / "." / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == former


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found the folder"):
        quantize(plain(), data(8), data(8), tmp_path)


def test_without_onnxruntime_the_extra_is_named(tmp_path: Path) -> None:
    plain().save(tmp_path / "m.onnx")
    code = f"""
import sys
sys.modules["onnxruntime"] = None  # what an import finds where it is not installed
import numpy as np
from onnxmx.errors import MissingExtraError
from onnxmx.exporter import quantize
from onnxmx.trainer.data import Dataset
data = Dataset.from_arrays({{"x": np.zeros((4, 8), np.float32)}}, np.zeros(4, np.int64))
try:
    quantize({str(tmp_path / "m.onnx")!r}, data, data, {str(tmp_path / "q.onnx")!r})
except MissingExtraError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'onnxmx[cpu]'" in run.stdout


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from onnxmx.builder.model import load
from onnxmx.errors import OnnxmxError
from onnxmx.exporter import quantize
from onnxmx.trainer.data import Dataset
folder, stage = Path(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
data = Dataset.from_arrays(
    {"x": rng.standard_normal((64, 256)).astype(np.float32)}, rng.integers(0, 10, 64), name="random")
def limit(line):
    if line.startswith(stage):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    quantize(folder / "m.onnx", data, data, folder / "q.onnx", max_drop=1.0, progress=limit)
except OnnxmxError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of this kind are POSIX")
@pytest.mark.parametrize(
    ("stage", "says"),
    [("writing", "q.onnx: File too large; what was there before is unchanged"), ("calibrating", "temporary files")],
)
def test_a_full_disk_leaves_the_former_file(tmp_path: Path, stage: str, says: str) -> None:
    L.Sequential(L.Dense(256, activation="relu"), L.Dense(10)).build(x=("batch", 256)).save(tmp_path / "m.onnx")
    (tmp_path / "q.onnx").write_bytes(b"the former one")
    (tmp_path / "work").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), stage],
        env={"TMPDIR": str(tmp_path / "work")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert says in run.stdout
    assert run.stderr == ""
    assert (tmp_path / "q.onnx").read_bytes() == b"the former one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "q.onnx", "work"]
    # onnxruntime 1.31 leaves a file .ses in TMPDIR when it is imported; nothing of ours stays.
    assert {p.name for p in (tmp_path / "work").iterdir()} <= {".ses"}
