"""Data that is not float32: token numbers and masks reach a model as they are."""

from __future__ import annotations

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import DataError, SampleError, UsageError
from onnxmx.trainer.data import Dataset


def texts(count: int = 256, length: int = 12) -> Dataset:
    """Class 1 where the token 7 stands anywhere."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 7, (count, length)).astype(np.int32)
    label = random.integers(0, 2, count)
    tokens[label == 1, random.integers(0, length)] = 7
    return Dataset.from_arrays({"tokens": tokens}, label, classes=["without", "with"], scale=0.5)


def classifier(body: L.Layer) -> mx.Model:
    net = L.Sequential(L.Embedding(8, 16), body, L.Dense(2))
    return net.build(tokens=mx.Input(("batch", "time"), "int64"))


def test_an_lstm_learns_from_tokens() -> None:
    data = texts()
    run = mx.fit(
        classifier(L.LSTM(16, return_sequences=False)),
        data,
        validation=data,
        optimizer=mx.Adam(lr=2e-2),
        epochs=8,
        batch_size=32,
        progress=False,
    )
    assert run.history[-1]["validation_accuracy"] > 0.95
    assert mx.evaluate(run.model, data)["accuracy"] > 0.95


def test_a_batch_holds_them_unscaled_in_the_models_type() -> None:
    batch = texts().typed({"tokens": "int64"}).rename({"tokens": "words"}).take(4).batch([0, 1])
    assert batch["words"].dtype == np.int64
    np.testing.assert_array_equal(batch["words"], texts().inputs["tokens"][:2])


def test_floats_are_no_tokens() -> None:
    data = Dataset.from_arrays({"tokens": np.zeros((8, 5), np.float32)}, np.zeros(8, np.int64))
    with pytest.raises(DataError, match="input 'tokens' expected int64; found float32 in dataset 'arrays'"):
        mx.fit(classifier(L.LSTM(4, return_sequences=False)), data, progress=False)


@pytest.mark.parametrize(
    ("model", "kind", "value"),
    [("int32", "int64", 2**32 + 1), ("int32", "int64", -(2**40)), ("int64", ">u8", 2**64 - 1), ("int32", "u4", 2**31)],
)
def test_integers_that_the_models_type_does_not_hold(model: str, kind: str, value: int) -> None:
    """They would wrap around: 2^32 + 1 would be read as 1."""
    net = L.Sequential(L.Embedding(8, 4), L.Flatten(), L.Dense(2)).build(tokens=mx.Input(("batch", 5), model))
    tokens = np.ones((8, 5), kind)
    data = Dataset.from_arrays({"tokens": tokens}, np.zeros(8, np.int64))
    assert mx.fit(net, data, progress=False).history
    tokens[6, 2] = value
    said = f"'tokens' expected integers that {model} holds; found {value}"
    for run in (lambda: mx.fit(net, data, progress=False), lambda: mx.evaluate(net, data)):
        with pytest.raises(SampleError, match=rf"the model's input {said} in sample 6 of dataset 'arrays'"):
            run()
    with pytest.raises(DataError, match=f"^input {said}\n"):
        net(tokens)
    with pytest.raises(UsageError, match="input 'tokens' expected"):
        net.fix(tokens=tokens)
