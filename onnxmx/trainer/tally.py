"""What the steps of an epoch came to: noted after each of them at the least cost, added up when somebody asks."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from onnxmx.trainer.packed import Packed
from onnxmx.trainer.timing import Timing

LIMIT = 4096
"""Numbers noted, 32 KiB, after which they are to be added up."""


class Tally:
    """Sums, gradient norms and times of an epoch's steps.

    After a step the caches hold what the step left there, and the first addition of two arrays takes 10 us. So a step's
    numbers are copied behind those of the step before, which takes less than 1 us, and many are added at once: one
    after another in the order of the steps, so that the bits do not depend on when.

    sums: where the engine leaves those of each step.   batch_size, samples: of an epoch.
    """

    def __init__(self, sums: Packed, batch_size: int, samples: int) -> None:
        self._of_a_step, self._batch_size, self._all = sums, batch_size, samples
        self._totals = Packed({"grad_norm": (), **{name: part.shape for name, part in sums.items()}})
        self._noted, self._batches, self._timing = array("d"), 0, Timing()

    def restore(self, state: Mapping[str, Any], batches: int) -> None:
        """Go on from what `state` gave after so many batches of an epoch; from {} and 0 at its beginning."""
        for name, total in self._totals.items():
            total[...] = state.get(name, 0.0)
        self._batches = batches

    def state(self) -> dict[str, Any]:
        """The sums by name, and that of the norms as `grad_norm`, as JSON knows them."""
        self.add()
        return {name: total.tolist() for name, total in self._totals.items()}

    def begin(self) -> tuple[array[float], Callable[[Iterable[float]], None], Callable[[Any], None], memoryview]:
        """From now on the loop waits for a batch.

        Returns what is noted so far; what takes (begun, ended, grad_norm) of a step, the times as `perf_counter` tells
        them; what takes its sums after that; and the sums. They are methods of the array itself: a function of ours
        around them would take longer than they do.
        """
        self.add()
        self._timing.begin(perf_counter())
        return self._noted, self._noted.extend, self._noted.frombytes, self._of_a_step.flat.data.cast("B")

    def add(self) -> None:
        """Add up what is noted."""
        if not self._noted:
            return
        steps = np.array(self._noted).reshape(-1, 2 + len(self._totals.flat))
        del self._noted[:]
        begun, ended, norms = steps.T[:3]
        before = self.samples
        self._batches += len(steps)
        sizes = np.full(len(steps), float(self._batch_size))
        sizes[-1] = self.samples - before - self._batch_size * (len(steps) - 1)  # an epoch's last batch may be smaller
        norms *= sizes
        self._timing.add(begun, ended, self.samples - before)
        self._totals.flat[:] = np.vstack([self._totals.flat, steps[:, 2:]]).cumsum(axis=0)[-1]

    @property
    def samples(self) -> int:
        """Of the steps that are added up."""
        return min(self._batches * self._batch_size, self._all)

    @property
    def norms(self) -> float:
        """The sum of the gradient's norm over the samples that are added up."""
        return float(self._totals["grad_norm"])

    @property
    def sums(self) -> dict[str, np.ndarray[Any, Any]]:
        """The engine's sums by name, of the steps that are added up."""
        return {name: self._totals[name] for name in self._of_a_step}

    def timing(self) -> dict[str, Any]:
        """What steps of all epochs took and waited for, as `Timing.summary` has it."""
        self.add()
        return self._timing.summary()
