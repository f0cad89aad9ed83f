"""Optimizers and clipping against independent implementations in numpy, float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.session import open_session
from onnxmx.errors import UsageError
from onnxmx.trainer.clipping import ClipScale, global_norm
from onnxmx.trainer.optimizers import OPTIMIZERS
from onnxmx.trainer.step import initial_state
from tests.trainer.nets import feeds, run_graph

Array = np.ndarray[Any, Any]
Arrays = list[Array]
Update = Callable[[int, Arrays, Arrays], Arrays]
STEPS = 50


def adam(lr: float, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, decay: float = 0.0) -> Update:
    """As torch.optim.AdamW, whose decay of 0 is Adam: bias-corrected means, epsilon outside the root."""
    m: dict[int, Array] = {}
    v: dict[int, Array] = {}

    def update(t: int, ps: Arrays, gs: Arrays) -> Arrays:
        out = []
        for k, (p, g) in enumerate(zip(ps, gs, strict=True)):
            m[k] = beta1 * m.get(k, 0.0) + (1 - beta1) * g
            v[k] = beta2 * v.get(k, 0.0) + (1 - beta2) * g**2
            mean, square = m[k] / (1 - beta1**t), v[k] / (1 - beta2**t)
            out.append(p - lr * decay * p - lr * mean / (np.sqrt(square) + epsilon))
        return out

    return update


def sgd(lr: float, momentum: float) -> Update:
    """As torch.optim.SGD with dampening 0: the buffer starts as the first gradient."""
    buffers: dict[int, Array] = {}

    def update(t: int, ps: Arrays, gs: Arrays) -> Arrays:
        for k, g in enumerate(gs):
            buffers[k] = momentum * buffers[k] + g if k in buffers else g
        return [p - lr * buffers[k] for k, p in enumerate(ps)]

    return update


def nesterov(lr: float, momentum: float) -> Update:
    """As torch.optim.SGD with nesterov: the gradient and the buffer after it."""
    buffers: dict[int, Array] = {}

    def update(t: int, ps: Arrays, gs: Arrays) -> Arrays:
        for k, g in enumerate(gs):
            buffers[k] = momentum * buffers.get(k, 0.0) + g
        return [p - lr * (g + momentum * buffers[k]) for k, (p, g) in enumerate(zip(ps, gs, strict=True))]

    return update


def clipped(update: Update, limit: float) -> Update:
    def limited(t: int, ps: Arrays, gs: Arrays) -> Arrays:
        norm = np.sqrt(sum((g**2).sum() for g in gs))
        return update(t, ps, [g * min(1.0, limit / norm) for g in gs])

    return limited


ROWS: dict[str, tuple[Any, float | None, Update]] = {
    "adam": (mx.Adam(lr=0.01), None, adam(0.01)),
    "adam, other betas": (mx.Adam(lr=0.02, beta1=0.5, beta2=0.9, epsilon=1e-3), None, adam(0.02, 0.5, 0.9, 1e-3)),
    "adamw": (mx.AdamW(lr=0.01, weight_decay=0.1), None, adam(0.01, decay=0.1)),
    "sgd": (mx.SGD(lr=0.02, momentum=0.9), None, sgd(0.02, 0.9)),
    "momentum": (mx.Momentum(lr=0.02), None, sgd(0.02, 0.9)),
    "nag": (mx.NAG(lr=0.02), None, nesterov(0.02, 0.9)),
    "plain sgd": (mx.SGD(lr=0.05, momentum=0.0), None, sgd(0.05, 0.0)),
    "sgd, clipped": (mx.SGD(lr=0.02, momentum=0.9), 0.3, clipped(sgd(0.02, 0.9), 0.3)),
    "adam, clipped": (mx.Adam(lr=0.01), 0.3, clipped(adam(0.01), 0.3)),
}


@pytest.mark.parametrize("row", ROWS)
def test_fifty_steps(row: str) -> None:
    """A linear model and squared error, whose gradient is one line of numpy."""
    optimizer, limit, update = ROWS[row]
    model = L.Dense(2).build(x=("batch", 3), seed=1)
    clip = None if limit is None else mx.clip_global_norm(limit)
    step = mx.compile_step(model, loss="mean_squared_error", optimizer=optimizer, clip=clip)
    session, state = open_session(step.data, threads=1), initial_state(model, optimizer, 0)
    names = [p["name"] for p in step.spec["outputs"]]
    (weight, bias) = model.trainable
    w, b = (state[n].astype(np.float64) for n in (weight, bias))
    random = np.random.default_rng(0)
    for t in range(1, STEPS + 1):
        x, target = random.normal(size=(6, 3)).astype(np.float32), random.normal(size=(6, 2)).astype(np.float32)
        out = dict(zip(names, session.run(names, feeds({"x": x, "label": target}, state)), strict=True))
        state = {n.removeprefix("next."): v for n, v in out.items() if n.startswith("next.")}
        error = x.astype(np.float64) @ w + b - target
        dw, db = 2 * x.T.astype(np.float64) @ error / error.size, 2 * error.sum(0) / error.size
        np.testing.assert_allclose(out["loss"], (error**2).mean(), rtol=1e-5)
        np.testing.assert_allclose(out["grad_norm"], np.sqrt((dw**2).sum() + (db**2).sum()), rtol=1e-5)
        w, b = update(t, [w, b], [dw, db])
    np.testing.assert_allclose(state[weight], w, atol=1e-5)
    np.testing.assert_allclose(state[bias], b, atol=1e-5)
    assert state["step"] == STEPS


def test_every_optimizer_has_a_row() -> None:
    assert {type(optimizer) for optimizer, _, _ in ROWS.values()} == set(OPTIMIZERS.values())


@pytest.mark.parametrize(
    ("norm", "expected"), [(0.0, 1.0), (0.5, 1.0), (2.0, 1.0), (2.5, 0.8), (1e20, 2e-20), (np.inf, 0.0)]
)
def test_clip_scale(norm: float, expected: float) -> None:
    (found,) = run_graph(lambda g: ClipScale(g, g.input("norm", ()), max_norm=2.0), norm=np.array(norm, np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_clipping_divides_all_by_one_number() -> None:
    a, b = np.array([[3.0, 0.0], [0.0, 0.0]], np.float32), np.array(4.0, np.float32)

    def build(g: GraphBuilder) -> list[Any]:
        xs = [g.input("a", (2, 2)), g.input("b", ())]
        norm = global_norm(g, xs)
        return [norm, *mx.clip_global_norm(1.0)(g, xs, norm)]

    norm, da, db = run_graph(build, a=a, b=b)
    assert norm == 5.0
    np.testing.assert_allclose(da, a / 5)
    np.testing.assert_allclose(db, b / 5)


def test_a_zero_gradient_moves_nothing() -> None:
    """Adam divides by a root of zero there: epsilon keeps 0 / 0 away, clipping divides by its limit."""
    optimizer = mx.Adam(lr=0.1)
    model = L.Dense(1, weight_init="zeros").build(x=("batch", 2))
    step = mx.compile_step(model, loss="mean_squared_error", optimizer=optimizer, clip=mx.clip_global_norm(1.0))
    state = initial_state(model, optimizer, 0)
    batch = {"x": np.ones((3, 2), np.float32), "label": np.zeros((3, 1), np.float32)}
    names = [f"next.{n}" for n in model.trainable]
    for name, after in zip(model.trainable, open_session(step.data).run(names, feeds(batch, state)), strict=True):
        np.testing.assert_array_equal(after, state[name])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mx.Adam(lr=-1e-3), "Adam's lr expected a finite number of at least 0; found -0.001"),
        (lambda: mx.Adam(lr="fast"), "Adam's lr expected a finite number of at least 0; found 'fast'"),
        (lambda: mx.AdamW(lr=float("nan")), "AdamW's lr expected a finite number"),
        (lambda: mx.SGD(lr=float("inf")), "SGD's lr expected a finite number"),
        (lambda: mx.Adam(beta1=1.0), r"beta1 expected a number in \[0, 1\); found 1.0"),
        (lambda: mx.Adam(beta2=-0.1), "beta2 expected"),
        (lambda: mx.Adam(epsilon=0.0), "epsilon expected a finite number above 0; found 0.0"),
        (lambda: mx.AdamW(weight_decay=-1.0), "weight_decay expected a finite number of at least 0; found -1.0"),
        (lambda: mx.SGD(momentum=1.5), "momentum expected"),
        (lambda: mx.clip_global_norm(0.0), "clip_global_norm expected a finite number above 0; found 0.0"),
        (lambda: mx.clip_global_norm(float("inf")), "clip_global_norm expected"),
    ],
)
def test_values_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()
