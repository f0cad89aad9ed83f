"""The engine: two sets of buffers that swap, checked batches, no growth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.errors import CheckpointError, DataError
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.step import StepGraph, initial_state
from tests.trainer.nets import TINY, batch_for, feeds

Array = np.ndarray[Any, Any]
OPTIMIZER = mx.Adam(lr=1e-2)


def compiled(name: str) -> tuple[mx.Model, StepGraph, dict[str, Array]]:
    model = TINY[name]()
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=OPTIMIZER, clip=mx.clip_global_norm(1.0))
    return model, step, initial_state(model, OPTIMIZER, 7)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["mlp", "conv", "dropout", "residual"])
def test_a_hundred_steps_equal_those_of_a_plain_session(name: str, threads: int) -> None:
    model, step, state = compiled(name)
    engine = OrtEngine(step, state, threads=threads)
    session, names = open_session(step.data, threads=threads), [p["name"] for p in step.spec["outputs"]]
    for k in range(100):
        batch = batch_for(model, size=5 + k % 3, seed=k)  # the last batch of an epoch is a smaller one
        measured = engine.step(batch)
        out = dict(zip(names, session.run(names, feeds(batch, state)), strict=True))
        state = {n.removeprefix("next."): v for n, v in out.items() if n.startswith("next.")}
        sums = {n: v for n, v in out.items() if n.startswith("sum.")}
        expected = {n.removeprefix("metric."): float(v) for n, v in out.items() if not n.startswith(("next.", "sum."))}
        assert measured == expected
        assert {n: v.tolist() for n, v in engine.sums.items()} == {n: v.tolist() for n, v in sums.items()}
    found = engine.state()
    assert found.keys() == state.keys()
    for key, array in state.items():
        assert found[key].tobytes() == array.tobytes(), key
        assert found[key].shape == array.shape
    assert found["step"] == 100


def test_the_state_given_and_taken_is_a_copy() -> None:
    model, step, state = compiled("mlp")
    kept = {k: v.copy() for k, v in state.items()}
    engine = OrtEngine(step, state, threads=1)
    taken = engine.state()
    engine.step(batch_for(model))
    engine.step(batch_for(model))
    for key in state:
        np.testing.assert_array_equal(state[key], kept[key])
        np.testing.assert_array_equal(taken[key], kept[key])
        taken[key][...] = 0  # writable, and the engine's own stay
    assert engine.state()["step"] == 2


def test_arrays_of_any_layout() -> None:
    model, step, state = compiled("conv")
    batch = batch_for(model)
    other = batch | {"x": np.asfortranarray(batch["x"]), "label": np.repeat(batch["label"], 2)[::2]}
    assert not other["x"].flags.c_contiguous
    assert not other["label"].flags.c_contiguous
    measured = [OrtEngine(step, state, threads=1).step(b) for b in (batch, other)]
    assert measured[0] == measured[1]


def spoiled(kind: str, batch: dict[str, Array]) -> dict[str, Array]:
    x, label = batch["x"], batch["label"]
    return {
        "nothing": {},
        "no label": {"x": x},
        "another name": {"x": x, "lable": label},
        "one too many": batch | {"weight": label},
        "float64": batch | {"x": x.astype(np.float64)},
        "int32 labels": batch | {"label": label.astype(np.int32)},
        "the other byte order": batch | {"x": x.astype(x.dtype.newbyteorder())},
        "features": batch | {"x": x[:, :-1]},
        "rank": batch | {"x": x[0]},
        "a label for all": batch | {"label": label[:1]},  # would broadcast
        "labels of one row less": batch | {"label": label[:-1]},
        "no sample": {"x": x[:0], "label": label[:0]},
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["nothing", "no label", "another name", "one too many", "float64", "int32 labels", "the other byte order",
     "features", "rank",
     "a label for all", "labels of one row less", "no sample"],
)  # fmt: skip
def test_batches_that_do_not_fit(kind: str) -> None:
    """Each is refused, and the state stays as it was."""
    model, step, state = compiled("mlp")
    engine = OrtEngine(step, state, threads=1)
    batch = batch_for(model)
    engine.step(batch)
    before = engine.state()
    with pytest.raises(DataError) as caught:
        engine.step(spoiled(kind, batch))
    assert "expected a batch of x float32 (batch, 7), label int64 (batch,); found " in str(caught.value)
    for key, array in engine.state().items():
        np.testing.assert_array_equal(array, before[key])


class Tensor:
    """As another library has them: with a shape and a type of its own."""

    dtype, shape = "float32", (5, 7)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda batch: list(batch.values()), "expected a dict of arrays; found list\n  Its keys are 'x', 'label'"),
        (lambda batch: None, "expected a dict of arrays; found NoneType"),
        (lambda batch: batch | {"x": batch["x"].tolist()}, "expected arrays; found list as 'x'"),
        (lambda batch: batch | {"label": Tensor()}, "expected arrays; found Tensor as 'label'"),
    ],
)
def test_what_are_no_arrays(spoil: Any, text: str) -> None:
    model, step, state = compiled("mlp")
    engine = OrtEngine(step, state, threads=1)
    for _ in range(2):  # before a batch of these sizes is known and after
        with pytest.raises(DataError, match=text):
            engine.step(spoil(batch_for(model)))
        engine.step(batch_for(model))


def test_a_fixed_batch_is_kept_to() -> None:
    model, step, state = compiled("fixed batch")
    engine = OrtEngine(step, state, threads=1)
    engine.step(batch_for(model, 5))
    with pytest.raises(DataError, match=r"x float32 \(5, 7\).*; found x float32 \(4, 7\)"):
        engine.step(batch_for(model, 4))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "step"}, r"1 differ: step \(expected int64 \(\), found none\)"),
        (
            lambda s: s | {"0.weight": s["0.weight"][:-1]},
            r"0\.weight \(expected float32 \(7, 8\), found float32 \(6, 8\)",
        ),
        (lambda s: s | {"0.weight": s["0.weight"].astype(np.float64)}, r"found float64 \(7, 8\)"),
        (lambda s: s | {"more": s["step"]}, r"more \(not expected, found int64 \(\)\)"),
    ],
)
def test_the_state_of_another_model(change: Any, text: str) -> None:
    model = L.Sequential(L.Dense(8), L.Dense(4)).build(x=("batch", 7))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=OPTIMIZER)
    with pytest.raises(CheckpointError, match=text):
        OrtEngine(step, change(initial_state(model, OPTIMIZER, 0)))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_a_step_leaves_no_memory_behind() -> None:
    """A copy of the state is 6.4 MB, a batch 1 MB: 300 steps that kept one of either would show."""
    model = L.Sequential(L.Dense(512), L.Dense(4)).build(x=("batch", 1024))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=OPTIMIZER)
    engine = OrtEngine(step, initial_state(model, OPTIMIZER, 0), threads=1)
    for k in range(20):
        engine.step(batch_for(model, 256, seed=k))
    before = resident_bytes()
    for k in range(300):
        engine.step({n: a + a.dtype.type(0) for n, a in batch_for(model, 256, seed=k % 4).items()})
    assert resident_bytes() - before < 30e6


def test_a_model_of_one_batch_size_says_how_to_free_it() -> None:
    trainer = mx.Trainer(L.Sequential(L.Dense(3)).build(x=(2, 7)), optimizer=OPTIMIZER)
    batch = {"x": np.zeros((5, 7), np.float32), "label": np.zeros(5, np.int64)}
    with pytest.raises(DataError, match=r"batches of 2: model\.resize\(x=\(.batch., 7\)\) frees"):
        trainer.step(batch)
    with pytest.raises(DataError, match="Names, element types and shapes must agree"):
        trainer.step({**batch, "x": np.zeros((5, 8), np.float32)})
