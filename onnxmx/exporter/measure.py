"""Measuring two models against each other: how good they are, and how long they take."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session, runtime
from onnxmx.errors import DataError
from onnxmx.exporter.report import Latency, Machine
from onnxmx.trainer import losses, metrics
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.evaluate import Evaluator

Array = np.ndarray[Any, Any]

BATCHES = (1, 32)
_SECONDS = 1.5
"""Time spent on one batch size. A slow model gets fewer runs, though never fewer than _LEAST."""
_LEAST, _MOST, _WARM = 20, 400, 5


@dataclass(frozen=True)
class Quality:
    """How good a model is on `data`, which fits it. loss: the rule for its labels. threads: as in `evaluate`."""

    data: Dataset
    loss: losses.Loss
    threads: int | None = None
    metric: metrics.Metric = field(init=False)

    def __post_init__(self) -> None:
        beside = metrics.chosen(None, self.loss)
        object.__setattr__(self, "metric", beside[0] if beside else metrics.LossValue(of=self.loss))

    def of(self, model: Model) -> dict[str, float]:
        """Loss and metric by name. Raises DataError where it cannot compute the data, or gives no finite loss."""
        beside = [] if self.metric.name == "loss" else [self.metric]
        evaluator = Evaluator(model, self.data, loss=self.loss, measure=beside, threads=self.threads)
        measured = evaluator.run(self.data, 256)
        if not np.isfinite(list(measured.values())).all():
            raise DataError(f"expected a finite loss on {self.data.name}; found {measured}", mend="Train it again.")
        return measured

    def drop(self, before: dict[str, float], after: dict[str, float]) -> float:
        """How much worse `after` is by the metric; negative where it is better. In words: `drop_is`."""
        change = after[self.metric.name] - before[self.metric.name]
        return -change if self.metric.larger_is_better else change / self._spread

    @property
    def drop_is(self) -> str:
        """How a drop is counted, in words."""
        name = self.metric.name.replace("_", " ")
        if self.metric.larger_is_better:
            return f"{name} before minus {name} after"
        return f"the growth of the {name}, as a share of the labels' mean absolute deviation"

    @property
    def _spread(self) -> float:
        """An error has the labels' unit, so it is set against how much they vary. 1 where they do not."""
        label = next(iter(self.data.labels.values())).astype(np.float64)
        return float(np.abs(label - label.mean()).mean()) or 1.0

    def sample(self, most: int) -> Quality:
        """The same on at most `most` samples, evenly spread."""
        if len(self.data) <= most:
            return self
        chosen = np.linspace(0, len(self.data) - 1, most).round().astype(np.int64)
        return Quality(self.data.subset(chosen), self.loss, self.threads)


def latencies(models: Sequence[bytes], data: Dataset) -> list[dict[int, Latency]]:
    """The time of a run on one thread, for each model by batch size.

    The models take turns, so that what else the machine does hits all alike.
    """
    sessions = [open_session(model, threads=1) for model in models]
    found: list[dict[int, Latency]] = [{} for _ in models]
    for size in BATCHES:
        batch = data.batch(np.arange(size) % len(data))
        feeds = {name: batch[name] for name in data.inputs}
        for result, times in zip(found, _take_turns(sessions, feeds), strict=True):
            ms = np.array(times) * 1e3
            result[size] = Latency(float(np.median(ms)), float(np.percentile(ms, 95)))
    return found


def _take_turns(sessions: Sequence[Any], feeds: dict[str, Array]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + _SECONDS
    for turn in range(_WARM + _MOST):
        if turn >= _WARM + _LEAST and time.perf_counter() > end:
            break
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, feeds)
            taken.append(time.perf_counter() - start)
    return [taken[_WARM:] for taken in times]


def machine() -> Machine:
    """This machine, as a report names it."""
    return Machine(_cpu(), runtime().__version__, 1)


def _cpu() -> str:
    try:  # platform.processor() is empty on most Linux systems
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
