"""What listens to a run, what ends it early, and the step by hand."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx.errors import CheckpointError, DataError, StoppedError, UsageError
from onnxmx.trainer.callbacks import restore
from onnxmx.trainer.data import Loader
from onnxmx.trainer.loop import Loop, Run
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN, counter_run, state_of


# --- a step by hand
def test_steps_by_hand_are_those_of_fit() -> None:
    """The same batches in the same order: the same bits."""
    model = blob_net(0.3)
    done = mx.fit(model, TRAIN, validation=TEST, optimizer=mx.Adam(0.01), seed=3, **QUICK)
    trainer = mx.Trainer(model, optimizer=mx.Adam(0.01), seed=3, threads=1)
    loader = Loader(TRAIN, 16, seed=3)
    for epoch in range(3):
        for _, batch in loader.epoch(epoch):
            measured = trainer.step(batch)
    assert set(measured) == {"loss", "accuracy", "grad_norm", "lr"}
    assert trainer.updates == 18
    for name, array in trainer.model.parameters().items():
        np.testing.assert_array_equal(array, done.last.parameters()[name])
    found = {f"validation_{name}": value for name, value in trainer.evaluate(TEST).items()}
    assert found == {name: value for name, value in done.history[-1].items() if name in found}
    assert trainer.model.metadata["onnxmx.loss"] == "softmax_cross_entropy"


def test_a_batch_by_place_is_refused() -> None:
    with pytest.raises(DataError, match=r"arrays by name; found tuple\n  For example"):
        mx.Trainer(blob_net(), threads=1).step((np.zeros((2, 4)), np.zeros(2)))  # type: ignore[arg-type]


def test_a_trainer_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    batches = [batch for _, batch in Loader(TRAIN, 16).epoch(0)]
    trainer = mx.Trainer(blob_net(0.3), threads=1)
    trainer.step(batches[0])
    trainer.save(tmp_path / "s.safetensors", {"note": 1})
    expected = [trainer.step(batch) for batch in batches[1:]]
    other = mx.Trainer(blob_net(0.3), threads=1)
    other.step(batches[3])
    assert other.load(tmp_path / "s.safetensors") == {"note": 1}
    assert [other.step(batch) for batch in batches[1:]] == expected


def test_the_state_of_another_model_is_named_part_by_part(tmp_path: Path) -> None:
    trainer = mx.Trainer(blob_net(), threads=1)
    trainer.save(tmp_path / "s.safetensors")
    before = trainer.model.to_bytes()
    other = mx.Trainer(mx.layers.Dense(3).build(x=("batch", 4)), threads=1)
    with pytest.raises(CheckpointError, match=r"differ: weight \(expected float32 \(4, 3\), found none\)") as caught:
        other.load(tmp_path / "s.safetensors")
    assert "0.weight (not expected, found float32 (4, 8))" in str(caught.value)
    assert trainer.model.to_bytes() == before


def test_a_batch_that_does_not_fit() -> None:
    with pytest.raises(DataError, match=r"found x float64 \(2, 4\), label int64 \(2,\)"):
        mx.Trainer(blob_net(), threads=1).step({"x": np.zeros((2, 4)), "label": np.zeros(2, np.int64)})


@pytest.mark.parametrize(
    ("x", "label", "says"),
    [
        (math.nan, 0, "expected finite float32 values in 'x'; found nan in sample 2"),
        (-math.inf, 0, "found -inf in sample 2"),
        (0.0, 99, r"softmax_cross_entropy expected 'label' to be in \[0, 3\), one of 3 classes; found 99 in sample 2"),
        (0.0, -1, "found -1 in sample 2"),
    ],
)
def test_a_step_refuses_the_values_that_fit_refuses(x: float, label: int, says: str) -> None:
    """And the state stays as it was."""
    trainer = mx.Trainer(blob_net(), threads=1)
    xs, labels = np.zeros((4, 4), np.float32), np.zeros(4, np.int64)
    xs[2, 1], labels[2] = x, label
    for run in (
        lambda: trainer.step({"x": xs, "label": labels}),
        lambda: mx.fit(blob_net(), mx.data.Dataset.from_arrays(xs, labels), **QUICK),
    ):
        with pytest.raises(DataError, match=says):
            run()
    assert trainer.updates == 0


def test_a_step_refuses_masked_values() -> None:
    x = np.ma.masked_equal(np.arange(16, dtype=np.float32).reshape(4, 4), 9)
    with pytest.raises(DataError, match=r"the batch expected a value everywhere in 'x'; found 1 under .* 2\n"):
        mx.Trainer(blob_net(), threads=1).step({"x": x, "label": np.zeros(4, np.int64)})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "ortt"}, "no engine named 'ortt'\n  Did you mean 'ort'"),
        ({"engine": None}, "no engine named None"),
        *(
            ({"seed": seed}, r"seed expected an integer (of at least 0|below 2\^63)")
            for seed in (-1, 2**63, math.inf, "1")
        ),
        *(({"micro_batch": size}, "micro_batch expected an integer") for size in (0, 0.5, math.inf, 2**63)),
        ({"threads": 0}, "threads expected an integer of at least 1; found 0"),
    ],
)
def test_options_of_a_trainer_that_there_are_not(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        mx.Trainer(blob_net(), **{"threads": 1, **options})


# --- moments
class Notes(mx.Callback):
    """Writes down each moment."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def begin(self, loop: Loop) -> None:
        self.seen.append(("begin", loop.steps, loop.folder))

    def step(self, loop: Loop, measured: Mapping[str, float]) -> None:
        assert set(measured) == {"loss", "accuracy", "grad_norm", "lr"}
        self.seen.append(("step", loop.position.epoch, loop.position.batch))

    def log(self, loop: Loop, line: Mapping[str, Any]) -> None:
        self.seen.append(("log", line["epoch"], line.get("batch")))

    def epoch(self, loop: Loop, measures: Mapping[str, Any]) -> None:
        assert measures is loop.position.history[-1]
        self.seen.append(("epoch", measures["epoch"], loop.trainer.updates))

    def end(self, loop: Loop) -> None:
        self.seen.append(("end", loop.steps))


def test_moments_in_their_order() -> None:
    notes = Notes()
    mx.fit(blob_net(), TRAIN, callbacks=[notes], log_every=4, **QUICK | {"epochs": 2})
    expected: list[tuple[Any, ...]] = [("begin", 0, None)]
    for epoch in range(2):
        for batch in range(1, 7):
            expected += [("log", epoch + 1, 4)] if batch == 4 else []
            expected.append(("step", epoch, batch))
        expected += [("log", epoch + 1, None), ("epoch", epoch + 1, 6 * (epoch + 1))]
    assert notes.seen == [*expected, ("end", 12)]


@pytest.mark.parametrize("moment", ["begin", "step", "log", "epoch", "end"])
def test_a_callback_may_have_one_moment_alone(moment: str) -> None:
    heard: list[tuple[Any, ...]] = []
    one = type("One", (mx.Callback,), {moment: lambda self, *given: heard.append(given)})
    mx.fit(blob_net(), TRAIN, callbacks=[one()], **QUICK)
    assert heard


class Counter(mx.Callback):
    """Counts steps, and stops the run at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.steps = at, 0

    def step(self, loop: Loop, measured: Mapping[str, float]) -> None:
        self.steps += 1
        if self.steps == self.at:
            loop.stop("counted enough")

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


@pytest.mark.parametrize("at", [2, 6, 9, 18])
def test_a_run_that_was_stopped_in_a_step_goes_on_to_the_same_bytes(tmp_path: Path, at: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options: dict[str, Any] = {"validation": TEST, "optimizer": mx.Adam(0.05), **QUICK}
    mx.fit(blob_net(0.2), TRAIN, out=whole, callbacks=[Counter(0)], **options)
    first = mx.fit(blob_net(0.2), TRAIN, out=cut, callbacks=[Counter(at)], **options)
    assert first.stopped == "counted enough"
    assert first.best["epoch"] <= at // 6 + 1
    assert "validation_loss" in first.best
    assert first.model.to_bytes() == (cut / "model.onnx").read_bytes()
    assert json.loads(first.last.metadata["onnxmx.provenance"])["steps"] == at
    with pytest.raises(CheckpointError, match="expected 1 of the callback Counter; found Notes"):
        mx.resume(cut, TRAIN, validation=TEST, callbacks=[Notes()], progress=False)
    second = mx.resume(cut, TRAIN, validation=TEST, callbacks=[counter := Counter(0)], progress=False)
    assert (counter.steps, second.stopped, len(second.history)) == (18, None, 3)
    names = ("last.onnx", "model.onnx", "metrics.jsonl", "checkpoints/step-18.safetensors")
    assert [(cut / name).read_bytes() for name in names] == [(whole / name).read_bytes() for name in names]


def test_a_run_that_is_stopped_before_its_first_step(tmp_path: Path) -> None:
    class NotToday(mx.Callback):
        def begin(self, loop: Loop) -> None:
            loop.stop("not today")

    for out in (None, tmp_path / "r"):
        run = mx.fit(blob_net(), TRAIN, out=out, callbacks=[NotToday()], **QUICK)
        assert (run.stopped, run.paused, run.history, run.best) == ("not today", True, [], {})
        for name, array in blob_net().parameters().items():
            np.testing.assert_array_equal(run.model.parameters()[name], array)
    again = mx.resume(tmp_path / "r", TRAIN, progress=False)
    assert again.history == mx.fit(blob_net(), TRAIN, **QUICK).history


class TwiceInterrupted(mx.Callback):
    """Ctrl-C, and again, in the third step."""

    def step(self, loop: Loop, measured: Mapping[str, float]) -> None:
        if loop.steps == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("every", "saved"), [(0.0, "at step-2"), (1000.0, "at the start")])
def test_a_second_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path, every: float, saved: str) -> None:
    options = QUICK | {"checkpoint_s": every}
    mx.fit(blob_net(), TRAIN, out=tmp_path / "whole", **options)
    said = rf"saved is what was there {saved}\n  Go on from there with: mx\.resume\('{tmp_path}/r', data\)"
    with pytest.raises(StoppedError, match=said):
        mx.fit(blob_net(), TRAIN, out=tmp_path / "r", callbacks=[TwiceInterrupted()], **options)
    mx.resume(tmp_path / "r", TRAIN, checkpoint_s=every, progress=False)
    for name in ("last.onnx", "model.onnx", "metrics.jsonl"):
        assert (tmp_path / "r" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(KeyboardInterrupt):  # of nothing that could go on
        mx.fit(blob_net(), TRAIN, callbacks=[TwiceInterrupted()], **options)


def test_what_callbacks_know_comes_back_beside_other_logs(tmp_path: Path) -> None:
    options: dict[str, Any] = {"optimizer": mx.Adam(0.05), **QUICK}
    mx.fit(blob_net(0.2), TRAIN, out=tmp_path, callbacks=[Counter(7), Counter(0)], **options)
    again = [Counter(0), Notes(), Counter(0)]
    mx.resume(tmp_path, TRAIN, logs=["csv"], callbacks=again, progress=False)
    assert [c.steps for c in again if isinstance(c, Counter)] == [18, 18]


# --- what ends a run early
@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, 0.0, 4, 2),
        ([0.1, 0.5, 0.4, 0.6, 0.9], 2, 0.0, 5, 5),  # just in time
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2, 0.15, 5, 5),  # 0.3 and 0.5 are far enough above the last one that was
        ([0.1, 0.2, 0.2, 0.2, 0.9], 2, 0.15, 3, 2),  # slow; the best by any amount is kept all the same
        ([0.5, 0.5, 0.5], 1, 0.0, 2, 1),  # equal is not better
        ([math.nan, math.nan, 0.1], 2, 0.0, 2, 2),
        ([math.nan, 0.1, math.nan, math.nan], 2, 0.0, 4, 2),
    ],
)
def test_early_stopping(values: list[float], patience: int, min_delta: float, epochs: int, best: int) -> None:
    run: Run = counter_run(values, True, validation=True, patience=patience, min_delta=min_delta)
    assert len(run.history) == epochs
    assert run.model.parameters()["w"] == best
    ended = epochs < len(values) or epochs == 4
    assert run.stopped == (
        f"validation_score has not become better for {patience} epoch{'s'[: patience - 1]}" if ended else None
    )


def test_early_stopping_by_a_measure_of_ones_choice() -> None:
    """The loss falls for ever; as if more of it were better, it stops."""
    watch: Any = {"callbacks": [mx.EarlyStopping(2, monitor="loss")]}
    assert len(counter_run([0.1] * 6, True, validation=False, **watch).history) == 6
    run = counter_run([0.1] * 6, True, validation=False, callbacks=[mx.EarlyStopping(2, monitor="loss", larger=True)])
    assert (len(run.history), run.stopped) == (3, "loss has not become better for 2 epochs")
    with pytest.raises(UsageError, match=r"no measure named 'lost'\n  Did you mean 'loss'"):
        counter_run([0.1] * 6, True, validation=False, callbacks=[mx.EarlyStopping(2, monitor="lost")])
    with pytest.raises(UsageError, match=r"no measure named 'val_loss'\n  Give the data .* validation=test"):
        counter_run([0.1] * 6, True, validation=False, callbacks=[mx.EarlyStopping(2, monitor="val_loss")])
    with pytest.raises(UsageError, match=r"no measure named 'val_loss'\n  Did you mean 'validation_loss'"):
        counter_run([0.1] * 6, True, validation=True, callbacks=[mx.EarlyStopping(2, monitor="val_loss")])
    watch = {
        "measure": ["accuracy", "confusion_matrix"],
        "callbacks": [mx.EarlyStopping(2, monitor="confusion_matrix")],
    }
    with pytest.raises(UsageError, match="expected to monitor a number; found 'confusion_matrix', which is a list"):
        mx.fit(blob_net(), TRAIN, **QUICK, **watch)


@pytest.mark.parametrize("options", [
    {}, {"validation": TEST}, {"measure": ["confusion_matrix", "f_beta:beta=2"], "validation": TEST},
    {"precision": "float16"},
], ids=lambda options: " ".join(options) or "plain")  # fmt: skip
def test_what_an_epoch_will_measure_is_known_before_it(options: dict[str, Any]) -> None:
    class Asks(mx.Callback):
        def begin(self, loop: Loop) -> None:
            self.known = loop.measures_of_nothing()

    asks = Asks()
    run = mx.fit(blob_net(), TRAIN, callbacks=[asks], **QUICK | options)
    assert {name: isinstance(value, list) for name, value in asks.known.items()} == {
        name: isinstance(value, list) for name, value in run.history[0].items()
    }


def test_a_measure_that_there_is_not_is_told_before_the_first_step(tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(UsageError, match="no measure named 'lost'"):
        mx.fit(blob_net(), TRAIN, out=tmp_path / "r", callbacks=[notes, mx.EarlyStopping(monitor="lost")], **QUICK)
    assert [moment for moment, *_ in notes.seen] == ["begin", "end"]


def test_a_resumed_run_waits_no_longer(tmp_path: Path) -> None:
    """Stopped in each epoch in turn, it ends with the same bytes, and stays as it is once it has ended."""
    options: dict[str, Any] = {"validation": TEST, "optimizer": mx.SGD(lr=0.0), "patience": 2, **QUICK | {"epochs": 9}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    mx.fit(blob_net(), TRAIN, out=whole, callbacks=[Counter(0)], **options)
    mx.fit(blob_net(), TRAIN, out=cut, callbacks=[Counter(8)], **options)
    again: dict[str, Any] = {"validation": TEST, "progress": False}
    mx.resume(cut, TRAIN, callbacks=[Counter(14)], **again)
    ended = mx.resume(cut, TRAIN, callbacks=[Counter(0)], **again)
    assert (len(ended.history), ended.stopped) == (3, "validation_accuracy has not become better for 2 epochs")
    files = state_of(cut)
    names = ("last.onnx", "model.onnx", "metrics.jsonl", "checkpoints/step-18.safetensors")
    assert [files[name] for name in names] == [(whole / name).read_bytes() for name in names]
    assert mx.resume(cut, TRAIN, callbacks=[Counter(0)], **again).stopped == ended.stopped
    assert state_of(cut) == files


@pytest.mark.parametrize(
    ("values", "kept"),
    [([0.1, 0.7, 0.3, 0.5], [2, 4]), ([0.9, 0.7, 0.7, 0.1], [1, 2]), ([math.nan, 0.1, math.nan, 0.2], [2, 4])],
)
def test_the_best_epochs_are_kept(tmp_path: Path, values: list[float], kept: list[int]) -> None:
    counter_run(values, True, validation=True, keep_best=2, out=tmp_path / "r")
    found = {p.name: mx.load(p).parameters()["w"].tolist() for p in (tmp_path / "r" / "best").iterdir()}
    assert found == {f"epoch-{k}.onnx": [k] for k in kept}
    mx.fit(blob_net(), TRAIN, out=tmp_path / "r", overwrite=True, **QUICK)
    assert not list((tmp_path / "r" / "best").iterdir())


def test_a_time_budget(tmp_path: Path) -> None:
    """It stops in its first epoch: the best model is that of the part that was trained, measured as any other."""
    run = mx.fit(blob_net(), TRAIN, validation=TEST, out=tmp_path / "r", time_budget_s=1e-6, **QUICK)
    assert run.stopped == "the time budget of 1e-06 s is used up"
    assert run.history == []
    assert {"epoch", "loss", "validation_accuracy"} <= set(run.best)
    assert mx.evaluate(run.model, TEST, threads=1)["loss"] == run.best["validation_loss"]
    assert run.timing["steps"] == 1
    assert mx.resume(tmp_path / "r", TRAIN, validation=TEST, progress=False).stopped is None


def test_timing() -> None:
    timing = mx.fit(blob_net(), TRAIN, **QUICK).timing
    assert timing["steps"] == 18
    assert timing["samples_per_s"] > 0
    for name in ("step_ms", "data_ms"):
        assert 0 <= timing[name]["p50"] <= timing[name]["p90"] <= timing[name]["p99"]


# --- trials
def test_a_fast_dev_run_does_everything_and_leaves_nothing(tmp_path: Path) -> None:
    """With a warm-up longer than its two steps, which fits the whole run."""
    seen: list[list[str]] = []

    class Look(mx.Callback):
        def end(self, loop: Loop) -> None:
            assert loop.folder is not None
            seen.append(sorted(p.name for p in loop.folder.iterdir()))

    options = QUICK | {"batch_size": 8, "keep_best": 1, "patience": 1, "logs": ["csv"], "out": tmp_path / "r"}
    options["callbacks"] = [Look()]
    optimizer = mx.Adam(mx.WarmupCosine(0.01, warmup=5))
    run = mx.fit(blob_net(), TRAIN, validation=TEST, optimizer=optimizer, fast_dev_run=True, **options)
    assert (run.timing["steps"], len(run.history)) == (2, 1)
    assert run.best["validation_loss"] == pytest.approx(mx.evaluate(run.model, TEST.take(16), threads=1)["loss"])
    assert {"best", "checkpoints", "last.onnx", "metrics.csv", "metrics.jsonl", "model.onnx"} < set(seen[0])
    assert not (tmp_path / "r").exists()


def test_overfitting_one_batch(tmp_path: Path) -> None:
    notes = Notes()
    options = QUICK | {"epochs": 10, "patience": 1, "logs": ["csv"], "out": tmp_path / "r", "callbacks": [notes]}
    options |= {"profile": True, "keep_best": 1}
    run = mx.fit(blob_net(), TRAIN, validation=TEST, optimizer=mx.Adam(0.05), overfit_one_batch=True, **options)
    losses = [past["loss"] for past in run.history]
    assert len(losses) == run.timing["steps"] == 60
    assert "validation_loss" not in run.best
    first = mx.evaluate(blob_net(), TRAIN.take(16), threads=1)["loss"]
    assert losses[0] == pytest.approx(first, rel=1e-5)
    assert not notes.seen
    assert losses[-1] < first / 10
    assert mx.evaluate(run.last, TRAIN.take(16), threads=1)["loss"] < first / 10
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patience": 0}, "patience expected an integer of at least 1; found 0"),
        ({"patience": 2.5}, "patience expected an integer of at least 1; found 2.5"),
        ({"patience": 2, "min_delta": -1.0}, "min_delta expected a number of at least 0; found -1.0"),
        ({"min_delta": 0.1}, "min_delta expected patience; found 0.1 without it"),
        ({"keep_best": 2}, r"keep_best expected a run with a folder; found none\n  Name one: out="),
        ({"keep_best": -1}, "keep_best expected an integer of at least 0"),
        ({"fast_dev_run": True, "overfit_one_batch": True}, "expected fast_dev_run or overfit_one_batch; found both"),
        ({"time_budget_s": 0}, "time_budget_s expected a number of seconds above 0; found 0"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        mx.fit(blob_net(), TRAIN, **QUICK, **options)


def test_callbacks_of_the_first_checkpoints_are_known_by_their_places() -> None:
    first, second = Counter(0), Counter(0)
    restore([first, Notes(), second], {"0 Counter": {"steps": 3}, "2 Counter": {"steps": 5}})
    assert (first.steps, second.steps) == (3, 5)
    with pytest.raises(CheckpointError, match="expected 1 of the callback Counter; found Notes"):
        restore([Notes()], {"0 Counter": {"steps": 3}})
