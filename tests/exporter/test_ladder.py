"""What happens where 8 bits lose too much: narrower ranges, then layers in float, then a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxmx.builder import layers as L
from onnxmx.builder.model import Model, load
from onnxmx.errors import OnnxmxError
from onnxmx.exporter import quantize
from onnxmx.trainer.data import Dataset

from .graphs import labelled, numbers
from .running import what_runs


def four_layers() -> Model:
    hidden = [L.Dense(32, activation="relu") for _ in range(3)]
    return L.Sequential(*hidden, L.Dense(4)).build(x=("batch", 8), seed=3)


def test_one_wild_sample_does_not_spoil_the_ranges(tmp_path: Path) -> None:
    model = four_layers()
    x = numbers(512, 8)
    wild = x.copy()
    wild[100] *= 3000
    report = quantize(model, Dataset.from_arrays({"x": wild}), labelled(model, x), tmp_path / "q.onnx", max_drop=0.05)
    assert [a.name for a in report.attempts] == ["min-max", "median of batches"]
    assert report.attempts[0].drop > 0.05 >= report.attempts[1].drop == report.drop
    assert json.loads(load(tmp_path / "q.onnx").metadata["onnxmx.quantization"])["ranges"] == "median of batches"


def with_a_wide_activation() -> Model:
    """A unit of the second layer gives 1e5 and the third layer ignores it: 8 bits there leave nothing of the others."""
    model = four_layers()
    bias, weight = (model.parameters()[name].copy() for name in ("1.bias", "2.weight"))
    bias[0], weight[0, :] = 1e5, 0
    return model.with_parameters({"1.bias": bias, "2.weight": weight})


def test_the_sensitive_layers_are_found_and_stay_in_float(tmp_path: Path) -> None:
    model = with_a_wide_activation()
    x = numbers(512, 8)
    lines: list[str] = []
    report = quantize(
        model,
        Dataset.from_arrays({"x": x}),
        labelled(model, x),
        tmp_path / "q.onnx",
        max_drop=0.1,
        progress=lines.append,
    )
    assert [len(a.kept_float) for a in report.attempts] == [0, 0, 1, 2]
    assert set(report.attempts[-1].kept_float) == {"1.Gemm", "2.Gemm"}
    assert report.attempts[-1].drop == report.drop <= 0.1 < min(a.drop for a in report.attempts[:-1])
    floats = {n.name: n.reason for n in report.float_nodes}
    assert "cost the most accuracy" in floats["1.Gemm"]
    assert "cost the most accuracy" in floats["2.Gemm"]
    assert {"0.Gemm", "3.Gemm"} <= set(report.eight_bit)
    eight, other = what_runs(tmp_path / "q.onnx", tmp_path / "optimized.onnx")
    assert {"0.Gemm", "3.Gemm"} <= eight
    assert {"1.Gemm", "2.Gemm"} <= other
    assert sum(line.startswith("measuring layer") for line in lines) == 4


def test_too_large_a_drop_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = L.Sequential(L.Dense(4)).build(x=("batch", 8), seed=1)
    x = numbers(512, 8)
    narrow = Dataset.from_arrays({"x": x * np.float32(1e-3)})  # ranges that cut off nearly all of every real sample
    (tmp_path / "q.onnx").write_bytes(b"the former one")
    with pytest.raises(OnnxmxError) as caught:
        quantize(model, narrow, labelled(model, x), tmp_path / "q.onnx", max_drop=0.02)
    assert "a drop of accuracy of at most 0.02; found 0." in str(caught.value)
    assert "best of 2 ways; nothing was written" in str(caught.value)
    assert "--max-drop" in str(caught.value)
    assert (tmp_path / "q.onnx").read_bytes() == b"the former one"
    assert [p.name for p in tmp_path.iterdir()] == ["q.onnx"]
