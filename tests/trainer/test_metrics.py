"""Metrics over several batches against scikit-learn over all samples at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import UsageError
from onnxmx.trainer import losses, metrics
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.metrics import METRICS
from tests.trainer.metric_rows import ROWS, Row
from tests.trainer.nets import blob_net, blobs

Array = np.ndarray[Any, Any]
REFERENCES = json.loads(Path(__file__).with_name("metric_references.json").read_text())


def measured(metric: Any, loss: Any, output: Array, label: Array, batch_size: int = 40) -> Any:
    """The figure of a model that gives its input as its output."""
    model = L.Identity().build(x=("batch", *output.shape[1:]))
    data = Dataset.from_arrays(output, label)
    found = mx.evaluate(model, data, loss=loss, measure=[metric], batch_size=batch_size, threads=1)
    return found[list(found)[1]]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_scikit_learn(row: Row) -> None:
    found = measured(row.metric, row.loss, *row.arrays())
    # Scores of one bin count as equal; all else is exact but for the rounding of float32.
    close = {"abs": 1e-3} if row.metric == "auc" else {"rel": 1e-6}
    if row.metric == "confusion_matrix":
        assert found == REFERENCES[str(row)]
    else:
        assert found == pytest.approx(REFERENCES[str(row)], **close)


def test_every_metric_has_a_row_and_every_row_a_reference() -> None:
    assert {row.metric.partition(":")[0] for row in ROWS} == set(METRICS)
    assert set(map(str, ROWS)) == set(REFERENCES), "run python -m tests.trainer.metric_references where sklearn is"


@pytest.mark.parametrize("row", [r for r in ROWS if "average" not in r.metric], ids=str)
def test_the_batches_do_not_matter(row: Row) -> None:
    output, label = row.arrays()
    whole = measured(row.metric, row.loss, output, label, batch_size=100)
    np.testing.assert_allclose(measured(row.metric, row.loss, output, label, batch_size=9), whole, rtol=1e-6)


@pytest.mark.parametrize("ignored", [255, 1])
def test_images(ignored: int) -> None:
    """Classes on axis 1, and a class of pixels that is passed over, though the model may choose it."""
    random = np.random.default_rng(0)
    output, label = random.normal(size=(5, 3, 4, 6)).astype(np.float32), random.integers(0, 3, (5, 4, 6))
    label[:, 0] = ignored
    keep = (label != ignored).ravel()
    chosen, right = output.argmax(1).ravel()[keep], label.ravel()[keep]
    both = [np.logical_and(chosen == k, right == k).sum() for k in range(3)]
    either = [np.logical_or(chosen == k, right == k).sum() for k in range(3)]
    loss = f"softmax_cross_entropy:ignore_index={ignored}"
    assert measured("iou", loss, output, label, 2) == pytest.approx(np.mean(np.divide(both, either)))
    assert measured("accuracy", loss, output, label, 2) == pytest.approx((chosen == right).mean())
    assert np.sum(measured("confusion_matrix", loss, output, label, 2)) == keep.sum()
    matrix = [[((right == r) & (chosen == c)).sum() for c in range(3)] for r in range(3)]
    assert measured("confusion_matrix", loss, output, label, 2) == matrix
    logp = output.astype(np.float64) - np.log(np.exp(output.astype(np.float64)).sum(1, keepdims=True))
    rows = np.moveaxis(logp, 1, -1).reshape(-1, 3)[keep]
    odds = rows - np.log(1 - np.exp(rows))  # a larger score of a pixel of the class than of another one's
    areas = [(odds[right == k, k][:, None] > odds[right != k, k]).mean() for k in range(3) if k != ignored]
    assert measured("auc", loss, output, label, 2) == pytest.approx(np.mean(areas), abs=2e-3)
    own = rows[np.arange(len(right)), right]
    assert measured("perplexity", loss, output, label, 2) == pytest.approx(np.exp(-own.mean()), rel=1e-5)


def test_nothing_to_divide_by() -> None:
    """One class alone, constant labels: a number all the same."""
    zeros, logits = np.zeros(6, np.int64), np.tile(np.float32([1, 0]), (6, 1))
    for name, expected in {"mcc": 0, "auc": 0, "precision": 1, "precision:average=binary": 0}.items():
        assert measured(name, "softmax_cross_entropy", logits, zeros) == expected
    tenths = np.full((1001, 1), 0.1, np.float32)  # whose squares are rounded when they are added up
    assert measured("r2", "mean_squared_error", tenths + 1, tenths) == 0
    assert measured("pearson", "mean_squared_error", np.arange(1001, dtype=np.float32)[:, None], tenths) == 0
    same, other = np.full((6, 1), 5.5, np.float32), np.full((6, 1), 4.5, np.float32)
    for name, output, expected in (("r2", same, 1), ("r2", other, 0), ("pearson", other, 0)):
        assert measured(name, "mean_squared_error", output, same) == expected


def test_auc_of_sure_and_of_equal_scores() -> None:
    random = np.random.default_rng(1)
    label = random.integers(0, 2, (400, 1))
    sure = (30 * random.normal(size=(400, 1)) + 200 * label).astype(np.float32)
    assert measured("auc", "sigmoid_bce", sure, label) == pytest.approx(1.0, abs=1e-3)
    assert measured("auc", "sigmoid_bce", np.where(label, 1e9, -1e9).astype(np.float32), label) == 1.0
    assert measured("auc", "sigmoid_bce", np.zeros((400, 1), np.float32), label) == 0.5
    several = random.integers(0, 3, 90)
    whole = (random.normal(size=(90, 3)) + 300 * np.eye(3)[several]).astype(np.float32)  # probabilities of 1
    assert measured("auc", "softmax_cross_entropy", whole, several) == 1.0
    assert measured("top_k:k=3", "softmax_cross_entropy", -whole, several) == 1.0
    assert measured("auc:bins=4", "sigmoid_bce", np.sign(sure - 90), label) > 0.9


def test_training_shows_the_same_figures() -> None:
    """What an epoch says is made of added sums too: with a learning rate of 0 it is what evaluation says."""
    model, data = blob_net(), blobs(90)
    names: Any = ["mcc", "f_beta", "auc", "perplexity", "top_k:k=2", "confusion_matrix"]
    run = mx.fit(model, data, validation=data, measure=names, optimizer=mx.SGD(lr=0.0), batch_size=16, progress=False)
    (history,) = run.history
    for name in ("loss", "mcc", "f_beta", "auc", "perplexity", "top_2"):
        assert history[name] == pytest.approx(history[f"validation_{name}"], rel=1e-6)
    assert history["confusion_matrix"] == history["validation_confusion_matrix"]


def largest_error(output: Any, label: Any) -> Any:
    g = output.builder
    return g.op("Abs", output - label)


def test_a_function_of_ones_own() -> None:
    random = np.random.default_rng(2)
    x, y = (random.normal(size=(50, 3)).astype(np.float32) for _ in range(2))
    assert measured(largest_error, "mean_squared_error", x, y, 8) == pytest.approx(np.abs(x - y).mean(), rel=1e-6)
    scalar = measured(lambda a, b: a.builder.reduce_mean(a - b, keepdims=False), "l2", x, y, 8)
    assert scalar == pytest.approx((x - y).mean(), rel=1e-5)


BAD: list[tuple[Any, Any, str]] = [
    ("acuracy", "softmax_cross_entropy", "no metric named 'acuracy'\n  Did you mean 'accuracy'"),
    ("top_k:n=3", "softmax_cross_entropy", "no option of top_k named 'n'"),
    ("top_k:k=0", "softmax_cross_entropy", "k to be an integer of at least 1; found 0"),
    ("top_k:k=9", "softmax_cross_entropy", "at least 9 classes; found 4"),
    ("f_beta:beta=-1", "softmax_cross_entropy", "beta to be a number above 0 and at most 1e.09; found -1"),
    ("f_beta:beta=1e308", "softmax_cross_entropy", "at most 1e.09; found 1e.308"),
    ("f_beta:average=mean", "softmax_cross_entropy", "average to be one of macro, .*; found 'mean'"),
    ("f_beta:average=binary", "softmax_cross_entropy", "two classes .*; found 4"),
    ("auc:bins=1", "softmax_cross_entropy", r"bins to be an integer in \[2, 2\^20\]; found 1"),
    (
        "accuracy:",
        "mean_squared_error",
        "the metric accuracy expected a loss that chooses .*; found mean_squared_error",
    ),
    ("auc", "mean_squared_error", "the metric auc expected a loss that chooses"),
    ("r2", "softmax_cross_entropy", "the metric r2 expected a loss of numbers; found softmax_cross_entropy"),
    ("accuracy:name=lr", "softmax_cross_entropy", "'lr' twice"),
    (3, "softmax_cross_entropy", "measure expected a name, a metric of mx.metrics, or a function"),
    (lambda a, b: 3.0, "softmax_cross_entropy", "expected to return a value of the graph; found 3.0"),
]


@pytest.mark.parametrize(("metric", "loss", "text"), BAD, ids=lambda x: "a function" if callable(x) else str(x)[:40])
def test_what_cannot_be_measured(metric: Any, loss: str, text: str) -> None:
    output = np.zeros((4, 4), np.float32)
    label = np.zeros(4, np.int64) if loss.startswith("softmax") else output
    with pytest.raises(UsageError, match=text):
        measured(metric, loss, output, label)


def test_names() -> None:
    assert metrics.get("top_k:k=3").name == "top_3"
    assert metrics.get("f1").name == "f_beta"
    assert metrics.get(metrics.FBeta(beta=2, name="f2")).name == "f2"
    assert [m.name for m in metrics.chosen(None, losses.SoftmaxCrossEntropy())] == ["accuracy"]
    assert [m.name for m in metrics.chosen(None, losses.Huber())] == ["mean_absolute_error"]
    assert metrics.chosen(None, losses.Triplet()) == []
    assert metrics.chosen([], losses.Huber()) == []
