"""Schedules: their values against torch's, which schedule_oracle.json holds, and against formulas in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.ops import INT64
from onnxmx.builder.session import open_session
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules import SCHEDULES, Constant, Scaled, WarmupCosine, as_schedule
from onnxmx.trainer.step import initial_state
from tests.trainer import schedule_oracle as oracle
from tests.trainer.nets import blob_net, blobs, feeds, run_graph


def rate(schedule: Any, step: int) -> float:
    (found,) = run_graph(lambda g: schedule(g, g.input("step", (), INT64)), step=np.array(step))
    assert found.dtype == np.float32
    assert found.shape == ()
    return float(found)


def rates(schedule: Any, steps: int, total: int | None = None) -> np.ndarray[Any, Any]:
    """The rates of many steps at once."""
    resolved = as_schedule(schedule).resolve(steps if total is None else total)
    g = GraphBuilder()
    g.output(resolved(g, g.input("step", (), INT64)), "rate")
    session = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1)
    return np.array([session.run(None, {"step": np.array(t)})[0] for t in range(steps)])


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
    found: list[float] = []

    class Rates(mx.Callback):
        def step(self, loop: Any, measured: Mapping[str, float]) -> None:
            found.append(measured["lr"])

    run = mx.fit(blob_net(), blobs(96), optimizer=mx.SGD(lr=WarmupCosine(0.1, warmup=1)), batch_size=32, epochs=2,
                 callbacks=[Rates()], progress=False)  # fmt: skip
    assert found == pytest.approx([formula(t, 0.1, 0.0, 1, 6) for t in range(6)], rel=1e-5, abs=2e-7)
    assert len(run.history) == 2


ROWS: dict[str, Any] = {
    "step": mx.Step(0.5, every=7, factor=0.5),
    "multi_step": mx.MultiStep(0.5, at=(5, 6, 21), factor=0.3),
    "exponential": mx.Exponential(0.5, decay=0.9),
    "linear": mx.Linear(0.5, floor=0.1),
    "polynomial": mx.Polynomial(0.5, power=1.7),
    "cosine": mx.Cosine(0.5, floor=0.05),
    "cosine_restarts": mx.CosineRestarts(0.5, period=9, floor=0.05),
    "cosine_restarts, longer": mx.CosineRestarts(0.5, period=5, factor=2),
    "one_cycle": mx.OneCycle(0.5),
    "one_cycle, other": mx.OneCycle(0.5, share=0.6, divide=5, final=10),
    "cyclic": mx.Cyclic(0.5, up=4, down=7, low=0.1),
    "cyclic, halved": mx.Cyclic(0.5, up=5, low=0.1, mode="triangular2"),
    "cyclic, exponential": mx.Cyclic(0.5, up=5, low=0.1, mode="exponential", decay=0.9),
}
PEER = json.loads(Path(__file__).with_name("schedule_oracle.json").read_text())


@pytest.mark.parametrize("row", ROWS)
def test_against_torch(row: str) -> None:
    np.testing.assert_allclose(rates(ROWS[row], oracle.STEPS), PEER[row]["rates"], rtol=1e-5, atol=2e-7)


def test_every_schedule_is_tested() -> None:
    here = {type(schedule) for schedule in ROWS.values()}
    assert here | {Constant, WarmupCosine, mx.InverseSqrt, mx.ReduceOnPlateau} == set(SCHEDULES.values())
    assert set(ROWS) | {"plateau"} == set(PEER)


def test_inverse_sqrt() -> None:
    t = np.arange(30)
    np.testing.assert_allclose(rates(mx.InverseSqrt(0.5, timescale=4), 30), 0.5 * np.sqrt(4 / (t + 4)), rtol=1e-6)


def test_inverse_sqrt_after_its_warm_up_is_that_of_the_paper() -> None:
    """Vaswani et al. 2017, eq. 3: d^-0.5 min(t^-0.5, t w^-1.5) with t counted from 1, but for the join."""
    warmup, t = 10, np.arange(1, 41)
    paper = 0.5 * np.sqrt(warmup) * np.minimum(t**-0.5, t * warmup**-1.5)
    found = rates(mx.InverseSqrt(0.5, timescale=warmup).warmed_up(warmup), 41)
    np.testing.assert_allclose(found[:10], paper[:10], rtol=1e-5)
    np.testing.assert_allclose(found[11:], paper[10:], rtol=1e-5)  # it peaks for two updates


@pytest.mark.parametrize(
    ("kind", "start", "expected"),
    [
        ("linear", None, [0.25, 0.5, 0.75, 1.0]),
        ("linear", 0.2, [0.4, 0.6, 0.8, 1.0]),
        ("constant", None, [0.1] * 4),
        ("constant", 0.3, [0.3] * 4),
        ("exponential", None, [0.01**0.75, 0.1, 0.01**0.25, 1.0]),
        ("exponential", 0.0001, [0.001, 0.01, 0.1, 1.0]),
    ],
)
def test_every_schedule_warms_up(kind: str, start: float | None, expected: list[float]) -> None:
    """The factors of its first rate; then it runs as it would on the updates that are left."""
    for schedule in [mx.Cosine(0.5), mx.Step(0.5, every=3), mx.OneCycle(0.5), as_schedule(0.5)]:
        alone = rates(schedule, 16)
        found = rates(schedule.warmed_up(4, kind=kind, start=start), 20)
        np.testing.assert_allclose(found[:4], np.array(expected) * alone[0], rtol=1e-5)
        np.testing.assert_allclose(found[4:], alone, rtol=1e-6)


def test_warm_up_and_cosine_are_the_default_schedule() -> None:
    for total in (20, 100):
        parts, whole = mx.Cosine(0.5, floor=0.1).warmed_up(), WarmupCosine(0.5, warmup=None, floor=0.1)
        np.testing.assert_allclose(rates(parts, total), rates(whole, total), rtol=1e-5)


def test_one_after_another() -> None:
    """Each counts its own updates, and those that end with the run end where the next begins."""
    chain = mx.Linear(0.1, floor=0.5).then(0.5, at=5).then(mx.Cosine(0.5), at=12)
    found = rates(chain, 20)
    np.testing.assert_allclose(found[:5], np.linspace(0.1, 0.5, 5), rtol=1e-5)
    np.testing.assert_allclose(found[5:12], 0.5)
    np.testing.assert_allclose(found[12:], 0.25 * (1 + np.cos(np.pi * np.arange(8) / 7)), atol=1e-6)


def test_a_schedule_times_a_number() -> None:
    expected = 0.2 * rates(mx.Cosine(0.5, floor=0.1), 8)
    np.testing.assert_allclose(rates(Scaled(mx.Cosine(0.5, floor=0.1), 0.2), 8), expected, rtol=1e-6)


def test_a_plain_function_of_the_step() -> None:
    def halves(t: Any) -> Any:
        return 0.5 / (1 + t / 4) ** 2

    t = np.arange(10)
    for schedule in (halves, as_schedule(halves), as_schedule(halves).then(halves, at=50)):
        np.testing.assert_allclose(rates(schedule, 10, total=99), 0.5 / (1 + t / 4) ** 2, rtol=1e-5)
    assert "halves" in repr(as_schedule(halves))
    step = mx.compile_step(blob_net(), loss="softmax_cross_entropy", optimizer=mx.Adam(lr=halves))
    assert "halves" in step.spec["settings"]["optimizer"]


@pytest.mark.parametrize("row", ROWS)
def test_far_steps_are_exact(row: str) -> None:
    """Counted in integers where it matters: float32 would lose odd steps beyond 2^24."""
    schedule, far = ROWS[row].resolve(40), 2**24 * 7 * 9 * 11 * 10
    repeats = {"cosine_restarts": far, "cyclic": far}.get(row)
    found = rate(schedule, far + 3)
    assert math.isfinite(found)
    if repeats:
        assert found == rate(schedule, 3)


@pytest.mark.parametrize("row", ROWS)
def test_a_run_of_one_update_has_a_rate(row: str) -> None:
    found = rates(ROWS[row], 2, total=1)
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 0.5
    if row in ("linear", "polynomial", "cosine"):
        assert found[0] == 0.5


def plateau_step(schedule: Any) -> list[tuple[float, float]]:
    """(loss, rate) of each step of a model whose loss is what the batch says."""
    model = L.Dense(1, weight_init="zeros").build(x=("batch", 1))
    optimizer = mx.SGD(lr=schedule)
    step = mx.compile_step(model, loss="mean_squared_error", optimizer=optimizer, total=oracle.STEPS)
    session, state = open_session(step.data, threads=1), initial_state(model, optimizer, 0)
    start, names, found = dict(state), [p["name"] for p in step.spec["outputs"]], []
    for loss in oracle.LOSSES:
        batch = {"x": np.ones((1, 1), np.float32), "label": np.full((1, 1), loss**0.5, np.float32)}
        out = dict(zip(names, session.run(names, feeds(batch, state)), strict=True))
        found.append((float(out["loss"]), float(out["lr"])))
        state = start | {name: out[f"next.{name}"] for name in ("step", *(n for n in start if "plateau" in n))}
    return found


def test_plateau_against_torch() -> None:
    found = plateau_step(mx.ReduceOnPlateau(0.5, factor=0.5, patience=2, every=1, threshold=0.01, floor=0.07))
    np.testing.assert_allclose([loss for loss, _ in found], oracle.LOSSES, rtol=1e-5)
    np.testing.assert_allclose([lr for _, lr in found], PEER["plateau"]["rates"], rtol=1e-5)


def test_plateau_looks_at_means() -> None:
    """Four looks of ten updates: 0.34, then 0.14 three times, and none of those is better than the second."""
    found = plateau_step(mx.ReduceOnPlateau(0.5, factor=0.1, patience=1, every=10, threshold=0.1))
    np.testing.assert_allclose([lr for _, lr in found], 0.5)
    found = plateau_step(mx.ReduceOnPlateau(mx.Cosine(0.5), factor=0.1, patience=0, every=10, threshold=0.1))
    expected = rates(mx.Cosine(0.5), oracle.STEPS) * np.repeat([1.0, 1.0, 1.0, 0.1], 10)
    np.testing.assert_allclose([lr for _, lr in found], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("first", "last"),
    [(mx.ReduceOnPlateau(0.1), mx.ReduceOnPlateau(0.2)), (mx.ReduceOnPlateau(0.1), 0.2)],
    ids=["another", "not the last"],
)
def test_one_plateau_in_a_run(first: Any, last: Any) -> None:
    """Each would keep its state under the same names. The same one twice is one."""

    def compiled(first: Any, last: Any) -> mx.StepGraph:
        optimizer = mx.ByName({"weight": mx.SGD(first), "*": mx.SGD(last)})
        return mx.compile_step(L.Dense(1).build(x=("batch", 1)), loss="mean_squared_error", optimizer=optimizer)

    with pytest.raises(UsageError, match=r"one run expected one ReduceOnPlateau, .*; found another"):
        compiled(first, last)
    assert [p["name"] for p in compiled(first, first).spec["outputs"]].count("next.plateau.factor") == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: WarmupCosine(-1.0), "the peak of WarmupCosine expected a finite number of at least 0; found -1.0"),
        (lambda: WarmupCosine(1.0, floor=float("nan")), "the floor of WarmupCosine expected"),
        (lambda: WarmupCosine(1.0, warmup=-1), "warmup of at least 0 updates; found -1"),
        (lambda: WarmupCosine(1.0, warmup=0.1), "warmup of at least 0 updates; found 0.1"),
        (lambda: WarmupCosine(1.0, warmup=math.nan), "warmup of at least 0 updates; found nan"),
        (lambda: WarmupCosine(1.0, total=2.5), "total of at least 1 update; found 2.5"),
        (lambda: WarmupCosine(1.0, total=0), "total of at least 1 update; found 0"),
        (lambda: WarmupCosine(1.0, warmup=11).resolve(10), "no longer than its 10 updates; found 11"),
        (lambda: rate(WarmupCosine(1.0), 0), "expected its total number of updates; found none"),
        (
            lambda: mx.Adam({"a": np.zeros(300)}),
            r"Adam's lr .* found \{'a': arr.{,40}\n.*mx.fit gives an opt",
        ),
        (lambda: mx.Step(-1.0, every=3), "the rate of Step expected a finite number of at least 0; found -1.0"),
        (lambda: mx.Step(0.1, every=0), "Step expected every of at least 1 update; found 0"),
        (lambda: mx.Step(0.1, every=2.5), "Step expected every of at least 1 update; found 2.5"),
        (lambda: mx.Step(0.1, every=3, factor=0), "the factor of Step expected a finite number above 0; found 0"),
        (lambda: mx.MultiStep(0.1, at=()), "MultiStep expected at as a list of updates"),
        (lambda: mx.MultiStep(0.1, at=(5, 5)), r"MultiStep expected at as updates that rise; found \(5, 5\)"),
        (lambda: mx.MultiStep(0.1, at=(-1,)), "MultiStep expected at of at least 1 update; found -1"),
        (lambda: mx.Exponential(0.1, decay=-0.5), "the decay of Exponential expected"),
        (lambda: mx.InverseSqrt(0.1, timescale=0), "InverseSqrt expected timescale of at least 1"),
        (lambda: mx.Linear(0.1, floor=-1), "the floor of Linear expected"),
        (lambda: mx.Cosine(0.1, total=0), "Cosine expected total of at least 1 update; found 0"),
        (lambda: mx.Polynomial(0.1, power=0), "the power of Polynomial expected"),
        (lambda: mx.CosineRestarts(0.1, period=0), "CosineRestarts expected period"),
        (lambda: mx.CosineRestarts(0.1, period=2, factor=1.5), "CosineRestarts expected factor"),
        (lambda: mx.OneCycle(0.1, share=1.0), r"the share of OneCycle expected a number in \(0, 1\); found 1.0"),
        (lambda: mx.OneCycle(0.1, divide=0), "divide of OneCycle expected"),
        (lambda: mx.Cyclic(0.1, up=0), "Cyclic expected up"),
        (lambda: mx.Cyclic(0.1, up=3, mode="triangle"), "Did you mean 'triangular'"),
        (lambda: mx.ReduceOnPlateau(0.1, factor=1.0), "the factor of ReduceOnPlateau expected"),
        (lambda: mx.ReduceOnPlateau(0.1, every=0), "ReduceOnPlateau expected every"),
        (lambda: mx.ReduceOnPlateau(0.1).warmed_up(5), "others without state inside; found ReduceOnPlateau"),
        (lambda: mx.Cosine(0.1).then(mx.ReduceOnPlateau(0.1), at=5), "others without state inside"),
        (lambda: mx.ReduceOnPlateau(mx.ReduceOnPlateau(0.1)), "others without state inside"),
        (lambda: mx.Cosine(0.1).then(0.1, at=0), "then expected at of at least 1 update; found 0"),
        (lambda: mx.Cosine(0.1).then(0.1, at=10).resolve(10), "begin before the end of the run, update 10; found 10"),
        (
            lambda: mx.Cosine(0.1).then(mx.Cosine(0.1).warmed_up(6), at=5).resolve(10),
            "5 updates of the run; found 6",
        ),
        (lambda: mx.Cosine(0.1).warmed_up(11).resolve(10), "no longer than the 10 updates of the run; found 11"),
        (lambda: mx.Cosine(0.1).warmed_up(-1), "a warm-up expected updates of at least 0 updates; found -1"),
        (lambda: mx.Cosine(0.1).warmed_up(5, kind="lin"), "no warm-up named 'lin'\n  Did you mean 'linear'"),
        (lambda: mx.Cosine(0.1).warmed_up(5, kind="exponential", start=0.0), r"a number in \(0, 1\]; found 0.0"),
        (lambda: rate(mx.Cosine(0.1), 0), "Cosine expected its total number of updates; found none"),
        (lambda: rate(as_schedule(lambda t: "fast"), 0), "function to return a float32 scalar; found 'fast'"),
        (lambda: rate(as_schedule(lambda t: -1.0), 0), "a schedule expected a finite number of at least 0"),
        (lambda: as_schedule(mx.Cosine), r"found the class Cosine(.|\n)*For example Cosine\(1e-3\)"),
        (lambda: as_schedule(int), r"found the class int(.|\n)*For example mx.Cosine\(1e-3\)"),
        (lambda: Constant(float("inf")), "a learning rate expected a finite number"),
    ],
)
def test_values_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()


FALLS = "a learning rate expected to be finite and at least 0; found "
BELOW: dict[str, tuple[Any, str]] = {
    "below 0": (lambda t: 0.1 - t, f"{FALLS}-0.9 after 1 of 100 updates\n  built at .*test_schedules"),
    "at the end": (lambda t: 0.985 - t / 100, f"{FALLS}-0.005.* after 99 of 100 updates"),
    "without bound": (lambda t: 1 / (t - 50) ** 2.0, f"{FALLS}inf after 50 of 100 updates"),
    "in a chain": (as_schedule(lambda t: 0.105 - t / 100).then(0.1, at=12), f"{FALLS}-0.005.* after 11 of 100"),
    "on a plateau": (mx.ReduceOnPlateau(lambda t: 0.1 - t), f"{FALLS}-0.9 after 1 of 100"),
}


@pytest.mark.parametrize("name", BELOW)
def test_a_function_that_is_no_rate_all_the_way(name: str) -> None:
    lr, said = BELOW[name]
    options: dict[str, Any] = {"loss": "softmax_cross_entropy", "total": 100}
    with pytest.raises(UsageError, match=said):
        mx.compile_step(blob_net(), optimizer=mx.SGD(lr), **options)


def test_a_function_that_is_a_rate_as_long_as_it_counts() -> None:
    falling = as_schedule(lambda t: 0.105 - t / 100)
    for lr, total in ((falling, 11), (falling.then(0.1, at=11), 100), (mx.ByName({"*": mx.SGD(falling)}), 11)):
        optimizer = lr if isinstance(lr, mx.ByName) else mx.SGD(lr)
        assert mx.compile_step(blob_net(), loss="softmax_cross_entropy", optimizer=optimizer, total=total)


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (lambda t: 0.1 * math.cos(t), r"write x\.builder\.cos\(x, \.\.\.\) for cos"),
        (lambda t: 0.1 * np.exp(-t), r"write x\.builder\.exp\(x, \.\.\.\) for exp"),
        (lambda t: 0.1 / (1 + math.floor(t)), r'write x\.builder\.op\("Floor", x, \.\.\.\) for floor'),
        (lambda t: np.maximum(t, 1) * math.fabs(t), r"write x\.builder\.max\(x, \.\.\.\) for maximum"),
        (lambda t: 0.1 * math.gamma(t), "use their operators"),
        (lambda t, total: t / total, r"raised TypeError: .*'total'(.|\n)*Give it one parameter"),
        (lambda t: {}["rate"], "raised KeyError: 'rate'"),
    ],
)
def test_a_function_that_expects_numbers(function: Any, instead: str) -> None:
    with pytest.raises(UsageError, match=instead) as caught:
        rate(as_schedule(function), 0)
    line = function.__code__.co_firstlineno
    assert caught.value.at
    assert caught.value.at.endswith(f"test_schedules.py:{line}")
