"""Transfer learning: what is frozen costs no backward pass, stages that thaw more and more, rates by depth."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L

Array = np.ndarray[Any, Any]


def base() -> mx.Model:
    """Three blocks and a head, as a file of any maker would hold them."""
    body = L.Sequential(
        L.Conv2D(6, 3, padding="same", name="stage1"),
        L.BatchNorm(name="norm1"),
        L.Activation("relu"),
        L.Conv2D(8, 3, padding="same", activation="relu", name="stage2"),
        L.MaxPool2D(2),
        L.Conv2D(8, 3, padding="same", activation="relu", name="stage3"),
        L.GlobalAvgPool2D(),
        L.Flatten(name="features"),
        L.Dense(10, name="head"),
    )
    return body.build(image=("batch", 1, 8, 8))


def new_head(model: mx.Model) -> mx.Model:
    return model.replace_head("features", L.Dense(3, name="task"))


def backward_nodes(model: mx.Model) -> list[Any]:
    """The nodes of gradients in a step's graph."""
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD(0.1))
    return [n for n in onnx.load_from_string(step.data).graph.node if n.name.startswith("grad.")]


def reached(nodes: list[Any]) -> set[str]:
    """The layers whose nodes have a gradient."""
    return {part for n in nodes for part in n.name.split(".") if part in ("stage1", "stage2", "stage3", "task")}


def test_what_is_frozen_has_no_backward_nodes() -> None:
    """The sweep ends at the first thing that is trained."""
    model = new_head(base())
    everything = backward_nodes(model)
    assert reached(everything) == {"stage1", "stage2", "stage3", "task"}
    counts = [len(everything)]
    for frozen, left in (
        (("stage1", "norm1"), {"stage2", "stage3", "task"}),
        (("stage1", "norm1", "stage2"), {"stage3", "task"}),
        (("stage*", "norm1"), {"task"}),
    ):
        backward = backward_nodes(model.freeze(*frozen))
        assert reached(backward) == left
        counts.append(len(backward))
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == len(counts)
    # Of a dense layer on features that are constants there is x^T dy and the sum of dy, and the loss before them.
    alone = backward_nodes(L.Dense(3, name="task").build(x=("batch", 8)))
    assert counts[-1] == len(alone)


def test_a_bias_alone_needs_the_gradient_of_no_weight() -> None:
    """As in BitFit (Ben Zaken et al. 2022): everything but the biases is frozen."""
    model = new_head(base())
    whole, biases = backward_nodes(model), backward_nodes(model.freeze("*.weight", "norm1"))
    assert 0 < len(biases) < len(whole)


def thirds() -> tuple[Any, Any]:
    """Which third the digit is in: a task that the base has not seen."""
    made = []
    for split in ("train", "test"):
        data = mx.data.digits(split)
        (images,), (labels,) = data.inputs.values(), data.labels.values()
        label = np.digitize(labels, [4, 7])
        made.append(mx.data.Dataset.from_arrays({"image": images}, label, scale=1 / 16))
    return made[0], made[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = mx.fit(base(), mx.data.digits("train"), epochs=12, optimizer=mx.Adam(1e-2), threads=1, progress=False)
    path = tmp_path_factory.mktemp("base") / "base.onnx"
    run.model.save(path)
    return path


def test_thawing_in_stages_with_rates_by_depth(trained: Path, tmp_path: Path) -> None:
    """The head alone, then the last stage with it, then all: each a run of its own, which starts from the one before.

    Source: Howard & Ruder 2018, sections 3.2 and 3.3.
    """
    train, test = thirds()
    options: dict[str, Any] = {"validation": test, "threads": 1, "progress": False}
    model = new_head(mx.load(trained)).freeze("stage*", "norm1")
    first = {name: array.copy() for name, array in model.parameters().items()}
    groups = [mx.Group("stage3.*", lr=0.4), mx.Group("stage[12].*", lr=0.1), mx.Group("norm1.*", lr=0.1)]
    accuracies = []
    for k, thawed in enumerate(((), ("stage3",), ("stage1", "stage2", "norm1"))):
        model = model.unfreeze(*thawed) if thawed else model
        wanted = tuple(g for g in groups if any(fnmatchcase(n, g.match) for n in model.trainable))
        out = tmp_path / f"stage-{k}"
        run = mx.fit(model, train, epochs=6, optimizer=mx.Adam(1e-2, groups=wanted), out=out, **options)
        learned = {n for n, a in run.last.parameters().items() if not np.array_equal(a, model.parameters()[n])}
        assert {n for n in learned if "running" not in n} == set(model.trainable)
        assert run.last.trainable == model.trainable
        accuracies.append(run.history[-1]["validation_accuracy"])
        model = run.last
    assert len(model.trainable) == len([n for n in first if "running" not in n])
    assert accuracies[-1] > accuracies[0]
    assert accuracies[-1] > 0.85


def test_rates_by_depth_move_deep_layers_less() -> None:
    """A step of SGD moves a parameter by rate times multiplier times gradient."""
    from onnxmx.trainer.engine import OrtEngine
    from onnxmx.trainer.step import initial_state

    model = new_head(base())
    batch = {
        "image": np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32),
        "label": np.arange(8) % 3,
    }
    moved = []
    for groups in ((), (mx.Group("stage1.*", lr=0.25),)):
        optimizer = mx.SGD(0.1, groups=groups)
        step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
        state = initial_state(model, optimizer, 0)
        engine = OrtEngine(step, state, threads=1)
        engine.step(batch)
        moved.append({name: engine.state()[name] - state[name] for name in ("stage1.weight", "stage3.weight")})
    np.testing.assert_allclose(moved[1]["stage1.weight"], moved[0]["stage1.weight"] / 4, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(moved[1]["stage3.weight"], moved[0]["stage3.weight"])
