"""Several losses at once, labels of several columns, functions of one's own, and which loss a model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import DataError, OnnxmxError, ShapeError, UsageError
from onnxmx.trainer import losses
from onnxmx.trainer.data import Dataset
from tests.trainer.nets import blob_net, blobs

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
DIGIT = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
ODD = DIGIT % 2
BOTH = Dataset.from_arrays(X, {"digit": DIGIT, "odd": ODD, "unused": X[:, 0]})
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False, "threads": 1}


def two_heads() -> mx.Model:
    def net(x: Any) -> Any:
        h = L.Dense(16, activation="tanh", name="body")(x)
        return {"digit": L.Dense(3, name="digit")(h), "odd": L.Dense(1, name="odd")(h)}

    return mx.build(net, x=("batch", 4))


TASKS: Any = {"digit": "softmax_cross_entropy", "odd": losses.SigmoidBCE(weight=0.3)}


def test_a_weighted_sum_of_losses(tmp_path: Path) -> None:
    run = mx.fit(two_heads(), BOTH, validation=BOTH, loss=TASKS, optimizer=mx.Adam(lr=0.05), out=tmp_path / "r",
                 **QUICK | {"epochs": 25})  # fmt: skip
    last = run.history[-1]
    assert last["digit.accuracy"] > 0.9
    assert last["odd.accuracy"] > 0.9
    assert last["loss"] == pytest.approx(last["digit.loss"] + last["odd.loss"], rel=1e-5)
    model = mx.load(tmp_path / "r" / "last.onnx")
    assert model.metadata["onnxmx.loss"] == "digit=softmax_cross_entropy odd=sigmoid_bce:weight=0.3"
    found = mx.evaluate(model, BOTH, threads=1)
    # Weights that are constants are laid out anew, and the last bit of a sum may differ.
    expected = {k.removeprefix("validation_"): v for k, v in last.items() if k.startswith("validation_")}
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_gradient_of_a_sum_is_the_sum() -> None:
    """One head at a time: the other's weight is 0."""

    def steps(**weights: float) -> dict[str, Any]:
        loss = {"digit": losses.SoftmaxCrossEntropy(weight=weights["digit"]),
                "odd": losses.SigmoidBCE(weight=weights["odd"])}  # fmt: skip
        run = mx.fit(two_heads(), BOTH, loss=loss, optimizer=mx.SGD(lr=0.5, momentum=0.0),
                     **QUICK | {"epochs": 1, "batch_size": 60})  # fmt: skip
        return {k: v - two_heads().parameters()[k] for k, v in run.last.parameters().items()}

    digit, odd, both = steps(digit=1, odd=0), steps(digit=0, odd=1), steps(digit=0.5, odd=2)
    for name, change in both.items():
        np.testing.assert_allclose(change, 0.5 * digit[name] + 2 * odd[name], rtol=1e-3, atol=1e-6)


def test_one_loss_among_several_columns() -> None:
    data = Dataset.from_arrays(X, {"other": X[:, 1], "label": DIGIT})
    run = mx.fit(blob_net(), data, validation=data, **QUICK)
    assert set(run.history[0]) >= {"loss", "accuracy"}


def test_measures_of_several_losses() -> None:
    run = mx.fit(two_heads(), BOTH, loss=TASKS, measure={"odd": ["auc", "mcc"]}, **QUICK)
    as_text = mx.fit(two_heads(), BOTH, loss=TASKS, measure=["odd=auc", "odd=mcc"], **QUICK)
    assert as_text.history == run.history
    assert mx.evaluate(run.model, BOTH, measure="digit=top_k:k=2").keys() >= {"digit.top_2"}
    assert set(run.history[0]) == {
        "epoch", "loss", "digit.loss", "digit.accuracy", "odd.loss", "odd.auc", "odd.mcc", "grad_norm"}  # fmt: skip


def test_distances_of_three_outputs() -> None:
    names = ("anchor", "positive", "negative")

    def net(a: Any, p: Any, n: Any) -> Any:
        encode = L.Dense(3, name="encode")
        return dict(zip(names, map(encode, (a, p, n)), strict=True))

    random = np.random.default_rng(1)
    a = random.normal(size=(64, 5)).astype(np.float32)
    near = np.where(np.arange(5) < 2, a, random.normal(size=a.shape)).astype(np.float32)
    data = Dataset.from_arrays({"a": a, "p": near, "n": near[::-1]})
    model = mx.build(net, **dict.fromkeys("apn", ("batch", 5)))
    run = mx.fit(model, data, validation=data, loss="triplet", optimizer=mx.Adam(lr=0.03), **QUICK | {"epochs": 20})
    assert run.history[-1]["loss"] < 0.6 * run.history[0]["loss"]
    assert mx.evaluate(run.last, data)["loss"] == pytest.approx(run.history[-1]["validation_loss"], rel=1e-5)


def test_sequences_with_lengths() -> None:
    """CTC learns to read which class a step shows, from the order alone."""
    random = np.random.default_rng(0)
    n, time, classes = 96, 8, 4
    label = np.full((n, 3), -1)
    x = np.zeros((n, time, classes), np.float32)
    lengths = random.integers(6, time + 1, n)
    for k in range(n):
        count = random.integers(1, 4)
        label[k, :count] = random.integers(1, classes, count)
        places = np.sort(random.permutation(lengths[k] // 2)[:count]) * 2
        x[k, places, label[k, :count]] = 1.0
    data = Dataset.from_arrays(x, {"label": label, "frames": lengths})
    model = L.Sequential(L.Dense(16, activation="tanh"), L.Dense(classes)).build(x=("batch", time, classes))
    run = mx.fit(model, data, validation=data, loss="ctc:lengths=frames", optimizer=mx.Adam(lr=0.05),
                 **QUICK | {"epochs": 15})  # fmt: skip
    assert run.history[-1]["loss"] < 0.2 * run.history[0]["loss"]
    best = run.last(x).argmax(-1)
    read = [[int(c) for i, c in enumerate(row[:m]) if c and (i == 0 or row[i - 1] != c)]
            for row, m in zip(best, lengths, strict=True)]  # fmt: skip
    assert np.mean([r == [c for c in t if c > 0] for r, t in zip(read, label.tolist(), strict=True)]) > 0.9


# --- functions of one's own
def fourth_power(output: Any, label: Any) -> Any:
    return (output - label) ** 4.0


def by_name(digit: Any, odd: Any, wanted: Any) -> Any:
    g = digit.builder
    return g.reduce_mean(g.mul(odd - wanted, odd - wanted), keepdims=False) + g.reduce_mean(digit, keepdims=False) * 0.0


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    data = Dataset.from_arrays(X, X[:, :1])
    run = mx.fit(L.Dense(1).build(x=("batch", 4)), data, validation=data, loss=fourth_power, out=tmp_path / "r",
                 optimizer=mx.Adam(lr=0.05), **QUICK | {"epochs": 10})  # fmt: skip
    assert run.history[-1]["loss"] < 0.5 * run.history[0]["loss"]
    error = run.last(X) - X[:, :1]
    assert run.history[-1]["validation_loss"] == pytest.approx(float((error**4).mean()), rel=1e-4)
    with pytest.raises(UsageError, match="trained with a loss that its file does not hold: custom:fourth_power"):
        mx.evaluate(run.last, data)
    assert mx.evaluate(run.last, data, loss=fourth_power)["loss"] == pytest.approx(run.history[-1]["validation_loss"])


def test_a_loss_of_ones_own_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def cubed(y, t):\n    return y.builder.op('Abs', y - t) ** 3.0\n")
    data = Dataset.from_arrays(X, X[:, :1])
    model = L.Dense(1).build(x=("batch", 4))
    found = mx.evaluate(model, data, loss=f"{file}:cubed", measure=[f"{file}:cubed"])
    assert found["loss"] == found["cubed"] == pytest.approx(float((np.abs(model(X) - X[:, :1]) ** 3).mean()), rel=1e-5)
    model.metadata["onnxmx.loss"] = f"{file}:cubed"  # a file from elsewhere must not have its code run
    with pytest.raises(UsageError, match="does not hold"):
        mx.evaluate(model, data)


def test_outputs_and_labels_by_name() -> None:
    data = Dataset.from_arrays(X, {"wanted": X[:, :1]})
    run = mx.fit(two_heads(), data, validation=data, loss=by_name, optimizer=mx.Adam(lr=0.05), **QUICK)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_measured_beside_a_loss_of_ones_own() -> None:
    """Labels (batch,) beside an output (batch, 1) are what built-in metrics take too."""
    data, model = Dataset.from_arrays(X, X[:, 0]), L.Dense(1).build(x=("batch", 4))
    found = mx.evaluate(model, data, loss=lambda y, t: (y[:, 0] - t) ** 2.0, measure=["mae", "r2"])
    assert found["mean_absolute_error"] == pytest.approx(float(np.abs(model(X)[:, 0] - X[:, 0]).mean()), rel=1e-5)
    chooser, classes = L.Dense(3).build(x=("batch", 4)), Dataset.from_arrays(X, DIGIT)
    found = mx.evaluate(chooser, classes, loss=lambda y, t: y, measure=["accuracy"])
    assert found["accuracy"] == pytest.approx(float((chooser(X).argmax(1) == DIGIT).mean()))
    with pytest.raises(UsageError, match=r"loss of numbers has them; found output float32 \(batch, 3\), label"):
        mx.evaluate(chooser, classes, loss=lambda y, t: y, measure=["mae"])


def test_each_output_beside_every_label_is_refused() -> None:
    """(batch, 1) and (batch,) would broadcast to all pairs, and train to something else in silence."""
    data, model = Dataset.from_arrays(X, X[:, 0]), L.Dense(1).build(x=("batch", 4))
    with pytest.raises(
        ShapeError, match=r"crossing expected each output .* \(batch, batch\)[^$]*y\[:, None\]"
    ) as caught:
        mx.fit(model, data, loss=crossing, **QUICK)
    assert "test_objective.py" in str(caught.value)
    with pytest.raises(ShapeError, match="crossing expected each output beside its own label"):
        mx.evaluate(model, data, measure=[crossing])
    mx.fit(model, Dataset.from_arrays(X, X[:, :1]), loss=crossing, **QUICK)


def crossing(output: Any, label: Any) -> Any:
    return output.builder.reduce_mean((label - output) ** 2.0, keepdims=False)


def test_which_epoch_is_best_by_a_function() -> None:
    """One that does not say whether more is better leaves it to the loss."""
    data = Dataset.from_arrays(X, X[:, :1])
    model = L.Dense(1).build(x=("batch", 4))
    options = QUICK | {"epochs": 3, "loss": fourth_power, "optimizer": mx.Adam(lr=0.05)}
    for measure, best in ((fourth_power, 3), (mx.metrics.OwnMetric(function=fourth_power, larger=True), 1)):
        run = mx.fit(model, data, validation=data, measure=[measure], **options)
        assert run.best is not None
        assert run.best["epoch"] == best


OWN_BAD: list[tuple[Any, str]] = [
    (lambda a, b, c, d: a, "expected parameters with names among"),
    (lambda y, t: 3.0, "expected to return a value of the graph; found 3.0"),
    (lambda y, t: y == t, r"found False[^$]*x\.builder\.equal\(x, y\)"),
    (lambda y, t: y.nothing, "it raised AttributeError"),
    (lambda y, t: y.builder.cast(y, 7), "expected to return float32"),
]


@pytest.mark.parametrize(("function", "text"), OWN_BAD, ids=[text[:30] for _, text in OWN_BAD])
def test_what_is_no_loss_function(function: Any, text: str) -> None:
    with pytest.raises(OnnxmxError, match=text) as caught:
        mx.fit(L.Dense(1).build(x=("batch", 4)), Dataset.from_arrays(X, X[:, :1]), loss=function, **QUICK)
    assert "test_objective.py" in str(caught.value)


# --- which loss a model has
def test_the_loss_of_a_model() -> None:
    data = blobs(30)
    model = blob_net()
    assert losses.of(model, data) == losses.SoftmaxCrossEntropy()
    assert losses.of(model, Dataset.from_arrays(data.inputs["x"], X[:30])) == losses.MeanSquaredError()
    trained = mx.fit(model, data, loss="softmax_cross_entropy:smoothing=0.1", **QUICK).last
    assert losses.of(trained, data) == losses.SoftmaxCrossEntropy(smoothing=0.1)
    assert losses.of(trained, data, "l2") == losses.MeanSquaredError()


BAD: list[tuple[Any, Any, type[Exception], str]] = [
    ({"digit": "softmax_cross_entropy", "od": "l2"}, None, UsageError, "no output of the model named 'od'"),
    ("softmax_cross_entropy", None, OnnxmxError, "softmax_cross_entropy expected a model of one output"),
    ({"digit": "softmax_cross_entropy", "odd": "kl"}, None, OnnxmxError, "kl expected"),
    ({"odd": "softmax_cross_entropy"}, None, ShapeError, "expected an output of two classes or more; found"),
    ({"digit": "softmax_cross_entropy", "odd": "l2"}, None, DataError,
     r"mean_squared_error expected labels of float32 \(batch,\).*; found 'odd' of int64 \(batch,\)"),
    (TASKS, ["accuracy"], UsageError, "metrics by output"),
    (TASKS, {"digits": ["accuracy"]}, UsageError, "no loss to measure beside named 'digits'"),
    ({"digit": "ctc:lengths=n"}, None, OnnxmxError, "label 'n'|batch, time, classes"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "measure", "error", "text"), BAD, ids=lambda x: str(x)[:40])
def test_what_does_not_fit(loss: Any, measure: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        mx.fit(two_heads(), BOTH, loss=loss, measure=measure, **QUICK)


def test_a_missing_column() -> None:
    with pytest.raises(DataError, match="sigmoid_bce expected a label 'odd'; found \\['digit'\\]"):
        mx.fit(two_heads(), Dataset.from_arrays(X, {"digit": DIGIT}), loss=TASKS, **QUICK)
    with pytest.raises(DataError, match=r"expected one label; found \['a', 'b'\]"):
        mx.fit(blob_net(), Dataset.from_arrays(X, {"a": DIGIT, "b": DIGIT}), **QUICK)
