"""Mixup and CutMix: what is drawn, what is mixed, and that the loss is mixed in the same share."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.ops import INT64
from onnxmx.builder.session import open_session
from onnxmx.errors import OnnxmxError, UsageError
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.mixing import BetaShare
from onnxmx.trainer.step import initial_state
from tests.trainer.nets import blob_net, blobs, feeds

Array = np.ndarray[Any, Any]


def shares(alpha: float, count: int = 3000) -> Array:
    g = GraphBuilder()
    g.output(BetaShare(g, g.input("seed", (), INT64), g.input("step", (), INT64), alpha=alpha, stream=1), "share")
    session = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1)
    steps = ({"seed": np.array(5), "step": np.array(k)} for k in range(count))
    return np.array([session.run(None, given)[0] for given in steps])


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 4.0])
def test_shares_are_of_a_beta_distribution(alpha: float) -> None:
    found, expected = np.sort(shares(alpha)), np.sort(np.random.default_rng(0).beta(alpha, alpha, 300_000))
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    # Kolmogorov-Smirnov: 0.0355 is exceeded once in a thousand times. Of 0.05 most shares round to 0 or 1: ties.
    places = np.searchsorted(expected, found) / len(expected)
    assert np.abs(places - np.arange(len(found)) / len(found)).max() < 0.0355 or alpha < 0.1
    assert found.mean() == pytest.approx(0.5, abs=0.04)
    assert found.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def mixed(mix: Any, x: Array, steps: int = 1, seed: int = 3) -> list[tuple[Array, Array, float]]:
    """The mixed inputs, partners and share of some steps."""
    g = GraphBuilder()
    step = g.input("step", (), INT64)
    found = mix(g, {"x": g.input("x", ("batch", *x.shape[1:]))}, g.constant(np.array(seed)), step)
    g.output(found.inputs["x"], "y")
    g.output(found.partner, "partner")
    g.output(found.share, "share")
    session = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1)
    return [tuple(session.run(None, {"x": x, "step": np.array(k)})) for k in range(steps)]


def test_mixup() -> None:
    x = np.random.default_rng(0).normal(size=(9, 3, 4, 5)).astype(np.float32)
    for y, partner, share in mixed(mx.Mixup(1.0), x, 5):
        assert sorted(partner) == list(range(9))
        np.testing.assert_allclose(y, share * x + (1 - share) * x[partner], atol=1e-6)


def test_cutmix() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2, 12, 20)).astype(np.float32)
    areas = []
    for y, partner, share in mixed(mx.CutMix(), x, 40):
        own, other = (y == x).all(axis=(0, 1)), (y == x[partner]).all(axis=(0, 1))
        assert (own | other).all()
        inside = ~own
        assert share == pytest.approx(own.mean(), abs=1e-6)
        rows, columns = inside.any(1), inside.any(0)
        assert (inside == rows[:, None] & columns[None, :]).all()  # one box
        for side in (rows, columns):  # twice a whole number where the border does not cut it
            assert side[0] or side[-1] or side.sum() % 2 == 0
        areas.append(inside.mean())
    assert min(areas) < 0.1
    assert max(areas) > 0.5


def test_what_is_drawn_follows_seed_and_step() -> None:
    x = np.arange(16, dtype=np.float32).reshape(8, 2)
    first, again, other = mixed(mx.Mixup(1.0), x, 3), mixed(mx.Mixup(1.0), x, 3), mixed(mx.Mixup(1.0), x, 3, seed=4)
    assert any((a[1] != c[1]).any() for a, c in zip(first, other, strict=True))
    for a, b, c in zip(first, again, other, strict=True):
        assert [v.tobytes() for v in a] == [v.tobytes() for v in b]
        assert a[2] != c[2]
    assert len({float(a[2]) for a in first}) == len({a[1].tobytes() for a in first}) == 3


def test_the_loss_is_mixed_in_the_same_share() -> None:
    model = blob_net()
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD(lr=0.0), mix=mx.Mixup(1.0))
    batch = blobs(12).batch(slice(12))
    state = initial_state(model, mx.SGD(), 3)
    (loss, total) = open_session(step.data, threads=1).run(["loss", "sum.loss"], feeds(batch, state))
    ((x, partner, share),) = mixed(mx.Mixup(1.0), batch["x"])
    z = model(x).astype(np.float64)
    logp = z - np.log(np.exp(z).sum(1, keepdims=True))
    hot = np.eye(3)[batch["label"]]
    expected = -((share * hot + (1 - share) * hot[partner]) * logp).sum(1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert total[0] / total[1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("micro", [1, 2])
def test_a_model_learns_and_is_measured_as_ever(micro: int) -> None:
    data = blobs(96)
    run = mx.fit(blob_net(), data, validation=data, mix=mx.Mixup(0.4), optimizer=mx.Adam(lr=0.05), epochs=8,
                 batch_size=16, micro_batches=micro, progress=False)  # fmt: skip
    assert run.history[-1]["validation_accuracy"] > 0.9
    assert mx.evaluate(run.last, data)["loss"] == pytest.approx(run.history[-1]["validation_loss"], rel=1e-6)
    assert run.history[-1]["loss"] > run.history[-1]["validation_loss"]


TOKENS = mx.build(lambda x: L.Dense(2)(L.GlobalAvgPool1D()(x.builder.transpose(L.Embedding(9, 4)(x), [0, 2, 1]))),
                  x=mx.Input(("batch", 5), "int64"))  # fmt: skip


def test_no_random_numbers_serve_twice() -> None:
    """Of a step with a mix, dropout and gradient noise: each draws from streams of its own."""
    net = L.Sequential(L.Conv2D(2, 3), L.Dropout(0.3), L.Flatten(), L.Dropout(0.3), L.Dense(3))
    model = net.build(x=("batch", 1, 6, 6))
    options: dict[str, Any] = {"optimizer": mx.SGD(), "mix": "cutmix", "clip": mx.GradientNoise()}
    graph = onnx.load_from_string(mx.compile_step(model, loss="softmax_cross_entropy", **options).data).graph
    drawn = [(n.op_type, a.i) for n in graph.node for a in n.attribute if a.name == "stream"]
    streams = [s + k for kind, s in drawn for k in range(2 if kind == "AddNoise" else 1)]
    assert {kind for kind, _ in drawn} == {"BetaShare", "Partners", "CutBox", "Dropout", "AddNoise"}
    assert len(streams) == 2 + 3 + 2 * len(model.trainable)
    assert len(set(streams)) == len(streams)


def test_a_mix_by_name() -> None:
    runs = [mx.fit(blob_net(), blobs(12), mix=mix, progress=False) for mix in ("mixup:alpha=0.3", mx.Mixup(0.3))]
    assert runs[0].model.to_bytes() == runs[1].model.to_bytes()
    step = {"loss": "softmax_cross_entropy", "optimizer": mx.SGD()}
    assert mx.compile_step(blob_net(), mix="mixup", **step) == mx.compile_step(blob_net(), mix=mx.Mixup(), **step)
    with pytest.raises(UsageError, match=r"no mix named 'mixu'\n  Did you mean 'mixup'"):
        mx.fit(blob_net(), blobs(12), mix="mixu", progress=False)


def test_what_cannot_be_mixed() -> None:
    with pytest.raises(OnnxmxError, match=r"CutMix expected images .*; found 'x', float32"):
        mx.fit(blob_net(), blobs(12), mix=mx.CutMix(), progress=False)
    data = Dataset.from_arrays(np.zeros((4, 5), np.int64), np.zeros(4, np.int64))
    with pytest.raises(OnnxmxError, match="Mixup expected inputs of float32, samples first; found 'x', int64"):
        mx.fit(TOKENS, data, mix=mx.Mixup(), progress=False)
    for alpha in (0.0, -1.0, float("nan"), "0.2"):
        with pytest.raises(UsageError, match="Mixup expected alpha to be a number above 0"):
            mx.Mixup(alpha)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"mix expected mx\.Mixup or mx\.CutMix; found 0\.2"):
        mx.fit(blob_net(), blobs(12), mix=0.2, progress=False)  # type: ignore[arg-type]
