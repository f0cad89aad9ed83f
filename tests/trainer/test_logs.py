"""metrics.csv, TensorBoard's events and curves.png, read back by others than wrote them."""

from __future__ import annotations

import csv
import io
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import onnxmx as mx
from onnxmx.errors import MissingExtraError, UsageError
from onnxmx.trainer.curves import draw_curves
from onnxmx.trainer.loop import Loop
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN, lines

OFTEN = QUICK | {"log_every": 2}


class Stop(mx.Callback):
    """Stops a run at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, loop: Loop, measured: Mapping[str, float]) -> None:
        if loop.steps == self.at:
            loop.stop("here")


def test_a_table_of_the_epochs(tmp_path: Path) -> None:
    out = tmp_path / "r"
    mx.fit(blob_net(), TRAIN, validation=TEST, out=out, logs=["csv"], callbacks=[Stop(14)], **OFTEN)
    history = mx.resume(out, TRAIN, validation=TEST, logs=["csv"], progress=False).history
    rows = list(csv.DictReader(io.StringIO((out / "metrics.csv").read_text())))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history


def events(folder: Path) -> tuple[dict[tuple[str, int], float], list[int]]:
    """Every scalar that TensorBoard would show, by tag and step, and from which steps on files purge those before."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[tuple[str, int], float] = {}
    purged: list[int] = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = proto.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == 1:  # START: forget from this step on
                purged.append(event.step)
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found, purged


def test_events_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    out = tmp_path / "r"
    mx.fit(blob_net(), TRAIN, validation=TEST, out=out, logs=["tensorboard"], callbacks=[Stop(9)], **OFTEN)
    (out / "checkpoints" / "step-9.safetensors").unlink()  # as if it had been killed there
    mx.resume(out, TRAIN, validation=TEST, logs=["tensorboard"], log_every=2, progress=False)
    expected: dict[tuple[str, int], float] = {}
    for line in lines(out / "metrics.jsonl"):
        kind, step = (
            ("step", 6 * (line["epoch"] - 1) + line["batch"]) if "batch" in line else ("epoch", 6 * line["epoch"])
        )
        expected |= {(f"{kind}/{name}", step): value for name, value in line.items() if isinstance(value, float)}
    found, purged = events(out)
    assert purged == [7]
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-6)


def test_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "r"
    mx.fit(blob_net(), TRAIN, validation=TEST, out=out, logs=["curves"], **OFTEN)
    assert (out / "curves.png").read_bytes() == draw_curves(lines(out / "metrics.jsonl"), 6)
    width, height = size_of((out / "curves.png").read_bytes())
    assert width > 1000  # loss, accuracy and grad_norm beside each other
    assert height > 500  # and lr below
    assert draw_curves(lines(out / "metrics.jsonl")[:5], 6) != (out / "curves.png").read_bytes()


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize(
    ("log", "module", "text"),
    [
        (
            "curves",
            "matplotlib.figure",
            r"needs the package 'matplotlib'; .*\n  .*pip install 'onnxmx\[plot\]'",
        ),
        ("tensorboard", "tensorboardX", r"the package 'tensorboardX'; .*\n  .*pip install 'onnxmx\[tensorboard\]'"),
    ],
)
def test_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, module: str, text: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=text):
        mx.fit(blob_net(), TRAIN, out=tmp_path / "r", logs=[log], **OFTEN)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("logs", "text"),
    [
        (["curve"], r"no log named 'curve'\n  Did you mean 'curves'"),
        ("csv", r"logs expected a list of names; found 'csv'"),
        (["csv"], r"logs expected a run with a folder; found none"),
    ],
)
def test_bad_logs(logs: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        mx.fit(blob_net(), TRAIN, logs=logs, **OFTEN)
