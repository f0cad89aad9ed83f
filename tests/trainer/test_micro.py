"""Micro-batches: what the whole batch gives, a part at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import UsageError
from onnxmx.trainer.step import initial_state
from tests.trainer.nets import TINY, batch_for, blob_net, blobs, compiled, conv_net, run_steps


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["mlp", "residual", "twice"])
def test_micro_batches_give_what_the_whole_batch_gives(name: str, size: int) -> None:
    """Batches of 8 and of 5, which is no multiple: the last round takes what is left."""
    model = TINY[name]()
    batches = [batch_for(model, n, seed=n) for n in (8, 5, 8)]
    whole, parts = (
        run_steps(*compiled(model, mx.Momentum(lr=0.1), clip=mx.clip_global_norm(0.5), **options), batches)
        for options in ({}, {"micro_batch": size})
    )
    for a, b in zip(whole, parts, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_allclose(b[key], a[key], rtol=2e-5, atol=2e-6, err_msg=key)


WEIGHTED = "softmax_cross_entropy:class_weight=[0.1, 2, 5, 0.5]"
UNLIKE: dict[str, Any] = {
    "weights": WEIGHTED,
    "ignored": "softmax_cross_entropy:ignore_index=2",
    "both": f"{WEIGHTED},ignore_index=-1,smoothing=0.1",
    "two tasks": {"a": WEIGHTED, "b": "softmax_cross_entropy:ignore_index=2,weight=0.3"},
}


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("loss", UNLIKE)
def test_labels_that_weigh_unlike_are_weighed_over_the_whole_batch(loss: str, size: int) -> None:
    """Class weights and labels that are passed over: no part knows how much the others count."""
    random, optimizer = np.random.default_rng(1), mx.SGD(lr=0.1)
    net: Any = L.Dense(4)
    if loss == "two tasks":

        def net(x: Any) -> Any:
            return {"a": L.Dense(4, name="first")(x), "b": L.Dense(4, name="second")(x)}

    model = mx.build(net, x=("batch", 7))
    labels = list(UNLIKE[loss]) if loss == "two tasks" else ["label"]
    missing = -1 if loss == "both" else 2
    batches = []
    for n in (8, 5):
        batch = {name: random.choice([0, 1, 2, 3], n).astype(np.int64) for name in labels}
        for label in batch.values():
            label[:3] = missing  # whole parts that count for nothing, where it is ignored
        batches.append({"x": random.normal(size=(n, 7)).astype(np.float32), **batch})
    whole, parts = (
        run_steps(
            mx.compile_step(model, loss=UNLIKE[loss], optimizer=optimizer, **options),
            initial_state(model, optimizer, 0),
            batches,
        )
        for options in ({}, {"micro_batch": size})
    )
    for a, b in zip(whole, parts, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_allclose(b[key], a[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_a_micro_batch_has_statistics_and_dropout_of_its_own() -> None:
    model = L.Sequential(conv_net(), L.Dropout(0.5), L.Dense(4)).build(x=("batch", 2, 6, 6))
    step, state = compiled(model, micro_batch=4)
    half = batch_for(model, 4)
    twice = {name: np.concatenate([a, a]) for name, a in half.items()}
    first = run_steps(*compiled(model), [half])[0]
    (both,) = run_steps(step, state, [twice])
    assert both["loss"] != first["loss"], "the same samples with the same dropout would give the same loss"
    for name in (n for n in state if "running" in n or "mean" in n):
        once = first[f"next.{name}"]
        # Moved twice towards the same statistics, by a tenth each time.
        np.testing.assert_allclose(both[f"next.{name}"], state[name] + (once - state[name]) * 1.9, rtol=1e-4, atol=1e-6)
    assert any("mean" in n for n in state)


def test_micro_batches_through_fit(tmp_path: Path) -> None:
    """40 samples in batches of 16: two whole ones and one of 8."""
    options: Any = {"batch_size": 16, "epochs": 2, "optimizer": mx.SGD(lr=0.1), "progress": False}
    whole = mx.fit(blob_net(), blobs(40), **options)
    parts = mx.fit(blob_net(), blobs(40), micro_batches=4, out=tmp_path / "run", **options)
    for name, expected in whole.last.parameters().items():
        np.testing.assert_allclose(parts.last.parameters()[name], expected, rtol=1e-4, atol=1e-5)
    assert [h["loss"] for h in parts.history] == pytest.approx([h["loss"] for h in whole.history], rel=1e-5)


def test_micro_batches_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="batch_size expected a multiple of its 3 micro-batches; found 64"):
        mx.fit(blob_net(), blobs(), micro_batches=3, progress=False)
    with pytest.raises(UsageError, match="batches of any size; 'x' has a fixed one"):
        compiled(TINY["fixed batch"](), micro_batch=2)
