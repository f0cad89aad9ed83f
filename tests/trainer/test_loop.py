"""The training loop: what it remembers, chooses, writes and says."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import (
    CheckpointError,
    DivergedError,
    OnnxmxWarning,
    SampleError,
    TrainingError,
    UsageError,
)
from onnxmx.trainer import state
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.evaluate import evaluate
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN, counter_run, lines, state_of


# --- what it remembers
def test_what_steps_came_to_is_added_up_before_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch may be of any length; the figures are the same bits."""

    class Noted(mx.Callback):
        def step(self, loop: Any, measured: Mapping[str, float]) -> None:
            held.append(len(loop._tally._noted))

    plain = mx.fit(blob_net(), TRAIN, **QUICK)
    held: list[int] = []
    monkeypatch.setattr("onnxmx.trainer.loop.LIMIT", 15)
    run = mx.fit(blob_net(), TRAIN, callbacks=[Noted()], **QUICK)
    assert run.history == plain.history
    assert (max(held), held.count(0)) == (14, 6)  # of 7 numbers a step


def test_history_and_files(tmp_path: Path) -> None:
    run = mx.fit(
        blob_net(0.2), TRAIN, validation=TEST, optimizer=mx.Adam(lr=0.05), out=tmp_path / "r", log_every=2, **QUICK
    )
    measures = {"loss", "accuracy", "grad_norm"}
    assert [set(h) for h in run.history] == [{"epoch", *measures, "validation_loss", "validation_accuracy"}] * 3
    assert [h["epoch"] for h in run.history] == [1, 2, 3]
    assert run.history[-1]["validation_accuracy"] > 0.9
    chosen = json.loads(run.model.metadata["onnxmx.provenance"])["epoch"]
    assert run.best == run.history[chosen - 1]
    written = lines(tmp_path / "r" / "metrics.jsonl")
    assert [w for w in written if "batch" not in w] == run.history
    steps = [w for w in written if "batch" in w]
    assert [(w["epoch"], w["batch"]) for w in steps] == [(e, b) for e in (1, 2, 3) for b in (2, 4, 6)]
    assert all(set(w) == {"epoch", "batch", "lr", *measures} for w in steps)
    expected = {
        "checkpoints",
        "last.onnx",
        "model.onnx",
        "metrics.jsonl",
        "state.safetensors",
        "step.json",
        "step.onnx",
    }
    assert {p.name for p in (tmp_path / "r").iterdir()} == expected
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir()) == [
        "step-12.safetensors",
        "step-18.safetensors",
    ]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity")
def test_a_run_records_the_threads_that_it_uses() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        run = mx.fit(blob_net(), TRAIN, epochs=1, progress=False)
    finally:
        os.sched_setaffinity(0, allowed)
    assert json.loads(run.model.metadata["onnxmx.provenance"])["threads"] == 1


def test_the_means_weigh_a_partial_batch_by_its_size() -> None:
    """Without learning, the mean over 90 samples in batches of 16 is the mean over the samples."""
    model = blob_net()
    run = mx.fit(model, TRAIN, optimizer=mx.SGD(lr=0.0), **QUICK | {"epochs": 1})
    expected = evaluate(model, TRAIN)
    for name, value in expected.items():
        assert run.history[0][name] == pytest.approx(value, rel=1e-5)


def test_the_norm_of_the_gradient_is_weighed_so_too() -> None:
    seen: list[float] = []

    class Norms(mx.Callback):
        def step(self, loop: Any, measured: Mapping[str, float]) -> None:
            seen.append(measured["grad_norm"])

    (epoch,) = mx.fit(blob_net(), TRAIN, callbacks=[Norms()], **QUICK | {"epochs": 1}).history
    sizes = [16, 16, 16, 16, 16, 10]
    assert epoch["grad_norm"] == pytest.approx(np.dot(seen, sizes) / 90, rel=1e-12)
    assert epoch["grad_norm"] != pytest.approx(np.mean(seen), rel=1e-6)


def test_a_batch_larger_than_the_data() -> None:
    run = mx.fit(blob_net(), TRAIN, **QUICK | {"batch_size": 1000})
    assert json.loads(run.last.metadata["onnxmx.provenance"])["steps"] == 3


def test_the_model_given_stays_as_it_is() -> None:
    model = blob_net()
    before = model.to_bytes()
    run = mx.fit(model, TRAIN, **QUICK)
    assert model.to_bytes() == before
    assert run.last.to_bytes() != before


def test_validation_is_that_of_the_saved_model(tmp_path: Path) -> None:
    """What the loop measured with live weights is what the file measures when it is loaded."""
    run = mx.fit(blob_net(0.3), TRAIN, validation=TEST, out=tmp_path / "r", **QUICK)
    found = evaluate(mx.load(tmp_path / "r" / "last.onnx"), TEST, threads=1)
    assert found == {k: run.history[-1][f"validation_{k}"] for k in ("loss", "accuracy")}


# --- which model is best
@pytest.mark.parametrize(
    ("path", "larger", "best"),
    [
        ([0.1, 0.7, 0.3], True, 2),
        ([0.1, 0.7, 0.3], False, 1),
        ([0.5, 0.5, 0.5], True, 1),  # the first of equals
        ([0.3, 0.2, 0.9], True, 3),
        ([math.nan, 0.2, 0.1], True, 2),  # what is not a number is beaten by any
        ([0.2, math.nan, 0.1], True, 1),
        ([math.nan, math.nan, 0.5], False, 3),
    ],
)
@pytest.mark.parametrize("kept", [True, False], ids=["in a folder", "in memory"])
def test_the_best_model_is_that_of_the_best_validation(
    tmp_path: Path, path: list[float], larger: bool, best: int, kept: bool
) -> None:
    run = counter_run(path, larger, validation=True, **({"out": tmp_path / "r"} if kept else {}))
    np.testing.assert_equal([h["validation_score"] for h in run.history], np.float32(path).astype(float).tolist())
    assert run.model.parameters()["w"] == best
    assert run.last.parameters()["w"] == len(path)
    assert json.loads(run.model.metadata["onnxmx.provenance"])["epoch"] == best
    if kept:
        assert mx.load(tmp_path / "r" / "model.onnx").to_bytes() == run.model.to_bytes()
        assert len(lines(tmp_path / "r" / "metrics.jsonl")) == len(path)  # strict JSON: no NaN among them


def test_an_epoch_is_measured_by_itself() -> None:
    """The loss of the k-th epoch is -k, whatever came before."""
    assert [h["loss"] for h in counter_run([0.0] * 4, True, validation=False).history] == [0.0, -1.0, -2.0, -3.0]


def test_without_validation_the_least_training_loss_is_best() -> None:
    """The loss falls in every epoch, whatever the metric says."""
    assert counter_run([0.9, 0.5, 0.1], True, validation=False).model.parameters()["w"] == 3


# --- what the files say
def test_metadata(tmp_path: Path) -> None:
    data = Dataset.from_arrays(
        np.arange(40, dtype=np.uint8).reshape(20, 2), np.arange(20) % 2, name="pixels", classes=["no", "yes"],
        scale=1 / 255, shift=-0.5,
    )  # fmt: skip
    run = mx.fit(L.Dense(2).build(x=("batch", 2)), data, out=tmp_path / "r", **QUICK | {"seed": 4})
    for name, model in (("model", run.model), ("last", run.last)):
        saved = {p.key: p.value for p in onnx.load(tmp_path / "r" / f"{name}.onnx").metadata_props}
        assert saved == dict(model.metadata)
        assert json.loads(saved["onnxmx.classes"]) == ["no", "yes"]
        assert json.loads(saved["onnxmx.preprocessing"]) == {"scale": 1 / 255, "shift": -0.5}
        assert json.loads(saved["onnxmx.trainable"]) == ["weight", "bias"]
        assert saved["onnxmx.loss"] == "softmax_cross_entropy"
        made = json.loads(saved["onnxmx.provenance"])
        assert (made["data"], made["data_digest"], made["seed"]) == ("pixels", data.digest(), 4)
    assert (made["epoch"], made["epochs"], made["steps"]) == (3, 3, 6)


def test_two_runs_give_the_same_files(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in "ab")
    for out in (first, second):
        mx.fit(blob_net(0.5), TRAIN, validation=TEST, out=out, **QUICK)
    assert state_of(first) == state_of(second)
    mx.fit(blob_net(0.5), TRAIN, validation=TEST, out=tmp_path / "c", **QUICK | {"seed": 1})
    assert (first / "last.onnx").read_bytes() != (tmp_path / "c" / "last.onnx").read_bytes()


def test_classes_of_an_earlier_training_do_not_stay() -> None:
    model = blob_net()
    model.metadata["onnxmx.classes"] = '["a", "b", "c"]'
    plain = Dataset.from_arrays(TRAIN.inputs["x"], TRAIN.labels["label"])
    assert "onnxmx.classes" not in mx.fit(model, plain, **QUICK).last.metadata


def test_a_model_is_trained_further() -> None:
    first = mx.fit(blob_net(), TRAIN, **QUICK)
    second = mx.fit(first.model, TRAIN, **QUICK)
    assert second.history[0]["loss"] < first.history[0]["loss"]


def test_a_regression() -> None:
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    data = Dataset.from_arrays(x, x @ np.array([[1.0], [-2.0], [0.5]], np.float32))
    run = mx.fit(L.Dense(1).build(x=("batch", 3)), data, validation=data, loss="mean_squared_error",
                 optimizer=mx.Adam(lr=0.1), **QUICK | {"epochs": 20})  # fmt: skip
    assert run.history[-1]["validation_mean_absolute_error"] < 0.1 * run.history[0]["validation_mean_absolute_error"]


# --- what goes wrong
def test_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    """It names batch and samples; the checkpoints written before hold numbers alone."""
    run = tmp_path / "r"
    with pytest.raises(DivergedError) as caught:
        mx.fit(blob_net(), TRAIN, optimizer=mx.SGD(lr=1e18), out=run, **QUICK | {"checkpoint_s": 0.0})
    said = str(caught.value)
    assert "expected a finite number; found " in said
    assert " at step 3, batch 3 " in said
    assert "of epoch 1 (samples " in said
    assert re.search(r"\n  first not finite: -?inf at \[\d+, \d+\] of Gemm '\d\.Gemm', whose inputs lie in \[", said)
    sample = int(re.search(r"nets\.py:\d+, of sample (\d+)\n", said)[1])  # type: ignore[index]
    assert caught.value.samples == Loader(TRAIN, 16).indices(0, caught.value.step - 1).tolist()
    assert sample in caught.value.samples
    assert "Lower the learning rate" in said
    for path in (run / "checkpoints").iterdir():
        assert all(np.isfinite(a).all() for a in state.load(path)[0].values())
    assert mx.load(run / "last.onnx").to_bytes()
    lines(run / "metrics.jsonl")


GRADIENT = (
    r"grad_norm expected a finite number; found nan at step 1, batch 1 of epoch 1 \(samples 66, .*\)\n"
    r"  first not finite: inf of Div 'grad\.loss\.Sqrt\.Div', whose inputs lie in \[0, 1\], built at .*test_loop\.py"
)


def test_a_gradient_that_is_not_a_number(tmp_path: Path) -> None:
    """The loss is 0 and its gradient 0 / 0: the parameters are lost, and no checkpoint may keep them."""

    def root(y: Any, t: Any) -> Any:
        return y.builder.sqrt(y.builder.reduce_sum(y * 0.0, keepdims=False))

    with pytest.raises(TrainingError, match=GRADIENT):
        mx.fit(blob_net(), TRAIN, loss=root, out=tmp_path / "r", **QUICK | {"checkpoint_s": 0.0})
    assert not (tmp_path / "r" / "checkpoints").exists()


@pytest.mark.parametrize("bad", [3, 11])  # the second one is in the test split
def test_a_label_of_a_divided_file_is_named_by_its_row_there(tmp_path: Path, bad: int) -> None:
    np.savez(tmp_path / "mine.npz", x=np.ones((20, 4), np.float32), y=np.where(np.arange(20) == bad, 5, 0))
    with pytest.warns(OnnxmxWarning, match="has no x_test"):
        train, test = (mx.data.get_dataset("mine.npz", split, tmp_path) for split in ("train", "test"))
    with pytest.raises(SampleError, match=rf"found 5 in sample {bad} of .*mine\.npz\n") as caught:
        mx.fit(blob_net(), train, validation=test, **QUICK)
    assert caught.value.sample == bad


def test_a_sample_of_data_that_was_cut_is_named_by_its_number_in_the_whole() -> None:
    x = np.ones((40, 4), np.float32)
    x[33] = -1
    train, _ = Dataset.from_arrays(x, np.zeros(40, np.int64)).hold_out(0.2)

    def net(x: Any) -> Any:
        return L.Dense(3)(x.builder.log(x * 1.0))

    said = r"\(samples ([0-9, ]+), in dataset 'arrays' \(train\)\)\n.*, of sample 33\n"
    with pytest.raises(DivergedError, match=said) as lost:
        mx.fit(mx.build(net, x=("batch", 4)), train, batch_size=8, progress=False)
    assert train.rows[lost.value.samples].tolist() == json.loads(f"[{re.search(said, str(lost.value))[1]}]")  # type: ignore[index]


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_the_first_value_that_is_not_a_number(parts: int) -> None:
    """The logarithm of a negative number, in the third sample of a batch, at a line of the user's."""

    def net(x: Any) -> Any:
        return L.Dense(3)(x.builder.log(x * 1.0))

    x = np.ones((8, 4), np.float32)
    x[2, 1] = -0.5
    data = Dataset.from_arrays(x, np.zeros(8, np.int64))
    place = Loader(data, 8).indices(0, 0).tolist().index(2) % (8 // parts)
    said = rf"nan at \[{place}, 1\] of Log '.*', whose inputs lie in \[-0\.5, 1\], built at .*, of sample 2\n"
    with pytest.raises(DivergedError, match=said):
        mx.fit(mx.build(net, x=("batch", 4)), data, batch_size=8, micro_batches=parts, progress=False)
    model = blob_net()
    weights = model.parameters()["0.weight"].copy()
    weights[1, 2] = np.inf
    with pytest.raises(DivergedError, match=r"first not finite: inf at \[1, 2\] of 0\.weight as the step began\n"):
        mx.fit(model.with_parameters({"0.weight": weights}), TRAIN, **QUICK, micro_batches=parts)


def test_a_run_with_validation_says_so_where_it_is_forgotten(tmp_path: Path) -> None:
    mx.fit(blob_net(), TRAIN, validation=TEST, out=tmp_path / "r", **QUICK)
    for again in (lambda out: mx.resume(out, TRAIN), lambda out: mx.fit(blob_net(), TRAIN, out=out, **QUICK)):
        with pytest.raises(CheckpointError, match=r"Go on with it: mx\.resume\('.*r', data, validation=\.\.\.\)"):
            again(tmp_path / "r")


def test_a_run_of_fit_goes_on_from_python(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options: dict[str, Any] = {"validation": TEST, "log_every": 2}
    done = mx.fit(blob_net(), TRAIN, optimizer=mx.Adam(lr=0.05), out=whole, loss=square, **options, **QUICK)
    shutil.copytree(whole, cut)
    next(iter(sorted((cut / "checkpoints").iterdir(), reverse=True))).unlink()  # back to the end of the second epoch
    with pytest.raises(
        UsageError, match=r"expected the data .*\n  For example mx\.resume\('.*cut', data, validation=\.\.\.\)"
    ):
        mx.resume(cut)
    with pytest.raises(UsageError, match="trained with a loss that its file does not hold: custom:square"):
        mx.resume(cut, TRAIN, progress=False, **options)
    again = mx.resume(cut, TRAIN, loss=square, progress=False, **options)
    assert (again.history, again.best) == (done.history, done.best)
    for name in ("last.onnx", "model.onnx", "metrics.jsonl", "checkpoints/step-18.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    with pytest.raises(CheckpointError, match=r"Go on with it: mx\.resume\('.*whole', data, validation=\.\.\.\)"):
        mx.fit(blob_net(), TRAIN, out=whole, **QUICK)
    with pytest.raises(CheckpointError, match="a run that has started; found none"):
        mx.resume(tmp_path / "none", TRAIN)
    with pytest.raises(CheckpointError, match=r"found no config\.toml"):
        mx.resume(tmp_path / "none")


def square(y: Any, t: Any) -> Any:
    return y * y
