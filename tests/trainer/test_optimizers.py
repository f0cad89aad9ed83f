"""Optimizers and clipping against other libraries: torch, optax and MXNet, whose ends optimizer_oracle.json holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import INT64
from onnxmx.builder.session import open_session
from onnxmx.errors import UsageError
from onnxmx.trainer.clipping import ClipScale, Gradients
from onnxmx.trainer.optimizers import OPTIMIZERS, Optimizer
from onnxmx.trainer.optimizers.adam import AdamRate
from onnxmx.trainer.step import initial_state
from tests.trainer import optimizer_oracle as oracle
from tests.trainer.nets import feeds, run_graph

Array = np.ndarray[Any, Any]

NO_DECAY = (mx.Group("tall", decay=0.0), mx.Group("b", lr=2.0, decay=0.5))

ROWS: dict[str, tuple[Any, Any]] = {
    "sgd": (mx.SGD(lr=0.05), None),
    "sgd, decay": (mx.SGD(lr=0.05, momentum=0.8, weight_decay=0.1), None),
    "momentum": (mx.Momentum(lr=0.02), None),
    "nag": (mx.NAG(lr=0.02), None),
    "adam": (mx.Adam(lr=0.01), None),
    "adam, other betas": (mx.Adam(lr=0.02, beta1=0.5, beta2=0.9, epsilon=1e-3), None),
    "adam, decay": (mx.Adam(lr=0.01, weight_decay=0.1), None),
    "adam, clipped": (mx.Adam(lr=0.01), mx.clip_global_norm(0.5)),
    "momentum, clipped by value": (mx.Momentum(lr=0.02), mx.clip_value(0.2)),
    "sgd, adaptive clip": (mx.SGD(lr=0.05), mx.clip_adaptive(0.1)),
    "sgd, centralized": (mx.SGD(lr=0.05), mx.Centralize()),
    "amsgrad": (mx.Adam(lr=0.01, beta2=0.9, amsgrad=True), None),
    "adamw": (mx.AdamW(lr=0.01, weight_decay=0.1), None),
    "adamw, groups": (mx.AdamW(lr=0.01, weight_decay=0.1, groups=NO_DECAY), None),
    "adamax": (mx.Adamax(lr=0.01), None),
    "nadam": (mx.NAdam(lr=0.01), None),
    "adabelief": (mx.AdaBelief(lr=0.01), None),
    "adagrad": (mx.Adagrad(lr=0.05), None),
    "adagrad, initial": (mx.Adagrad(lr=0.05, initial=0.1), None),
    "adadelta": (mx.Adadelta(), None),
    "rmsprop": (mx.RMSProp(lr=0.01), None),
    "rmsprop, centered": (mx.RMSProp(lr=0.01, decay=0.9, epsilon=1e-3, centered=True), None),
    "rmsprop, momentum": (mx.RMSProp(lr=0.005, momentum=0.9, centered=True, epsilon=1e-3), None),
    "ftrl": (mx.FTRL(lr=0.1, l1=0.05), None),
    "ftrl, l2": (mx.FTRL(lr=0.2, beta=0.5, l1=0.02, l2=0.1), None),
    "signum": (mx.Signum(lr=0.005), None),
    "signum, decay": (mx.Signum(lr=0.005, momentum=0.8, weight_decay=0.1), None),
    "lion": (mx.Lion(lr=0.002, weight_decay=0.1), None),
    "lamb": (mx.LAMB(lr=0.01, weight_decay=0.1), None),
    "lars": (mx.LARS(lr=0.5, trust=0.01), None),
    "lars, decay": (mx.LARS(lr=0.5, trust=0.01, weight_decay=0.1), None),
    "muon": (mx.Muon(lr=0.02, adam_ratio=0.1, weight_decay=0.1), None),
}
"""What must end where another library ended: the rows of optimizer_oracle.json, which says by whom."""

PEERS = json.loads(Path(__file__).with_name("optimizer_oracle.json").read_text())


@dataclass(frozen=True)
class Fixed(L.Layer):
    """Parameters whose gradient is what the input says: the loss is their product with it."""

    def forward(self, *given: Value) -> Value:
        """Each input (batch, ...) meets a parameter of its own; the output is (batch, 1)."""
        g = given[0].builder
        parts = []
        for x, (name, shape) in zip(given, oracle.SHAPES.items(), strict=True):
            p = g.parameter(name, shape, "zeros")
            parts.append(g.reduce_sum(g.reshape(x * p, [0, -1]), [1]))
        return g.sum(*parts)


@cache
def fixed() -> mx.Model:
    """A model whose loss has the gradients that a batch holds."""
    inputs: Any = {f"d_{name}": ("batch", *shape) for name, shape in oracle.SHAPES.items()}
    model = Fixed().build(**inputs)
    return model.with_parameters({name: oracle.numbers(name, "start") for name in oracle.SHAPES})


def direct(output: Value, label: Value) -> Value:
    """The output itself: its gradients are what the batch holds."""
    return output + label


def after_steps(optimizer: Any, clip: Any = None, steps: int = oracle.STEPS) -> dict[str, Array]:
    """The state after `steps` steps on the gradients of the oracle."""
    model = fixed()
    step = mx.compile_step(model, loss=direct, optimizer=optimizer, clip=clip, measure=[])
    session, state = open_session(step.data, threads=1), initial_state(model, optimizer, 0)
    names = [p["name"] for p in step.spec["outputs"] if p["name"].startswith("next.")]
    given = {name: oracle.numbers(name, "gradients") for name in oracle.SHAPES}
    for t in range(steps):
        batch = {f"d_{name}": dp[t : t + 1] for name, dp in given.items()} | {"label": np.zeros((1, 1), np.float32)}
        state = dict(
            zip([n.removeprefix("next.") for n in names], session.run(names, feeds(batch, state)), strict=True)
        )
    return state


@pytest.mark.parametrize("row", ROWS)
def test_fifty_steps(row: str) -> None:
    """On the same gradients, parameters end where another library's do."""
    state = after_steps(*ROWS[row])
    for name in oracle.SHAPES:
        expected = np.array(PEERS[row][name]).reshape(oracle.SHAPES[name])
        assert np.abs(expected - oracle.numbers(name, "start")).max() > 0.01, "a row that hardly moves proves nothing"
        np.testing.assert_allclose(state[name], expected, rtol=1e-5, atol=1e-5)
    assert state["step"] == oracle.STEPS


def test_every_optimizer_has_a_row() -> None:
    assert {type(optimizer) for optimizer, _ in ROWS.values()} == set(OPTIMIZERS.values())
    assert set(ROWS) == set(PEERS)


@pytest.mark.parametrize("step", [0, 1, 9, 999, 10_000, 123_456, 10**6, 2**24 + 1, 2**40])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.5, 0.9999)])
def test_bias_corrections_at_any_step(step: int, beta1: float, beta2: float) -> None:
    """Those of the float32 betas that the means run with, in float64."""
    rate, epsilon = run_graph(
        lambda g: AdamRate(g, np.float32(0.1), g.input("step", (), INT64), beta1=beta1, beta2=beta2, epsilon=1e-8),
        step=np.array(step),
    )
    b1, b2, t = float(np.float32(beta1)), float(np.float32(beta2)), step + 1
    root = (1 - b2**t) ** 0.5
    np.testing.assert_allclose(epsilon, 1e-8 * root, rtol=1e-5)
    np.testing.assert_allclose(rate, 0.1 * root / (1 - b1**t), rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_gradients_and_a_rate_of_zero_are_finite(name: str) -> None:
    """A dead unit has no gradient, a cosine ends at a rate of 0: nothing becomes NaN, and a rate of 0 moves nothing."""
    model = L.Dense(3, weight_init="zeros").build(x=("batch", 2))
    for lr in (0.1, 0.0):
        optimizer = OPTIMIZERS[name](lr=lr)
        step = mx.compile_step(model, loss="mean_squared_error", optimizer=optimizer)
        state, names = initial_state(model, optimizer, 0), [p["name"] for p in step.spec["outputs"]]
        session = open_session(step.data, threads=1)
        for label in (0.0, 1.0, 0.0):
            batch = {"x": np.ones((4, 2), np.float32), "label": np.full((4, 3), label, np.float32)}
            out = dict(zip(names, session.run(names, feeds(batch, state)), strict=True))
            state = {n.removeprefix("next."): v for n, v in out.items() if n.startswith("next.")}
        assert all(np.isfinite(v).all() for v in state.values())
        assert lr or all(not state[n].any() for n in model.trainable)


@pytest.mark.parametrize(
    ("norm", "expected"), [(0.0, 1.0), (0.5, 1.0), (2.0, 1.0), (2.5, 0.8), (1e20, 2e-20), (np.inf, 0.0)]
)
def test_clip_scale(norm: float, expected: float) -> None:
    (found,) = run_graph(lambda g: ClipScale(g, g.input("norm", ()), max_norm=2.0), norm=np.array(norm, np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adaptive_clipping_by_hand() -> None:
    """Of three units one whose gradient is too long, one of zeros, which counts as epsilon long, and one to be left."""
    p = np.float32([[1.2, 0.0, 3.0], [1.6, 0.0, 4.0]])  # norms 2, 0 and 5
    dp = np.float32([[0.6, 1.0, 0.08], [0.8, 0.0, 0.06]])  # 1, 1 and 0.1
    for given, scale in ((p, [0.2, 0.001, 1.0]), (p[:, 0], 0.2)):
        dps = dp if given.ndim == 2 else dp[:, 0]

        def clipped(g: Any, given: Array = given, dps: Array = dps) -> Any:
            zero = g.constant(np.int64(0))
            at = Gradients(g, {"p": g.input("dp", dps.shape)}, {"p": g.constant(given)}, zero, zero)
            return list(mx.clip_adaptive(0.1, epsilon=0.01)(at).values())

        (found,) = run_graph(clipped, dp=dps)
        np.testing.assert_allclose(found, dps * np.float32(scale), rtol=1e-6)


def test_clipping_divides_all_by_one_number() -> None:
    a, b = np.array([[3.0, 0.0], [0.0, 0.0]], np.float32), np.array(4.0, np.float32)

    def build(g: GraphBuilder) -> list[Any]:
        xs = [g.input("a", (2, 2)), g.input("b", ())]
        named, zero = dict(zip("ab", xs, strict=True)), g.constant(0)
        at = Gradients(g, named, named, zero, zero)
        return [at.norm, *mx.clip_global_norm(1.0)(at).values()]

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


@pytest.mark.parametrize(
    ("integers", "floats"),
    [
        (mx.Adam(beta1=0), mx.Adam(beta1=0.0)),
        (mx.Adagrad(epsilon=1, initial=1), mx.Adagrad(epsilon=1.0, initial=1.0)),
        (mx.AdamW(lr=1, weight_decay=1), mx.AdamW(lr=1.0, weight_decay=1.0)),
        (mx.SGD(weight_decay=1, groups=(mx.Group("*", decay=2),)), mx.SGD(weight_decay=2.0)),
        (mx.LAMB(beta2=0, weight_decay=1), mx.LAMB(beta2=0.0, weight_decay=1.0)),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_integers_are_floats(integers: Optimizer, floats: Optimizer) -> None:
    model = L.Dense(1).build(x=("batch", 2))
    first, second = (mx.compile_step(model, loss="mean_squared_error", optimizer=o) for o in (integers, floats))
    assert first.data == second.data
