"""Every option of `mx.fit`, given to a GAN: it does what it says there, or is refused with a reason."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import OnnxmxWarning, UsageError
from onnxmx.trainer import state
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.gan.refused import NOT_OF_A_GAN
from onnxmx.trainer.loop import Run
from tests.trainer.runs import lines

POINTS = Dataset.from_arrays({"x": np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)})
TAKEN_BY_FIT = inspect.signature(mx.fit).parameters
TAKEN = inspect.signature(mx.fit_gan).parameters
RUN: dict[str, Any] = {"epochs": 2, "batch_size": 8, "samples": 0, "threads": 1, "progress": False}


def fit_gan(**options: Any) -> Run:
    generator = L.Sequential(L.Dense(4, activation="tanh"), L.Dense(2)).build(z=("batch", 3))
    discriminator = L.Sequential(L.Dense(4, activation="tanh"), L.Dense(1)).build(x=("batch", 2))
    return mx.fit_gan(generator, discriminator, POINTS, **RUN | options)


class Note(mx.Callback):
    def begin(self, loop: Any) -> None:
        (loop.folder / "noted").touch()


def settings(run: Path) -> Any:
    return json.loads((run / "step.json").read_text())["settings"]


def both(option: str) -> Callable[[Path], list[Any]]:
    """What each net has of an option."""
    return lambda run: [settings(run)[net].get(option) for net in ("generator", "discriminator")]


def weights(run: Path) -> list[float]:
    return [float(a.sum()) for a in mx.load(run / "last.onnx").parameters().values()]


def identity(run: Path) -> Any:
    return state.load(run / "state.safetensors")[1]["identity"]


def measured(run: Path) -> list[dict[str, Any]]:
    return lines(run / "metrics.jsonl")


def names(run: Path) -> set[str]:
    return {p.name for p in run.iterdir()}


WORKS: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "epochs": (3, measured),
    "batch_size": (5, weights),
    "seed": (7, weights),
    "loss": ("wasserstein_gan", weights),
    "optimizer": (mx.SGD(0.1), weights),
    "clip": (mx.clip_global_norm(0.01), both("clip")),
    "regularize": (mx.L2(0.1), both("regularize")),
    "average": ("ema:decay=0.9", weights),
    "threads": (2, lambda run: identity(run)["threads"]),
    "log_every": (2, measured),
    "checkpoint_s": (0.0, lambda run: sorted(p.name for p in (run / "checkpoints").iterdir())),
    "time_budget_s": (1e-6, weights),
    "logs": (["csv"], names),
    "profile": (True, names),
    "callbacks": ([Note()], names),
}  # fmt: skip
"""By option, another value than the default, and what of a run's folder it changes."""
OTHERWISE = {"model", "data", "out", "overwrite", "provider", "progress", "fast_dev_run"}
"""The parts, the device, and what other tests are of."""


def test_every_option_of_fit_is_taken_or_refused() -> None:
    refused = NOT_OF_A_GAN.keys() & TAKEN_BY_FIT.keys()
    assert WORKS.keys() | OTHERWISE | refused == TAKEN_BY_FIT.keys()
    assert WORKS.keys() | OTHERWISE - {"model"} <= TAKEN.keys()
    assert not refused & TAKEN.keys()
    fields = {f.name for f in dataclasses.fields(TrainConfig)}
    assert NOT_OF_A_GAN.keys() <= fields | TAKEN_BY_FIT.keys()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("usual") / "run"
    fit_gan(out=run)
    return run


@pytest.mark.parametrize("option", WORKS)
def test_an_option_that_works(tmp_path: Path, usual: Path, option: str) -> None:
    value, seen = WORKS[option]
    fit_gan(out=tmp_path / "run", **{option: value})
    expected, found = seen(usual), seen(tmp_path / "run")
    assert found != expected
    if option in ("clip", "regularize"):  # of both nets
        assert found[0] == found[1]


@pytest.mark.parametrize("option", sorted(NOT_OF_A_GAN.keys() & TAKEN_BY_FIT.keys()))
def test_an_option_that_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"fit_gan expected {option} to be left out; found it") as caught:
        fit_gan(out=tmp_path / "run", **{option: 1})
    assert NOT_OF_A_GAN[option] in str(caught.value)
    assert Path(__file__).name in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [-1, 2.5, True, "many"])
def test_samples_that_are_no_number(value: Any) -> None:
    with pytest.raises(UsageError, match="samples expected an integer of at least 0; found"):
        fit_gan(samples=value)


def test_early_stopping_by_a_measure(tmp_path: Path) -> None:
    """What the refusal of patience advises."""
    stop = mx.EarlyStopping(1, min_delta=100.0, monitor="generator_loss")
    run = fit_gan(out=tmp_path / "run", epochs=9, callbacks=[stop])
    assert (len(run.history), run.stopped) == (2, "generator_loss has not become better for 1 epoch")


def test_epochs_without_a_turn_of_the_generator(tmp_path: Path) -> None:
    """It has one in the second, the fourth and the sixth: the others lack its loss, and count for nothing."""
    stop = mx.EarlyStopping(1, min_delta=100.0, monitor="generator_loss")
    run = fit_gan(out=tmp_path / "run", k=9, epochs=9, logs=["csv"], callbacks=[stop])
    assert [past["epoch"] for past in run.history if "generator_loss" in past] == [2, 4]
    assert (len(run.history), run.stopped) == (4, "generator_loss has not become better for 1 epoch")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [bool(row["generator_loss"]) for row in csv.DictReader(file)] == [False, True, False, True]
    with pytest.raises(UsageError, match=r"no measure named 'generator_los'\n  Did you mean 'generator_loss'"):
        fit_gan(k=9, callbacks=[mx.EarlyStopping(monitor="generator_los")])


def test_a_run_without_a_turn_of_the_generator() -> None:
    with pytest.warns(OnnxmxWarning, match="a turn after 11 steps of the discriminator, and there are 10") as warned:
        fit_gan(k=11)
    assert warned[0].filename == __file__
    fit_gan(k=10)  # warnings are errors here


# --- a trial
@pytest.mark.parametrize(
    ("k", "batch_size", "steps"),
    [(1, 4, 2), (2, 4, 2), (5, 4, 5), (3, 40, 3), (1, 40, 2)],  # the last two of one batch an epoch
)
def test_a_fast_dev_run_takes_a_step_of_both_and_leaves_nothing(
    tmp_path: Path, k: int, batch_size: int, steps: int
) -> None:
    seen: set[str] = set()

    class Look(mx.Callback):
        def end(self, loop: Any) -> None:
            seen.update(names(loop.folder))

    run = fit_gan(k=k, batch_size=batch_size, epochs=50, fast_dev_run=True, logs=["csv"], out=tmp_path / "run",
                  callbacks=[Look()], optimizer=mx.Adam(mx.Linear(1e-3)))  # fmt: skip
    assert run.timing["steps"] == steps
    assert "generator_loss" in run.best
    assert {"checkpoints", "last.onnx", "discriminator.onnx", "metrics.csv", "model.onnx", "step.json"} < seen
    assert not (tmp_path / "run").exists()


def test_a_fast_dev_run_beside_a_run(usual: Path) -> None:
    before = measured(usual)
    fit_gan(out=usual, fast_dev_run=True)
    fit_gan(out=usual, fast_dev_run=True, overwrite=True)
    assert measured(usual) == before
