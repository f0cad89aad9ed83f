"""GraphBuilder: names, constants, lines, sharing, operators, and what a built graph must not hold."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import onnxmx.builder.layers as L
from onnxmx.builder.graph import GraphBuilder, Value, describe, show_shape
from onnxmx.builder.model import Model, build
from onnxmx.errors import GraphError, ShapeError


def residual_net() -> L.Sequential:
    block = L.Sequential(L.Conv2D(4, 3, padding="same", activation="silu"), L.BatchNorm(), L.Dropout(0.1))
    return L.Sequential(
        L.Conv2D(4, 3, padding="same"), L.Residual(block), L.MaxPool2D(2), L.Flatten(), L.Dense(3, name="head")
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return residual_net().build(image=("batch", 1, 8, 8))


def test_names_follow_the_scope(model: Model) -> None:
    assert list(model.parameters()) == [
        "0.weight",
        "0.bias",
        "1.body.0.weight",
        "1.body.0.bias",
        "1.body.1.weight",
        "1.body.1.bias",
        "1.body.1.running_mean",
        "1.body.1.running_var",
        "head.weight",
        "head.bias",
    ]
    assert [n.name for n in model.ir.graph] == [
        "0.Conv",
        "1.body.0.Conv",
        "1.body.0.Sigmoid",
        "1.body.0.Mul",
        "1.body.1.BatchNormalization",
        "1.body.2.Dropout",
        "1.Add",
        "2.MaxPool",
        "3.Flatten",
        "head.Gemm",
    ]


def test_two_builds_give_the_same_bytes(model: Model) -> None:
    assert residual_net().build(image=("batch", 1, 8, 8)).to_bytes() == model.to_bytes()


def test_a_built_graph_holds_nothing_idle(model: Model) -> None:
    graph = model.ir.graph
    assert not [n.name for n in graph if n.op_type == "Identity"]
    used = {v for n in graph for v in n.inputs} | set(graph.outputs)
    assert not [v.name for n in graph for v in n.outputs if v not in used]
    assert not [v.name for v in graph.initializers.values() if v not in used]
    constants = Counter(
        (v.const_value.dtype, v.const_value.numpy().tobytes(), tuple(v.shape))
        for name, v in graph.initializers.items()
        if name.startswith("const.")
    )
    assert constants.most_common(1)[0][1] == 1


def test_equal_constants_are_one_value() -> None:
    g = GraphBuilder()
    assert g.constant(0.5) is g.constant(np.float32(0.5))
    assert g.constant([1, 2]) is g.constant(np.array([1, 2]))
    assert g.constant(0.0) is not g.constant(-0.0)
    assert g.constant(1) is not g.constant(1.0)
    assert g.constant([1]) is not g.constant(1)
    assert [g.constant(v).dtype for v in (1, 1.0, True, np.float64(1))] == [
        ir.DataType.INT64,
        ir.DataType.FLOAT,
        ir.DataType.BOOL,
        ir.DataType.DOUBLE,
    ]


def test_operators_on_values() -> None:
    def net(x: Value) -> dict[str, Value]:
        a = np.full((3, 3), 2.0, np.float32)
        return {
            "left": 1.0 - 2 * x + 3 / x,
            "right": (x - 1.0) * 2 / 4 + 1,
            "power": -(x**2) + 2**x,
            "matrix": x @ a + a @ x,
            "array": a * x - np.float32(1.0) * x,
        }

    x = np.random.default_rng(0).uniform(1, 2, (3, 3)).astype(np.float32)
    a = np.full((3, 3), 2.0, np.float32)
    expected = {
        "left": 1 - 2 * x + 3 / x,
        "right": (x - 1) * 2 / 4 + 1,
        "power": -(x**2) + 2**x,
        "matrix": x @ a + a @ x,
        "array": a * x - x,
    }
    for name, found in build(net, x=(3, 3))(x).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5)


def test_a_number_takes_the_type_that_the_operator_binds_it_to() -> None:
    g = GraphBuilder()
    x = g.input("x", ("batch", 3))
    i = g.input("i", ("batch", 3), ir.DataType.INT32)
    assert g.where(g.greater(x, 0), x, 0).dtype == ir.DataType.FLOAT  # not the condition's bool
    assert g.gather(x, 0).shape == (3,)  # an index, not a float
    assert (i + 1).dtype == ir.DataType.INT32
    assert g.pow(i, 0.5).dtype == ir.DataType.INT32  # the exponent has a type of its own
    for bad in (lambda: i * 0.5, lambda: i + 2**40, lambda: i + float("nan")):
        with pytest.raises(ShapeError, match="cannot be int32"):
            bad()


def test_types_and_shapes_are_known_at_once() -> None:
    g = GraphBuilder()
    x = g.input("x", ("batch", 3, None))
    assert describe(x) == "float32 (batch, 3, ?)"
    assert describe(g.reduce_sum(x, (2,), keepdims=False)) == "float32 (batch, 3)"
    assert describe(g.transpose(x, (1, 0, 2))) == "float32 (3, batch, ?)"
    assert show_shape((4,)) == "(4,)"
    assert show_shape(None) == "(unknown rank)"


def test_a_layer_called_twice_shares_its_parameters() -> None:
    head = L.Dense(3)
    model = build(lambda a, b: head(a) + head(b), a=("batch", 3), b=("batch", 3))
    assert list(model.parameters()) == ["dense.weight", "dense.bias"]
    a, b = np.ones((2, 2, 3), np.float32)
    np.testing.assert_allclose(model(a, 2 * b), 3 * a @ model.parameters()["dense.weight"], rtol=1e-5)
    with pytest.raises(ShapeError, match=r"Dense 'dense' is used twice .* expected shape \(3, 3\).* found \(4, 3\)"):
        build(lambda a, b: head(a) + head(b), a=("batch", 3), b=("batch", 4))


def test_a_layer_of_ones_own_shares_what_it_makes_inside() -> None:
    class Twin(L.Layer):
        def forward(self, x: Value) -> Value:
            g = x.builder
            y = L.Dense(3)(L.Dense(3)(x))
            return y * g.parameter("gain", (1,), "ones") + g.parameter("gain", (1,), "zeros")

    twin = Twin()
    once = build(twin, x=("batch", 3))
    assert list(once.parameters()) == ["dense.weight", "dense.bias", "dense_1.weight", "dense_1.bias", "gain", "gain_1"]
    twice = build(lambda x: twin(twin(x)), x=("batch", 3))
    assert list(twice.parameters()) == [f"twin.{name}" for name in once.parameters()]
    other = build(lambda x: Twin()(Twin()(x)), x=("batch", 3))
    assert len(other.parameters()) == 2 * len(once.parameters())


def test_default_names_count_up_and_values_never_clash() -> None:
    model = build(lambda x: L.Dense(2)(L.Dense(2)(x)), **{"dense.weight": ("batch", 2)})
    assert list(model.parameters()) == ["dense.weight_1", "dense.bias", "dense_1.weight", "dense_1.bias"]


def test_an_initializer_that_returns_another_shape_is_named() -> None:
    model_input = {"x": ("batch", 3)}
    with pytest.raises(ShapeError, match=r"'weight' expected to return shape \(3, 2\); found \(7,\)"):
        L.Dense(2, weight_init=lambda shape, random: np.zeros(7)).build(**model_input).to_bytes()


def test_values_of_two_graphs_do_not_mix() -> None:
    x, y = (GraphBuilder().input(name, (1,)) for name in "xy")
    with pytest.raises(GraphError, match="values of one graph; found 'y'"):
        x + y


def test_parameters_are_drawn_late() -> None:
    drawn: list[tuple[int, ...]] = []

    def count(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        drawn.append(shape)
        return np.zeros(shape)

    model = L.Dense(2, weight_init=count).build(x=("batch", 3))
    assert drawn == []
    model.to_bytes()
    model.to_bytes()
    assert drawn == [(3, 2)]


def test_copy_infers_anew(model: Model) -> None:
    conv = model.ir.graph.node(0)
    g = GraphBuilder()
    x, w, b = g.input("x", (5, 1, 6, 6)), g.input("w", (4, 1, 3, 3)), g.input("b", (4,))
    (y,) = g.copy(conv, [x, w, b])
    assert (y.name, y.shape) == ("0.Conv", (5, 4, 6, 6))
    node = y.producer()
    assert node is not None
    assert node.metadata_props == conv.metadata_props


SCRIPT = """\
from onnxmx.builder import layers as L
from onnxmx.builder.model import build
from onnxmx.errors import OnnxmxError


net = L.Sequential(
    L.Conv2D(4, 3),
    L.Dense(
        3,
        name="head"),
    L.Activation("relu"),
)


class Own(L.Layer):
    def forward(self, x):
        return x.builder.op("Transpose", x,
                            perm=[5])


def attempt(*args, **inputs):
    try:
        model = build(*args, **inputs)
    except OnnxmxError as error:
        print(error.at)
    else:
        print([n.metadata_props["onnxmx.source"] for n in model.ir.graph])


attempt(net, x=("batch", 1, 8, 8))
attempt(net, x=("batch", 8, 8))
attempt(L.Sequential(L.Flatten(), L.Dense(3)), x=("batch", None, 8))
attempt(lambda x: -x, x=("batch", 1))
attempt(L.Sequential(Own()), x=("batch", 1))
attempt(L.Dense(3), x="abc")
"""


def test_the_users_line_is_on_nodes_and_in_errors(tmp_path: Path) -> None:
    (tmp_path / "user_model.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "user_model.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    lines = SCRIPT.splitlines()

    def at(code: str) -> str:
        return f"user_model.py:{1 + next(k for k, line in enumerate(lines) if code in line)}"

    conv, dense, relu = at("L.Conv2D(4, 3)"), at("    L.Dense("), at('L.Activation("relu")')
    assert run.stdout.splitlines() == [
        str([conv, dense, dense, relu]),  # a layer's own line, where its call begins
        conv,
        at("L.Flatten()"),
        str([at("lambda x: -x")]),
        at('"Transpose"'),
        at("build(*args"),
    ]
