"""What may change when a run goes on, and what is refused there by name."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx.errors import CheckpointError, UsageError
from onnxmx.trainer import state
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.resumption import MAY_CHANGE, STAYS
from onnxmx.trainer.run import resume_run, train
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN, lines, state_of
from tests.trainer.test_config import OTHER
from tests.trainer.test_gan_options import POINTS, RUN, fit_gan

AGAIN: dict[str, Any] = {"validation": TEST, "progress": False}


def fit(out: Path | None, **options: Any) -> Any:
    return mx.fit(blob_net(0.2), TRAIN, validation=TEST, out=out, **QUICK | {"optimizer": mx.Adam(0.01)} | options)


def same_weights(one: mx.Model, other: mx.Model) -> bool:
    found = other.parameters()
    return all(np.array_equal(array, found[name]) for name, array in one.parameters().items())


# --- more epochs
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": mx.Adam(mx.Step(0.01, every=4).warmed_up(3)), "average": "ema"},
        {"optimizer": mx.SGD(mx.ReduceOnPlateau(0.1, every=2, patience=0))},
        {"time_budget_s": 1e-6},  # stopped after its first step
        {"patience": 9},
    ],
    ids=["ended", "scheduled", "watching", "stopped", "patient"],
)
def test_more_epochs_are_those_of_a_run_begun_with_them(tmp_path: Path, options: dict[str, Any]) -> None:
    fit(tmp_path / "cut", **options, epochs=2)
    found = mx.resume(tmp_path / "cut", TRAIN, epochs=4, **AGAIN)
    whole = fit(None, **{k: v for k, v in options.items() if k != "time_budget_s"}, epochs=4)
    assert found.history == whole.history
    assert same_weights(found.last, whole.last)
    assert same_weights(found.model, whole.model)
    assert mx.resume(tmp_path / "cut", TRAIN, **AGAIN).history == found.history  # 4 are its epochs now


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": mx.Adam(mx.Cosine(0.01))},
        {"optimizer": mx.Adam(mx.Linear(0.01))},
        {"optimizer": mx.Adam(mx.WarmupCosine(0.01))},
        {"optimizer": mx.Adam(mx.Step(0.01, every=4).warmed_up())},  # over a twentieth of the run
        {"optimizer": mx.SGD(mx.ReduceOnPlateau(mx.Cosine(0.1)))},
        {"optimizer": mx.ByName({"0.*": mx.SGD(mx.Cosine(0.1)), "*": mx.Adam()})},
        {"average": mx.SWA()},
    ],
    ids=str,
)
def test_an_end_of_the_schedule_is_the_end(tmp_path: Path, options: dict[str, Any]) -> None:
    fit(tmp_path / "r", **options, epochs=2)
    before = state_of(tmp_path / "r")
    with pytest.raises(CheckpointError, match=r"its 2 epochs, with which its learning rate or average ends") as caught:
        mx.resume(tmp_path / "r", TRAIN, epochs=3, **AGAIN)
    assert f"Start a new run from {tmp_path / 'r' / 'last.onnx'}" in str(caught.value)
    assert state_of(tmp_path / "r") == before


def test_a_step_that_ends_says_after_how_many_updates(tmp_path: Path) -> None:
    for name, rate, total in (("a", 0.1, None), ("b", mx.Cosine(0.1), 12)):
        fit(tmp_path / name, optimizer=mx.SGD(rate), epochs=2)
        assert json.loads((tmp_path / name / "step.json").read_text())["total"] == total


def test_what_has_ended_for_good_has_no_more_epochs(tmp_path: Path) -> None:
    fit(tmp_path / "r", optimizer=mx.SGD(0.0), patience=1, epochs=3)
    with pytest.raises(CheckpointError, match="it has ended for good: validation_accuracy has not become better"):
        mx.resume(tmp_path / "r", TRAIN, epochs=9, **AGAIN)
    assert len(mx.resume(tmp_path / "r", TRAIN, **AGAIN).history) == 2


def test_fewer_epochs_are_refused(tmp_path: Path) -> None:
    fit(tmp_path / "r", epochs=2)
    with pytest.raises(CheckpointError, match=r"differs in epochs \(expected 2, found 1\)"):
        mx.resume(tmp_path / "r", TRAIN, epochs=1, **AGAIN)


# --- another version
def test_a_checkpoint_that_counts_its_samples_as_former_versions_did(tmp_path: Path) -> None:
    fit(tmp_path / "r", time_budget_s=1e-6)
    for path in (tmp_path / "r" / "checkpoints").iterdir():
        arrays, header = state.load(path)
        header["position"]["samples"] = 16
        state.save(path, arrays, header)
    found = mx.resume(tmp_path / "r", TRAIN, time_budget_s=600, **AGAIN)
    assert same_weights(found.last, fit(None).last)
    assert found.history == fit(None).history


# --- another pace
def test_another_time_budget(tmp_path: Path) -> None:
    fit(tmp_path / "r", time_budget_s=1e-6)
    again = mx.resume(tmp_path / "r", TRAIN, time_budget_s=1e-5, **AGAIN)
    assert (again.stopped, again.timing["steps"]) == ("the time budget of 1e-05 s is used up", 1)
    ended = mx.resume(tmp_path / "r", TRAIN, time_budget_s=600, **AGAIN)
    assert (ended.stopped, ended.timing["steps"]) == (None, 16)
    assert same_weights(ended.last, fit(None).last)


class Heard(mx.Callback):
    def __init__(self) -> None:
        self.epochs = 0

    def epoch(self, loop: Any, measures: Any) -> None:
        self.epochs += 1


CONFIG = {"model": "mlp", "data": "digits", "epochs": 2, "batch_size": 300, "schedule": "constant", "threads": 1,
          "logs": [], "time_budget_s": 1e-6}  # fmt: skip


@pytest.fixture
def paused(tmp_path: Path) -> Path:
    """A run of a configuration that stopped after its first step."""
    assert train(TrainConfig.of_settings(CONFIG), tmp_path / "run", progress=False).paused
    return tmp_path / "run"


def test_a_configuration_keeps_what_changed(paused: Path) -> None:
    heard = Heard()
    found = mx.resume(paused, time_budget_s=600, epochs=3, log_every=2, logs=["csv"], checkpoint_s=60.0,
                      callbacks=[heard], progress=False)  # fmt: skip
    assert (len(found.history), heard.epochs) == (3, 3)
    assert (paused / "metrics.csv").is_file()
    assert [line["batch"] for line in lines(paused / "metrics.jsonl") if "batch" in line] == [2, 4] * 3
    config = tomllib.loads((paused / "config.toml").read_text())
    changed = {"epochs": 3, "time_budget_s": 600, "log_every": 2, "logs": ["csv"], "checkpoint_s": 60.0}
    assert {name: config[name] for name in changed} == changed
    assert len(resume_run(paused, progress=False).history) == 3


def test_without_changes_the_configuration_stays(paused: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (paused / "config.toml").write_text("# mine\n" + (paused / "config.toml").read_text())
    before = (paused / "config.toml").read_bytes()
    assert resume_run(paused, progress=False).paused
    assert capsys.readouterr() == ("", "")
    assert (paused / "config.toml").read_bytes() == before


def test_changes_before_the_first_step(tmp_path: Path) -> None:
    """A kill left config.toml alone."""
    (tmp_path / "run").mkdir()
    TrainConfig.of_settings(CONFIG).save(tmp_path / "run" / "config.toml")
    found = resume_run(tmp_path / "run", {"time_budget_s": 600.0, "epochs": 1}, callbacks=[heard := Heard()])
    assert (len(found.history), heard.epochs) == (1, 1)
    assert TrainConfig.load(tmp_path / "run" / "config.toml").epochs == 1


def test_a_configuration_keeps_what_changed_where_the_data_is_given_too(tmp_path: Path) -> None:
    (x,), (y,) = TRAIN.inputs.values(), TRAIN.labels.values()
    np.savez(tmp_path / "d.npz", x=x, y=y, x_test=x, y_test=y)
    run, data = tmp_path / "run", mx.data.load_npz(tmp_path / "d.npz")
    settings = CONFIG | {"data": str(tmp_path / "d.npz"), "batch_size": 30, "logs": [], "epochs": 1}
    train(TrainConfig.of_settings(settings), run, progress=False)
    options: dict[str, Any] = {"epochs": np.int64(2), "time_budget_s": np.float64(600), "logs": ("csv",)}
    test = mx.data.load_npz(tmp_path / "d.npz", "test")
    assert len(mx.resume(run, data, validation=test, progress=False, **options).history) == 2
    kept = TrainConfig.load(run / "config.toml")
    assert (kept.epochs, kept.time_budget_s, kept.logs) == (2, 600.0, ["csv"])
    assert len(mx.resume(run, progress=False).history) == 2
    assert len(mx.resume(run, progress=False, **options | {"epochs": np.int64(3)}).history) == 3


def test_data_that_lies_elsewhere_now(tmp_path: Path) -> None:
    arrays = {"x_train": TRAIN.inputs["x"], "y_train": TRAIN.labels["label"]}
    np.savez(tmp_path / "d.npz", **arrays, x_test=TEST.inputs["x"], y_test=TEST.labels["label"])
    settings = CONFIG | {"data": "d.npz", "data_dir": str(tmp_path), "batch_size": 30, "logs": []}
    train(TrainConfig.of_settings(settings), tmp_path / "run", progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "d.npz").rename(tmp_path / "other" / "d.npz")
    changes = {"data_dir": str(tmp_path / "other"), "time_budget_s": math.inf}
    assert len(resume_run(tmp_path / "run", changes, progress=False).history) == 2
    assert len(resume_run(tmp_path / "run", progress=False).history) == 2


# --- what stays
def test_every_key_may_change_or_stays_for_a_reason() -> None:
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    assert fields == {*MAY_CHANGE, *STAYS}
    assert not STAYS.keys() & {*MAY_CHANGE}


def test_a_key_that_stays_is_refused_by_name(paused: Path) -> None:
    before = state_of(paused)
    for key, why in STAYS.items():
        with pytest.raises(UsageError, match=f"a run that goes on expected {key} to be left out") as caught:
            resume_run(paused, {key: OTHER[key]}, progress=False)
        assert why in str(caught.value)
    assert state_of(paused) == before


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "validation": (lambda run: mx.resume(run, validation=TEST), "expected validation to be left out"),
    "loss": (lambda run: mx.resume(run, loss="huber"), "expected loss to be left out"),
    "measure": (lambda run: mx.resume(run, measure=["accuracy"]), "expected measure to be left out"),
    "no epochs": (lambda run: mx.resume(run, epochs=0), "epochs expected an integer of at least 1; found 0"),
    "no budget": (lambda run: mx.resume(run, time_budget_s=-1), "time_budget_s expected"),
    "no log": (lambda run: mx.resume(run, logs=["cvs"]), "no log named 'cvs'"),
    "an unknown key": (lambda run: resume_run(run, {"epoch": 3}), "unknown key 'epoch'"),
    "another type": (lambda run: resume_run(run, {"epochs": "3"}), "epochs to be an integer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_run_of_a_configuration_does_not_take(paused: Path, name: str) -> None:
    call, text = REFUSED[name]
    before = state_of(paused)
    with pytest.raises(UsageError, match=text):
        call(paused)
    assert state_of(paused) == before


def test_a_refused_change_is_not_kept(tmp_path: Path) -> None:
    train(TrainConfig.of_settings(CONFIG | {"schedule": "cosine"}), tmp_path / "run", progress=False)
    before = state_of(tmp_path / "run")
    with pytest.raises(CheckpointError, match="learning rate or average ends"):
        resume_run(tmp_path / "run", {"epochs": 9, "time_budget_s": 60.0}, progress=False)
    assert state_of(tmp_path / "run") == before


# --- a GAN
def test_a_gan_goes_on_for_more_epochs(tmp_path: Path) -> None:
    fit_gan(out=tmp_path / "cut", time_budget_s=1e-6)
    found = mx.resume(tmp_path / "cut", POINTS, epochs=3, progress=False)
    whole = fit_gan(epochs=3)
    assert found.history == whole.history
    assert same_weights(found.last, whole.last)


@pytest.mark.parametrize("net", ["optimizer", "discriminator_optimizer"])
def test_a_gan_whose_schedule_ends(tmp_path: Path, net: str) -> None:
    fit_gan(out=tmp_path / "r", **{"optimizer": mx.Adam(), net: mx.Adam(mx.Linear(1e-3))})
    with pytest.raises(CheckpointError, match=f"its {RUN['epochs']} epochs, with which its learning rate"):
        mx.resume(tmp_path / "r", POINTS, epochs=3, progress=False)


@pytest.mark.parametrize("option", [{"validation": POINTS}, {"loss": "huber"}, {"measure": ["accuracy"]}])
def test_what_a_gan_does_not_take(tmp_path: Path, option: dict[str, Any]) -> None:
    fit_gan(out=tmp_path / "r")
    with pytest.raises(UsageError, match=f"expected {next(iter(option))} to be left out; found it"):
        mx.resume(tmp_path / "r", POINTS, progress=False, **option)


GAN_SETTINGS = [("lr = 0.0002", "lr = 0.1", "generator"), ("k = 2", "k = 1", r"k \(expected 2, found 1\)"),
                ("samples = 0", "samples = 4", "samples"), ("clip = 0.0", "clip = 1.0", "discriminator")]  # fmt: skip


def test_a_gan_s_configuration_that_was_edited(tmp_path: Path) -> None:
    settings = {"model": "mlp_gan", "data": "digits", "time_budget_s": 1e-6, "threads": 1, "logs": [], "epochs": 1}
    run = tmp_path / "run"
    train(TrainConfig.of_settings(settings | {"gan.samples": 0, "gan.k": 2}), run, progress=False)
    text = (run / "config.toml").read_text()
    for line, other, said in GAN_SETTINGS:
        assert line in text
        (run / "config.toml").write_text(text.replace(line, other))
        before = state_of(run)
        with pytest.raises(CheckpointError, match=f"differs from the run that was started here in (.|\n)*{said}"):
            resume_run(run, progress=False)
        assert state_of(run) == before
