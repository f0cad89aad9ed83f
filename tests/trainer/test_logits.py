"""A model that ends in Softmax learns as the one without it, and is measured and read as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer import losses
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.logits import before_activation, ends_in_activation, logits_of
from onnxmx.trainer.predict import Predictor

RNG = np.random.default_rng(3)
X = RNG.standard_normal((64, 6)).astype(np.float32)
DATA = Dataset.from_arrays(X, (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0), classes=["a", "b", "c"])
ENTROPY = losses.SoftmaxCrossEntropy()


def net(*end: L.Layer) -> mx.Model:
    body = L.Sequential(L.Dense(8, activation="tanh", name="body"), L.Dense(3, name="head"), *end)
    return body.build(x=("batch", 6))


def fitted(model: mx.Model, **options: Any) -> mx.Model:
    options = {"epochs": 4, "batch_size": 16, "threads": 1, "progress": False, **options}
    return mx.fit(model, DATA, validation=DATA, optimizer=mx.Adam(lr=0.05), **options).last


@pytest.mark.parametrize("end", [(L.Softmax(),), (L.Softmax(), L.Identity())])
def test_the_same_training_with_softmax_at_the_end(end: tuple[L.Layer, ...], tmp_path: Path) -> None:
    plain, ended = fitted(net()), fitted(net(*end), out=tmp_path / "r")
    for (name, expected), found in zip(plain.parameters().items(), ended.parameters().values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(ended(X).sum(1), 1.0, rtol=1e-5)  # the model keeps it
    measured = [mx.evaluate(m, DATA, threads=1) for m in (plain, ended)]
    assert measured[1] == pytest.approx(measured[0], rel=1e-4)
    samples = [("one", {"x": X[0]})]
    one, other = (next(iter(Predictor(m, threads=1).samples(samples))) for m in (plain, ended))
    assert other["class"] == one["class"]
    assert other["probability"] == pytest.approx(one["probability"], rel=1e-4)


def test_saturated_outputs_still_learn() -> None:
    """Through Softmax twice, or the logarithm of one that is 0, there would be no gradient."""
    model = net(L.Softmax())
    model = model.with_parameters({"head.bias": np.array([0.0, 0.0, 900.0], np.float32)})
    before = mx.evaluate(model, DATA)["loss"]
    after = mx.evaluate(fitted(model, epochs=40), DATA)["loss"]
    assert np.isfinite([before, after]).all()
    weights = fitted(model, epochs=1).parameters()["head.bias"]
    assert weights[2] < 900.0
    assert weights[0] > 0.0


def test_a_quantized_one_is_measured_as_it_is(tmp_path: Path) -> None:
    model = fitted(net(L.Softmax()))
    mx.quantize(model, DATA, DATA, tmp_path / "q.onnx", max_drop=1.0)
    quantized = mx.load(tmp_path / "q.onnx")
    assert ends_in_activation(quantized, ENTROPY)
    found, expected = mx.evaluate(quantized, DATA), mx.evaluate(model, DATA)
    assert found["loss"] == pytest.approx(expected["loss"], abs=0.1)


@pytest.mark.parametrize(
    ("end", "loss", "expected"),
    [
        ((L.Softmax(),), "softmax_cross_entropy", True),
        ((), "softmax_cross_entropy", False),
        ((L.LogSoftmax(),), "softmax_cross_entropy", False),  # whose log-softmax it is itself
        ((L.Softmax(axis=0),), "softmax_cross_entropy", False),  # over the batch: another function
        ((L.Softmax(),), "mean_squared_error", False),
    ],
)
def test_which_models_end_in_it(end: tuple[L.Layer, ...], loss: str, expected: bool) -> None:
    assert ends_in_activation(net(*end), losses.LOSSES[loss]()) is expected


def test_sigmoid_under_a_loss_of_its_logits() -> None:
    binary = losses.SigmoidBCE()
    assert ends_in_activation(net(L.Activation("sigmoid")), binary)
    g = GraphBuilder()
    z = g.input("z", ("batch",))
    p = L.sigmoid(z)
    assert before_activation(g, p, binary) is z
    g.output(logits_of(g, p, binary), "found")
    found = mx.Model(g.model())(np.array([-3.0, 0.0, 2.0], np.float32))
    np.testing.assert_allclose(found, [-3.0, 0.0, 2.0], atol=1e-5)
