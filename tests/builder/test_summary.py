"""The summary as a tree: layers inside layers, what is frozen, layers of files whose nodes do not name any."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxmx.builder.layers as L
from onnxmx.builder.model import Model, build, from_bytes
from onnxmx.builder.summary import layer_of


def nested() -> Model:
    body = L.Sequential(L.Dense(4, activation="relu"), L.BatchNorm(), L.Dense(4))
    return L.Sequential(L.Residual(body), L.Dense(2, name="head")).build(x=("batch", 4))


def test_a_tree_of_layers() -> None:
    found = json.loads(json.dumps(nested().freeze("0").summary().to_dict()))
    outer, head = found["tree"]
    assert (outer["name"], head["name"]) == ("0", "head")
    (body,) = outer["children"]
    assert [(c["name"], c["operators"], c["parameters"]) for c in body["children"]] == [
        ("0", ["Gemm", "Relu"], 20), ("1", ["BatchNormalization"], 8), ("2", ["Gemm"], 20),
    ]  # fmt: skip
    assert (outer["parameters"], outer["trainable"], outer["frozen"]) == (48, 0, 48)
    assert (head["parameters"], head["trainable"], head["frozen"]) == (10, 10, 0)
    assert (found["parameters"], found["trainable"], found["frozen"]) == (58, 10, 48)
    assert (outer["statistics"], head["statistics"], found["statistics"]) == (8, 0, 8)
    assert outer["flops"] + head["flops"] == found["flops"]
    assert outer["output"] == "(batch, 4)"


def test_the_output_of_a_layer_that_goes_on_after_those_inside_it() -> None:
    def gated(x: Any, side: Any) -> Any:
        y = L.relu(L.Conv2D(8, 3, padding=1)(x))
        gate = L.Reshape(8, 1, 1)(L.Dense(8, activation="sigmoid")(side))
        return L.relu(y * gate)

    def net(x: Any, side: Any) -> Any:
        return L.Flatten()(L.Lambda(gated, name="gated")(x, side))

    model = build(net, x=("batch", 1, 6, 6), side=("batch", 2))
    found = {branch["name"]: branch for branch in model.summary().to_dict()["tree"]}
    assert found["gated"]["output"] == "(batch, 8, 6, 6)"


def test_running_statistics_are_no_parameters() -> None:
    row = next(r for r in nested().summary().rows if r.operators == ["BatchNormalization"])
    assert (row.parameters, row.trainable, row.frozen, row.statistics) == (8, 8, 0, 8)


def test_the_text_indents_what_is_inside() -> None:
    lines = str(nested().summary()).splitlines()
    assert lines[0].split() == ["layer", "operators", "output", "parameters", "frozen", "MFLOP"]
    assert [line.split("  ")[0].strip() or line.strip().split()[0] for line in lines[1:3]] == ["0", "body"]
    assert lines[3].startswith("    0")
    assert any(line.startswith("head") for line in lines)


def test_names_of_nodes() -> None:
    assert layer_of("encoder.0.Gemm") == "encoder.0"
    assert layer_of("/encoder/encoder.0/Gemm") == "encoder.0"
    assert layer_of("model/dense/MatMul") == "model.dense"
    assert layer_of("Conv_12") == ""


def test_layers_by_parameters_where_nodes_name_none() -> None:
    """PyTorch before 1.13: Conv_0, Relu_1 and parameters with names."""
    nodes = [
        helper.make_node("MatMul", ["x", "features.0.weight"], ["h"], name="MatMul_0"),
        helper.make_node("Relu", ["h"], ["r"], name="Relu_1"),
        helper.make_node("MatMul", ["r", "classifier.weight"], ["y"], name="MatMul_2"),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    weight = np.ones((3, 3), np.float32)
    weights = [numpy_helper.from_array(weight, name) for name in ("features.0.weight", "classifier.weight")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    proto: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    model = from_bytes(proto.SerializeToString())
    assert [(r.layer, r.operators) for r in model.summary().rows] == [
        ("features.0", ["MatMul", "Relu"]), ("classifier", ["MatMul"]),
    ]  # fmt: skip
    assert list(model.cut("features.0").outputs) == ["r"]


def recurrent(op_type: str, gates: int) -> Model:
    node = helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=3)
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [7, "n", 2]),
             helper.make_tensor_value_info("y", TensorProto.FLOAT, [7, 1, "n", 3])]  # fmt: skip
    sizes = {"w": 2, "r": 3}
    weights = [numpy_helper.from_array(np.ones((1, gates * 3, n), np.float32), name) for name, n in sizes.items()]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    return from_bytes(proto.SerializeToString())


def test_operations_of_recurrent_layers_and_transposed_convolutions() -> None:
    for op_type, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        assert recurrent(op_type, gates).summary().flops == 2 * 7 * gates * 3 * (2 + 3)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 4, 4]),
             helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 8, 8])]  # fmt: skip
    weight = numpy_helper.from_array(np.ones((2, 5, 2, 2), np.float32), "w")
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    assert from_bytes(proto.SerializeToString()).summary().flops == 2 * (2 * 4 * 4) * (5 * 2 * 2)
