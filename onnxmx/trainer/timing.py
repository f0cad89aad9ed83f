"""How long steps take: samples a second, and percentiles."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_PERCENTILES = (50, 90, 99)


class Timing:
    """Keeps what each step took and how long it waited for its batch: 16 bytes a step."""

    def __init__(self) -> None:
        self._steps, self._waits, self._samples, self._last = array("d"), array("d"), 0, 0.0

    def begin(self, now: float) -> None:
        """From `now` on a batch is waited for, in seconds of any clock."""
        self._last = now

    def add(self, begun: Array, ended: Array, samples: int) -> None:
        """Some steps, one after another: their batches were there at `begun` (n,), and they were done at `ended`."""
        self._waits.extend(begun - np.append(self._last, ended[:-1]))
        self._steps.extend(ended - begun)
        self._samples += samples
        self._last = float(ended[-1])

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


def _percentiles(seconds: Array) -> dict[str, float]:
    found = np.percentile(seconds * 1e3, _PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(_PERCENTILES, found, strict=True)}


def show_timing(summary: dict[str, Any]) -> str:
    """`12,345 samples/s  step p50 1.52 p90 1.71 p99 2.90 ms`; nothing before the first step."""
    if not summary:
        return ""
    shown = " ".join(f"{name} {value:.2f}" for name, value in summary["step_ms"].items())
    return f"{summary['samples_per_s']:,.0f} samples/s  step {shown} ms"
