"""The learning-rate finder and the batch-size finder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import DataError, TrainingError, UsageError
from onnxmx.trainer.finders import _advised
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


def test_the_steepest_fall() -> None:
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
    assert _advised(rates, [2.0, 1.99, 1.9, 1.0, 0.95, 5.0]) == 1e-2
    assert _advised(rates, [2.0, 1.0, 0.9, 0.89, 0.88, 5.0]) == 1e-3
    with pytest.raises(TrainingError, match=r"it rose from the start\n  Begin at a lower rate"):
        _advised(rates, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_batch_sizes() -> None:
    found = mx.find_batch_size(blob_net(), DATA, seconds=0.01, threads=1)
    assert found.sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert found.stopped == "there are 256 samples"
    assert found.batch_size in found.sizes
    assert found.samples_per_s[found.sizes.index(found.batch_size)] >= 0.95 * max(found.samples_per_s)
    assert found.batch_size > 4  # a step of so small a net costs little more for more samples
    assert mx.find_batch_size(blob_net(), DATA, largest=8, seconds=0.01, threads=1).sizes == [1, 2, 4, 8]
    found = mx.find_batch_size(blob_net(), DATA, memory_bytes=1, seconds=0.01, threads=1)
    assert found.sizes == [1]
    assert found.stopped == "a batch of 2 could exceed the memory of 0.0 GB"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"low": 0.0}, "0 < low < high"),
        ({"low": 1.0, "high": 0.1}, "0 < low < high"),
        ({"steps": 3}, "10 steps"),
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
