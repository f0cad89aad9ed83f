"""`x[...]` and comparisons on values, beside numpy; and what is written of a value out of habit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import basic_indices

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.errors import GraphError, ShapeError, UsageError

X = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)


def run(function: Callable[[Any], Any], *shape: int | str) -> Any:
    return mx.build(function, x=shape or X.shape)(X)


@settings(max_examples=60, deadline=None)
@given(basic_indices(X.shape, min_dims=0, max_dims=5, allow_newaxis=True))
def test_indices_are_those_of_numpy(key: Any) -> None:
    expected = X[key]
    if isinstance(key, tuple) and not key:
        key = ...
    found = run(lambda x: x[key] + 0.0)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("key", [np.s_[0], np.s_[:, -1], np.s_[..., 1:], np.s_[::-1], np.s_[:, 99:], np.s_[None, :, 0]])
def test_sizes_that_are_not_known(key: Any) -> None:
    np.testing.assert_array_equal(run(lambda x: x[key] + 0.0, "batch", "time", 5), X[key])


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ((0, 0, 0, 0), r"at most 3 indices and one \.\.\.; found \[0, 0, 0, 0\] on float32 \(2, 3, 5\)"),
        ((..., ...), "one ..."),
        (2, "an index of axis 0 from -2 to 1; found 2"),
        ((slice(None), -4), "an index of axis 1 from -3 to 2; found -4"),
        (slice(None, None, 0), r"a step other than 0; found \[::0\]"),
        (1.0, r"whole numbers; found \[1\.0\]"),
        (True, r"whole numbers; found \[True\]"),
        ((slice(0, "a"),), r"whole numbers; found \[0:'a'\]"),
    ],
)
def test_indices_that_are_none(key: Any, text: str) -> None:
    with pytest.raises(ShapeError, match=text) as caught:
        run(lambda x: x[key])
    assert caught.value.at
    assert "test_indexing.py" in caught.value.at


@pytest.mark.parametrize("compare", [operator.gt, operator.lt, operator.ge, operator.le])
def test_comparisons(compare: Callable[[Any, Any], Any]) -> None:
    for other in (7.0, X[0]):
        np.testing.assert_array_equal(run(lambda x: compare(x, other)), compare(X, other))  # noqa: B023
        np.testing.assert_array_equal(run(lambda x: compare(other, x)), compare(other, X))  # noqa: B023


def test_abs() -> None:
    np.testing.assert_array_equal(run(lambda x: abs(x - 7.0)), abs(X - 7))


def test_the_truth_of_a_comparison_is_not_told() -> None:
    for asks in (lambda x: x if x > 0 else -x, lambda x: 0 < x < 1, lambda x: x * (not x > 0)):
        with pytest.raises(GraphError, match=r"its truth asked for \(bool \(2, 3, 5\)\)(.|\n)*g\.where") as caught:
            run(asks)
        assert "test_indexing.py" in (caught.value.at or "")


def test_a_value_is_not_iterated() -> None:
    with pytest.raises(TypeError, match=r"not iterable: .* return_state=True"):
        run(lambda x: next(iter(x)))


def test_methods_of_other_libraries() -> None:
    g = GraphBuilder()
    x = g.input("x", (2, 3))
    with pytest.raises(AttributeError, match=r"no 'reshape': .*, x\.builder\.reshape\(x, \.\.\.\)"):
        x.reshape(3, 2)
    with pytest.raises(AttributeError, match=r"no 'mean': .*, x\.builder\.reduce_mean\(x, \.\.\.\)"):
        x.mean()
    with pytest.raises(AttributeError, match=r"no 'tanh': write mx\.layers\.tanh\(x\)"):
        x.tanh()
    with pytest.raises(AttributeError, match=r"no 'erf': .*, x\.builder\.op\("):
        x.erf()
    with pytest.raises(AttributeError, match=r"no 'astype': .*, x\.builder\.cast\(x, \"float32\"\)"):
        x.astype("float32")
    with pytest.raises(AttributeError, match=r"no 'flatten': write mx\.layers\.Flatten\(\)\(x\)"):
        x.flatten(1)
    with pytest.raises(AttributeError, match=r"no 'view': .*, x\.builder\.reshape"):
        x.view(6)
    with pytest.raises(AttributeError, match=r'the builder has no method \'tanh\': .*op\("Name", x\)'):
        g.tanh(x)
    assert not hasattr(x, "__array__")


@pytest.mark.parametrize("number", [0, 1.5, True, np.float32(2), np.zeros(3)], ids=repr)
def test_a_value_is_not_compared_with_a_number_in_silence(number: Any) -> None:
    """`x != 0` would be True, and a mask of nothing."""
    x = GraphBuilder().input("x", (2, 3))
    for compare in (operator.eq, operator.ne):
        for a, b in ((x, number), (number, x)):
            with pytest.raises(GraphError, match=r"test_indexing\.py[^$]*x\.builder\.equal\(x, number\)"):
                compare(a, b)
    assert x == x
    assert x != GraphBuilder().input("x", (2, 3))
    assert x not in (None, "x")


def test_element_types_by_name() -> None:
    g = GraphBuilder()
    x = g.input("x", (2, 3))
    for to in ("int64", np.int64, np.dtype("int64"), onnx_ir.DataType.INT64):
        assert g.cast(x, to).dtype == onnx_ir.DataType.INT64
    for wrong in ("flaot", "float", float):
        with pytest.raises(UsageError, match=r"cast expected an element type; found [^$]*\"float32\""):
            g.cast(x, wrong)


def test_a_model_in_one_line() -> None:
    model = L.Sequential(L.Dense(3), L.BatchNorm()).build(x=("batch", 4))
    assert repr(model) == "Model(x float32 (batch, 4) -> output float32 (batch, 3), 21 parameters)"
    assert model.summary().parameters == 21
