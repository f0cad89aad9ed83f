"""What `fit` is given: data, options and folders that it takes, and what it says of those that it cannot."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import (
    CheckpointError,
    DataError,
    GradientError,
    OnnxmxError,
    ShapeError,
    UsageError,
)
from onnxmx.trainer.callbacks import KeepBest
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.evaluate import evaluate
from onnxmx.trainer.plan import Plan
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN, state_of

FOREIGN = Dataset.from_arrays(np.zeros((8, 4), np.float32), np.arange(8), classes=[str(k) for k in range(8)])
X = np.zeros((8, 4), np.float32)


def data(labels: Any, **options: Any) -> Dataset:
    return Dataset.from_arrays(X, np.asarray(labels), **options)


def sample(*shape: int) -> Dataset:
    return Dataset.from_arrays(np.zeros((8, *shape)), np.zeros(8, np.int64))


def image_net() -> mx.Model:
    return L.Sequential(L.Flatten(), L.Dense(3)).build(x=("batch", 1, 8, 8))


class Samples:
    """As PyTorch asks of a dataset."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, k: int) -> tuple[Any, int]:
        if k >= 8:
            raise IndexError
        return X[k], k % 3


class Loader:
    """As PyTorch's, which gives batches."""

    dataset = Samples()

    def __iter__(self) -> Any:
        yield X, np.zeros(8, np.int64)


class Table:
    """As of pandas."""

    columns = ("a", "b")

    def __array__(self, *_: Any) -> Any:
        return X


class Own(Dataset):
    def __init__(self) -> None:
        pass


BAD: list[tuple[Any, Dataset, dict[str, Any], type[Exception], str]] = [
    (blob_net, FOREIGN, {}, DataError, r"\[0, 3\)"),
    (blob_net, data(np.arange(8)), {}, DataError, r"\[0, 3\)"),  # no classes named, and out of range all the same
    (blob_net, data(np.zeros(8)), {}, DataError,
     r"softmax_cross_entropy expected labels of int64 \(batch,\).*; found 'label' of float32 \(batch,\)"),
    (blob_net, data(np.zeros(8, np.int64)), {"loss": "mean_squared_error"}, DataError, r"float32 \(batch, 3\)"),
    (blob_net, data(np.arange(8) % 3), {"loss": "mse"}, DataError,
     r"Losses that take these labels: softmax_cross_entropy, softmax_focal, dice\.$"),
    (lambda: L.Dense(1).build(x=("batch", 4)), data(np.arange(8) % 2), {"loss": "mse"}, DataError,
     r"labels: sigmoid_bce, hinge, squared_hinge, logistic, focal\. As numbers .* y\.astype\(numpy\.float32\)"),
    (lambda: L.Dense(1).build(x=("batch", 4)), data(np.arange(8) % 3), {"loss": "huber"}, DataError,
     "for softmax_cross_entropy, and a model that ends in an output for each class"),
    (blob_net, data(np.zeros((8, 2), np.int64)), {}, DataError, r"found 'label' of int64 \(batch, 2\)"),
    (blob_net, Dataset.from_arrays(X[:, :3], np.zeros(8, np.int64)), {}, DataError,
     r"expected samples of shape \(4,\); found \(3,\)"),
    (blob_net, data(np.zeros(8)), {}, DataError, r"given as integers: y\.astype\(int\)"),
    (blob_net, data(np.zeros((8, 1), np.int64)), {}, DataError, r"last axis, of one, these would fit: y\[\.\.\., 0\]"),
    (lambda: L.LSTM(3).build(x=("batch", 2, 4)), sample(2, 4), {}, DataError, r"Flatten\(\) or return_sequences=F"),
    (lambda: L.Dense(3).build(x=(4,)), data(np.zeros(8, np.int64)), {}, DataError, r"build\(x=\('batch', 4\)\)"),
    (image_net, sample(8, 8, 1), {}, DataError, r"before height and width: x\.transpose\(0, 3, 1, 2\)"),
    (image_net, sample(8, 8), {}, DataError, r"an axis of channels: x\[:, None\]"),
    (image_net, sample(64), {}, DataError, r"Give the samples that shape: x\.reshape\(-1, 1, 8, 8\)"),
    (blob_net, sample(), {}, DataError, r"Samples come first: x\[None\]"),
    (image_net, sample(63), {}, DataError, r"or another dataset\.$"),
    (blob_net, Dataset.from_arrays(X), {}, DataError, "expected one label"),
    (blob_net, Dataset.from_arrays({"a": X, "b": X}, np.zeros(8, np.int64)), {}, DataError,
     r"expected the inputs \['x'\]; found \['a', 'b'\]"),
    (lambda: mx.build(lambda x: x.builder.cast(x, FLOAT) * 1.0, x=mx.Input(("batch", 4), "int64")),
     data(np.zeros(8, np.int64)), {}, DataError, "input 'x' expected int64; found float32"),
    (lambda: mx.build(lambda x: L.Dense(3)(x.builder.reshape(x, [1, 1])), x=()),
     Dataset.from_arrays(np.zeros(8, np.float32), np.zeros(8, np.int64)), {}, DataError, "samples; found a scalar"),
    (lambda: L.Dense(3).build(x=(5, 4)), data(np.zeros(8, np.int64)), {}, DataError, r"x float32 \(5, 4\)"),
    (lambda: mx.build(lambda x: {"a": L.Dense(3)(x), "b": L.Dense(2)(x)}, x=("batch", 4)),
     data(np.zeros(8, np.int64)), {}, ShapeError, "one output"),
    (lambda: L.Activation("relu").build(x=("batch", 4)), data(np.zeros(8, np.int64)), {}, GradientError,
     "no trainable parameter"),
    (blob_net, TRAIN, {"optimizer": mx.SGD(lr=mx.WarmupCosine(0.1, warmup=999))}, UsageError, "no longer than its 18"),
    (blob_net, TRAIN, {"provider": "tpu"}, UsageError, "provider"),
    (blob_net, TRAIN, {"epoch": 3}, UsageError, "Did you mean .epochs."),
    (blob_net, TRAIN, {"epochs": 0}, UsageError, "epochs expected"),
    (blob_net, TRAIN, {"validation": FOREIGN}, DataError, r"\[0, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "given", "options", "error", "text"), BAD)
def test_what_cannot_be_trained_leaves_no_file(
    tmp_path: Path, make: Any, given: Dataset, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        mx.fit(make(), given, out=tmp_path / "r", **QUICK | options)
    assert not (tmp_path / "r").exists()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path: Path) -> None:
    mx.fit(blob_net(), TRAIN, out=tmp_path / "r", **QUICK)
    before = state_of(tmp_path / "r")
    with pytest.raises(CheckpointError, match="holds a run already"):
        mx.fit(blob_net(), TRAIN, out=tmp_path / "r", **QUICK)
    assert state_of(tmp_path / "r") == before


def test_a_folder_with_a_model_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=r"holds a run already: model\.onnx"):
        mx.fit(blob_net(), TRAIN, out=tmp_path, **QUICK)
    assert state_of(tmp_path) == {"model.onnx": b"mine"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OnnxmxError, match="cannot write"):
        mx.fit(blob_net(), TRAIN, out=tmp_path / "file" / "r", **QUICK)


def test_fixed_batches_that_divide_the_data() -> None:
    run = mx.fit(L.Dense(3).build(x=(15, 4)), TRAIN, validation=TRAIN, **QUICK | {"batch_size": 15})
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    with pytest.raises(DataError, match="batches of exactly 15 samples; found 31"):
        evaluate(run.model, TEST)


ARRAY = np.zeros((8, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"model": L.Dense(3)}, r"a model; found Dense\n  Build it first: model = net\.build\(x=\('batch', 4\)\)"),
        ({"model": L.Dense(3), "data": ARRAY}, "a model; found Dense\n  Build a layer first"),
        ({"data": ARRAY}, r"a dataset; found ndarray\n  Make one of arrays: mx\.data\.Dataset\.from_arrays"),
        ({"data": (ARRAY, ARRAY)}, r"a dataset; found tuple\n  Make one of arrays"),
        ({"data": Samples()}, r"a dataset; found Samples\n  .*from_arrays\(\*zip\(\*samples\)\)"),
        ({"data": [(X[0], 0), (X[1], 1)]}, r"a dataset; found list\n  .*from_arrays\(\*zip\(\*samples\)\)"),
        ({"data": iter(())}, r"a dataset; found tuple_iterator\n  .*from_arrays\(\*zip\(\*samples\)\)"),
        ({"data": Loader()}, r"a dataset; found Loader\n  .*from_arrays\(\*zip\(\*loader\.dataset\)\)"),
        ({"data": Table()}, r"a dataset; found Table\n  .*from_arrays\(table\[\['a', 'b'\]\], table\['label'\]\)"),
        ({"data": Own()}, r"a dataset of arrays; found Own, which has none\n  End its __init__ with super"),
        ({"validation": ARRAY}, "validation data; found ndarray"),
        ({"validation": Loader()}, r"validation data; found Loader\n  .*loader\.dataset"),
        ({"optimizer": "adan"}, r"no optimizer named 'adan'\n  Did you mean 'adam'"),
        ({"optimizer": 1e-3}, r"an optimizer; found 0\.001\n  For example mx\.Adam"),
        ({"optimizer": mx.Adam}, r"an optimizer; found the class Adam\n  For example mx\.Adam"),
        ({"callbacks": mx.Callback()}, r"callbacks expected a list"),
        ({"callbacks": ["csv"]}, r"objects of mx\.Callback; found 'csv'"),
        ({"callbacks": [mx.EarlyStopping]}, r"found <class (.|\n)*Such as EarlyStopping\(\)"),
        ({"callbacks": [mx.ReduceOnPlateau(0.1)]}, r"It is a learning rate: .*lr=mx\.ReduceOnPlateau\(\.\.\.\)"),
        ({"callbacks": [mx.Callback()]}, r"a moment of mx\.Callback; found none\n  They are called begin, step"),
        ({"clip": {}}, r"a clipping or a list of them; found {}\n  For example mx\.clip_global_norm"),
        ({"epochs": 1.5}, "epochs expected an integer of at least 1; found 1.5"),
        ({"seed": "1"}, "seed expected an integer of at least 0; found '1'"),
        ({"threads": True}, "threads expected an integer of at least 1; found True"),
        ({"min_delta": "0.1", "patience": 2}, "min_delta expected a number of at least 0; found '0.1'"),
        ({"callbacks": iter(())}, "callbacks expected a list; found <"),
        ({"checkpoint_s": "often"}, "checkpoint_s expected a number of at least 0; found 'often'"),
    ],
)
def test_what_is_easily_given_instead(arguments: dict[str, Any], text: str) -> None:
    model, given = arguments.pop("model", None) or blob_net(), arguments.pop("data", TRAIN)
    with pytest.raises(UsageError, match=text):
        mx.fit(model, given, **arguments)


def test_samples_of_other_libraries_become_a_dataset_as_errors_say() -> None:
    for samples in (Samples(), Loader().dataset, list(Samples()), (pair for pair in Samples())):
        made = Dataset.from_arrays(*zip(*samples, strict=True))
        assert made.digest() == Dataset.from_arrays(X, np.arange(8) % 3).digest()
    assert Dataset.from_arrays(Table(), np.arange(8) % 3).digest() == made.digest()
    for given, says in [
        ((X, np.arange(8)), "several lengths(.|\n)*Labels are the second argument"),
        (Samples(), r"several lengths(.|\n)*\*zip\(\*samples\)"),
        (list(Samples()), r"several lengths(.|\n)*\*zip\(\*samples\)"),
        ([X, X[:, :2]], "several lengths(.|\n)*Pad or cut them"),
        ((x for x in X), r"an array of samples in 'x'; found generator(.|\n)*\*zip\(\*samples\)"),
        (zip(X, X, strict=True), r"an array of samples in 'x'; found zip(.|\n)*\*zip\(\*samples\)"),
        (Loader(), r"an array of samples in 'x'; found Loader(.|\n)*\*zip\(\*loader\.dataset\)"),
        (None, r"an array of samples in 'x'; found NoneType"),
    ]:
        with pytest.raises(DataError, match=says) as caught:
            Dataset.from_arrays(given)  # type: ignore[arg-type]
        assert "test_fit_arguments.py" in (caught.value.at or "")


def test_what_is_easily_given_to_evaluate() -> None:
    with pytest.raises(UsageError, match=r"evaluate expected a model; found str\n  .*mx\.load"):
        evaluate("model.onnx", TEST)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="evaluate expected a dataset; found ndarray"):
        evaluate(blob_net(), ARRAY)  # type: ignore[arg-type]


def test_numbers_of_numpy_will_do(tmp_path: Path) -> None:
    counts = {"epochs": np.int64(1), "batch_size": np.int32(16), "seed": np.uint8(1), "checkpoint_s": np.float32(0)}
    mx.fit(blob_net(), TRAIN, optimizer=mx.Adam(lr=np.float32(0.1)), out=tmp_path / "r", progress=False, **counts)


@pytest.mark.parametrize(
    "options",
    [
        {
            "patience": np.int64(2),
            "min_delta": np.float32(0.5),
            "keep_best": np.uint8(1),
            "checkpoint_s": np.float16(0),
        },
        {"loss": mx.losses.SoftmaxCrossEntropy(smoothing=np.float32(0.5), weight=np.float32(2))},
        {"teach": mx.Teacher(blob_net(), np.float32(2), np.float64(0.5), feature_weight=np.int64(1))},
        {"callbacks": [mx.EarlyStopping(np.int64(2), np.float32(0.5)), mx.KeepBest(np.int16(1))]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_numbers_of_numpy_as_options(tmp_path: Path, options: dict[str, Any]) -> None:
    """What of them is written down is read again: the run goes on."""
    mx.fit(blob_net(), TRAIN, out=tmp_path, **QUICK | {"epochs": 1} | options)
    callbacks = options.get("callbacks", [])
    assert mx.resume(tmp_path, TRAIN, callbacks=callbacks, progress=False).best["epoch"] == 1


def test_formulations_are_tuned_for_the_samples_that_go_through_at_once() -> None:
    for parts, samples in ((1, 24), (3, 8)):
        tuner = Plan(batch_size=24, micro_batches=parts, threads=2, tune="off").tuner(print)
        assert tuner is not None
        assert (tuner.mode, tuner.batch, tuner.threads, tuner.provider) == ("off", samples, 2, "cpu")
    assert Plan(engine="ort-training").tuner(print) is None  # its gradients are its own


def test_what_a_plan_asks_for_listens() -> None:
    made = Plan(logs=["csv", "csv"], profile=True, keep_best=2, patience=3, min_delta=0.5).callbacks()
    assert [type(c).__name__ for c in made] == ["CSVLog", "CSVLog", "Profile", "KeepBest", "EarlyStopping"]
    assert made[3:] == [KeepBest(2), mx.EarlyStopping(3, 0.5)]


def test_fit_shows_every_option_with_its_default_and_what_it_is() -> None:
    shown = inspect.signature(mx.fit).parameters
    for field in fields(Plan):
        assert shown[field.name].default == field.default
    for name in shown:
        assert re.search(rf"\b{name}\b", inspect.getdoc(mx.fit) or ""), name


def test_data_that_does_not_fit_is_named_by_its_split() -> None:
    """Both are often of one file."""
    wide = mx.data.Dataset.from_arrays(np.zeros((4, 5), np.float32), np.zeros(4, np.int64), name="mine", split="test")
    floats = mx.data.Dataset.from_arrays(np.zeros((4, 4)), np.zeros(4), name="mine", split="test")
    for data in (wide, floats):
        with pytest.raises(DataError, match=r"found .* in dataset 'mine' \(test\)\n"):
            mx.fit(blob_net(), TRAIN, validation=data, **QUICK)
