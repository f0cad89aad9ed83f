"""Losses against PyTorch, values and gradients, and against finite differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.session import open_session
from onnxmx.errors import DataError, OnnxmxError, ShapeError, UsageError
from onnxmx.trainer import losses
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.losses import LOSSES, Loss, Spec
from onnxmx.trainer.objective import Objective
from tests.trainer.loss_rows import ROWS, Row
from tests.trainer.oracle import finite_difference_error

Array = np.ndarray[Any, Any]
REFERENCES = json.loads(Path(__file__).with_name("loss_references.json").read_text())


def specs(labels: dict[str, Array]) -> dict[str, Spec]:
    return {k: Spec(("batch", *a.shape[1:]), ir.DataType.from_numpy(a.dtype)) for k, a in labels.items()}


def build(g: GraphBuilder, loss: Any, outputs: list[Array], labels: dict[str, Array]) -> tuple[Any, list[Value]]:
    """The objective, and the loss with its gradients, sums and figure, of a batch of any size."""
    xs = {f"x{k}": g.input(f"x{k}", ("batch", *a.shape[1:])) for k, a in enumerate(outputs)}
    objective = Objective.of(losses.get(loss), xs, specs(labels), [])
    ts = {name: g.input(name, *spec) for name, spec in objective.labels.items()}
    value, sums = objective.compute(g, xs, ts)
    found = gradients(g, value, list(xs.values()))
    assert all(found)
    return objective, [value, *(dx for dx in found if dx is not None), objective.finish(g, "loss", sums["loss"])]


def run(loss: Any, outputs: list[Array], labels: dict[str, Array]) -> list[Array]:
    g = GraphBuilder()
    for k, value in enumerate(build(g, loss, outputs, labels)[1]):
        g.output(value, f"y{k}")
    feeds = {f"x{k}": a for k, a in enumerate(outputs)} | labels
    found: list[Array] = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1).run(None, feeds)
    return found


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_torch(row: Row) -> None:
    outputs, labels = row.arrays()
    loss, *dxs, figure = run(row.loss, outputs, labels)
    expected = REFERENCES[str(row)]
    assert (loss.shape, loss.dtype) == ((), np.float32)
    assert float(loss) == pytest.approx(expected["loss"], rel=1e-5, abs=1e-6)
    assert float(figure) == pytest.approx(expected["loss"], rel=1e-5, abs=1e-6)
    for x, dx, wanted in zip(outputs, dxs, expected["gradients"], strict=True):
        assert np.abs(np.reshape(wanted, x.shape)).max() > 1e-4
        np.testing.assert_allclose(dx, np.reshape(wanted, x.shape), rtol=1e-4, atol=2e-6)


def test_every_loss_has_a_row_and_every_row_a_reference() -> None:
    assert {row.loss.partition(":")[0] for row in ROWS} == set(LOSSES)
    assert set(map(str, ROWS)) == set(REFERENCES), "run python -m tests.trainer.loss_references where torch is"


@pytest.mark.parametrize("row", [r for r in ROWS if r.loss.partition(":")[0] != "ctc"], ids=str)
def test_against_finite_differences(row: Row) -> None:
    """In float64, on ONNX's own reference runtime."""
    outputs, labels = row.arrays()

    def make(g: GraphBuilder, *values: Value) -> Value:
        xs = {f"x{k}": v for k, v in enumerate(values)}
        ts = {k: g.constant(a.astype(np.float64) if a.dtype.kind == "f" else a) for k, a in labels.items()}
        loss = losses.get(row.loss)
        assert isinstance(loss, Loss)
        total, count = loss.terms(g, xs, ts)
        return g.div(total, g.cast_like(count, total))

    assert finite_difference_error(make, outputs) < 1e-5


@pytest.mark.parametrize("row", [r for r in ROWS if "lengths" not in r.loss], ids=str)
def test_the_loss_of_two_batches(row: Row) -> None:
    """What batches add up to is the loss of all their samples, weights and ignored labels too."""
    outputs, labels = row.arrays()
    parts = [([x[a:b] for x in outputs], {k: t[a:b] for k, t in labels.items()}) for a, b in ((0, 1), (1, None))]
    g = GraphBuilder()
    sums = []
    for xs, ts in parts:
        values = {f"x{i}": g.constant(x) for i, x in enumerate(xs)}
        objective = Objective.of(losses.get(row.loss), values, specs(ts), [])
        sums.append(objective.compute(g, values, {n: g.constant(t) for n, t in ts.items()})[1]["loss"])
    g.output(objective.finish(g, "loss", g.add(*sums)), "y")
    (found,) = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1).run(None, {})
    assert found == pytest.approx(REFERENCES[str(row)]["loss"], rel=1e-5, abs=1e-6)


def test_large_logits_are_no_matter() -> None:
    output = np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 1e4]], np.float32)
    loss, dx, _ = run("softmax_cross_entropy", [output], {"label": np.array([2, 1])})
    assert loss == pytest.approx((2e4 + np.log(2)) / 2)
    assert np.isfinite(dx).all()
    for name in ("sigmoid_bce", "focal", "logistic", "non_saturating_gan", "log_cosh", "kl"):
        assert all(np.isfinite(a).all() for a in run(name, [output], {"label": np.zeros_like(output)})), name
    for name in ("softmax_focal", "softmax_focal:gamma=0.5", "dice"):
        assert all(np.isfinite(a).all() for a in run(name, [output], {"label": np.array([0, 1])})), name


def test_where_distances_are_zero_gradients_are_numbers() -> None:
    x = np.ones((3, 4), np.float32)
    label = np.array([1, 0, 0])
    for name, outputs, labels in (("contrastive", [x, x], {"label": label}), ("triplet", [x] * 3, {}),
                                  ("cosine_embedding", [0 * x, x], {"label": label})):  # fmt: skip
        assert all(np.isfinite(a).all() for a in run(name, outputs, labels)), name


def test_where_nothing_counts_the_loss_is_zero() -> None:
    output, label = np.ones((3, 4), np.float32), np.full(3, 9)
    loss, dx, figure = run("softmax_cross_entropy:ignore_index=9", [output], {"label": label})
    assert (loss, figure, np.abs(dx).max()) == (0, 0, 0)


@pytest.mark.parametrize("blank", [1, 2, 4])
def test_ctc_with_another_blank(blank: int) -> None:
    """With its classes moved round by `blank` it is what it is with the blank 0, which PyTorch vouches for."""
    output = np.random.default_rng(0).normal(size=(3, 8, 5)).astype(np.float32)
    label = np.array([[1, 2, 2, 4], [3, 1, -1, -1], [-1, -1, -1, -1]])
    lengths = {"frames": np.array([8, 5, 6])}
    expected, slope, _ = run("ctc:lengths=frames", [output], {"label": label} | lengths)
    moved = np.where(label < 0, label, (label + blank) % 5)
    outputs = [np.roll(output, blank, axis=2)]
    found, moved_slope, _ = run(f"ctc:blank={blank},lengths=frames", outputs, {"label": moved} | lengths)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(moved_slope, np.roll(slope, blank, axis=2), atol=1e-6)


def test_ctc_whose_label_does_not_fit_counts_as_zero() -> None:
    output = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    labels = {"label": np.array([[1, 1, 2], [3, -1, -1]])}  # the first needs four steps
    loss, dx, _ = run("ctc", [output], labels)
    (alone, *_) = run("ctc", [output[1:]], {"label": labels["label"][1:]})
    assert loss == pytest.approx(alone / 2)
    assert np.abs(dx[0]).max() == 0.0


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min, -1e30])
def test_ctc_of_classes_that_are_hidden(hidden: float) -> None:
    """Paths without them count as ever, those with them for nothing."""
    output = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    labels = {"label": np.array([[3, 2, 1, 4], [2, -1, -1, -1]])}
    found, expected = [], []
    for results, value in ((found, hidden), (expected, -1e3)):
        output[:, 1:5, 0] = output[1, :, 3:] = value
        results += run("ctc", [output], labels)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


# --- names and options
SPELLED = [*sorted({row.loss for row in ROWS}), "l1", "digit=softmax_cross_entropy odd=sigmoid_bce:weight=0.3",
           "a,b=contrastive:margin=2.0", "ctc:blank=3,lengths=frames"]  # fmt: skip


@pytest.mark.parametrize("text", SPELLED)
def test_what_a_loss_says_of_itself_makes_it_again(text: str) -> None:
    loss = losses.get(text)
    assert losses.get(str(loss)) == loss
    assert hash(loss) == hash(losses.get(str(loss)))


def test_what_names_a_loss() -> None:
    assert losses.get("huber") == losses.Huber()
    assert losses.get("l2") == losses.MeanSquaredError()
    assert str(losses.Huber(delta=0.5)) == "huber:delta=0.5"
    assert str(losses.WassersteinGAN(real=True)) == "wasserstein_gan:real=true"
    assert str(losses.SoftmaxCrossEntropy(class_weight=[1, 2])) == "softmax_cross_entropy:class_weight=[1.0,2.0]"


BAD: list[tuple[Any, str]] = [
    ("mean_square_error", "no loss named 'mean_square_error'\n  Did you mean 'mean_squared_error'"),
    ("huber:detla=1", "no option of huber named 'detla'\n  Did you mean 'delta'"),
    ("huber:1", "expected a name and options"),
    ("huber:delta=__import__('os')", "expected a name and options"),
    ("huber:delta=" + "(" * 5000, "expected a name and options"),
    ("huber:delta=" + "1" * 20_000, "expected a name and options"),
    ("huber:delta=0", "huber expected delta to be a number above 0; found 0"),
    ("huber:weight=-1", "weight to be a number of at least 0; found -1"),
    ("softmax_cross_entropy:weight=[1,2]", "found (1, 2)\n  Those of classes are class_weight=[...]"),
    ("huber:weight=text", "weight to be a number of at least 0; found 'text'"),
    ("softmax_cross_entropy:smoothing=1", "smoothing to be a number of at least 0 and below 1; found 1"),
    ("softmax_cross_entropy:class_weight=3", "class_weight to be a list of numbers; found 3"),
    ("softmax_cross_entropy:class_weight=[0,0]", "finite numbers of at least 0"),
    ("softmax_cross_entropy:ignore_index=1.5", "ignore_index to be an integer; found 1.5"),
    ("ctc:blank=-1", "blank to be a class number; found -1"),
    ({}, "a loss for each output; found none"),
    (3, "loss expected a name, a loss of mx.losses, or a function of graph values; found 3"),
    ({"a": None}, "found None"),
]


@pytest.mark.parametrize(("loss", "text"), BAD, ids=lambda x: str(x)[:40])
def test_what_is_no_loss(loss: Any, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        losses.get(loss)
    assert text in str(caught.value)


# --- labels
def output(shape: Any) -> ir.Value:
    return ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=None if shape is None else ir.Shape(shape))


def test_labels_of_an_output() -> None:
    softmax, squares, binary = losses.SoftmaxCrossEntropy(), losses.MeanSquaredError(), losses.SigmoidBCE()
    integers, floats = ir.DataType.INT64, ir.DataType.FLOAT
    assert softmax.label(output(("batch", 7, 10))) == (("batch", 7), integers)
    assert softmax.label(output(("batch", 7, "height", 32))) == (("batch", "height", 32), integers)
    assert softmax.label(output(("batch", 7)), Spec(("batch", 7), floats)) == (("batch", 7), floats)
    assert squares.label(output(("batch", 10))) == (("batch", 10), floats)
    assert squares.label(output(("batch", 10)), Spec(("batch",), floats)) == (("batch", 10), floats)
    assert squares.label(output(("batch", 1)), Spec(("batch",), floats)) == (("batch",), floats)
    assert binary.label(output(("batch", 1)), Spec(("batch",), integers)) == (("batch",), integers)
    for shape in (None, (), ("batch",), ("batch", None), ("batch", "classes"), ("batch", "classes", 8, 8)):
        with pytest.raises(ShapeError, match="softmax_cross_entropy expected an output"):
            softmax.label(output(shape))
    with pytest.raises(ShapeError, match="a class_weight for each of 10 classes; found 2"):
        losses.SoftmaxCrossEntropy(class_weight=[1, 2]).label(output(("batch", 10)))


CTC_OUTPUT = output(("batch", 4, 5))
VALUES: list[tuple[str, ir.Value, Array, str | None]] = [
    (
        "softmax_cross_entropy",
        output(("batch", 3)),
        np.array([0, 3]),
        r"in \[0, 3\), one of 3 classes; found 3 in s.*1(.|\n)*an output for each class",
    ),
    ("softmax_cross_entropy:ignore_index=-1", output(("batch", 3)), np.array([0, -1, 2]), None),
    (
        "softmax_cross_entropy",
        output(("batch", 3)),
        np.float32([[0, 2, -1]]),
        "probabilities, between 0 and 1, .*; found 2",
    ),
    ("sigmoid_bce", output(("batch", 3)), np.array([[0, 1, 2]]), "between 0 and 1; found 2 in sample 0"),
    ("focal", output(("batch", 3)), np.float32([[0, 0.5, 1]]), "0 or 1; found 0.5"),
    ("focal", output(("batch", 3)), np.array([[0, 1, 2]]), "0 or 1; found 2"),
    ("hinge", output(("batch", 3)), np.array([[0, 1, -1]]), None),
    ("hinge", output(("batch", 3)), np.array([[0, 1, -2]]), "0 or 1, or -1 or 1; found -2"),
    ("poisson", output(("batch", 3)), np.float32([[0, 1, -2]]), "at least 0; found -2"),
    ("contrastive", output(("batch", 3)), np.array([0, 3]), "1, 0 or -1; found 3 in sample 1"),
    ("ctc", CTC_OUTPUT, np.array([[1, 2, -1], [3, 3, -1]]), None),
    ("ctc", CTC_OUTPUT, np.array([[1, 2, 5]]), r"in \[0, 5\) but 0, the blank, or -1 behind the end; found 5"),
    ("ctc", CTC_OUTPUT, np.array([[1, 0, 2]]), "found 0 in sample 0"),
    ("ctc", CTC_OUTPUT, np.array([[1, -1, 2]]), "-1 behind the first -1"),
    ("ctc", CTC_OUTPUT, np.array([[1, 2, 3], [1, 1, 1]]), r"'label' to fit into 4 steps; .* needs 5, .* in sample 1"),
    ("ctc", CTC_OUTPUT, np.array([[1, 2, -1, -1, -1, -1]]), None),
    ("ctc", CTC_OUTPUT, np.array([4, 0]), "the steps of a sample; found 0 in sample 1"),
    ("ctc", CTC_OUTPUT, np.array([4, 5]), r"in \[1, 4\], the steps of a sample; found 5 in sample 1"),
]


@pytest.mark.parametrize(("loss", "x", "label", "text"), VALUES)
def test_values_of_labels(loss: str, x: ir.Value, label: Array, text: str | None) -> None:
    made = losses.get(loss)
    assert isinstance(made, Loss)
    if text is None:
        made.check("label", label, {"y": x})
        return
    with pytest.raises(DataError, match=text):
        made.check("label", label, {"y": x})


def test_shapes_that_do_not_fit() -> None:
    for loss, shapes in (("triplet", [("b", 3), ("b", 3)]), ("triplet", [("b", 3), ("b", 3), ("b", 4)]),
                         ("contrastive", [("b", 3, 2)] * 2), ("ctc", [("b", 3)]),
                         ("ctc:blank=9", [("b", 7, 3)])):  # fmt: skip
        with pytest.raises(OnnxmxError, match=r"expected (a model of )?(an output|\d outputs)"):
            Objective.of(losses.get(loss), {f"x{k}": output(s) for k, s in enumerate(shapes)})
