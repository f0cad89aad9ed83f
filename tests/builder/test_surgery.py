"""Surgery: what comes out is checked and computes what it should; the original stays; errors name the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmx.builder.layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Model, build, from_bytes
from onnxmx.errors import GraphError, OnnxmxError, OnnxmxWarning, ShapeError, UsageError
from onnxmx.trainer.engine.ort import OrtEngine
from onnxmx.trainer.optimizers import SGD
from onnxmx.trainer.step import compile_step, initial_state

NET = L.Sequential(
    L.Conv2D(2, 3, activation="relu"), L.BatchNorm(), L.MaxPool2D(2), L.Flatten(), L.Dense(5, activation="relu"),
    L.Dense(3),
).build(x=("batch", 1, 8, 8))  # fmt: skip
BYTES = NET.to_bytes()
X = np.random.default_rng(0).normal(size=(4, 1, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def the_original_stays() -> Any:
    yield
    assert NET.to_bytes() == BYTES


def checked(model: Model) -> Model:
    """The model after it was saved and loaded; every name in it is there once."""
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    nodes = [n.name for n in proto.graph.node]
    assert len(set(nodes)) == len(nodes)
    return from_bytes(proto.SerializeToString())


# --- fix
def test_an_input_that_is_always_the_same() -> None:
    model = build(lambda x, scale: x * scale, x=("batch", 3), scale=())
    fixed = checked(model.fix(scale=2))
    assert list(fixed.inputs) == ["x"]
    assert not fixed.parameters()
    np.testing.assert_array_equal(fixed(np.ones((2, 3), np.float32)), np.full((2, 3), 2.0))
    assert list(checked(model.fix(x=np.ones((4, 3)))).inputs) == ["scale"]
    for given in ([1.0, 2.0], "2", 1j):
        with pytest.raises(UsageError, match=r"input 'scale' expected float32 \(\); found"):
            model.fix(scale=given)
    with pytest.raises(UsageError, match="Did you mean 'scale'"):
        model.fix(scales=2.0)


# --- freeze
@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (("0",), ["1.weight", "1.bias", "4.weight", "4.bias", "5.weight", "5.bias"]),
        (("*.bias",), ["0.weight", "1.weight", "4.weight", "5.weight"]),
        (("[0-4].*", "5.bias"), ["5.weight"]),
        (("*",), []),
    ],
)
def test_freeze_by_pattern(patterns: tuple[str, ...], left: list[str]) -> None:
    frozen = checked(NET.freeze(*patterns))
    assert frozen.trainable == left
    assert list(frozen.parameters()) == list(NET.parameters())
    assert frozen.unfreeze("*").trainable == NET.trainable  # not the running statistics
    assert (frozen(X) == NET(X)).all()


def test_unfreeze_some() -> None:
    assert NET.freeze("*").unfreeze("5").trainable == ["5.weight", "5.bias"]


@pytest.mark.parametrize(
    ("frozen", "learned"),
    [
        (("0", "1", "4"), {"5.weight", "5.bias"}),
        (("0", "1.weight", "4"), {"1.bias", "1.running_mean", "1.running_var", "5.weight", "5.bias"}),
    ],
)
def test_training_leaves_what_is_frozen_alone(frozen: tuple[str, ...], learned: set[str]) -> None:
    model = NET.freeze(*frozen)
    optimizer = SGD(lr=0.1)
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    before = initial_state(model, optimizer, 0)
    engine = OrtEngine(step, before)
    engine.step({"x": X, "label": np.array([0, 1, 2, 0])})
    after = engine.state()
    moved = {name for name in model.parameters() if not np.array_equal(before[name], after[name])}
    assert moved == learned


def test_a_frozen_layer_gives_in_training_what_it_infers() -> None:
    model = NET.freeze("1").with_parameters({"1.running_mean": np.array([0.5, -1.0])})
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=SGD(lr=0.1))
    labels = np.array([0, 1, 2, 0])
    measured = OrtEngine(step, initial_state(model, SGD(lr=0.1), 0)).step({"x": X, "label": labels})["loss"]
    logits = model(X).astype(np.float64)
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(4), labels]
    np.testing.assert_allclose(measured, expected.mean(), rtol=1e-5)


# --- cut and head
def test_cut_at_a_value_and_at_a_layer() -> None:
    for place in ("4", "4.Relu"):
        part = checked(NET.cut(place))
        assert list(part.outputs) == ["4.Relu"]
        assert "5.weight" not in part.parameters()
        assert part.trainable == NET.trainable[:-2]
        w = NET.parameters()
        np.testing.assert_allclose(part(X) @ w["5.weight"] + w["5.bias"], NET(X), rtol=1e-5, atol=1e-6)


def test_cut_leaves_out_inputs_that_nothing_reads() -> None:
    model = build(lambda a, b: {"sum": a + b, "twice": a * 2.0}, a=("n", 2), b=("n", 2))
    assert list(model.cut("twice").inputs) == ["a"]


def test_cut_at_several_values() -> None:
    part = checked(NET.cut("4", "3", "4"))
    assert list(part.outputs) == ["4.Relu", "3.Flatten"]
    for name, y in part(X).items():
        np.testing.assert_array_equal(y, NET.cut(name)(X))


def test_a_new_head() -> None:
    model = checked(NET.freeze("0").replace_head("3", L.Sequential(L.Dense(7, activation="tanh"), L.Dense(2))))
    assert list(model.outputs) == ["output"]
    assert model.outputs["output"].shape == ("batch", 2)
    assert model.trainable == ["1.weight", "1.bias", *(f"head.{k}.{p}" for k in (0, 1) for p in ("weight", "bias"))]
    w = model.parameters()
    hidden = np.tanh(NET.cut("3")(X) @ w["head.0.weight"] + w["head.0.bias"])
    np.testing.assert_allclose(model(X), hidden @ w["head.1.weight"] + w["head.1.bias"], rtol=1e-5, atol=1e-6)
    again = checked(model.replace_head("head.0", L.Dense(4, name="head")))  # a name that is taken
    assert again.outputs["output"].shape == ("batch", 4)
    assert "head_1.weight" in again.trainable


def test_a_head_on_the_layer_that_makes_the_logits_is_warned_of() -> None:
    says = r"on top of 5, .* name what it reads: replace_head\('4.Relu', \.\.\.\); .* replace_head\('output', \.\.\.\)"
    with pytest.warns(OnnxmxWarning, match=says) as found:
        stacked = NET.replace_head("5", L.Dense(2))
    assert found[0].filename == __file__
    assert list(stacked.parameters()) == list(NET.replace_head("output", L.Dense(2)).parameters())
    assert not {"5.weight", "5.bias"} & set(NET.replace_head("4.Relu", L.Dense(2)).parameters())
    NET.cut("4").replace_head("4", L.Dense(2))  # features, of which a head is asked


def test_a_head_on_the_output_itself_and_of_a_function() -> None:
    model = checked(NET.replace_head("output", lambda y: y * 2.0))
    assert list(model.outputs) == ["output"]
    np.testing.assert_allclose(model(X), 2 * NET(X), rtol=1e-6)


# --- insert
def test_insert_a_layer() -> None:
    model = checked(NET.insert("4", L.Activation("tanh")))
    w = NET.parameters()
    expected = np.tanh(NET.cut("4")(X)) @ w["5.weight"] + w["5.bias"]
    np.testing.assert_allclose(model(X), expected, rtol=1e-5, atol=1e-6)
    doubled = checked(NET.insert("output", lambda y: y + y))
    np.testing.assert_allclose(doubled(X), 2 * NET(X), rtol=1e-6)
    normed = checked(NET.insert("x", L.BatchNorm(name="norm")))
    assert "norm.weight" in normed.trainable
    assert "norm.running_mean" in set(normed.parameters()) - set(normed.trainable)
    np.testing.assert_allclose(normed(X), NET(X), rtol=1e-3, atol=1e-4)


def test_what_is_inserted_must_fit() -> None:
    with pytest.raises(ShapeError, match="expected shapes that fit each other"):
        NET.insert("4", L.Dense(6))


# --- merge
def test_merge_two_models() -> None:
    head = L.Sequential(L.Dense(4, activation="relu"), L.Dense(2)).build(seed=1, features=("n", 3))
    model = checked(NET.merge(head, {"output": "features"}, prefix="head"))
    assert list(model.inputs) == ["x"]
    np.testing.assert_allclose(model(X), head(NET(X)), rtol=1e-5, atol=1e-6)
    assert model.trainable == [*NET.trainable, *(f"head.{name}" for name in head.trainable)]
    same_names = checked(NET.merge(head, {"output": "features"}))
    np.testing.assert_allclose(same_names(X), head(NET(X)), rtol=1e-5, atol=1e-6)
    assert "0.weight_1" in same_names.trainable


def test_merge_keeps_other_inputs_and_outputs() -> None:
    first = build(lambda x: {"a": x + 1.0, "b": x * 2.0}, x=("n", 2))
    second = build(lambda x, y: {"c": x - y, "d": y + 1.0}, x=("n", 2), y=("n", 2))
    model = checked(first.merge(second, {"b": "y"}))
    assert (list(model.inputs), list(model.outputs)) == (["x", "x_1"], ["a", "c", "d"])
    found = model(np.ones((1, 2)), np.full((1, 2), 5.0))
    assert {name: v[0, 0] for name, v in found.items()} == {"a": 2, "c": 3, "d": 3}


def test_merge_of_what_does_not_fit() -> None:
    other = build(lambda x: x + 1.0, x=("n", 7))
    with pytest.raises(ShapeError, match=r"'x' expected float32 \(n, 7\); found float32 \(batch, 3\) of 'output'"):
        NET.merge(other, {"output": "x"})


# --- rename
def test_rename() -> None:
    model = checked(NET.rename({"x": "image", "output": "logits", "5.weight": "head.w"}))
    assert (list(model.inputs), list(model.outputs)) == (["image"], ["logits"])
    assert model.trainable == [name.replace("5.weight", "head.w") for name in NET.trainable]
    np.testing.assert_array_equal(model(image=X), NET(X))
    swapped = checked(NET.rename({"4.bias": "5.bias", "5.bias": "4.bias"}))
    assert swapped.parameters()["4.bias"].shape == (3,)
    np.testing.assert_array_equal(swapped(X), NET(X))


# --- sizes
def fixed(*nodes: onnx.NodeProto, x: tuple[int, ...], **constants: Any) -> Model:
    """A file of an exporter that writes its batch of 1 everywhere."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=8)
    return from_bytes(onnx.shape_inference.infer_shapes(proto).SerializeToString())


WEIGHT = np.random.default_rng(1).normal(size=(12, 12)).astype(np.float32)


@pytest.mark.parametrize("written", [{}, {"allowzero": 0}, {"allowzero": 1}], ids=["plain", "0", "as PyTorch does"])
def test_a_fixed_batch_becomes_symbolic(written: dict[str, int]) -> None:
    """Reshapes to (1, 12), (1, 3, 4) and (1, -1) one after the other, each of which hides the batch from the next."""
    model = fixed(
        helper.make_node("Reshape", ["x", "to"], ["flat"], **written),
        helper.make_node("MatMul", ["flat", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "image"], ["i"]),
        helper.make_node("Transpose", ["i"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["t", "rest"], ["y"]),
        x=(1, 3, 4), to=[1, 12], w=WEIGHT, image=[1, 3, 4], rest=[1, -1],
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    free = checked(model.resize(x=("batch", 3, 4)))
    assert free.outputs["y"].shape is not None
    assert len(free.outputs["y"].shape) == 2
    np.testing.assert_allclose(free(x), np.concatenate([model(x[k : k + 1]) for k in range(5)]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("perm", "to"),
    [((1, 0, 2), [1, -1]), ((1, 0, 2), [3, 4]), ((0, 1, 2), [12]), ((0, 1, 2), [3, 4]), ((1, 0, 2), [2, 1, -1])],
    ids=["rest", "all", "gone", "no batch", "other sizes before it"],
)
def test_a_batch_that_cannot_be_freed(perm: tuple[int, ...], to: list[int]) -> None:
    model = fixed(
        helper.make_node("Transpose", ["x"], ["t"], perm=perm),
        helper.make_node("Reshape", ["t", "to"], ["y"]),
        x=(1, 3, 4), to=to,
    )  # fmt: skip
    with pytest.raises(ShapeError, match="expected to follow the dimension 'batch'; found the old size 1"):
        model.resize(x=("batch", 3, 4))


def test_a_new_axis_beside_a_free_batch() -> None:
    model = fixed(helper.make_node("Reshape", ["x", "to"], ["y"]), x=(1, 3, 4), to=[-1, 1, 12])
    assert checked(model.resize(x=("batch", 3, 4)))(np.zeros((5, 3, 4))).shape == (5, 1, 12)


def test_another_image_size() -> None:
    net = L.Sequential(L.Conv2D(2, 3), L.GlobalAvgPool2D(), L.Dense(3)).build(x=("batch", 1, 8, 8))
    larger = checked(net.resize(x=("batch", 1, 32, 24)))
    assert larger.cut("0").outputs["0.Conv"].shape == ("batch", 2, 30, 22)
    assert larger(np.zeros((2, 1, 32, 24))).shape == (2, 3)
    with pytest.raises(ShapeError, match="expected shapes that fit each other"):
        NET.resize(x=("batch", 1, 9, 12))


# --- errors
BAD: dict[str, tuple[Callable[[], Any], type[OnnxmxError], str]] = {
    "freeze": (lambda: NET.freeze("5.weigth"), UsageError, "no parameter named '5.weigth'.*Did you mean '5.weight'"),
    "unfreeze": (lambda: NET.unfreeze("1.running_mean"), UsageError, "no parameter named '1.running_mean'"),
    "cut": (lambda: NET.cut("4.Rellu"), UsageError, "no value or layer named '4.Rellu'.*Did you mean '4.Relu'"),
    "cut the input": (lambda: NET.cut("x"), GraphError, "value that the model computes; found its input 'x'"),
    "head": (lambda: NET.replace_head("3.Flaten", L.Dense(2)), UsageError, "Did you mean '3.Flatten'"),
    "head class": (lambda: NET.replace_head("3", L.Dense), UsageError, "expected a layer or a function"),  # type: ignore[arg-type]
    "head model": (lambda: NET.replace_head("3", NET), UsageError, "put two models together with merge"),  # type: ignore[arg-type]
    "head of nothing": (lambda: NET.replace_head("3", nothing), GraphError, "return a graph value; found None"),
    "insert": (lambda: NET.insert("2.MaxPol", L.Flatten()), UsageError, "Did you mean '2.MaxPool'"),
    "rename": (lambda: NET.rename({"5.weights": "w"}), UsageError, "Did you mean '5.weight'"),
    "rename taken": (lambda: NET.rename({"x": "5.weight"}), UsageError, "names that are free; found '5.weight'"),
    "rename empty": (lambda: NET.rename({"x": ""}), UsageError, "names that are free; found ''"),
    "merge output": (lambda: NET.merge(NET, {"outptu": "x"}), UsageError, "no output named.*Did you mean 'output'"),
    "merge input": (lambda: NET.merge(NET, {"output": "y"}), UsageError, "no input named 'y'"),
    "resize": (lambda: NET.resize(xx=("b", 1, 8, 8)), UsageError, "no input named 'xx'"),
    "resize rank": (lambda: NET.resize(x=("b", 1, 8)), UsageError, r"as many .* as \(batch, 1, 8, 8\) has"),
    "resize size": (lambda: NET.resize(x=("b", 1, 8, 0)), UsageError, "positive integers or names"),
    "resize text": (lambda: NET.resize(x="batch"), UsageError, "found 'batch'"),
}


def nothing(x: Value) -> Value:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize("name", BAD)
def test_errors(name: str) -> None:
    write, error, says = BAD[name]
    with pytest.raises(error, match=f"(?s){says}") as caught:
        write()
    assert caught.value.at is not None
    assert caught.value.at.startswith("tests/builder/test_surgery.py:")
