"""Batches in an order that depends on seed and epoch alone, made ready by a thread while the model computes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Never

import numpy as np
import numpy.typing as npt

from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.source import user_line
from onnxmx.errors import DataError, UsageError
from onnxmx.trainer.data.arrays import Array
from onnxmx.trainer.data.dataset import Dataset
from onnxmx.trainer.data.order import shuffled

Batch = tuple[int, dict[str, Array]]

_AHEAD, _AHEAD_BYTES = 16, 32 << 20


class Loader(CheckedArguments):
    """Cuts a dataset into batches.

    The order of an epoch is a pure function of (seed, epoch), so training resumes at any batch without a replay:
    `epoch(3, start=120)` yields exactly what `epoch(3)` yields from its batch 120 on.

    batch_size: samples a batch; the last one is smaller unless `drop_last`. seed: in [0, 2**64).
    shuffle: False keeps the dataset's order in every epoch.
    prefetch: batches kept ready, at most; 0 uses no thread. By default 16, or as many as take 32 MB, at least 2.
    Raises UsageError for a value outside its range, DataError when there is no single full batch to keep.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        prefetch: int | None = None,
    ) -> None:
        for name, value, low, high in (
            ("batch_size", batch_size, 1, 2**63),
            ("seed", seed, 0, 2**64),
            ("prefetch", prefetch or 0, 0, 2**31),
        ):
            if not low <= value < high:
                raise UsageError(f"Loader expected {name} in [{low}, {high}); found {value}")
        if drop_last and len(dataset) < batch_size:
            raise DataError(
                f"Loader expected at least one full batch of {batch_size}; found {len(dataset)} samples",
                mend="Lower batch_size, or keep the last batch with drop_last=False.",
            )
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.prefetch = self._affordable() if prefetch is None else prefetch
        self._last_order: tuple[int, Array] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Never:
        """Refused: the order of each epoch is another."""
        raise UsageError(
            "Loader expected an epoch to go through; found a loop over itself",
            at=user_line(),
            mend="Write for index, batch in loader.epoch(0); mx.fit(model, data) needs no loader.",
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields (batch index, batch) from batch `start` to the end; batch as in Dataset.batch.

        What goes wrong while a batch is made is raised here. Stopping early, by `break` or an exception, ends the
        thread as soon as the iterator is closed or forgotten.
        Raises UsageError when epoch < 0 or start is not in [0, len(self)].
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise UsageError(
                f"Loader expected an epoch >= 0 and a start in [0, {len(self)}]; found epoch {epoch}, start {start}"
            )
        batches = self._batches(epoch, start)
        return _ahead(batches, self.prefetch) if self.prefetch else batches

    def numbers(self, epoch: int, start: int = 0) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """As `epoch`, with the numbers of the samples, int64 (b,), in the place of their values."""
        order, b = self._order(epoch), self.batch_size
        for index in range(start, len(self)):
            yield index, order[index * b : (index + 1) * b]

    def indices(self, epoch: int, batch: int) -> npt.NDArray[np.int64]:
        """Which samples are in this batch, in order: int64 (b,). Raises UsageError for a batch that does not exist."""
        if not 0 <= batch < len(self):
            raise UsageError(f"Loader expected a batch in [0, {len(self)}); found {batch}")
        return self._order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _affordable(self) -> int:
        sample = sum(array.nbytes for array in self.dataset.batch(slice(1)).values())
        return max(2, min(_AHEAD, _AHEAD_BYTES // max(1, sample * self.batch_size)))

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for index in range(start, len(self)):
            yield index, self.dataset.batch(self.indices(epoch, index))

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """A permutation of all samples: int64 (n,)."""
        last = self._last_order  # One read: the thread that prefetches calls this too.
        if last is not None and last[0] == epoch:
            return last[1]
        n = len(self.dataset)
        order = shuffled(n, self.seed, epoch) if self.shuffle else np.arange(n, dtype=np.int64)
        self._last_order = (epoch, order)
        return order


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _End:
    pass


def _ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Yields what `batches` yields, made by a thread that is at most `depth` batches ahead.

    The thread sleeps while more than half of them are ready: waking it for each batch would cost more than a batch of
    small images does. Only who finds nothing to do, or lets the other one go on, takes the lock.
    """
    ready: deque[Batch | _Failure | _End] = deque()
    stop, changed = threading.Event(), threading.Condition()
    # A daemon: an iterator that someone forgot to finish does not keep the process alive.
    thread = threading.Thread(
        target=_produce, args=(batches, ready, depth, stop, changed), name="onnxmx-loader", daemon=True
    )
    thread.start()
    try:
        while True:
            if not ready:
                with changed:
                    changed.wait_for(lambda: ready)
            item = ready.popleft()
            if len(ready) == depth // 2:
                with changed:
                    changed.notify()
            if isinstance(item, _End):
                return
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        with changed:
            stop.set()
            changed.notify()
        if thread is not threading.current_thread():  # a forgotten iterator may be collected by the thread itself
            thread.join()


def _produce(
    batches: Iterator[Batch],
    ready: deque[Batch | _Failure | _End],
    depth: int,
    stop: threading.Event,
    changed: threading.Condition,
) -> None:
    def put(item: Batch | _Failure | _End) -> None:
        ready.append(item)
        if len(ready) == 1:
            with changed:
                changed.notify()

    try:
        for item in batches:
            put(item)
            if len(ready) >= depth:
                with changed:
                    changed.wait_for(lambda: len(ready) <= depth // 2 or stop.is_set())
            if stop.is_set():
                return
        put(_End())
    except BaseException as error:  # Whatever it is, the consumer must hear of it instead of waiting for ever.
        put(_Failure(error))
