"""`mx.predict`: a model's outputs for a whole dataset or array, beside one call of the model with all of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import DataError, OnnxmxError, ShapeError, UsageError

RAW = np.random.default_rng(0).integers(0, 17, (10, 4), dtype=np.uint8)
READ = (RAW * np.float32(0.5) - 1).astype(np.float32)
DATA = mx.data.Dataset.from_arrays(RAW, np.arange(10), scale=0.5, shift=-1.0)


def net(*shape: Any, **metadata: str) -> mx.Model:
    model = L.Dense(3, weight_init=mx.init.normal(1.0)).build(x=(*shape, 4))
    model.metadata.update({f"onnxmx.{name}": value for name, value in metadata.items()})
    return model


@given(st.integers(1, 12), st.sampled_from(["batch", 1, 3, 5, 16]))
def test_all_of_a_dataset_in_its_order(batch_size: int, batch: Any) -> None:
    """Of a fixed batch too, which does not divide it; the preprocessing is applied, and nothing reads the labels."""
    model = net(batch)
    whole = net("batch").with_parameters(model.parameters())(READ)
    for data in (DATA, READ, {"x": READ}):
        found = mx.predict(model, data, batch_size=batch_size, threads=1)
        np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)
        assert (found.shape, found.dtype) == ((10, 3), np.float32)


def test_several_inputs_and_outputs() -> None:
    def two(a: Any, b: Any) -> dict[str, Any]:
        return {"sum": a + b, "product": a * b}

    model = mx.build(two, a=("batch", 4), b=("batch", 4))
    found = mx.predict(model, {"b": READ, "a": 2 * READ}, batch_size=3)
    assert list(found) == ["sum", "product"]
    np.testing.assert_array_equal(found["sum"], 3 * READ)
    np.testing.assert_array_equal(found["product"], 2 * READ * READ)


def row(error: type[OnnxmxError], said: str, call: Any) -> Any:
    return pytest.param(error, said, call, id=said[:30])


@pytest.mark.parametrize(("error", "said", "call"), [
    row(UsageError, "expected a model; found ndarray", lambda: mx.predict(READ, net("batch"))),
    row(UsageError, "expected a dataset; found list", lambda: mx.predict(net("batch"), READ.tolist())),
    row(UsageError, "expected a dataset; found dict", lambda: mx.predict(net("batch"), {})),
    row(UsageError, "batch_size", lambda: mx.predict(net("batch"), READ, batch_size=0)),
    row(DataError, "found (5,)", lambda: mx.predict(net("batch"), np.ones((10, 5), np.float32))),
    row(DataError, "inputs ['x']; found ['x', 'z']", lambda: mx.predict(net("batch"), {"x": READ, "z": READ})),
    row(DataError, "prepared as the model's file says", lambda: mx.predict(
        net("batch", preprocessing='{"scale": 0.5, "shift": -1.0}'), RAW)),
    row(ShapeError, "expected 10 rows of one shape", lambda: mx.predict(
        mx.build(lambda x: x.builder.reduce_sum(x, np.array([0]), keepdims=0), x=("batch", 4)), READ)),
    row(ShapeError, "found (2, 2) after rows of (4,)", lambda: mx.predict(
        mx.build(lambda x: x @ x.builder.transpose(x, [1, 0]), x=("batch", 4)), READ, batch_size=4)),
])  # fmt: skip
def test_what_is_refused(error: type[OnnxmxError], said: str, call: Any) -> None:
    with pytest.raises(error, match=re.escape(said)):
        call()


def test_after_a_training() -> None:
    """The classes that it gives are those that `evaluate` counts."""
    data = mx.data.Dataset.from_arrays(READ, np.arange(10) % 2)
    model = mx.fit(L.Dense(2).build(x=("batch", 4)), data, epochs=1, progress=False).model
    right = mx.predict(model, data).argmax(axis=1) == data.labels["label"]
    assert mx.evaluate(model, data)["accuracy"] == right.mean()
