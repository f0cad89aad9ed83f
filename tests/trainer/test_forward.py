"""A model's graph as it trains: dropout, batch statistics, activations behind their pool, files made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.model import from_bytes
from onnxmx.builder.ops import INT64
from onnxmx.builder.session import open_session
from onnxmx.errors import GradientError, GraphError
from onnxmx.trainer.forward import Training, copy_model
from onnxmx.trainer.step import initial_state, trainable_of
from tests.trainer.nets import batch_for, feeds

Array = np.ndarray[Any, Any]


def training_form(model: mx.Model, **extra: Any) -> onnx.ModelProto:
    """The model's training form as a graph of its own, its parameters constants."""
    g = GraphBuilder()
    values = {p.name: g.input(p.name, p.shape or ()) for p in model.inputs.values()}
    training = Training(g.input("seed", (), INT64), g.input("step", (), INT64))
    arrays = {name: g.constant(a) for name, a in model.parameters().items()}
    for name, value in copy_model(g, model, values | arrays, training).items():
        g.output(value, name)
    for name, value in training.running.items():
        g.output(value, f"next.{name}")
    proto: onnx.ModelProto = ir.to_proto(g.model())
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: onnx.ModelProto, x: Array, seed: int = 0, step: int = 0) -> dict[str, Array]:
    names = [o.name for o in proto.graph.output]
    values = {"x": x, "seed": np.array(seed), "step": np.array(step)}
    return dict(zip(names, open_session(proto.SerializeToString(), threads=1).run(names, values), strict=True))


# --- dropout
ONES = np.ones((64, 500), np.float32)


def dropped(*ratios: float, seed: int = 0, step: int = 0) -> list[Array]:
    """The masks of dropout nodes side by side, as ones come out of them."""

    def net(x: Any) -> Any:
        return {f"y{k}": L.Dropout(r)(x) for k, r in enumerate(ratios)}

    return list(run(training_form(mx.build(net, x=("batch", 500))), ONES, seed, step).values())


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_dropout_statistics(ratio: float) -> None:
    (y,) = dropped(ratio)
    np.testing.assert_allclose(np.unique(y), [0.0, np.float32(1 / (1 - ratio))], rtol=1e-6)
    kept = (y > 0).mean()
    # 32,000 draws: five standard deviations are 5 sqrt(r (1 - r) / 32000) <= 0.014.
    assert kept == pytest.approx(1 - ratio, abs=0.014)
    assert y.mean() == pytest.approx(1.0, abs=0.014 / (1 - ratio))
    for axis in (0, 1):  # no row or column stands out
        means = (y > 0).mean(axis)
        deviation = np.sqrt(ratio * (1 - ratio) / y.shape[axis])
        assert np.abs(means - (1 - ratio)).max() < 5 * deviation
        assert means.std() == pytest.approx(deviation, rel=0.4)


def test_streams_are_independent() -> None:
    masks = [y > 0 for y in dropped(0.5, 0.5, 0.5)]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (masks[a] == masks[b]).mean() == pytest.approx(0.5, abs=0.014)


def test_masks_depend_on_seed_and_step_alone() -> None:
    first = dropped(0.5, seed=1, step=2)[0]
    np.testing.assert_array_equal(first, dropped(0.5, seed=1, step=2)[0])
    for seed, step in ((1, 3), (2, 2), (2, 1), (0, 0)):
        other = dropped(0.5, seed=seed, step=step)[0]
        assert ((first > 0) == (other > 0)).mean() == pytest.approx(0.5, abs=0.014)


def test_a_ratio_of_zero_draws_nothing() -> None:
    model = mx.build(lambda x: L.Dropout(0.0)(x) * 1.0, x=("batch", 500))
    assert [n.op_type for n in training_form(model).graph.node] == ["Mul"]


def test_dropout_passes_on_at_inference() -> None:
    np.testing.assert_array_equal(L.Dropout(0.5).build(x=("batch", 500))(ONES), ONES)


# --- batch normalization
@pytest.mark.parametrize("shape", [(8, 3, 4, 5), (8, 3)])
def test_batch_norm_uses_and_keeps_statistics(shape: tuple[int, ...]) -> None:
    model = L.BatchNorm(momentum=0.7, epsilon=1e-3).build(x=("batch", *shape[1:]))
    random = np.random.default_rng(0)
    weight, bias, mean, var = (random.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4))
    model = model.with_parameters({"weight": weight, "bias": bias, "running_mean": mean, "running_var": var})
    x = (3 + 2 * random.normal(size=shape)).astype(np.float32)
    axes = tuple(k for k in range(len(shape)) if k != 1)
    column = (slice(None), *[None] * (len(shape) - 2))
    found = run(training_form(model), x)
    batch_mean, batch_var = x.mean(axes, dtype=np.float64), x.var(axes, dtype=np.float64)
    expected = (x - batch_mean[column]) / np.sqrt(batch_var[column] + 1e-3) * weight[column] + bias[column]
    np.testing.assert_allclose(found["output"], expected, atol=1e-5)
    np.testing.assert_allclose(found["next.running_mean"], 0.7 * mean + 0.3 * batch_mean, rtol=1e-5)
    np.testing.assert_allclose(found["next.running_var"], 0.7 * var + 0.3 * batch_var, rtol=1e-5)


def test_a_layer_called_twice_moves_its_statistics_twice() -> None:
    norm = L.BatchNorm(momentum=0.5)
    model = mx.build(lambda x: norm(norm(x) + 4.0), x=("batch", 2))
    found = run(training_form(model), np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32))
    mean = found[next(n for n in found if n.endswith("running_mean"))]
    # Zero at first, then half of x's mean, then half of that and half of the second call's mean, which is 4.
    assert mean == pytest.approx([2.0, 2.0], abs=0.5)
    assert np.all(mean != 2.0)


# --- activations behind their pool
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "softplus", "elu", "gelu", "leaky_relu", "silu"])
@pytest.mark.parametrize("pool", [L.MaxPool2D(2), L.MaxPool2D(3, stride=2, padding=1)], ids=["tiles", "overlapping"])
def test_training_form_equals_inference_form(activation: str, pool: L.Layer) -> None:
    model = mx.build(lambda x: pool(L.Activation(activation)(x)), x=("batch", 2, 8, 8))
    proto = training_form(model)
    order = [n.op_type for n in proto.graph.node]
    moved = activation in ("relu", "sigmoid", "tanh", "softplus", "elu")
    assert (order[0] == "MaxPool") == moved
    x = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    x[0] = np.round(x[0])  # ties
    x[1] = -np.abs(x[1])  # windows of negative numbers alone
    np.testing.assert_allclose(run(proto, x)["output"], model(x), rtol=1e-6, atol=1e-7)


def pooled_twice(x: Any) -> Any:
    y = L.relu(x)
    return L.MaxPool2D(2)(y) + L.AvgPool2D(2)(y)


def falling_elu(x: Any) -> Any:
    return L.MaxPool2D(2)(x.builder.op("Elu", x, alpha=-1.0))


@pytest.mark.parametrize("net", [pooled_twice, falling_elu])
def test_what_must_stay_before_its_pool_stays(net: Callable[[Any], Any]) -> None:
    model = mx.build(net, x=("batch", 2, 8, 8))
    proto = training_form(model)
    assert proto.graph.node[0].op_type in ("Relu", "Elu")
    x = np.random.default_rng(0).normal(size=(3, 2, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(proto, x)["output"], model(x), rtol=1e-6)


# --- files made elsewhere
def file(
    nodes: list[Any], arrays: dict[str, Array], *, functions: Any = (), opsets: Any = (("", 20),), **kind: Any
) -> mx.Model:
    """An ONNX file as another tool writes it: (batch, 4) -> (batch, 3), without a word on what is trainable."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    inputs = [x]
    if kind.get("listed"):  # as files before IR 4 do
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    graph = helper.make_graph(nodes, "g", inputs, [y], tensors)
    imports = [helper.make_opsetid(*o) for o in opsets]
    proto = helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)
    return from_bytes(proto.SerializeToString())


W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
node = helper.make_node


def learns(model: mx.Model) -> dict[str, Array]:
    """Forty steps; returns the parameters after them. The loss must fall."""
    optimizer = mx.SGD(lr=0.1, momentum=0.9)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    names, state, losses = [p["name"] for p in step.spec["outputs"]], initial_state(model, optimizer, 0), []
    session, batch = open_session(step.data, threads=1), batch_for(model, 16)
    for _ in range(40):
        out = dict(zip(names, session.run(names, feeds(batch, state)), strict=True))
        state = {n.removeprefix("next."): v for n, v in out.items() if n.startswith("next.")}
        losses.append(out["loss"])
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.01
    return state


def test_scalars_of_a_foreign_file_are_left_alone() -> None:
    half, ratio = np.array(0.5, np.float32), np.array(0.25, np.float32)
    model = file(
        [node("Dropout", ["x", "ratio"], ["d"]), node("MatMul", ["d", "w"], ["z"]), node("Mul", ["z", "half"], ["y"])],
        {"w": W, "half": half, "ratio": ratio},
    )
    assert trainable_of(model) == ["w"]
    state = learns(model)
    assert set(state) == {"w", "w.m", "step", "seed"}
    assert not np.array_equal(state["w"], W)


def test_initializers_listed_among_the_inputs() -> None:
    model = file(
        [node("MatMul", ["x", "w"], ["z"]), node("Reshape", ["z", "shape"], ["y"])],
        {"w": W, "shape": np.array([-1, 3])},
        listed=True,
    )
    learns(model)


def test_functions_of_a_file_are_opened() -> None:
    function = helper.make_function(
        "elsewhere", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    model = file(
        [node("MatMul", ["x", "w"], ["z"]), node("Twice", ["z"], ["y"], domain="elsewhere")],
        {"w": W},
        functions=[function],
        opsets=(("", 20), ("elsewhere", 1)),
    )
    learns(model)


def test_a_function_of_ones_own_gets_its_gradient_for_nothing() -> None:
    @mx.function(outputs=("y",))
    def Swish(g: Any, x: Any, *, beta: float) -> Any:
        """y = x sigmoid(beta x)"""
        return g.mul(x, g.op("Sigmoid", g.mul(x, beta)))

    swish = L.Sequential(L.Dense(5, activation=lambda v: Swish(v.builder, v, beta=1.5)), L.Dense(3))
    model = swish.build(x=("batch", 4))
    state = learns(model)
    assert "Swish" in {n.op_type for n in model.ir.graph}  # the model itself stays as it was
    assert not any(np.array_equal(state[n], a) for n, a in model.parameters().items())


ONE, ZERO = np.ones(3, np.float32), np.zeros(3, np.float32)
NORMALIZED = [
    ([], ("one", "zero", "zero", "one")),
    ([node("Identity", ["zero"], ["m"]), node("Identity", ["one"], ["v"])], ("one", "zero", "m", "v")),
]


@pytest.mark.parametrize(("before", "names"), NORMALIZED, ids=["shared", "through Identity"])
def test_running_statistics_are_numbers_of_their_own(before: list[Any], names: tuple[str, ...]) -> None:
    nodes = [*before, node("MatMul", ["x", "w"], ["z"]), node("BatchNormalization", ["z", *names], ["y"])]
    model = file(nodes, {"w": W, "one": ONE, "zero": ZERO})
    assert trainable_of(model) == ["w", "one", "zero"]
    state = learns(model)
    for name, start in (("one", ONE), ("zero", ZERO), ("one.var", ONE), ("zero.mean", ZERO)):
        assert not np.array_equal(state[name], start)
    assert not np.array_equal(state["one"], state["one.var"])
    assert not np.array_equal(state["zero"], state["zero.mean"])


def test_a_layer_of_a_file_called_twice_has_one_set_of_statistics() -> None:
    statistics = ["s", "b", "m", "v"]
    nodes = [
        node("MatMul", ["x", "w"], ["z"]),
        node("BatchNormalization", ["z", *statistics], ["n"]),
        node("BatchNormalization", ["n", *statistics], ["y"]),
    ]
    model = file(nodes, {"w": W, "s": ONE, "b": ZERO, "m": ZERO, "v": ONE})
    assert trainable_of(model) == ["w", "s", "b"]
    state = learns(model)
    assert set(model.parameters()) == {"w", "s", "b", "m", "v"}
    assert not np.array_equal(state["m"], ZERO)


UNTRAINABLE = [
    ([node("MatMul", ["x", "w"], ["z"]), node("FusedThing", ["z"], ["y"], domain="com.other")], {"w": W},
     (("", 20), ("com.other", 1)), GraphError, r"operators of ai\.onnx; found com\.other\.FusedThing"),
    ([node("MatMul", ["x", "w"], ["z"]), node("Dropout", ["z"], ["d", "m"]), node("Where", ["m", "d", "z"], ["y"])],
     {"w": W}, (("", 20),), GraphError, "which Dropout does not give in training"),
    ([node("MatMul", ["x", "w"], ["z"]), node("ReduceMax", ["z"], ["r"], keepdims=0),
      node("Dropout", ["z", "r"], ["y"])], {"w": W}, (("", 20),), GraphError, "a constant ratio; found a computed"),
    ([node("MatMul", ["x", "w"], ["z"]), node("Hardmax", ["z"], ["y"])],
     {"w": W}, (("", 20),), GradientError, "the loss does not depend on the parameter 'w'"),
    ([node("MatMul", ["x", "w"], ["z"]), node("Exp", ["b"], ["v"]),
      node("BatchNormalization", ["z", "b", "b", "b", "v"], ["y"])],
     {"w": W, "b": ONE}, (("", 20),), GraphError, "running statistics that are initializers; found 'v'"),
    ([node("Cast", ["x"], ["c"], to=11), node("MatMul", ["c", "w"], ["z"]), node("Cast", ["z"], ["y"], to=1)],
     {"w": W.astype(np.float64)}, (("", 20),), GradientError, "no trainable parameter of type float32"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "arrays", "opsets", "error", "text"), UNTRAINABLE, ids=[r[4] for r in UNTRAINABLE])
def test_what_cannot_be_trained(nodes: Any, arrays: Any, opsets: Any, error: type[Exception], text: str) -> None:
    model = file(nodes, arrays, opsets=opsets)
    with pytest.raises(error, match=text):
        mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD())


def test_a_deep_model() -> None:
    """As many nodes as a large network has: no recursion, no step that grows with the square of the depth."""
    model = mx.build(lambda x: L.Dense(3)(deep(x, 600)), x=("batch", 4))
    learns(model)


def deep(x: Any, depth: int) -> Any:
    for _ in range(depth):
        x = L.tanh(x) + x * 0.5
    return x
