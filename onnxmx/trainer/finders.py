"""Finding a learning rate and a batch size by trying them, before a run."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.model import Model
from onnxmx.errors import OnnxmxError, TrainingError, UsageError
from onnxmx.files import write_atomic
from onnxmx.trainer.curves import matplotlib_figure, png
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.evaluate import fit_data, specs_of
from onnxmx.trainer.losses import LossLike
from onnxmx.trainer.optimizers import Adam, OptimizerLike, get
from onnxmx.trainer.optimizers.by_name import ByName
from onnxmx.trainer.schedules.base import Custom
from onnxmx.trainer.trainer import Trainer
from onnxmx.trainer.update import WITHOUT_END

Array = np.ndarray[Any, Any]
_SMOOTHING, _WORSE = 0.9, 4.0


@dataclass(frozen=True)
class RateFinding:
    """What `find_lr` saw.   rates, losses: of each step, the losses smoothed.   lr: the rate that it advises."""

    rates: list[float]
    losses: list[float]
    lr: float

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses over the rates as PNG. Raises MissingExtraError without matplotlib."""
        figure = matplotlib_figure()(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses)
        axes.axvline(self.lr, color="C1", linewidth=1, label=f"advised: {self.lr:.2g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss, smoothed")
        axes.grid(alpha=0.3)
        axes.legend()
        write_atomic(Path(path), png(figure))


@checked_arguments
def find_lr(
    model: Model,
    data: Dataset,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    batch_size: int = 64,
    seed: int = 0,
    loss: LossLike = "softmax_cross_entropy",
    optimizer: OptimizerLike | None = None,
    **options: Any,
) -> RateFinding:
    """Train for `steps` steps while the rate grows from `low` to `high`; the model itself stays as it is.

    It advises the rate at which the smoothed loss falls fastest over the logarithm of the rate, and ends once the loss
    is four times as far above its best as it was at the start, or not a number.
    options: others of `Trainer`, such as clip.
    Raises UsageError for rates or steps out of range, TrainingError where the loss never falls.
    Source: Smith 2017, "Cyclical learning rates", section 3.3.
    """
    if not (0 < low < high and math.isfinite(high)) or steps < 10:
        raise UsageError(f"find_lr expected 0 < low < high and 10 steps or more; found {low}, {high}, {steps}")
    if isinstance(optimizer, ByName):
        raise UsageError("find_lr expected one optimizer; found several by name", mend="Try each of them by itself.")
    slope = math.log(high / low) / (steps - 1)
    grow = Custom(lambda t: t.builder.exp(t * slope + math.log(low)))
    data = fit_data(model, data, loss)
    made = dataclasses.replace(Adam() if optimizer is None else get(optimizer), lr=grow)
    labels = specs_of(data.labels)
    trainer = Trainer(model, loss=loss, optimizer=made, seed=seed, total=WITHOUT_END, labels=labels, **options)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for k, batch in enumerate(_batches(data, batch_size, seed, steps)):
        measured = trainer.step(batch)
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * measured["loss"]
        smooth = mean / (1 - _SMOOTHING ** (k + 1))  # as if it had always been there
        if not math.isfinite(smooth) or (losses and smooth - min(losses) > _WORSE * abs(losses[0])):
            break
        rates.append(measured["lr"])
        losses.append(smooth)
    return RateFinding(rates, losses, _advised(rates, losses))


def _advised(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate in the middle of the steepest fall before the least loss.

    Over a tenth of the steps and more: what one batch differs from the next is no fall.
    """
    best = int(np.argmin(losses)) if losses else 0
    half = max(1, len(losses) // 20)
    if best < 2 * half:
        raise TrainingError(
            "expected a loss that falls at some rate; it rose from the start", mend="Begin at a lower rate (low=...)."
        )
    fallen = np.asarray(losses[: best + 1])
    return float(rates[half + int(np.argmin(fallen[2 * half :] - fallen[: -2 * half]))])


@dataclass(frozen=True)
class BatchFinding:
    """What `find_batch_size` saw.

    sizes, samples_per_s: what it tried, and how fast each was.   batch_size: the one that it advises.
    stopped: why it tried no larger one.
    """

    sizes: list[int]
    samples_per_s: list[float]
    batch_size: int
    stopped: str


@checked_arguments
def find_batch_size(
    model: Model,
    data: Dataset,
    *,
    largest: int = 4096,
    memory_bytes: int | None = None,
    seconds: float = 0.5,
    seed: int = 0,
    loss: LossLike = "softmax_cross_entropy",
    **options: Any,
) -> BatchFinding:
    """Time steps at batch sizes 1, 2, 4 ... and advise the smallest within 5% of the most samples a second.

    largest: the last one to try; the data's length is another end.
    memory_bytes: what this process may use; by default nine tenths of what is free now. A size is not tried where twice
    the growth of the last one would exceed it.   seconds: for each size.
    options: others of `Trainer`, such as optimizer and clip.
    Raises UsageError for a size out of range.
    """
    if largest < 1 or seconds <= 0:
        raise UsageError(f"find_batch_size expected largest >= 1 and seconds > 0; found {largest}, {seconds}")
    data = fit_data(model, data, loss)
    labels = specs_of(data.labels)
    trainer = Trainer(model, loss=loss, seed=seed, total=WITHOUT_END, labels=labels, **options)
    limit = _peak() + 0.9 * _free() if memory_bytes is None else float(memory_bytes)
    sizes: list[int] = []
    speeds: list[float] = []
    size, stopped, before = 1, f"the largest to try is {largest}", _peak()
    while size <= largest:
        if size > len(data):
            stopped = f"there are {len(data)} samples"
            break
        try:
            speeds.append(_speed(trainer, data.batch(slice(size)), seconds) * size)
        except OnnxmxError as error:  # a GPU says when its memory is full
            if not sizes:
                raise
            stopped = f"a batch of {size} does not run: {error.problem}"
            break
        sizes.append(size)
        after = _peak()
        if after + 2 * (after - before) > limit:
            stopped = f"a batch of {2 * size} could exceed the memory of {limit / 1e9:.1f} GB"
            break
        before, size = after, 2 * size
    return BatchFinding(sizes, speeds, _smallest(sizes, speeds), stopped)


def _smallest(sizes: Sequence[int], speeds: Sequence[float]) -> int:
    """The smallest size whose samples a second are within 5% of the most."""
    best = max(speeds)
    return next(n for n, speed in zip(sizes, speeds, strict=True) if speed >= 0.95 * best)


def _speed(trainer: Trainer, batch: dict[str, Array], seconds: float) -> float:
    """Steps a second, by the fastest of those within `seconds`: what else the machine does only slows some down."""
    trainer.step(batch)
    fastest, end = math.inf, time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or fastest == math.inf:
        trainer.step(batch)
        fastest = min(fastest, time.perf_counter() - start)
    return 1 / fastest


def _batches(data: Dataset, batch_size: int, seed: int, steps: int) -> Iterator[dict[str, Array]]:
    """So many batches, over as many epochs as it takes."""
    loader = Loader(data, batch_size, seed)
    for k in range(steps):
        epoch, index = divmod(k, len(loader))
        yield data.batch(loader.indices(epoch, index))


def _peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def _free() -> int:
    """Bytes of memory that are free now."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 40
