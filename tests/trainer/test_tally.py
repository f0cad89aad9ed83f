"""What steps came to, noted one by one and added up at any time."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmx.trainer.packed import Packed
from onnxmx.trainer.tally import Tally
from onnxmx.trainer.timing import Timing

SHAPES = {"sum.loss": (), "sum.hits": (2, 3)}
STEPS = 12


def run(tally: Tally, sums: Packed, steps: range, added: set[int]) -> None:
    """Steps of seeded numbers, added up after those that are named."""
    _, note, note_sums, view = tally.begin()
    for step in steps:
        sums.flat[:] = np.random.default_rng(step).normal(size=7)
        note((2.0 * step, 2.0 * step + 1, 0.1 * step))
        note_sums(view)
        if step in added:
            tally.add()


@given(st.sets(st.integers(0, STEPS - 1)), st.integers(0, STEPS))
def test_sums_are_the_same_bits_whenever_they_are_added_up(added: set[int], stop: int) -> None:
    """As those of plain additions, one step after another, and through a checkpoint after `stop` of them."""
    sums = Packed(SHAPES)
    tally = Tally(sums, 16, 16 * STEPS - 5)
    run(tally, sums, range(stop), added)
    again = Tally(sums, 16, 16 * STEPS - 5)
    again.restore(tally.state(), stop)
    run(again, sums, range(stop, STEPS), added)
    state = again.state()
    total, norms = np.zeros(7), 0.0
    for step in range(STEPS):
        total += np.random.default_rng(step).normal(size=7)
        norms += 0.1 * step * (16 if step < STEPS - 1 else 11)
    assert (again.norms, state["grad_norm"], again.samples) == (norms, norms, 16 * STEPS - 5)
    assert again.sums["sum.loss"] == state["sum.loss"] == total[0]
    np.testing.assert_array_equal(again.sums["sum.hits"], total[1:].reshape(2, 3))
    assert set(again.sums) == set(SHAPES)


def test_an_epoch_begins_at_nothing() -> None:
    sums = Packed(SHAPES)
    tally = Tally(sums, 16, 40)
    run(tally, sums, range(3), set())
    tally.add()
    tally.restore({}, 0)
    assert (tally.norms, tally.samples, tally.sums["sum.loss"].item()) == (0.0, 0, 0.0)
    assert tally.timing()["steps"] == 3
    assert not Tally(sums, 16, 40).timing()


def test_what_is_noted_is_told_without_being_asked_to_add_it_up() -> None:
    """Of two epochs, the second of which begins before anybody has asked about the first."""
    sums = Packed(SHAPES)
    tally = Tally(sums, 16, 40)
    before = perf_counter()
    for _ in range(2):
        _, note, note_sums, view = tally.begin()
        ready = perf_counter()
        note((ready, ready + 1, 0.5))
        note_sums(view)
    found = tally.timing()
    assert found["steps"] == 2
    assert 0 <= found["data_ms"]["p50"] <= found["data_ms"]["p99"] <= (perf_counter() - before) * 1e3


def test_what_steps_took_and_waited() -> None:
    timing = Timing()
    timing.begin(100.0)
    timing.add(np.array([101.0, 104.0]), np.array([103.0, 107.0]), 30)
    timing.add(np.array([107.0]), np.array([108.0]), 30)
    timing.begin(200.0)
    timing.add(np.array([201.0]), np.array([202.0]), 30)
    found = timing.summary()
    assert (found["steps"], found["samples_per_s"]) == (4, pytest.approx(90 / 10))
    assert (found["step_ms"]["p50"], found["data_ms"]["p50"]) == pytest.approx((1500, 1000))
