"""How long steps take: samples a second, and percentiles."""

from __future__ import annotations

from array import array
from time import perf_counter
from typing import Any

import numpy as np

_PERCENTILES = (50, 90, 99)


class Timing:
    """Notes what each step took and how long it waited for its batch: 16 bytes a step."""

    def __init__(self) -> None:
        self._steps, self._waits, self._samples = array("d"), array("d"), 0
        self._last = perf_counter()

    def begin(self) -> float:
        """From now on it waits for a batch. Returns now, as `perf_counter` tells it."""
        self._last = perf_counter()
        return self._last

    def step(self, begun: float, ended: float, samples: int) -> None:
        """The batch was there at `begun`, and its step was done at `ended`."""
        self._waits.append(begun - self._last)
        self._steps.append(ended - begun)
        self._samples += samples
        self._last = ended

    def summary(self) -> dict[str, Any]:
        """samples_per_s, and step_ms and data_ms with their percentiles; empty before the first step.

        data_ms: from one step's end to the next one's batch, with what the loop does between them.
        """
        if not self._steps:
            return {}
        steps, waits = np.array(self._steps), np.array(self._waits)
        seconds = float(steps.sum() + waits.sum())
        return {
            "steps": len(steps),
            "samples_per_s": self._samples / max(seconds, 1e-9),
            "step_ms": _percentiles(steps),
            "data_ms": _percentiles(waits),
        }


def _percentiles(seconds: np.ndarray[Any, Any]) -> dict[str, float]:
    found = np.percentile(seconds * 1e3, _PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(_PERCENTILES, found, strict=True)}


def show_timing(summary: dict[str, Any]) -> str:
    """`12,345 samples/s  step p50 1.52 p90 1.71 p99 2.90 ms`; nothing before the first step."""
    if not summary:
        return ""
    shown = " ".join(f"{name} {value:.2f}" for name, value in summary["step_ms"].items())
    return f"{summary['samples_per_s']:,.0f} samples/s  step {shown} ms"
