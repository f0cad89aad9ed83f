"""The learning-rate finder and the batch-size finder."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import DataError, TrainingError, UsageError
from onnxmx.trainer.finders import _advised, _smallest
from tests.trainer.nets import blob_net, blobs

DATA = blobs(256)
QUICK: dict[str, Any] = {"batch_size": 32, "threads": 1}


def test_the_advised_rate_trains(tmp_path: Path) -> None:
    model = blob_net()
    before = model.to_bytes()
    found = mx.find_lr(model, DATA, low=1e-5, high=10.0, **QUICK)
    assert model.to_bytes() == before
    assert found.rates[0] == pytest.approx(1e-5, rel=1e-4)
    assert found.rates == sorted(found.rates)
    assert 1e-3 < found.lr < 1.0
    assert mx.find_lr(model, DATA, low=1e-5, high=10.0, **QUICK) == found

    def trained(lr: float) -> float:
        return float(mx.fit(model, DATA, optimizer=mx.Adam(lr), progress=False, **QUICK).history[-1]["loss"])

    assert trained(found.lr) < trained(found.lr / 100)
    pytest.importorskip("matplotlib")
    found.plot(tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes()[:4] == b"\x89PNG"


def test_it_ends_where_the_loss_explodes() -> None:
    found = mx.find_lr(blob_net(), DATA, optimizer=mx.SGD(), low=1e-3, high=1e6, **QUICK)
    assert len(found.rates) < 100
    assert found.lr < found.rates[-1]


def weight(start: float) -> mx.Model:
    """y = w x."""
    return mx.build(lambda x: x * x.builder.parameter("w", (1,), mx.init.constant(start)), x=("batch", 1))


ONES = mx.data.Dataset.from_arrays(np.ones((64, 1), np.float32), np.zeros((64, 1), np.float32))
SHIFT = 50.0


@pytest.mark.parametrize("shift", [0.0, SHIFT], ids=["above 0", "below 0"])
@pytest.mark.parametrize(("steps", "high"), [(100, 20.0), (60, 3.0), (30, 20.0)])
def test_it_sees_what_gradient_descent_on_a_parabola_does(shift: float, steps: int, high: float) -> None:
    """The loss w^2 - shift, of which every step is known: w <- w - rate 2 w."""
    low, w, mean = 1e-4, 3.0, 0.0
    losses: list[float] = []
    rates = [low * (high / low) ** (k / (steps - 1)) for k in range(steps)]
    for k, rate in enumerate(rates):
        mean = 0.9 * mean + 0.1 * (w * w - shift)
        smooth = mean / (1 - 0.9 ** (k + 1))
        if losses and smooth - min(losses) > 4 * abs(losses[0]):
            break
        losses.append(smooth)
        w -= rate * 2 * w
    found = mx.find_lr(weight(3.0), ONES, low=low, high=high, steps=steps, optimizer=mx.SGD(),
                       loss=lambda y, t: y * y - shift + t, threads=1)  # fmt: skip
    assert len(found.losses) == len(losses)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.rates, rates[: len(losses)], rtol=1e-4)
    window = max(1, len(losses) // 20)  # to either side
    falls = [losses[k + window] - losses[k - window] for k in range(window, int(np.argmin(losses)) - window + 1)]
    assert found.lr == found.rates[window + int(np.argmin(falls))]


def test_it_ends_where_the_loss_is_no_number() -> None:
    """The root of w, which a step takes below 0."""
    options: dict[str, Any] = {"low": 1e-3, "high": 100.0, "optimizer": mx.SGD(), "threads": 1}
    found = mx.find_lr(weight(1.0), ONES, loss=lambda y, t: y.builder.sqrt(y) + t, **options)
    assert np.isfinite(found.losses).all()
    assert len(found.losses) < 100
    assert 1e-3 < found.lr < found.rates[-1]


def test_seed_and_optimizer_are_those_that_are_given() -> None:
    def losses(data: mx.data.Dataset = DATA, ratio: float = 0.0, **options: Any) -> list[float]:
        return mx.find_lr(blob_net(ratio), data, low=1e-3, high=1.0, steps=30, **QUICK | options).losses

    same = mx.data.Dataset.from_arrays(np.ones((64, 4), np.float32), np.zeros(64, np.int64))
    assert losses(seed=1) == losses(seed=1) != losses(seed=2)  # in another order
    assert losses(same, ratio=0.5, seed=1) != losses(same, ratio=0.5, seed=2)  # other units are dropped
    assert losses(optimizer=mx.SGD()) != losses()
    assert losses(clip=mx.clip_global_norm(1e-3), optimizer=mx.SGD()) != losses(optimizer=mx.SGD())


def test_the_steepest_fall() -> None:
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
    assert _advised(rates, [2.0, 1.99, 1.9, 1.0, 0.95, 5.0]) == 1e-2
    assert _advised(rates, [2.0, 1.0, 0.9, 0.89, 0.88, 5.0]) == 1e-3
    assert _advised(rates, [2.0, 1.5, 1.0, 3.0, 1.2, 1.1]) == 1e-3  # what falls after the least loss has risen before
    with pytest.raises(TrainingError, match=r"it rose from the start\n  Begin at a lower rate"):
        _advised(rates, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    with pytest.raises(TrainingError, match="it rose from the start"):  # it fell for fewer steps than are looked at
        _advised([1.0] * 60, [9.0, 8.0, 7.0, 6.0, *[8.0] * 56])
    with pytest.raises(TrainingError, match="it rose from the start"):
        _advised([], [])


def test_batch_sizes() -> None:
    found = mx.find_batch_size(blob_net(), DATA, seconds=0.01, threads=1)
    assert found.sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert found.stopped == "there are 256 samples"
    assert found.batch_size in found.sizes
    assert found.samples_per_s[found.sizes.index(found.batch_size)] >= 0.95 * max(found.samples_per_s)
    assert found.batch_size > 4  # a step of so small a net costs little more for more samples
    assert found.samples_per_s[-1] > 8 * found.samples_per_s[0]
    assert mx.find_batch_size(blob_net(), DATA, largest=8, seconds=0.01, threads=1).sizes == [1, 2, 4, 8]
    found = mx.find_batch_size(blob_net(), DATA, memory_bytes=1, seconds=0.01, threads=1)
    assert found.sizes == [1]
    assert found.stopped == "a batch of 2 could exceed the memory of 0.0 GB"


def test_options_of_a_run_with_an_end() -> None:
    """The finders have none: a rate and an average that are made for one are taken as they begin."""
    options: dict[str, Any] = {"optimizer": mx.SGD(mx.WarmupCosine(0.1, warmup=50)), "average": mx.SWA(start=500)}
    data = blobs(64)
    assert mx.find_batch_size(blob_net(), data, seconds=1e-3, threads=1, **options).sizes[:3] == [1, 2, 4]
    assert mx.find_lr(blob_net(), data, threads=1, **options).lr > 0


def test_the_smallest_batch_that_is_nearly_the_fastest() -> None:
    assert _smallest([1, 2, 4, 8], [10.0, 94.0, 95.0, 100.0]) == 4
    assert _smallest([1, 2, 4, 8], [10.0, 100.0, 96.0, 94.0]) == 2
    assert _smallest([1], [3.0]) == 1


def test_no_batch_is_tried_that_may_exceed_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 2 took 20 MB more than one of 1, so that one of 4 may take 40 more."""
    seen = iter([100, 110, 130, 170, 250])
    peak = lambda who: SimpleNamespace(ru_maxrss=next(seen) * 1_000_000 / 1024)  # noqa: E731 - in KiB
    monkeypatch.setattr(resource, "getrusage", peak)
    monkeypatch.setattr("sys.platform", "linux")
    found = mx.find_batch_size(blob_net(), DATA, memory_bytes=169_000_000, seconds=1e-3, threads=1)
    assert (found.sizes, found.stopped) == ([1, 2], "a batch of 4 could exceed the memory of 0.2 GB")


def test_a_model_of_fixed_batches_has_no_other() -> None:
    with pytest.raises(DataError, match="expected a batch of x float32"):
        mx.find_batch_size(L.Dense(3).build(x=(15, 4)), DATA, threads=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"high": float("inf")}, "0 < low < high"),
        ({"steps": 9}, "10 steps"),
        ({"optimizer": mx.ByName({"*": mx.SGD(0.1)})}, "one optimizer; found several by name"),
    ],
)
def test_bad_rates(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        mx.find_lr(blob_net(), DATA, **options)


def test_data_that_does_not_fit() -> None:
    model = L.Dense(3).build(x=("batch", 5))
    for find in (mx.find_lr, mx.find_batch_size):
        with pytest.raises(DataError, match="expected samples of shape"):
            find(model, DATA)
    with pytest.raises(UsageError, match="largest >= 1"):
        mx.find_batch_size(blob_net(), DATA, largest=0)
    with pytest.raises(UsageError, match="seconds > 0; found 4096, 0"):
        mx.find_batch_size(blob_net(), DATA, seconds=0)
