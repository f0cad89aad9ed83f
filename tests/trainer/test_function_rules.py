"""Gradient rules of users' own functions: asked in the sweep, though a step holds what the functions are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.functions import KEPT
from onnxmx.builder.model import from_bytes
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff import RULES, refuse_gradient
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.step import initial_state

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABEL = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    rules, kept = dict(RULES), set(KEPT)
    yield
    RULES.clear()
    RULES.update(rules)
    KEPT.clear()
    KEPT.update(kept)


@mx.function(outputs=("y",))
def Sign(g: Any, x: Any, *, scale: float) -> Any:
    """y = scale sign(x)"""
    return g.mul(g.sign(x), scale)


@mx.function(outputs=("y",))
def Dropout(g: Any, x: Any) -> Any:
    """y = x / 2: a name that the product uses as well."""
    return g.mul(x, 0.5)


def straight_through(g: Any, node: Any, dy: Any) -> Any:
    """dx = dy scale where |x| < 1. Source: Hubara et al. 2016."""
    x = node.inputs[0]
    inside = g.cast_like(g.less(g.op("Abs", x), 1.0), x)
    return g.mul(g.mul(dy, inside), node.attributes["scale"].as_float())


def binary(x: Any) -> Any:
    return L.Dense(3, name="out")(Sign(x.builder, L.Dense(5, name="in")(x), scale=2.0))


def first_step(model: mx.Model) -> dict[str, Any]:
    """The gradients of the first step, by SGD with a rate of 1."""
    optimizer = mx.SGD(lr=1.0)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    proto = onnx.load_from_string(step.data)
    assert {n.domain for n in proto.graph.node} <= {"", "ai.onnxmx"}
    assert not {"Sign", "Halve"} & {f.name for f in proto.functions}
    state = initial_state(model, optimizer, 0)
    engine = OrtEngine(step, state, threads=1)
    engine.step({"x": X, "label": LABEL})
    return {name: state[name] - array for name, array in engine.state().items() if name in model.parameters()}


def expected(parameters: dict[str, Any]) -> dict[str, Any]:
    """The straight-through gradient in numpy."""
    z = X @ parameters["in.weight"] + parameters["in.bias"]
    s = 2 * np.sign(z)
    logits = s @ parameters["out.weight"] + parameters["out.bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    dlogits = (p - np.eye(3)[LABEL]) / len(X)
    dz = dlogits @ parameters["out.weight"].T * 2 * (np.abs(z) < 1)
    return {"in.weight": X.T @ dz, "in.bias": dz.sum(0), "out.weight": s.T @ dlogits, "out.bias": dlogits.sum(0)}


@pytest.mark.parametrize("loaded", [False, True])
def test_a_rule_for_a_function(loaded: bool) -> None:
    model = mx.build(binary, x=("batch", 4))
    model = from_bytes(model.to_bytes()) if loaded else model
    with pytest.raises(GradientError, match="does not depend on the parameter"):  # the sign alone has no gradient
        first_step(model)
    mx.gradient(Sign)(straight_through)
    found = first_step(model)
    for name, value in expected(model.parameters()).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6)
    slopes = mx.grad(model, of="output", wrt="x")
    assert not slopes.ir.functions
    dy = np.ones((6, 3), np.float32)
    w, v, z = (model.parameters()[n] for n in ("in.weight", "out.weight", "in.bias"))
    dz = dy @ v.T * 2 * (np.abs(X @ w + z) < 1)
    np.testing.assert_allclose(slopes(X, dy)["grad.x"], dz @ w.T, rtol=1e-4, atol=1e-6)


def test_a_refusal_of_a_function_is_heard() -> None:
    refuse_gradient("Sign", domain="ai.onnxmx", why="it jumps")
    with pytest.raises(GradientError, match=r"Sign in .* has no gradient: it jumps"):
        first_step(mx.build(binary, x=("batch", 4)))


def test_a_function_of_a_name_that_the_product_uses() -> None:
    """It has no rule of its own, so it is differentiated as what it is made of."""
    model = mx.build(lambda x: L.Dense(3)(Dropout(x.builder, L.Dense(4)(x))), x=("batch", 4))
    assert all(np.abs(v).max() > 0 for v in first_step(model).values())


def test_a_function_of_a_file_in_a_scan() -> None:
    """Of another domain, called within a step of a Scan and by another function; the rule gives twice the gradient."""
    here = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    halve = helper.make_function(
        "elsewhere", "Halve", ["a"], ["b"],
        [helper.make_node("Constant", [], ["half"], value_float=0.5), helper.make_node("Mul", ["a", "half"], ["b"])],
        here,
    )  # fmt: skip
    outer = helper.make_function(
        "elsewhere", "Outer", ["a"], ["b"], [helper.make_node("Halve", ["a"], ["b"], domain="elsewhere")], here
    )

    def port(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    body = helper.make_graph(
        [helper.make_node("Outer", ["row"], ["h"], domain="elsewhere"), helper.make_node("Add", ["s", "h"], ["s1"])],
        "body", [port("s", [3]), port("row", [3])], [port("s1", [3])],
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Scan", ["zero", "z"], ["total"], body=body, num_scan_inputs=1),
        helper.make_node("Add", ["z", "total"], ["y"]),
    ]
    w = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    arrays = {"w": w, "zero": np.zeros(3, np.float32)}
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", [port("x", ["n", 4])], [port("y", ["n", 3])], tensors)
    data = helper.make_model(graph, opset_imports=here, functions=[halve, outer], ir_version=10).SerializeToString()
    plain = first_step(from_bytes(data).freeze("zero"))["w"]

    @mx.gradient("Halve", domain="elsewhere")
    def whole(g: Any, node: Any, dy: Any) -> Any:
        return dy

    other = first_step(from_bytes(data).freeze("zero"))["w"]
    y = X @ w + (X @ w).sum(0) / 2
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    dy = (p - np.eye(3)[LABEL]) / len(X)
    np.testing.assert_allclose(plain, X.T @ (dy + dy.sum(0) / 2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other, X.T @ (dy + dy.sum(0)), rtol=1e-4, atol=1e-5)
