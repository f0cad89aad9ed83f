"""Losses and metrics against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference.ops.op_softmax_cross_entropy_loss import SoftmaxCrossEntropyLoss

from onnxmx.builder.ops import FLOAT
from onnxmx.errors import ShapeError, UsageError
from onnxmx.trainer import losses, metrics
from tests.trainer.nets import run_graph

Array = np.ndarray[Any, Any]


def classes_last(logits: Array) -> Array:
    return np.moveaxis(logits, 1, -1) if logits.ndim > 3 else logits


def cross_entropy(logits: Array, label: Array) -> float:
    logits = classes_last(logits)
    z = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return float(-np.take_along_axis(logp, label[..., None], -1).mean())


NUMPY = {
    "softmax_cross_entropy": cross_entropy,
    "mean_squared_error": lambda y, t: ((y.astype(np.float64) - t) ** 2).mean(),
    "accuracy": lambda y, t: (classes_last(y).argmax(-1) == t).mean(),
    "mean_absolute_error": lambda y, t: np.abs(y.astype(np.float64) - t).mean(),
}
OF_CLASSES = ("softmax_cross_entropy", "accuracy")
SHAPES = [(6, 4), (1, 2), (3, 5, 4), (2, 3, 5, 4), (2, 3, 2, 4, 2), (7, 1)]


def compute(name: str, output: Array, label: Array) -> float:
    function = losses.LOSSES[name].compute if name in losses.LOSSES else metrics.METRICS[name].compute
    dtype = FLOAT if label.dtype == np.float32 else None

    def build(g: Any) -> Any:
        from onnxmx.builder.ops import INT64

        return function(g, g.input("output", output.shape), g.input("label", label.shape, dtype or INT64))

    (found,) = run_graph(build, output=output, label=label)
    assert found.shape == ()
    assert found.dtype == np.float32
    return float(found)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NUMPY)
def test_against_numpy(name: str, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    output = random.normal(size=shape).astype(np.float32)
    label: Array = random.normal(size=shape).astype(np.float32)
    if name in OF_CLASSES:
        last = classes_last(output).shape
        label = random.integers(0, last[-1], last[:-1])
    assert compute(name, output, label) == pytest.approx(NUMPY[name](output, label), rel=1e-5, abs=1e-6)


def test_every_loss_and_metric_has_a_row() -> None:
    assert set(NUMPY) == set(losses.LOSSES) | set(metrics.METRICS)


def test_cross_entropy_of_large_logits_is_finite() -> None:
    output = np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 1e4]], np.float32)
    assert compute("softmax_cross_entropy", output, np.array([2, 1])) == pytest.approx((2e4 + np.log(2)) / 2)


def test_cross_entropy_of_images_is_that_of_onnx() -> None:
    random = np.random.default_rng(3)
    logits, label = random.normal(size=(2, 5, 3, 4)).astype(np.float32), random.integers(0, 5, (2, 3, 4))
    expected = SoftmaxCrossEntropyLoss.eval(logits, label, reduction="mean", n_outputs=1)
    assert compute("softmax_cross_entropy", logits, label) == pytest.approx(float(expected), rel=1e-5)


def test_the_first_of_equal_logits_counts() -> None:
    assert compute("accuracy", np.zeros((2, 3), np.float32), np.array([0, 1])) == 0.5


def test_names() -> None:
    assert losses.get("mean_squared_error").name == "mean_squared_error"
    assert metrics.get(metrics.METRICS["accuracy"]) is metrics.METRICS["accuracy"]
    with pytest.raises(UsageError, match="Did you mean 'mean_squared_error'"):
        losses.get("mean_square_error")
    with pytest.raises(UsageError, match="no metric named 'loss9'"):
        metrics.get("loss9")


def test_the_metric_that_goes_with_a_loss() -> None:
    softmax, squares = losses.get("softmax_cross_entropy"), losses.get("mean_squared_error")
    assert [m.name for m in metrics.chosen(None, softmax)] == ["accuracy"]
    assert [m.name for m in metrics.chosen(None, squares)] == ["mean_absolute_error"]
    assert metrics.chosen([], softmax) == []


def test_labels_of_an_output() -> None:
    import onnx_ir as ir

    def output(shape: Any) -> ir.Value:
        return ir.Value(name="y", type=ir.TensorType(FLOAT), shape=None if shape is None else ir.Shape(shape))

    softmax, squares = losses.get("softmax_cross_entropy"), losses.get("mean_squared_error")
    assert softmax.label(output(("batch", 7, 10))) == (["batch", 7], ir.DataType.INT64)
    assert softmax.label(output(("batch", 7, "height", 32))) == (["batch", "height", 32], ir.DataType.INT64)
    assert squares.label(output(("batch", 10))) == (["batch", 10], FLOAT)
    for shape in (None, (), ("batch", None), ("batch", "classes"), ("batch", "classes", 8, 8)):
        with pytest.raises(ShapeError, match="softmax_cross_entropy expected an output"):
            softmax.label(output(shape))
