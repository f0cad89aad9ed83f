"""Which nodes stay in float: what the report says against what ONNX Runtime then runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from onnxmx.builder.model import Model
from onnxmx.exporter import quantize
from onnxmx.exporter.calibrate import calibrate
from onnxmx.exporter.floats import split
from onnxmx.exporter.prepare import prepare
from onnxmx.exporter.qdq import OPERATORS, finish, quantized

from .graphs import Array, data, graph, numbers
from .running import MOVERS, what_runs


@dataclass(frozen=True)
class Case:
    """Between two layers stand `nodes`, from h to k. floats: names of the nodes that stay in float, with a part
    of the reason. integers: names of those that never were float."""

    name: str
    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]
    floats: dict[str, str]
    integers: frozenset[str] = frozenset()

    def model(self) -> Model:
        nodes = [
            make_node("Gemm", ["x", "w0", "b0"], ["h"], "first"),
            *self.nodes,
            make_node("MatMul", ["k", "w1"], ["y"], "last"),
        ]
        return graph(nodes, {"w0": numbers(8, 16), "b0": numbers(16), "w1": numbers(16, 4), **self.constants})


NO_KERNEL = "ONNX Runtime has no 8-bit kernel"
MIDDLE = ["h"], ["k"]
CASES = [
    Case("Relu", [make_node("Relu", *MIDDLE, "n")], {}, {}),
    Case("Sigmoid", [make_node("Sigmoid", *MIDDLE, "n")], {}, {}),
    Case("LeakyRelu", [make_node("LeakyRelu", *MIDDLE, "n")], {}, {}),
    Case(
        "Clip",
        [make_node("Clip", ["h", "low", "high"], ["k"], "n")],
        {"low": np.float32(0), "high": np.float32(6)},
        {},
    ),
    Case("Add twice", [make_node("Sigmoid", ["h"], ["s"], "n"), make_node("Add", ["h", "s"], ["k"], "a")], {}, {}),
    Case("Mul by a constant", [make_node("Mul", ["h", "c"], ["k"], "n")], {"c": numbers(16)}, {}),
    Case("Softmax", [make_node("Softmax", *MIDDLE, "n")], {}, {}),
    Case(
        "Slice",
        [make_node("Slice", ["h", "i0", "i16", "i1"], ["k"], "n")],
        {"i0": np.array([0], np.int64), "i16": np.array([16], np.int64), "i1": np.array([1], np.int64)},
        {},
    ),
    Case(
        "Split",
        [
            make_node("Split", ["h"], ["p", "q"], "n", axis=1, num_outputs=2),
            make_node("Concat", ["q", "p"], ["k"], "c", axis=1),
        ],
        {},
        {},
    ),
    Case(
        "Where",
        [make_node("Sigmoid", ["h"], ["s"], "g"), make_node("Where", ["m", "h", "s"], ["k"], "n")],
        {"m": np.arange(16) % 2 == 0},
        {},
    ),
    Case(
        "Gather",
        [make_node("Gather", ["h", "i"], ["k"], "n", axis=1)],
        {"i": np.arange(16, dtype=np.int64)[::-1].copy()},
        {},
    ),
    Case(
        "GatherElements",
        [make_node("GatherElements", ["h", "i"], ["k"], "n", axis=0)],
        {"i": np.zeros((1, 16), np.int64)},
        {},
    ),
    Case(
        "Transpose",
        [
            make_node("Transpose", ["h"], ["t"], "n", perm=[1, 0]),
            make_node("Transpose", ["t"], ["k"], "m", perm=[1, 0]),
        ],
        {},
        {},
    ),
    Case("Tanh", [make_node("Tanh", *MIDDLE, "n")], {}, {"n": NO_KERNEL}),
    Case(
        "LayerNormalization",
        [make_node("LayerNormalization", ["h", "g", "b"], ["k"], "n")],
        {"g": numbers(16) + 1, "b": numbers(16)},
        {"n": NO_KERNEL},
    ),
    Case(
        "Relu after float",
        [make_node("Tanh", ["h"], ["t"], "n"), make_node("Relu", ["t"], ["k"], "r")],
        {},
        {"n": NO_KERNEL, "r": "reads the float result of Tanh 'n'"},
    ),
    Case("Selu", [make_node("Selu", *MIDDLE, "n")], {}, {"n": "Selu is not among the operators"}),
    Case("without a name", [make_node("Tanh", *MIDDLE)], {}, {"k#1": NO_KERNEL}),
    Case(
        "LSTM",
        [
            make_node("Unsqueeze", ["h", "zero"], ["u"], "u"),
            make_node("LSTM", ["u", "lw", "lr"], ["l"], "n", hidden_size=16),
            make_node("Reshape", ["l", "flat"], ["k"], "f"),
        ],
        {
            "zero": np.array([0], np.int64),
            "flat": np.array([-1, 16], np.int64),
            "lw": numbers(1, 64, 16),
            "lr": numbers(1, 64, 16),
        },
        {"n": "recurrent", "f": "reads the float result of LSTM 'n'"},
    ),
    Case(
        "arithmetic of shapes",
        [
            make_node("Shape", ["h"], ["s"], "s"),
            make_node("Mul", ["s", "one"], ["s1"], "i"),
            make_node("Reshape", ["h", "s1"], ["k"], "r"),
        ],
        {"one": np.array([1, 1], np.int64)},
        {"s": "reads only the shape"},
        frozenset({"i"}),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_what_stays_float_is_told_with_the_reason(case: Case, tmp_path: Path) -> None:
    samples = data(8)
    report = quantize(case.model(), samples, samples, tmp_path / "q.onnx", max_drop=1.0)
    found = {node.name: node.reason for node in report.float_nodes}
    assert found.keys() == case.floats.keys()
    for name, reason in case.floats.items():
        assert reason in found[name]
        assert f"{name!r}: {found[name]}" in str(report)
    assert {"first", "last"} <= set(report.eight_bit)
    eight, other = what_runs(tmp_path / "q.onnx", tmp_path / "optimized.onnx")
    # What only moves values, or folds into a conversion, ONNX Runtime may run on either side of one.
    light = {n.name for n in case.nodes if n.op_type in (*MOVERS, "Relu")}
    assert other - case.integers - light == found.keys() - light
    assert not (eight - light) & found.keys()


def test_a_softmax_at_the_end_stays_float(tmp_path: Path) -> None:
    nodes = [make_node("MatMul", ["x", "w"], ["h"], "first"), make_node("Softmax", ["h"], ["y"], "last")]
    samples = data(8)
    report = quantize(graph(nodes, {"w": numbers(8, 4)}), samples, samples, tmp_path / "q.onnx", max_drop=1.0)
    assert report.eight_bit == ("first",)
    assert [(n.name, n.reason) for n in report.float_nodes] == [("last", "its result is read in float")]
    assert what_runs(tmp_path / "q.onnx", tmp_path / "optimized.onnx") == ({"first"}, {"last"})


def test_a_layer_left_float_is_named(tmp_path: Path) -> None:
    model = CASES[0].model()
    proto = prepare(model, tmp_path)
    ranges = calibrate(proto, data(8), 64, list(OPERATORS), tmp_path).min_max()
    result = finish(quantized(proto, ranges, keep_float=["last"]), model.to_proto(), {})
    eight, floats = split(result, ["last"])
    assert eight == ["first"]
    assert [(f.name, f.op) for f in floats] == [("last", "MatMul")]
    assert "cost the most accuracy" in floats[0].reason
