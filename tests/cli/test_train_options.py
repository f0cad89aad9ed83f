"""Options of `onnxmx train` besides the road: trials, early ends, logs."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from cli_helpers import here

LENET = ("train", "lenet", "--data", "digits", "--threads", "1", "--batch-size", "128", "--seed", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_trials_leave_nothing_behind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, *LENET, "--fast-dev-run", "-o", "run", "--measure", "mcc")
    assert done.code == 0, done.err
    assert re.match(r"it all works: loss [\d.]+  mcc .* validation_mcc [\d.]+\nnext: the same without", done.out)
    done = here(capsys, *LENET, "--overfit-one-batch", "--schedule", "constant", "--epochs", "4", "--lr", "0.003")
    assert re.fullmatch(r"loss 2\.\d+ -> 0\.\d+ in 48 steps on one batch of 128\n", done.out), done.out
    done = here(capsys, *LENET, "--overfit-one-batch", "--epochs", "1", "--lr", "0")
    assert "it did not fall: look for a fault" in done.out
    done = here(capsys, "train", "mlp_gan", "--data", "digits", "--threads", "1", "--fast-dev-run", "-o", "run")
    assert re.match(r"it all works: loss [\d.]+  generator_loss .*\nnext: the same without", done.out), done
    assert not list(folder.iterdir())


def test_early_ends_and_what_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--patience", 1, "--keep-best", 2, "--log", "csv", "--epochs", 9, "--lr", 0, "-o", "run")
    done = here(capsys, *LENET, *options, "--format", "json")
    answer = json.loads(done.out)
    assert answer["stopped"] == "validation_accuracy has not become better for 1 epoch"
    assert len(answer["history"]) == 2
    assert answer["timing"]["steps"] == 24
    assert {p.name for p in (folder / "run" / "best").iterdir()} == {"epoch-1.onnx", "epoch-2.onnx"}
    assert len((folder / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert not (folder / "run" / "curves.png").exists()
    done = here(capsys, *LENET, "--time-budget", 0.001, "--log", "csv", "-o", "short")
    assert done.code == 0
    assert done.out.startswith("stopped: the time budget of 0.001 s is used up\nbest epoch 1 of 3  loss ")
    assert re.search(r"\n[\d,]+ samples/s  step p50 [\d.]+ p90 [\d.]+ p99 [\d.]+ ms\n", done.out)
    assert "onnxmx train --resume short" in done.out
    done = here(capsys, "train", "--resume", "short", "--format", "json")
    assert len(json.loads(done.out)["history"]) == 0  # the budget counts anew, and is as short
    done = here(capsys, "train", "--resume", "short", "--time-budget", 600, "--format", "json")
    answer = json.loads(done.out)
    assert (len(answer["history"]), answer["stopped"]) == (3, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [(["2"], 2.0), (["value:limit=0.5"], "value:limit=0.5"), (["centralize", "2"], ["centralize", 2.0])],
)
def test_clippings(folder: Path, capsys: pytest.CaptureFixture[str], given: list[str], kept: object) -> None:
    words = [word for text in given for word in ("--clip", text)]
    done = here(capsys, "train", "mlp", "--data", "digits", "--epochs", 1, "--batch-size", 512, "-o", "run", *words)
    assert done.code == 0, done.err
    assert tomllib.loads((folder / "run" / "config.toml").read_text())["clip"] == kept


def test_a_metric_that_is_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log holds it, and `evaluate` shows it."""
    words = ("--measure", "confusion_matrix", "--measure", "accuracy")
    done = here(capsys, "train", "mlp", "--data", "digits", "--epochs", 1, "--batch-size", 512, "-o", "run", *words)
    assert done.code == 0, done.err
    assert re.match(r"best epoch 1 of 1  loss [\d.]+  accuracy [\d.]+  grad_norm [\d.]+  validation_loss", done.out)
    done = here(capsys, "evaluate", "run/model.onnx", "--data", "digits", *words)
    first, _, name, *rows = done.out.splitlines()
    assert first.startswith("loss ")
    assert name == "confusion_matrix"
    assert [len(row.split()) for row in rows] == [10] * 10
    assert sum(int(count) for row in rows for count in row.split()) == 359


@pytest.mark.parametrize("given", [["max_norm:strength=2"], ["l1:strength=1e-4,match='*.weight'", "l2:strength=1e-3"]])
def test_regularizers(folder: Path, capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    words = [word for text in given for word in ("--regularize", text)]
    done = here(capsys, "train", "mlp", "--data", "digits", "--epochs", 1, "--batch-size", 512, "-o", "run", *words)
    assert done.code == 0, done.err
    assert tomllib.loads((folder / "run" / "config.toml").read_text())["regularize"] == given
    done = here(capsys, "train", "mlp", "--data", "digits", "--regularize", "l1:strength=1e-4,match=*.weight")
    assert "a pattern '*.bias'" in done.err


def test_finders(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done = here(capsys, *LENET, "--find-batch-size", "--format", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["batch_size"] in json.loads(done.out)["sizes"]
    assert not list(folder.iterdir())
    assert here(capsys, "train", "--resume", "run", "--find-batch-size").code == 2
    assert "found both" in here(capsys, *LENET, "--find-lr", "lr.png", "--find-batch-size").err
    found = r"( \d\.\de[-+]\d\d  loss \d+\.\d{4}\n){12,20}--lr 0\.\d+  the loss falls fastest there"
    with monkeypatch.context() as without:
        for name in ("matplotlib", "matplotlib.figure"):
            without.setitem(sys.modules, name, None)
        done = here(capsys, *LENET, "--find-lr", "lr.png")
    assert done.code == 0
    assert re.fullmatch(found + r"\n", done.out), done.out
    assert "onnxmx: lr.png is not written: Drawing curves needs the package 'matplotlib'" in done.err
    assert "pip install 'onnxmx[plot]'" in done.err
    assert not list(folder.iterdir())
    pytest.importorskip("matplotlib")
    done = here(capsys, *LENET, "--find-lr", "lr.png")
    assert re.fullmatch(found + r": lr\.png\n", done.out), done.out
    assert [p.name for p in folder.iterdir()] == ["lr.png"]
