"""What a run leaves for other programs and for the eye: metrics.csv, TensorBoard's events, curves.png."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmx.errors import MissingExtraError, UsageError, unknown_name
from onnxmx.files import write_atomic
from onnxmx.trainer.callbacks import Callback
from onnxmx.trainer.curves import draw_curves, matplotlib_figure

if TYPE_CHECKING:
    from onnxmx.trainer.loop import Loop

Measures = Mapping[str, Any]


class CSVLog(Callback):
    """metrics.csv: a row an epoch, the whole history at every moment."""

    def begin(self, loop: Loop) -> None:
        _folder(loop)

    def epoch(self, loop: Loop, measures: Measures) -> None:
        text = io.StringIO()
        names = dict.fromkeys(name for past in loop.position.history for name in past)
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in past.items()}
                         for past in loop.position.history)  # fmt: skip
        write_atomic(_folder(loop) / "metrics.csv", text.getvalue().encode())


class TensorBoard(Callback):
    """events.out.*, which TensorBoard reads: `step/<measure>` and `epoch/<measure>` over the steps.

    A resumed run begins another file, which tells TensorBoard to forget what came after its checkpoint.
    """

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise MissingExtraError("tensorboardX", "tensorboard", "Logging for TensorBoard") from None
        self._open = SummaryWriter
        self._writer: Any = None

    def begin(self, loop: Loop) -> None:
        # The suffix: a file is named by the second, and one begun in the same second would be written over.
        purge = loop.steps + 1 if loop.steps else None
        self._writer = self._open(str(_folder(loop)), purge_step=purge, filename_suffix=f".{loop.steps}")

    def log(self, loop: Loop, line: Measures) -> None:
        kind = "step" if "batch" in line else "epoch"
        for name, value in line.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{kind}/{name}", value, loop.steps)

    def state(self) -> dict[str, Any]:
        """Nothing; but what was logged before a checkpoint is on the disk with it."""
        if self._writer is not None:
            self._writer.flush()
        return {}

    def end(self, loop: Loop) -> None:
        if self._writer is not None:
            self._writer.close()


class Curves(Callback):
    """curves.png: every measure over the epochs, drawn at the end, and after epochs at most every `every_s` seconds."""

    def __init__(self, every_s: float = 30.0) -> None:
        matplotlib_figure()  # without it, an error before the run
        self._every_s, self._drawn = every_s, time.monotonic()

    def begin(self, loop: Loop) -> None:
        _folder(loop)

    def epoch(self, loop: Loop, measures: Measures) -> None:
        if time.monotonic() - self._drawn >= self._every_s:
            self.end(loop)

    def end(self, loop: Loop) -> None:
        folder = _folder(loop)
        try:
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        except OSError:
            return  # it ended before the first line
        if lines:
            write_atomic(folder / "curves.png", draw_curves(lines, loop.steps_per_epoch))
        self._drawn = time.monotonic()


LOGS: dict[str, type[Callback]] = {"csv": CSVLog, "tensorboard": TensorBoard, "curves": Curves}
"""By the names that `fit` and config.toml take."""


def make_logs(names: Sequence[str]) -> list[Callback]:
    """The logs of these names. Raises UsageError for an unknown one, MissingExtraError without its package."""
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"logs expected a list of names; found {names!r}", mend=f"Such as {list(LOGS)}.")
    if unknown := [name for name in names if name not in LOGS]:
        raise unknown_name("log", unknown[0], LOGS)
    return [LOGS[name]() for name in names]


def _folder(loop: Loop) -> Path:
    if loop.folder is None:
        raise UsageError("logs expected a run with a folder; found none", mend='Name one: out="runs/first".')
    return loop.folder
