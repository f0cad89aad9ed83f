"""Steps that share a state: what each writes, where the engine finds it, and a target network that learns a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.builder.values import Value
from onnxmx.errors import CheckpointError, GradientError, UsageError
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.joint import Joint, Nets
from onnxmx.trainer.losses import Spec
from onnxmx.trainer.step import StepGraph

Array = np.ndarray[Any, Any]
Values = Mapping[str, Value]
X = {"x": Spec(("batch", 4), ir.DataType.FLOAT)}


def pair() -> Joint:
    """Two nets, one with running statistics and dropout, each with an optimizer of its own."""
    maker = L.Sequential(L.Dense(6), L.BatchNorm(), L.Activation("relu"), L.Dense(4)).build(z=("batch", 3))
    judge = L.Sequential(L.Dense(5, activation="tanh"), L.Dropout(0.3), L.Dense(1)).build(x=("batch", 4))
    return mx.Joint(
        {"maker": maker, "judge": judge},
        {"maker": mx.Update(mx.Adam(1e-2), average=mx.EMA(0.9)), "judge": mx.Update(mx.Momentum(1e-2))},
    )


def judging(nets: Nets, batch: Values) -> Any:
    made = nets("maker", nets.normal(3, like=batch["x"]))
    score = nets("judge", made) - nets("judge", batch["x"])
    return nets.g.reduce_mean(score, keepdims=False), {"spread": nets.g.reduce_max(score, keepdims=False)}


def making(nets: Nets, batch: Values) -> Any:
    return -nets.g.reduce_mean(nets("judge", nets("maker", nets.normal(8, 3))), keepdims=False)


@pytest.fixture(scope="module")
def steps() -> dict[str, StepGraph]:
    nets = pair()
    return {"judge": nets.step("judge", judging, batch=X), "maker": nets.step("maker", making)}


def batch(k: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(k).normal(size=(5 + k % 3, 4)).astype(np.float32)}


def by_hand(steps: Mapping[str, StepGraph], order: list[str], state: dict[str, Array]) -> dict[str, Array]:
    """The state after these steps, each on a plain session with all it does not write left as it is."""
    sessions = {name: open_session(step.data, threads=1) for name, step in steps.items()}
    for k, name in enumerate(order):
        feeds = {f"batch.{n}": a for n, a in (batch(k) if name == "judge" else {}).items()}
        wanted = {p.name for p in sessions[name].get_inputs()}
        feeds |= {f"state.{n}": a for n, a in state.items() if f"state.{n}" in wanted}
        names = [p.name for p in sessions[name].get_outputs() if p.name.startswith("next.")]
        found = sessions[name].run(names, feeds)
        state = state | {n.removeprefix("next."): a for n, a in zip(names, found, strict=True)}
    return state


def test_the_noise_of_two_models_is_not_the_same() -> None:
    """Both gradients are 0: what moves the weights is noise alone, after as many steps of both."""
    net = L.Dense(1).build(x=("batch", 4))
    nets = mx.Joint(dict.fromkeys("ab", net), {n: mx.Update(mx.SGD(1.0), clip=mx.GradientNoise(1.0)) for n in "ab"})

    def nothing(name: str) -> Any:
        return lambda nets, batch: nets.g.reduce_sum(nets(name, batch["x"]) * 0.0, keepdims=False)

    engine = nets.start({n: nets.step(n, nothing(n), batch=X) for n in "ab"}, seed=3, threads=1)
    for name in "ab":
        engine.step(batch(0), name)
    a, b = (nets.model(n, engine.state()).parameters()["weight"] - net.parameters()["weight"] for n in "ab")
    assert (np.abs(a) > 1e-3).all()
    assert (np.abs(a - b) > 1e-3).all()


@pytest.mark.parametrize("order", ["jmjmjm", "jjmjjm", "jjjm", "mmmj", "jjjjj", "mjjmmjmmmj"])
def test_steps_in_any_order_as_plain_sessions(steps: dict[str, StepGraph], order: str) -> None:
    """No part that a step leaves alone is ever read from the buffer that another step left behind."""
    nets, names = pair(), [{"j": "judge", "m": "maker"}[k] for k in order]
    engine = nets.start(steps, seed=3, threads=1)
    for k, name in enumerate(names):
        engine.step(batch(k) if name == "judge" else {}, name)
    found, expected = engine.state(), by_hand(steps, names, nets.state(3))
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].tobytes() == array.tobytes(), key
    assert [int(found[key]) for key in ("step", "judge.step", "maker.step")] == [
        len(order),
        order.count("j"),
        order.count("m"),
    ]


def test_a_state_half_way_goes_on_to_the_same_bytes(steps: dict[str, StepGraph]) -> None:
    names = ["judge", "judge", "maker"] * 3
    nets = pair()
    whole = nets.start(steps, threads=1)
    for k, name in enumerate(names):
        if k == 4:  # after an odd number of steps of each
            state = whole.state()
        whole.step(batch(k) if name == "judge" else {}, name)
    rest = OrtEngine(steps, state, threads=1)
    for k, name in list(enumerate(names))[4:]:
        rest.step(batch(k) if name == "judge" else {}, name)
    for key, array in whole.state().items():
        assert rest.state()[key].tobytes() == array.tobytes(), key


def test_a_step_holds_what_it_reads_and_writes_alone(steps: dict[str, StepGraph]) -> None:
    """The judge's step leaves the maker's numbers alone; the maker's step needs no slots of the judge."""
    for name, other in (("judge", "maker"), ("maker", "judge")):
        spec, model = steps[name].spec, onnx.load_from_string(steps[name].data)
        onnx.checker.check_model(model, full_check=True)
        assert {o.domain for o in model.opset_import} <= {"", "ai.onnxmx"}
        written = {p["name"].removeprefix("next.") for p in spec["outputs"] if p["name"].startswith("next.")}
        read = {p["tensor"] for p in spec["inputs"] if "tensor" in p}
        assert not any(part.startswith(f"{other}.") for part in written)
        assert written <= read
        assert {p["tensor"] for p in spec["inputs"] if p.get("next")} == written
        assert not [part for part in read if part.startswith(f"{other}.") and part.endswith((".m", ".v", ".momentum"))]
    assert "metric.spread" in {p["name"] for p in steps["judge"].spec["outputs"]}


def test_models_come_back_out_of_the_state(steps: dict[str, StepGraph]) -> None:
    nets = pair()
    engine = nets.start(steps, threads=1)
    for k in range(3):
        engine.step(batch(k), "judge")
        engine.step({}, "maker")
    state = engine.state()
    raw, averaged = nets.model("maker", state, average=False), nets.model("maker", state)
    name = raw.trainable[0]
    np.testing.assert_array_equal(raw.parameters()[name], state[f"maker.{name}"])
    np.testing.assert_array_equal(averaged.parameters()[name], state[f"maker.ema.{name}"])
    assert not np.array_equal(raw.parameters()[name], averaged.parameters()[name])


def test_random_numbers_differ_from_step_to_step_and_are_what_they_say() -> None:
    def drawing(nets: Nets, batch: Values) -> Any:
        g, z, u = nets.g, nets.normal(20_000), nets.uniform(20_000)
        figures = {
            "mean": g.reduce_mean(z, keepdims=False),
            "var": g.reduce_mean(z * z, keepdims=False),
            "u": g.reduce_mean(u, keepdims=False),
            "low": g.neg(g.reduce_max(g.neg(u), keepdims=False)),
            "high": g.reduce_max(u, keepdims=False),
        }
        return g.reduce_mean(nets("net", g.reshape(u, [-1, 4])), keepdims=False), figures

    nets = mx.Joint({"net": L.Dense(1).build(x=("batch", 4))}, {"net": mx.SGD(0.0)})
    engine = nets.start({"draw": nets.step("net", drawing)}, threads=1)
    seen = [engine.step({}, "draw") for _ in range(3)]
    assert len({found["mean"] for found in seen}) == 3
    for found in seen:
        assert abs(found["mean"]) < 0.03
        assert abs(found["var"] - 1) < 0.05
        assert abs(found["u"] - 0.5) < 0.01
        assert 0 <= found["low"] < 1e-3
        assert 1 - 1e-3 < found["high"] < 1


@pytest.mark.parametrize(("frozen", "updated"), [("norm.*", True), ("conv.*", False)], ids=["parts", "no_update"])
def test_a_frozen_batch_norm_normalizes_by_its_running_statistics(frozen: str, updated: bool) -> None:
    """What it gives in a step is what the model infers, and the step leaves its statistics alone."""
    layers = L.Sequential(L.Conv1D(4, 3, name="conv"), L.BatchNorm(name="norm"), L.Activation("tanh"))
    body = layers.build(x=("batch", 2, 6)).freeze(frozen)
    statistics = {"norm.running_mean": np.full(4, 0.3, np.float32), "norm.running_var": np.full(4, 2.5, np.float32)}
    body = body.with_parameters(statistics)
    x = np.random.default_rng(0).normal(3, 2, (5, 2, 6)).astype(np.float32)
    head = L.Dense(1).build(h=("batch", 4, 4))

    def loss(nets: Nets, batch: Values) -> Any:
        features = nets("body", batch["x"])
        away = nets.g.reduce_mean(features - batch["features"], keepdims=False)
        return nets.g.reduce_mean(nets("head", features) + features, keepdims=False), {"away": away}

    trained = "body" if updated else "head"
    nets = mx.Joint({"body": body, "head": head}, {trained: mx.SGD(0.1)})
    specs = {"x": Spec(("batch", 2, 6), ir.DataType.FLOAT), "features": Spec(("batch", 4, 4), ir.DataType.FLOAT)}
    engine = nets.start({"step": nets.step(trained, loss, batch=specs)}, threads=1)
    assert abs(engine.step({"x": x, "features": body(x)}, "step")["away"]) < 1e-6
    after = engine.state()
    for name, array in statistics.items():
        np.testing.assert_array_equal(after[f"body.{name}"], array)
    assert np.array_equal(after["body.conv.weight"], body.parameters()["conv.weight"]) == (not updated)


def test_what_does_not_fit_together() -> None:
    nets = pair()
    with pytest.raises(UsageError, match="no model named 'makr'"):
        nets.step("makr", making)
    with pytest.raises(UsageError, match="'maker' expected an optimizer"):
        Joint(nets.models, {"judge": mx.SGD()}).step("maker", making)
    with pytest.raises(UsageError, match=r"'maker' expected the inputs \['z'\]; found 0 values"):
        nets.step("maker", lambda nets, batch: nets("maker"))
    with pytest.raises(GradientError, match="does not depend on the parameter"):
        nets.step("maker", lambda nets, batch: nets.g.reduce_mean(nets("judge", nets.normal(2, 4)), keepdims=False))
    with pytest.raises(GradientError, match="the loss of a step expected to return a scalar"):
        nets.step("maker", lambda nets, batch: nets("maker", nets.normal(2, 3)))
    with pytest.raises(UsageError, match="'judge' expected an average of its weights"):
        nets.step("judge", lambda nets, batch: nets("judge", nets.normal(2, 4), average=True))
    with pytest.raises(CheckpointError, match=r"maker\.0\.weight \(expected float32 \(3, 6\), found none\)"):
        OrtEngine({"judge": nets.step("judge", judging, batch=X)}, {"step": np.array(0)})
    steps = {"judge": nets.step("judge", judging, batch=X)}
    engine = nets.start(steps, threads=1)
    for call in (engine.step, engine.check, lambda batch, name: engine.open(name)):
        with pytest.raises(UsageError, match="no step named 'jugde'\n  Did you mean 'judge'"):
            call({"x": np.zeros((2, 4), np.float32)}, "jugde")
    for none in ({}, None, [steps["judge"]], {"judge": nets}, {"judge": None}):
        with pytest.raises(UsageError, match=r"start expected steps by name; found (.|\n)*nets\.start"):
            nets.start(none)
    for seed in (-1, 2**63, "one", 0.5):
        with pytest.raises(UsageError, match=r"seed expected an integer (of at least 0|below 2\^63); found"):
            nets.start(steps, seed=seed)
    for wrong in ({}, {"every": 2, "tau": 0.1}, {"tau": 0.0}, {"every": 0}):
        with pytest.raises(UsageError):
            mx.Target(**wrong)  # type: ignore[arg-type]


# --- Q-learning
LENGTH, DISCOUNT = 6, 0.9
"""A corridor: from cell 0 to 5; actions are left and right; the way ends with a reward of 1 in cell 5, of 0.2 in 0."""
CORRIDOR = {
    "now": Spec(("batch", LENGTH), ir.DataType.FLOAT),
    "action": Spec(("batch",), ir.DataType.INT64),
    "reward": Spec(("batch",), ir.DataType.FLOAT),
    "over": Spec(("batch",), ir.DataType.FLOAT),
    "then": Spec(("batch", LENGTH), ir.DataType.FLOAT),
}


def temporal_difference(nets: Nets, batch: Values) -> Any:
    """(reward + discount max_a Q_target(then, a) - Q(now, action))^2.   Source: Mnih et al. 2015, alg. 1."""
    g = nets.g
    best = g.reduce_max(nets("q", batch["then"], average=True), [1], keepdims=False)
    goal = batch["reward"] + (1.0 - batch["over"]) * best * DISCOUNT
    chosen = g.op("GatherElements", nets("q", batch["now"]), g.unsqueeze(batch["action"], [1]), axis=1)
    error = g.squeeze(chosen, [1]) - goal
    return g.reduce_mean(error * error, keepdims=False)


def transitions() -> dict[str, Array]:
    """Every move from a cell that is not an end."""
    cells = np.repeat(np.arange(1, LENGTH - 1), 2)
    action = np.tile(np.array([0, 1]), LENGTH - 2)
    then = cells + 2 * action - 1
    eye = np.eye(LENGTH, dtype=np.float32)
    reward = np.where(then == LENGTH - 1, 1.0, np.where(then == 0, 0.2, 0.0)).astype(np.float32)
    over = np.isin(then, (0, LENGTH - 1)).astype(np.float32)
    return {"now": eye[cells], "action": action, "reward": reward, "over": over, "then": eye[then]}


def best_values() -> Array:
    """What each move is worth at best, by value iteration."""
    q = np.zeros((LENGTH, 2))
    moves = transitions()
    for _ in range(100):
        worth = moves["reward"] + (1 - moves["over"]) * DISCOUNT * q[moves["then"].argmax(1)].max(1)
        q[moves["now"].argmax(1), moves["action"]] = worth
    return q[1:-1]


@pytest.mark.parametrize("target", [mx.Target(every=20), mx.Target(tau=0.1)], ids=["copied", "moved"])
def test_q_learning_finds_the_best_policy(target: mx.Target) -> None:
    net = L.Sequential(L.Dense(16, activation="tanh"), L.Dense(2)).build(x=("batch", LENGTH))
    nets = mx.Joint({"q": net}, {"q": mx.Update(mx.Adam(1e-2), average=target)})
    engine = nets.start({"q": nets.step("q", temporal_difference, batch=CORRIDOR)}, threads=1)
    moves = transitions()
    for _ in range(1000):
        engine.step(moves, "q")
    found = nets.model("q", engine.state())(np.eye(LENGTH, dtype=np.float32)[1:-1])
    np.testing.assert_allclose(found, best_values(), atol=0.02)
    assert found.argmax(1).tolist() == best_values().argmax(1).tolist() == [1, 1, 1, 1]


def test_a_target_is_copied_or_moved_when_it_is_due() -> None:
    net = L.Dense(2).build(x=("batch", LENGTH))
    for target in (mx.Target(every=3), mx.Target(tau=0.25)):
        nets = mx.Joint({"q": net}, {"q": mx.Update(mx.SGD(0.1), average=target)})
        engine = nets.start({"q": nets.step("q", temporal_difference, batch=CORRIDOR)}, threads=1)
        expected = engine.state()["q.target.weight"]
        for k in range(7):
            engine.step(transitions(), "q")
            state = engine.state()
            p = state["q.weight"]
            if target.tau is None:
                expected = p if (k + 1) % 3 == 0 else expected
            else:
                expected = expected + np.float32(0.25) * (p - expected)
            np.testing.assert_allclose(state["q.target.weight"], expected, rtol=1e-6, atol=1e-7)
