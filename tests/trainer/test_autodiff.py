"""The sweep and its registry: what they do with graphs, and what they say when there is no gradient."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GradientError, UsageError
from onnxmx.trainer.autodiff import RULES, gradient, gradients, refuse_gradient, zero_gradient
from onnxmx.trainer.autodiff.registry import Refusal, rule_for
from tests.trainer.nets import run_graph

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def derivative(make: Any, x: Array = X) -> Array:
    """d sum(make(x)) / dx, on ONNX Runtime."""

    def build(g: GraphBuilder) -> Any:
        v = g.input("x", x.shape)
        (dx,) = gradients(g, g.reduce_sum(make(g, v), keepdims=False), [v])
        assert dx is not None
        return dx

    return run_graph(build, x=x)[0]


@pytest.fixture
def registry() -> Iterator[None]:
    """The registry as it is, whatever a test puts into it."""
    kept = dict(RULES)
    yield
    RULES.clear()
    RULES.update(kept)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda g, x: x + x + x, np.full_like(X, 3)),
        (lambda g, x: x * x * x, 3 * X**2),
        (lambda g, x: (x * 2.0) * (x * 3.0) + x, 12 * X + 1),
        (lambda g, x: g.sum(x, x, g.sin(x), x), 3 + np.cos(X)),
        (lambda g, x: x * g.cast(g.greater(x, 0.0), x.dtype), (X > 0).astype(np.float32)),  # through the mask: nothing
        (lambda g, x: x * g.op("Floor", x), np.floor(X)),
        (lambda g, x: x - g.reduce_mean(x), np.zeros_like(X)),
        (lambda g, x: g.reshape(x, g.op("Shape", g.transpose(x, [1, 0]))) * 2.0, np.full_like(X, 2)),
    ],
)
def test_values_that_are_read_often(make: Any, expected: Array) -> None:
    np.testing.assert_allclose(derivative(make), expected, rtol=1e-5, atol=1e-6)


def test_what_it_does_not_depend_on_has_no_gradient() -> None:
    g = GraphBuilder()
    x, y, z = (g.input(n, (2,)) for n in "xyz")
    aside = g.exp(y)  # computed, but the loss does not read it
    dx, dy, dz, d_aside = gradients(g, g.reduce_sum(x * g.op("Floor", z), keepdims=False), [x, y, z, aside])
    assert dx is not None
    assert dy is dz is d_aside is None


def test_gradients_of_what_lies_between() -> None:
    """A gradient may be taken with respect to any value, the loss itself among them."""

    def build(g: GraphBuilder) -> Any:
        x = g.input("x", X.shape)
        y = g.exp(x)
        loss = g.reduce_sum(y * y, keepdims=False)
        return gradients(g, loss, [y, loss, x])

    dy, dloss, dx = run_graph(build, x=X)
    np.testing.assert_allclose(dy, 2 * np.exp(X), rtol=1e-5)
    np.testing.assert_allclose(dx, 2 * np.exp(X) ** 2, rtol=1e-5)
    assert dloss == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda g, x: g.gemm(x, np.ones((3, 2), np.float32)),
        lambda g, x: g.gemm(x, np.ones((3, 2), np.float32), np.ones(2, np.float32)),
        lambda g, x: g.reduce_sum(x),
        lambda g, x: g.op("Squeeze", g.unsqueeze(x, [0])),
    ],
    ids=["Gemm without C", "Gemm with C", "ReduceSum without axes", "Squeeze without axes"],
)
def test_inputs_left_out(make: Any) -> None:
    assert derivative(make).shape == X.shape


def test_a_branch_of_which_the_loss_reads_one_output() -> None:
    def build(g: GraphBuilder) -> Any:
        x = g.input("x", (1, 1, 4))
        y, _indices = g.ops("MaxPool", x, outputs=2, kernel_shape=[2], strides=[2])
        return gradients(g, g.reduce_sum(y, keepdims=False), [x])[0]

    (dx,) = run_graph(build, x=np.array([[[1.0, 2.0, 4.0, 3.0]]], np.float32))
    np.testing.assert_array_equal(dx, [[[0, 1, 1, 0]]])


@pytest.mark.parametrize("shape", [(2, 2), (1,)])
def test_only_scalars(shape: tuple[int, ...]) -> None:
    g = GraphBuilder()
    x = g.input("x", shape)
    with pytest.raises(GradientError, match="taken of a scalar; found"):
        gradients(g, g.exp(x), [x])


def scalar_of(g: GraphBuilder, y: Value) -> Value:
    return g.reduce_sum(y, keepdims=False)


def test_an_operator_without_a_rule(registry: None) -> None:
    del RULES["Hardmax"]
    g = GraphBuilder()
    x = g.input("x", (2, 3))
    y = g.op("Hardmax", x)
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    with pytest.raises(GradientError, match=r"no gradient rule for 'Hardmax'.*, needed by 'Hardmax'") as caught:
        gradients(g, scalar_of(g, y), [x])
    assert caught.value.at == f"tests/trainer/{Path(__file__).name}:{line}"
    assert "onnxmx/trainer/autodiff/rules/" in (caught.value.mend or "")


def test_an_operator_with_a_neighbour(registry: None) -> None:
    del RULES["Tan"]
    g = GraphBuilder()
    x = g.input("x", (2, 3))
    with pytest.raises(GradientError, match=r"no gradient rule for 'Tan' \(nearest: 'Tanh'\)"):
        gradients(g, scalar_of(g, g.op("Tan", x)), [x])


def test_an_operator_without_a_rule_off_the_way_is_no_matter(registry: None) -> None:
    del RULES["Hardmax"]
    np.testing.assert_array_equal(derivative(lambda g, x: x + g.op("Hardmax", np.ones((2, 3), np.float32))), X * 0 + 1)


def test_refused_operators(registry: None) -> None:
    refuse_gradient("Hardmax", why="it jumps", replace=True)
    g = GraphBuilder()
    x = g.input("x", (2, 3))
    y = g.op("Hardmax", x)
    with pytest.raises(GradientError, match=r"Hardmax in 'Hardmax' has no gradient: it jumps") as caught:
        gradients(g, scalar_of(g, y), [x])
    assert "test_autodiff.py:" in (caught.value.at or "")


def test_every_refusal_says_why() -> None:
    assert all(rule.why for rule in RULES.values() if isinstance(rule, Refusal))


def test_a_rule_of_ones_own(registry: None) -> None:
    @gradient("HardSigmoid", replace=True)
    def hard_sigmoid(g: GraphBuilder, node: Any, dy: Value) -> Value:
        """dx = 0.2 dy where 0 < y < 1"""
        y = node.outputs[0]
        inside = g.op("And", g.greater(y, 0.0), g.less(y, 1.0))
        return g.mul(dy, g.mul(g.cast_like(inside, y), 0.2))

    x = np.array([[-9.0, 0.5, 9.0]], np.float32)
    np.testing.assert_allclose(derivative(lambda g, v: g.op("HardSigmoid", v), x), [[0, 0.2, 0]], rtol=1e-6)


def test_a_second_rule_is_an_error_that_names_both(registry: None) -> None:
    kept = RULES["Exp"]

    def other(g: GraphBuilder, node: Any, dy: Value) -> Value:
        return dy

    with pytest.raises(
        UsageError, match=r"'Exp' expected one gradient rule; found exp \(.*\) and .*other \("
    ) as caught:
        gradient("Exp")(other)
    assert "replace=True" in str(caught.value.mend)
    assert "test_autodiff.py:" in (caught.value.at or "")
    with pytest.raises(UsageError, match="and a gradient of zero"):
        zero_gradient("Exp")
    with pytest.raises(UsageError, match=r"found a gradient of zero and a refusal \(no\)"):
        refuse_gradient("Floor", why="no")
    assert RULES["Exp"] is kept
    gradient("Exp", replace=True)(other)
    assert RULES["Exp"] is other


def test_a_rule_that_is_defined_once_more(registry: None) -> None:
    """A cell of a notebook that is run again."""
    made = []
    for _ in range(2):

        @gradient("Mine", domain="here")
        def rule(g: GraphBuilder, node: Any, dy: Value) -> Value:
            return dy

        made.append(rule)
    assert RULES["here.Mine"] is made[1]


def test_each_domain_has_rules_of_its_own(registry: None) -> None:
    kept = RULES["Gelu"], RULES["Relu"], RULES["Tanh"]
    gradient("Gelu", domain="com.microsoft")(lambda g, node, dy: dy)
    zero_gradient("Relu", domain="com.microsoft")
    refuse_gradient("Tanh", domain="com.microsoft", why="it is another")
    assert (RULES["Gelu"], RULES["Relu"], RULES["Tanh"]) == kept
    assert {f"com.microsoft.{name}" for name in ("Gelu", "Relu", "Tanh")} < set(RULES)
    assert rule_for(ir.Node("ai.onnx", "Gelu", [])) is kept[0]


@function(outputs=("product", "sum"))
def ProductAndSum(g: GraphBuilder, a: ir.Value, b: ir.Value, *, factor: ir.Value) -> tuple[Value, Value]:
    """product = factor a b;  sum = sum(exp(a), axis -1) + b"""
    return g.mul(g.mul(a, b), factor), g.add(g.reduce_sum(g.exp(a), [-1]), b)


def test_a_function_without_a_rule_is_differentiated_as_what_it_is_made_of() -> None:
    both = derivative(lambda g, x: g.add(*ProductAndSum(g, x, 2.0, factor=3.0)))
    np.testing.assert_allclose(both, 6.0 + 3 * np.exp(X), rtol=1e-6)
    product = derivative(lambda g, x: ProductAndSum(g, x, g.mul(x, x), factor=3.0)[0])
    np.testing.assert_allclose(product, 9.0 * X**2, rtol=1e-5)
    one = derivative(lambda g, x: ProductAndSum(g, x, x, factor=0.5)[0])
    np.testing.assert_allclose(one, X, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1), (4, 4)])
def test_two_unknown_sizes_may_differ(sizes: tuple[int, int]) -> None:
    """What is stretched at run time gets its own shape back, though both sizes are written as None."""

    def build(g: GraphBuilder) -> Any:
        a, b = g.input("a", (None, 3)), g.input("b", (None, 3))
        return gradients(g, g.reduce_sum(a * b, keepdims=False), [a, b])

    a, b = (np.arange(3 * n, dtype=np.float32).reshape(n, 3) for n in sizes)
    da, db = run_graph(build, a=a, b=b)
    ones = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(da, (ones * b).sum(0, keepdims=True) if len(a) == 1 else ones * b)
    np.testing.assert_array_equal(db, (ones * a).sum(0, keepdims=True) if len(b) == 1 else ones * a)


ONES = np.ones((1, 1, 3, 3), np.float32)
SIZES = [
    (lambda g, x: g.op("ConvTranspose", x, ONES, auto_pad="SAME_UPPER"), "needs the size of 'ConvTranspose'"),
    (lambda g, x: g.op("ConvTranspose", x, ONES, output_padding=[1, 1]), "needs the size of 'ConvTranspose'"),
    (lambda g, x: g.op("LpPool", x, kernel_shape=[2, 2], ceil_mode=1), "'LpPool' in ceil_mode needs the size of its"),
]


@pytest.mark.parametrize(("make", "text"), SIZES)
def test_sizes_that_must_be_known(make: Any, text: str) -> None:
    g = GraphBuilder()
    x = g.input("x", ("batch", 1, "height", "width"))
    y = make(g, x)
    with pytest.raises(GradientError, match=text) as caught:
        gradients(g, scalar_of(g, y), [x])
    assert "test_autodiff.py:" in (caught.value.at or "")


def test_a_rule_that_returns_too_many_gradients(registry: None) -> None:
    gradient("Exp", replace=True)(lambda g, node, dy: (dy, dy))
    with pytest.raises(
        GradientError, match=r"rule of Exp in 'Exp' expected to return 1 gradients.*; found 2"
    ) as caught:
        derivative(lambda g, x: g.exp(x))
    assert "test_autodiff.py:" in (caught.value.at or "")


POOL = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}


def test_max_pool_whose_windows_stand_over_the_edge() -> None:
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    dx = derivative(lambda g, v: g.op("MaxPool", v, **POOL), x)
    np.testing.assert_array_equal(dx[0, 0], [[0, 0, 0], [0, 1, 1], [0, 1, 1]])


def test_max_pool_that_counts_by_columns() -> None:
    x = np.array([[[[1, 5, 2], [3, 4, 9], [0, 7, 8]]]], np.float32)
    dx = derivative(lambda g, v: g.op("MaxPool", v, kernel_shape=[2, 2], storage_order=1), x)
    np.testing.assert_array_equal(dx[0, 0], [[0, 1, 0], [0, 0, 2], [0, 1, 0]])


def test_average_pool_whose_windows_stand_over_the_edge() -> None:
    dx = derivative(lambda g, v: g.op("AveragePool", v, **POOL), np.zeros((1, 1, 3, 3), np.float32))
    np.testing.assert_array_equal(dx[0, 0], [[0.25, 0.25, 0.5], [0.25, 0.25, 0.5], [0.5, 0.5, 1]])
