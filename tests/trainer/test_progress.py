"""What a person sees of a run: lines where nobody is looking, a bar on a terminal."""

from __future__ import annotations

import itertools
import os
import pty
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import onnxmx as mx
from onnxmx.trainer import launch, loop, progress
from onnxmx.trainer.progress import Bar, Lines, Silent, default_reporter, show
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TRAIN
from tests.trainer.worker import Worker

MEASURES = {"loss": 0.034512, "accuracy": 0.98831, "lr": 0.00012345}


def drive(reporter: Any, steps: int = 4, done: int = 0) -> None:
    reporter.begin(steps, done, 16 * done)
    for step in range(done, steps):
        reporter.step("1/2", step + 1, 16 * (step + 1), MEASURES)
    reporter.epoch("1/2", {k: v for k, v in MEASURES.items() if k != "lr"})
    reporter.end(steps)


def test_show() -> None:
    assert show(MEASURES) == "loss 0.0345  accuracy 0.9883  lr 0.000123"
    assert show({"epoch": 2, "loss": 0.5, "confusion_matrix": [[1.0]], "skipped": 3}) == "loss 0.5000  skipped 3"


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    drive(Silent())
    assert capfd.readouterr() == ("", "")


def test_lines(capfd: pytest.CaptureFixture[str]) -> None:
    drive(Lines(), done=2)
    out, err = capfd.readouterr()
    assert out == ""
    first, second, last = err.splitlines()
    numbers = r"loss 0\.0345  accuracy 0\.9883  lr 0\.000123  [\d,]+ samples/s  \d+:\d\d left"
    assert re.fullmatch(rf"epoch 1/2  step 3/4  {numbers}", first)
    assert re.fullmatch(rf"epoch 1/2  step 4/4  {numbers}", second)
    assert second.endswith(" 0:00 left")
    assert last == "epoch 1/2  loss 0.0345  accuracy 0.9883"


@pytest.mark.parametrize("kind", [Lines, Bar])
def test_pace_and_time_left_are_those_since_it_went_on(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=itertools.count(0.0, 10.0).__next__))
    reporter = kind()
    reporter.begin(190, 60, 960)
    assert reporter._pace.show(70, 1120) == "16 samples/s  2:00 left"


@pytest.mark.parametrize(("every_s", "lines"), [(0.0, 18), (60.0, 0)])
def test_a_run_says_a_line_at_its_pace(
    every_s: float, lines: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three epochs of six steps; and one line for each epoch."""
    monkeypatch.setattr(launch, "default_reporter", lambda: Lines(every_s))
    mx.fit(blob_net(), TRAIN, **QUICK | {"progress": True})
    said = capfd.readouterr().err.splitlines()
    steps = [line for line in said if "  step " in line]
    assert (len(steps), len(said)) == (lines, lines + 3)
    for done, line in enumerate(steps, 1):
        assert line.startswith(f"epoch {(done + 5) // 6}/3  step {done}/18  loss ")


def test_a_word_is_due_so_long_after_the_word_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks whenever the loop looks at it: twice a step. Samples are those of all epochs."""
    told: list[tuple[str, int, int]] = []

    class Told(Silent):
        every_s = 5.0

        def step(self, epoch: str, done: int, samples: int, measures: Any) -> None:
            told.append((epoch, done, samples))

    monkeypatch.setattr(launch, "default_reporter", Told)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=itertools.count(1.0).__next__))
    mx.fit(blob_net(), TRAIN, **QUICK | {"progress": True})
    assert told == [(f"{e + 1}/3", 6 * e + k, 90 * e + s) for e in range(3) for k, s in ((3, 48), (6, 90))]


def test_where_nobody_is_looking_there_are_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert isinstance(default_reporter(), Lines)


def test_a_bar_that_never_stepped(capfd: pytest.CaptureFixture[str]) -> None:
    """A run that is resumed when it has ended already."""
    drive(Bar(), steps=3, done=3)
    assert "loss 0.0345" in capfd.readouterr().err


def test_a_bar_of_many_measures_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a GAN: of the last ones as many are left out as must be, and never the bar."""
    monkeypatch.setenv("COLUMNS", "80")
    bar = Bar()
    bar.begin(400, 0, 0)
    scores = {"loss": 1.0629, "generator_loss": 2.7902, "real_score": 2.0937, "made_score": -1.4199, "lr": 2e-4}
    bar.step("12/100", 1, 64, scores)
    text = bar._progress.tasks[0].fields["text"]
    bar.step("12/100", 2, 128, {"loss": 1.0, "grad_norm": 2.0, "lr": 2e-4})
    assert "grad_norm" not in bar._progress.tasks[0].fields["text"]
    bar.end(400)
    assert bar._progress.finished
    assert len("12/100 " + "━" * 5 + f" {text}") <= 80
    assert text.startswith("loss 1.0629 ")
    assert re.search(r" lr 0\.0002 [\d,]+ samples/s \d+:\d\d left", text.replace("  ", " "))


def run_of(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return {"call": "train", "out": str(tmp_path / "r"), "progress": True, "config": {
        "model": "lenet", "data": "digits", "threads": 1, "epochs": 2, "batch_size": 16} | options}  # fmt: skip


def test_a_run_without_a_terminal(tmp_path: Path, worker: Worker) -> None:
    worker.start(stderr=tmp_path / "err", **run_of(tmp_path))
    assert worker.wait() == 0
    said = (tmp_path / "err").read_text()
    assert "\x1b" not in said
    first, second = said.splitlines()
    assert re.fullmatch(r"epoch 1/2  loss [\d.]+  accuracy [\d.]+  grad_norm [\d.]+  "
                        r"validation_loss [\d.]+  validation_accuracy [\d.]+", first)  # fmt: skip
    assert second.startswith("epoch 2/2  ")


def test_a_run_on_a_terminal(tmp_path: Path, worker: Worker) -> None:
    """A real pseudo-terminal: a bar with loss, metric, rate, samples a second and time left, and a line an epoch."""
    controller, terminal = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                data = os.read(controller, 65536)
            except OSError:  # what Linux says once the other side is closed
                return
            if not data:
                return
            seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    worker.start(stderr=Path(os.ttyname(terminal)), **run_of(tmp_path))
    assert worker.wait() == 0
    os.close(terminal)
    reader.join(10)
    os.close(controller)
    said = b"".join(seen).decode()
    assert "\x1b[" in said  # it draws
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said)
    assert "━" in plain
    for text in (r"epoch 1/2", r"loss \d", r"accuracy \d", r"lr \d", r"samples/s", r"\d:\d\d left", r"epoch 2/2  loss"):
        assert re.search(text, plain.replace("\r\n", " ")), text
    assert "…" not in plain  # 80 columns are enough
    assert "\x1b[?25h" in said  # the cursor is there again
