"""What changes the parameters besides the optimizer: averages, regularizers, noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.errors import UsageError
from onnxmx.trainer import update
from onnxmx.trainer.averages import AVERAGES
from onnxmx.trainer.optimizers import OPTIMIZERS
from onnxmx.trainer.step import initial_state
from tests.trainer.nets import TINY, State, batch_for, blob_net, blobs, compiled, run_steps

# --- averages


def weights_after(average: Any, steps: int, total: int | None = None) -> tuple[list[State], list[State]]:
    """The weights and their averages after each step."""
    model = TINY["conv"]()
    step, state = compiled(model, average=average, total=total or steps)
    outs = run_steps(step, state, [batch_for(model, seed=t) for t in range(steps)])
    names, prefix = list(model.parameters()), average.prefix
    weights = [{n: state[n] for n in names}] + [{n: out[f"next.{n}"] for n in names} for out in outs]
    averages = [{n: out[f"next.{prefix}.{n}"] for n in names} for out in outs]
    return weights, averages


@pytest.mark.parametrize(("average", "decay"), [
    (mx.EMA(0.9, ramp=False), lambda t: 0.9),
    (mx.EMA(0.5), lambda t: min(0.5, (1 + t) / (10 + t))),
    (mx.EMA(0.0), lambda t: 0.0),
])  # fmt: skip
def test_ema(average: Any, decay: Callable[[int], float]) -> None:
    """Of weights and running statistics; it starts from the first weights."""
    weights, averages = weights_after(average, 12)
    expected = weights[0]
    for t, found in enumerate(averages):
        expected = {n: decay(t) * e + (1 - decay(t)) * weights[t + 1][n] for n, e in expected.items()}
        for name, e in expected.items():
            np.testing.assert_allclose(found[name], e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("start", "every"), [(1, 1), (5, 1), (4, 3), (None, 1)])
def test_swa(start: int | None, every: int) -> None:
    """The mean of the weights after updates start, start + every, ...; the weights themselves before."""
    weights, averages = weights_after(mx.SWA(start=start, every=every), 12)
    first = 9 if start is None else start
    for t, found in enumerate(averages, start=1):
        counted = [weights[k] for k in range(first, t + 1, every)] or [weights[t]]
        for name in found:
            np.testing.assert_allclose(found[name], np.mean([w[name] for w in counted], 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use", [True, False])
def test_the_model_that_is_saved_is_the_average(tmp_path: Path, use: bool) -> None:
    average = mx.EMA(0.5, ramp=False, use=use)
    made = mx.fit(blob_net(), blobs(), validation=blobs(), average=average, epochs=2, out=tmp_path / "run",
                  optimizer=mx.SGD(lr=0.1), progress=False)  # fmt: skip
    from safetensors.numpy import load_file

    state = load_file(next((tmp_path / "run" / "checkpoints").glob("*.safetensors")))
    for name, found in made.last.parameters().items():
        np.testing.assert_array_equal(found, state[f"ema.{name}" if use else name])
        assert not np.array_equal(found, state[name if use else f"ema.{name}"])
    accuracy = mx.evaluate(made.last, blobs())
    assert made.history[-1]["validation_loss"] == pytest.approx(accuracy["loss"], rel=1e-6)


def test_swa_starts_in_every_run() -> None:
    assert [mx.SWA().resolve(total).start for total in (1, 2, 100)] == [1, 1, 75]  # type: ignore[attr-defined]
    assert mx.SWA(start=10).resolve(10).start == 10


def test_every_average_is_tested() -> None:
    assert set(AVERAGES.values()) == {mx.EMA, mx.SWA}


# --- regularizers and noise


def update_of(model: mx.Model, **options: Any) -> tuple[State, State, State]:
    """The parameters before a step, what plain gradient descent takes from them, and what `options` does."""
    batch, names = batch_for(model), model.trainable
    step, state = compiled(model, **options)
    (plain,), (found,) = run_steps(*compiled(model), [batch]), run_steps(step, state, [batch])
    np.testing.assert_array_equal(plain["loss"], found["loss"])
    return (
        {n: state[n] for n in names},
        {n: state[n] - plain[f"next.{n}"] for n in names},
        {n: found[f"next.{n}"] for n in names},
    )


def test_l1_and_l2() -> None:
    """The penalty's gradient, at a rate of 0.1, and the loss as it was."""
    before, taken, after = update_of(TINY["mlp"](), regularize=[mx.L1(0.3), mx.L2(0.7, "*.weight")])
    for name, p in before.items():
        penalty = 0.3 * np.sign(p) + (0.7 * p if name.endswith("weight") else 0.0)
        np.testing.assert_allclose(after[name], p - taken[name] - 0.1 * penalty, rtol=1e-5, atol=1e-6)


def test_a_penalty_is_clipped_and_weight_decay_is_not() -> None:
    for options in ({"regularize": mx.L2(50.0)}, {"optimizer": mx.SGD(lr=0.1, weight_decay=50.0)}):
        before, _, after = update_of(TINY["mlp"](), clip=mx.clip_global_norm(0.1), **options)
        moved = np.sqrt(sum(((after[n] - before[n]) ** 2).sum() for n in before))
        assert (moved < 0.011) == ("regularize" in options)


@pytest.mark.parametrize("match", ["*", "0.*"])
def test_max_norm(match: str) -> None:
    before, taken, after = update_of(TINY["conv"](), regularize=mx.MaxNorm(0.5, match))
    bounded = 0
    for name, p in before.items():
        free = p - taken[name]
        if not fnmatchcase(name, match):
            np.testing.assert_allclose(after[name], free, rtol=1e-6)
            continue
        axes = {1: (), 2: (0,), 4: (1, 2, 3)}[p.ndim]
        norms = np.sqrt((free**2).sum(axes, keepdims=True)) if axes else np.zeros(1)
        np.testing.assert_allclose(after[name], free * np.minimum(1, 0.5 / np.maximum(norms, 1e-9)), rtol=1e-5)
        bounded += int((norms > 0.5).sum())
    assert bounded > 0


def test_each_gradient_clipped_by_its_own_norm() -> None:
    before, taken, after = update_of(TINY["mlp"](), clip=mx.clip_norm(0.05))
    scales = []
    for name, p in before.items():
        scales.append(min(1.0, 0.05 / np.linalg.norm(taken[name] / 0.1)))
        np.testing.assert_allclose(after[name], p - taken[name] * scales[-1], rtol=1e-5, atol=1e-6)
    assert min(scales) < 1
    assert len(set(scales)) > 1


def test_noise() -> None:
    """Normal, of the variance asked for, another one for each parameter and step, and the same again."""
    model = L.Dense(100).build(x=("batch", 200))
    step, state = compiled(model, clip=mx.GradientNoise(variance=0.04, decay=0.5))
    batch, (plain, *_) = batch_for(model), run_steps(*compiled(model), [batch_for(model)])
    draws = []
    for t in (0, 0, 24):
        (out,) = run_steps(step, state | {"step": np.array(t)}, [batch])
        draws.append((plain["next.weight"] - out["next.weight"]) / 0.1)
        assert not np.allclose((plain["next.bias"] - out["next.bias"]) / 0.1, draws[-1].ravel()[:100], atol=1e-3)
    np.testing.assert_array_equal(draws[0], draws[1])
    for noise, variance in ((draws[0], 0.04), (draws[2], 0.04 / 5)):
        n = noise.size
        assert abs(noise.mean()) < 4 * (variance / n) ** 0.5
        assert abs(noise.var() / variance - 1) < 4 * (2 / n) ** 0.5
        assert abs((noise**4).mean() / variance**2 - 3) < 4 * (96 / n) ** 0.5
        assert abs((np.abs(noise) < variance**0.5).mean() - 0.6827) < 4 * (0.25 / n) ** 0.5
    assert abs(np.corrcoef(draws[0].ravel(), draws[2].ravel())[0, 1]) < 4 / draws[0].size ** 0.5


def test_centralized_convolutions() -> None:
    """The mean over a filter, whose output axis comes first, is taken away."""
    before, taken, after = update_of(TINY["conv"](), clip=mx.Centralize())
    for name, p in before.items():
        axes = {1: None, 2: (0,), 4: (1, 2, 3)}[p.ndim]
        mean = 0.0 if axes is None else taken[name].mean(axes, keepdims=True)
        np.testing.assert_allclose(after[name], p - taken[name] + mean, rtol=1e-5, atol=1e-6)


# --- several optimizers, and what is refused


def test_optimizers_by_name() -> None:
    """Each parameter ends where it would if all had its optimizer."""
    model, batches = TINY["mlp"](), [batch_for(TINY["mlp"](), seed=t) for t in range(1)]
    both = mx.ByName({"*.bias": mx.SGD(lr=0.3), "*": mx.Adam(lr=0.01)})
    (found,) = run_steps(*compiled(model, both), batches)
    (sgd,), (adam,) = (
        run_steps(*compiled(model, mx.SGD(lr=0.3)), batches),
        run_steps(*compiled(model, mx.Adam(lr=0.01)), batches),
    )
    for name in model.trainable:
        np.testing.assert_array_equal(found[f"next.{name}"], (sgd if name.endswith("bias") else adam)[f"next.{name}"])
        assert (f"next.{name}.m" in found) == (not name.endswith("bias"))
    assert found["lr"] == np.float32(0.01)


def test_names_stand_for_what_the_configuration_says_by_them() -> None:
    """The same bytes of a step, whichever way its parts are given."""
    model = TINY["mlp"]()

    def step(**options: Any) -> bytes:
        return mx.compile_step(model, loss="softmax_cross_entropy", total=9, **options).data

    named = step(optimizer="sgd:lr=0.3,momentum=0.5", average="ema:decay=0.9")
    assert named == step(optimizer=mx.SGD(0.3, momentum=0.5), average=mx.EMA(0.9))
    assert all(step(optimizer=name) == step(optimizer=kind()) for name, kind in OPTIMIZERS.items())
    mx.Trainer(model, optimizer="momentum", average="swa", total=9, threads=1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"optimizer": mx.Adam(groups=[mx.Group("*.bais", lr=2.0)])}, r"'\*.bais' expected to match .* found none"),
        ({"optimizer": mx.Muon(adam=("tail.*",))}, "'tail.*' expected to match"),
        ({"optimizer": mx.ByName({"*.bias": mx.SGD()})}, "an optimizer for every parameter; found none for"),
        ({"regularize": mx.L1(0.1, "kernel")}, "'kernel' expected to match"),
        ({"clip": {"max_norm": 1.0}}, "expected a clipping or a list of them; found {'max_norm': 1.0}"),
        ({"clip": [1.0, None]}, r"expected a clipping or a list of them; found \[1.0, None\]"),
        ({"clip": -1.0}, "clip_global_norm expected a finite number above 0; found -1.0"),
        ({"clip": "values"}, "no clipping named 'values'\n  Did you mean 'value'?"),
        ({"clip": "value:limits=1"}, "no option of value named 'limits'"),
        ({"regularize": "l3:strength=1"}, "no regularizer named 'l3'"),
        ({"regularize": 1.0}, "expected a regularizer or a list of them; found 1.0"),
        ({"average": 0.9}, "expected an average of the weights; found 0.9"),
        ({"average": "emma"}, "no average named 'emma'(.|\n)*Did you mean 'ema'"),
        ({"average": "ema:decay=2"}, "the decay of EMA expected"),
        ({"optimizer": "adan"}, "no optimizer named 'adan'(.|\n)*Did you mean 'adam'"),
        ({"optimizer": "sgd:rate=0.1"}, "no option of sgd named 'rate'"),
        ({"optimizer": mx.SGD}, "expected an optimizer; found the class SGD"),
        ({"average": mx.SWA(start=11), "total": 10}, "before the end of the run, update 10; found 11"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        mx.compile_step(TINY["mlp"](), loss="softmax_cross_entropy", **{"optimizer": mx.SGD()} | options)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mx.Group("", lr=2), "a group expected a pattern of names; found ''"),
        (lambda: mx.Group("*", lr=-1), "the lr of group '\\*' expected a finite number of at least 0; found -1"),
        (lambda: mx.Adam(groups=["*.bias"]), "groups expected a sequence of groups; found '\\*.bias'"),
        (lambda: mx.ByName({}), "ByName expected optimizers by pattern"),
        (lambda: mx.EMA(1.0), r"the decay of EMA expected a number in \[0, 1\); found 1.0"),
        (lambda: mx.SWA(start=0), "SWA expected start of at least 1 update; found 0"),
        (lambda: mx.SWA(every=0), "SWA expected every of at least 1 update; found 0"),
        (lambda: mx.L1(0.0), "L1 expected a finite number above 0; found 0.0"),
        (lambda: mx.MaxNorm(1.0, ""), "MaxNorm expected a pattern of names"),
        (lambda: mx.clip_norm(-1), "clip_norm expected a finite number above 0; found -1"),
        (lambda: mx.clip_value("a"), "clip_value expected a finite number above 0; found 'a'"),
        (lambda: mx.clip_adaptive(0), "clip_adaptive expected"),
        (lambda: mx.GradientNoise(-1.0), "the variance of GradientNoise expected"),
        (lambda: mx.Adagrad(initial=-1.0), "initial expected a finite number of at least 0"),
        (lambda: mx.FTRL(l1=-1.0), "l1 expected a finite number of at least 0"),
        (lambda: mx.Lion(beta1=1.0), r"beta1 expected a number in \[0, 1\)"),
    ],
)
def test_values_out_of_range(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()


_LIKE = [make() for name, make in OPTIMIZERS.items()] + [
    mx.Adam(1e-2, weight_decay=0.1, groups=(mx.Group("*.bias", lr=0.5, decay=0.0),)),
    mx.ByName({"*.bias": mx.SGD(0.1), "*": mx.Adam(1e-2)}),
]


@pytest.mark.parametrize("optimizer", _LIKE, ids=lambda o: type(o).__name__)
def test_small_parameters_gathered_or_not_are_the_same_bits(optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [L.Dense(5, activation="tanh"), L.BatchNorm(), L.Dense(4, activation="tanh"), L.Dense(3)]
    model = L.Sequential(*layers).build(x=("batch", 7))
    random = np.random.default_rng(0)
    feeds = {"batch.x": random.normal(size=(6, 7)).astype(np.float32), "batch.label": random.integers(0, 3, 6)}
    feeds |= {f"state.{k}": v for k, v in initial_state(model, optimizer, seed=0).items()}
    results = []
    for small in (0, 10, 1000):
        monkeypatch.setattr(update, "SMALL", small)
        step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer, clip=mx.clip_global_norm(0.1))
        results.append(open_session(step.data, threads=1).run(None, feeds))
    for gathered in results[1:]:
        for a, b in zip(results[0], gathered, strict=True):
            np.testing.assert_array_equal(a, b)


def test_muon_s_share_for_adam_is_that_of_a_schedule_too() -> None:
    model = TINY["mlp"]()
    found, expected = (
        run_steps(*compiled(model, mx.Muon(lr=lr, adam_ratio=0.1), total=9), [batch_for(model)])[0]
        for lr in (mx.Linear(0.1, 0.1), 0.1)
    )
    for name in model.trainable:
        np.testing.assert_allclose(found[f"next.{name}"], expected[f"next.{name}"], rtol=1e-6, atol=1e-7)


ENDING: dict[str, dict[str, Any]] = {
    r"Cosine\(": {"optimizer": mx.SGD(mx.Cosine(0.1))},
    r"WarmupCosine\(": {"optimizer": mx.SGD(mx.WarmupCosine(0.1, warmup=20))},
    r"Warmup\(": {"optimizer": mx.SGD(mx.schedules.Constant(0.1).warmed_up())},
    r"ReduceOnPlateau\(": {"optimizer": mx.SGD(mx.ReduceOnPlateau(mx.OneCycle(0.1)))},
    r"Linear\(": {"optimizer": mx.ByName({"*.bias": mx.SGD(mx.Linear(0.1)), "*": mx.SGD()})},
    r"SWA\(": {"optimizer": mx.SGD(), "average": "swa"},
}


@pytest.mark.parametrize("name", ENDING)
def test_what_ends_with_the_run_is_told_its_length(name: str) -> None:
    """Cosine made for one update would be at its floor from the second on, and SWA begin at once."""
    with pytest.raises(UsageError, match=f"^{name}.* expected total, the updates that there will be; found none"):
        mx.Trainer(blob_net(), **ENDING[name])
    with pytest.raises(UsageError, match=f"^{name}.* expected total"):
        mx.Joint({"a": blob_net()}, {"a": mx.Update(**ENDING[name])}).step("a", lambda nets, batch: nets.g.constant(0))


def test_what_does_not_end_needs_no_length() -> None:
    """A warm-up, a change of schedule and an average that begin later than the first update."""
    rate = mx.Exponential(0.1, 0.9).then(mx.CosineRestarts(0.1, 5).warmed_up(2), at=3)
    trainer = mx.Trainer(blob_net(), optimizer=mx.SGD(rate), average=mx.SWA(start=4), threads=1)
    batch = {"x": np.ones((2, 4), np.float32), "label": np.zeros(2, np.int64)}
    found = [trainer.step(batch)["lr"] for _ in range(6)]
    np.testing.assert_allclose(found, [0.1, 0.09, 0.081, 0.05, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "nodes"),
    [
        (mx.Adam(), {"AdamUpdate": 2}),  # one matrix is large, the other five parameters are small
        (mx.LAMB(), {"LambUpdate": 6}),  # a trust ratio is of one parameter
        (mx.Muon(), {"MuonUpdate": 3, "AdamUpdate": 1}),  # so is an orthogonal matrix
    ],
    ids=["adam", "lamb", "muon"],
)
def test_who_is_gathered(optimizer: Any, nodes: dict[str, int]) -> None:
    layers = [L.Dense(50, activation="tanh"), L.Dense(4), L.Dense(3)]
    model = L.Sequential(*layers).build(x=("batch", 100))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    found = Counter(n.op_type for n in onnx.load_from_string(step.data).graph.node if n.op_type.endswith("Update"))
    assert found == nodes


def test_a_step_is_the_same_bytes_wherever_its_functions_lie_in_memory() -> None:
    def rate() -> mx.Adam:
        return mx.Adam(lr=lambda step: 0.1 / (1.0 + step))

    first, second = rate(), rate()
    steps = [mx.compile_step(TINY["mlp"](), loss="softmax_cross_entropy", optimizer=o) for o in (first, second)]
    assert steps[0].data == steps[1].data
    assert steps[0].spec == steps[1].spec


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ({"clip": 2}, {"clip": mx.clip_global_norm(2.0)}),
        ({"clip": "value:limit=0.5"}, {"clip": mx.clip_value(0.5)}),
        ({"clip": ["centralize", 0.5]}, {"clip": [mx.Centralize(), mx.clip_global_norm(0.5)]}),
        ({"regularize": "l2:strength=0.1,match='a*'"}, {"regularize": mx.L2(0.1, match="a*")}),
        ({"regularize": [mx.L1(0.1), "max_norm:strength=3"]}, {"regularize": [mx.L1(0.1), mx.MaxNorm(3)]}),
    ],
)
def test_what_goes_by_name(text: dict[str, Any], made: dict[str, Any]) -> None:
    assert mx.Update.of(mx.Adam(), **text) == mx.Update.of(mx.Adam(), **made)
