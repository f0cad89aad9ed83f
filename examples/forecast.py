"""A GRU forecasts next month's carbon dioxide from the last three years, beside forecasts that learn nothing.

    python examples/forecast.py

It learns the months before 1992 and is measured on the ten years from then on, a month ahead at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import onnxmx as mx
from onnxmx import layers as L

MONTHS, TEST = 36, 120  # what a forecast reads; how many months at the end are measured on


def read_series() -> np.ndarray:
    """Parts per million by month, float32 (months,). The five months without a value lie between their neighbours."""
    ppm = np.genfromtxt(Path(__file__).parent / "data/co2.csv", delimiter=",", skip_header=1, usecols=1)
    month, known = np.arange(len(ppm)), ~np.isnan(ppm)
    return np.interp(month, month[known], ppm[known]).astype(np.float32)


def windows(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Monthly changes and the one after them.   x: (n, MONTHS, 1)   y: (n, 1)"""
    rows = np.lib.stride_tricks.sliding_window_view(np.diff(series), MONTHS + 1)
    return rows[:, :-1, None], rows[:, -1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    series = read_series()
    x, y = windows(series)
    net = L.Sequential(L.GRU(32, return_sequences=False), L.Dense(1))
    run = mx.fit(
        net.build(x=("batch", MONTHS, 1)),
        mx.data.Dataset.from_arrays(x[:-TEST], y[:-TEST]),
        loss="mean_squared_error",
        optimizer=mx.AdamW(lr=mx.WarmupCosine(5e-3, warmup=20)),
        clip=mx.clip_global_norm(1.0),
        batch_size=32,
        epochs=options.epochs,
        threads=options.threads,
        progress=False,
    )
    truth, now = series[-TEST:], series[-TEST - 1 : -1]
    year_ago, step_year_ago = series[-TEST - 12 : -12], np.diff(series)[-TEST - 12 : -12]
    forecasts = {
        "last value": now,
        "value a year ago": year_ago,
        "last value + change a year ago": now + step_year_ago,
        "GRU": now + run.last(x[-TEST:])[:, 0],
    }
    for name, forecast in forecasts.items():
        error = forecast - truth
        print(f"{name:<32}mean error {np.abs(error).mean():.3f} ppm  root mean square {np.sqrt((error**2).mean()):.3f}")


if __name__ == "__main__":
    main()
