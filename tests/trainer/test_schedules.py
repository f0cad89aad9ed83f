"""Schedules: their values where something changes, against a formula in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx.builder.ops import INT64
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules import Constant, WarmupCosine, as_schedule
from tests.trainer.nets import run_graph


def rate(schedule: Any, step: int) -> float:
    (found,) = run_graph(lambda g: schedule(g, g.input("step", (), INT64)), step=np.array(step))
    assert found.dtype == np.float32
    assert found.shape == ()
    return float(found)


def formula(t: int, peak: float, floor: float, warmup: int, total: int) -> float:
    if t < warmup:
        return peak * (t + 1) / warmup
    done = min((t - warmup) / max(total - warmup - 1, 1), 1.0)
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize(
    ("warmup", "total", "floor"),
    [(0, 100, 0.0), (10, 100, 0.0), (10, 100, 0.01), (100, 100, 0.0), (99, 100, 0.0), (0, 1, 0.0), (1, 2, 0.1),
     (500, 20_000_000, 0.0)],
)  # fmt: skip
def test_warmup_cosine(warmup: int, total: int, floor: float) -> None:
    schedule = WarmupCosine(0.5, warmup=warmup, floor=floor).resolve(total)
    for t in {0, 1, warmup // 2, warmup - 1, warmup, warmup + 1, total // 2, total - 1, total, 2 * total} - {-1}:
        assert rate(schedule, t) == pytest.approx(formula(t, 0.5, floor, warmup, total), rel=1e-5, abs=2e-7), t


def test_its_ends() -> None:
    """By hand, so that a slip in the formula above cannot hide one in the graph."""
    schedule = WarmupCosine(1.0, warmup=4, floor=0.2).resolve(9)
    found = [rate(schedule, t) for t in range(11)]
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 0.8828427, 0.6, 0.3171573, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_constant() -> None:
    for schedule in (Constant(0.3), as_schedule(0.3), as_schedule(Constant(0.3)).resolve(10)):
        assert rate(schedule, 0) == rate(schedule, 10**9) == np.float32(0.3)


@pytest.mark.parametrize(
    ("schedule", "total", "expected"),
    [
        (WarmupCosine(1.0), 100, (0, 100)),
        (WarmupCosine(1.0, warmup=None), 100, (5, 100)),
        (WarmupCosine(1.0, warmup=None), 19, (0, 19)),
        (WarmupCosine(1.0, warmup=None, total=40), 100, (2, 40)),
        (WarmupCosine(1.0, warmup=7, total=40), 1, (7, 40)),
    ],
)
def test_resolve(schedule: WarmupCosine, total: int, expected: tuple[int, int]) -> None:
    resolved = schedule.resolve(total)
    assert (resolved.warmup, resolved.total) == expected
    assert resolved.resolve(12345) == resolved


def test_the_rate_of_a_run_is_that_of_its_schedule() -> None:
    """The step counts its updates by itself: 6 of them here, 2 epochs of 3 batches."""
    from tests.trainer.nets import blob_net, blobs

    rates: list[float] = []

    class Spy(WarmupCosine):
        def resolve(self, total: int) -> WarmupCosine:
            rates.append(total)
            return super().resolve(total)

    run = mx.fit(blob_net(), blobs(96), optimizer=mx.SGD(lr=Spy(0.1, warmup=1)), batch_size=32, epochs=2,
                 progress=False)  # fmt: skip
    assert rates == [6]
    assert len(run.history) == 2


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: WarmupCosine(-1.0), "the peak of WarmupCosine expected a finite number of at least 0; found -1.0"),
        (lambda: WarmupCosine(1.0, floor=float("nan")), "the floor of WarmupCosine expected"),
        (lambda: WarmupCosine(1.0, warmup=-1), "warmup of at least 0 updates; found -1"),
        (lambda: WarmupCosine(1.0, total=0), "total of at least 1 update; found 0"),
        (lambda: WarmupCosine(1.0, warmup=11).resolve(10), "no longer than its 10 updates; found 11"),
        (lambda: rate(WarmupCosine(1.0), 0), "expected its total number of updates; found none"),
        (lambda: Constant(float("inf")), "a learning rate expected a finite number"),
    ],
)
def test_values_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()
