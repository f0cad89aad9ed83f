"""Distillation: the loss beside numpy's, a teacher that is constants, features, and the files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import DataError, ShapeError, UsageError
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.evaluate import specs_of
from onnxmx.trainer.run import resume_run, train
from onnxmx.trainer.step import StepGraph, initial_state

Array = np.ndarray[Any, Any]


def log_softmax(z: Array) -> Array:
    return z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))


def student() -> mx.Model:
    return L.Sequential(L.Dense(5, activation="tanh"), L.Dense(4)).build(x=("batch", 7))


def teacher(*end: L.Layer) -> mx.Model:
    """With running statistics and dropout: as it infers."""
    body = [L.Dense(5), L.BatchNorm(), L.Activation("tanh"), L.Dropout(0.5), L.Dense(4), *end]
    model = L.Sequential(*body).build(x=("batch", 7), seed=3)
    return model.with_parameters({"1.running_mean": np.arange(5, dtype=np.float32)})


def batch(n: int = 6) -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {"x": random.normal(size=(n, 7)).astype(np.float32), "label": random.integers(0, 4, n)}


def compiled(teach: mx.Teacher, loss: str = "softmax_cross_entropy", **more: Any) -> StepGraph:
    return mx.compile_step(student(), loss=loss, optimizer=mx.SGD(1.0), teach=teach, **more)


def moved(step: StepGraph) -> dict[str, Array]:
    """What one step of SGD(1) takes from each parameter: its gradient."""
    first = initial_state(student(), mx.SGD(1.0), 0)
    engine = OrtEngine(step, first, threads=1)
    engine.step(batch())
    return {name: first[name] - engine.state()[name] for name in student().parameters()}


def by_differences(loss: Any) -> dict[str, Array]:
    """Its gradients by central differences of numpy's float64."""
    found = {}
    parameters = {n: a.astype(np.float64) for n, a in student().parameters().items()}
    for name, p in parameters.items():
        found[name] = np.zeros_like(p)
        for place in np.ndindex(p.shape):
            sides = []
            for sign in (1, -1):
                p[place] += sign * 1e-5
                sides.append(loss(parameters))
                p[place] -= sign * 1e-5
            found[name][place] = (sides[0] - sides[1]) / 2e-5
    return found


def forward(p: dict[str, Array]) -> tuple[Array, Array]:
    hidden = np.tanh(batch()["x"] @ p["0.weight"] + p["0.bias"])
    return hidden, hidden @ p["1.weight"] + p["1.bias"]


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("ends", ["logits", "softmax"])
def test_the_gradient_of_soft_and_hard_targets(ends: str, micro: int | None) -> None:
    """(1 - a) cross-entropy + a T^2 KL, and the mean square between hidden layers."""
    z_teacher = teacher()(batch()["x"])
    hidden_teacher = teacher().cut("2")(batch()["x"])
    model = teacher(*([L.Softmax()] if ends == "softmax" else []))
    teach = mx.Teacher(model, temperature=3.0, alpha=0.7, features={"0": "2"}, feature_weight=0.4)

    def loss(p: dict[str, Array]) -> Any:
        hidden, z = forward(p)
        hard = -log_softmax(z)[np.arange(6), batch()["label"]].mean()
        theirs, ours = log_softmax(z_teacher.astype(np.float64) / 3), log_softmax(z / 3)
        soft = 9 * (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
        return 0.3 * hard + 0.7 * soft + 0.4 * ((hidden - hidden_teacher) ** 2).mean()

    found, expected = moved(compiled(teach, micro_batch=micro)), by_differences(loss)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=2e-6, err_msg=name)


def test_the_reported_loss_is_the_students_own() -> None:
    plain = mx.compile_step(student(), loss="softmax_cross_entropy", optimizer=mx.SGD(1.0))
    state = initial_state(student(), mx.SGD(1.0), 0)
    found = [OrtEngine(s, state, threads=1).step(batch()) for s in (plain, compiled(mx.Teacher(teacher())))]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["grad_norm"] != found[1]["grad_norm"]


def test_a_step_by_hand_has_a_teacher_too() -> None:
    teach = mx.Teacher(teacher(), temperature=3.0, alpha=0.6, features={"0": "0"})
    trainer = mx.Trainer(student(), optimizer=mx.SGD(1.0), teach=teach, threads=1)
    trainer.step(batch())
    first = student().parameters()
    for name, expected in moved(compiled(teach)).items():
        np.testing.assert_array_equal(first[name] - trainer.model.parameters()[name], expected)
    assert mx.find_lr(student(), Dataset.from_arrays(batch(64)["x"], batch(64)["label"]), teach=teach, threads=1).lr > 0


def heads(seed: int) -> mx.Model:
    def net(x: Any) -> Any:
        hidden = L.Dense(5, activation="tanh", name="body")(x)
        return {"a": L.Dense(4, name="a")(hidden), "b": L.Dense(2, name="b")(hidden)}

    return mx.build(net, x=("batch", 7), seed=seed)


def test_several_outputs_learn_from_those_of_their_names() -> None:
    """The gradient is the sum of those of each output alone, of a teacher of that output or of both."""
    random = np.random.default_rng(0)
    labels = {"a": random.integers(0, 4, 6), "b": random.normal(size=(6, 2)).astype(np.float32)}
    losses: dict[str, Any] = {"a": "softmax_cross_entropy:weight=2", "b": "mean_squared_error:weight=0.3"}

    def change(model: mx.Model, teach: mx.Model, *names: str, **options: Any) -> dict[str, Array]:
        teacher = mx.Teacher(teach, temperature=3.0, alpha=0.6, **options)
        of = {name: labels[name] for name in names}
        trainer = mx.Trainer(
            model,
            loss={n: losses[n] for n in names},
            optimizer=mx.SGD(1.0),
            teach=teacher,
            labels=specs_of(of),
            threads=1,
        )
        trainer.step({"x": batch()["x"], **of})
        return {n: p - trainer.model.parameters()[n] for n, p in model.parameters().items()}

    both = change(heads(0), heads(3), "a", "b", features={"body": "body"})
    first = change(heads(0).cut("a"), heads(3), "a", features={"body": "body"})
    second = [change(heads(0).cut("b"), teach, "b") for teach in (heads(3), heads(3).cut("b"))]
    for name, found in both.items():
        np.testing.assert_allclose(found, first.get(name, 0) + second[0].get(name, 0), atol=2e-6)
    for name, found in second[0].items():
        np.testing.assert_array_equal(found, second[1][name])
    with pytest.raises(
        UsageError, match=r"the teacher expected to have an output 'a', or one alone; found \['c', 'b'\]"
    ):
        change(heads(0), heads(3).rename({"a": "c"}), "a", "b")


def test_a_teacher_costs_no_backward_pass_and_no_state() -> None:
    """Beside the step without it: its own forward nodes, the soft loss, and no state."""
    step, plain = compiled(mx.Teacher(teacher())), compiled(mx.Teacher(student()))
    ports = {p["name"] for p in step.spec["inputs"]}
    assert ports == {p["name"] for p in plain.spec["inputs"]}
    nodes = onnx.load_from_string(step.data).graph.node
    backward = [n for n in nodes if n.name.startswith("grad.")]
    assert len(backward) == len([n for n in onnx.load_from_string(plain.data).graph.node if n.name.startswith("grad.")])
    assert not [n for n in nodes if n.op_type in ("Dropout", "BatchNorm") and n.domain]  # it infers


def test_another_loss_compares_outputs() -> None:
    """alpha = 1 leaves the mean squared difference of the outputs alone."""
    z_teacher = teacher()(batch()["x"])
    teach, labels = mx.Teacher(teacher(), alpha=1.0), np.zeros((6, 4), np.float32)
    step = compiled(teach, "huber")
    first = initial_state(student(), mx.SGD(1.0), 0)
    engine = OrtEngine(step, first, threads=1)
    engine.step({"x": batch()["x"], "label": labels})
    _, z = forward(student().parameters())
    np.testing.assert_allclose(
        first["1.bias"] - engine.state()["1.bias"], (2 * (z - z_teacher) / z.size).sum(0), rtol=1e-3, atol=1e-6
    )


def test_images_of_other_channels_are_compared_by_attention() -> None:
    """Maps of equal shape differ by nothing where one is a multiple of the other."""
    from onnxmx.trainer.teacher import compared

    random = np.random.default_rng(1)
    a, b = (random.normal(size=(2, c, 4, 5)).astype(np.float32) for c in (3, 6))

    def net(x: Any, y: Any) -> Any:
        return {"far": compared(x.builder, x, y), "none": compared(x.builder, x, x.builder.concat([x, x], 1))}

    found = mx.build(net, x=("batch", 3, 4, 5), y=("batch", 6, 4, 5))(a, b)
    maps = [(m**2).mean(1).reshape(2, -1) for m in (a, b)]
    maps = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    np.testing.assert_allclose(found["far"], ((maps[0] - maps[1]) ** 2).sum(1).mean(), rtol=1e-5)
    assert abs(found["none"]) < 1e-10


def digits() -> tuple[Dataset, Dataset]:
    return mx.data.digits("train"), mx.data.digits("test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, test = digits()
    run = mx.fit(mx.models.build("mlp", input=(1, 8, 8)), data, validation=test, epochs=8, threads=1, progress=False)
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    run.model.save(path)
    return path


def test_a_student_learns_to_agree_with_its_teacher(trained: Path) -> None:
    data, test = digits()
    model, small = mx.load(trained), mx.models.build("mlp", input=(1, 8, 8), hidden=(12,))
    x = test.batch(slice(None))["image"]
    theirs = log_softmax(model(x))

    def apart(run: Any) -> float:
        return float((np.exp(theirs) * (theirs - log_softmax(run.model(x)))).sum(-1).mean())

    options: dict[str, Any] = {
        "validation": test,
        "epochs": 8,
        "optimizer": mx.Adam(5e-3),
        "threads": 1,
        "progress": False,
    }
    taught, alone = mx.distill(small, model, data, alpha=0.9, **options), mx.fit(small, data, **options)
    assert apart(taught) < 0.7 * apart(alone)
    assert taught.best["validation_accuracy"] > 0.9


def test_a_run_from_the_command_line_resumes_without_the_teacher(tmp_path: Path, trained: Path) -> None:
    file = tmp_path / "teacher.onnx"
    file.write_bytes(trained.read_bytes())
    settings = {"model": "mlp", "data": "digits", "epochs": 2, "batch_size": 256, "threads": 1}
    config = TrainConfig.of_settings({**settings, "teacher.model": str(file), "teacher.alpha": 0.3})
    whole = train(config, tmp_path / "run", progress=False)
    file.unlink()
    for checkpoint in sorted((tmp_path / "run" / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    again = resume_run(tmp_path / "run", progress=False)
    assert again.history == whole.history
    assert "digest" in StepGraph.load(tmp_path / "run").spec["settings"]["teach"]


def test_what_cannot_teach() -> None:
    for wrong in ({"temperature": 0}, {"alpha": 1.5}, {"feature_weight": -1}):
        with pytest.raises(UsageError):
            mx.Teacher(teacher(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a teacher expected a model; found str"):
        mx.Teacher("teacher.onnx")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"the student's output .* expected the teacher's shape"):
        compiled(mx.Teacher(L.Dense(3).build(x=("batch", 7))))
    with pytest.raises(ShapeError, match=r"the student's feature '0.*' expected the teacher's shape"):
        compiled(mx.Teacher(teacher(), features={"0": "4"}))
    alone = L.Sequential(L.Dense(4)).build(x=(1, 7))
    with pytest.raises(ShapeError, match=r"expected 'x' of \(1, 7\); found \(batch, 7\)\n.*resize\(x=\('batch', 7\)\)"):
        compiled(mx.Teacher(alone))
    with pytest.raises(UsageError, match="no value or layer named 'middle'"):
        compiled(mx.Teacher(teacher(), features={"middle": "4"}))
    with pytest.raises(UsageError, match="teach expected mx"):
        mx.fit(student(), Dataset.from_arrays(inputs=batch()["x"], labels=batch()["label"]), teach=teacher())  # type: ignore[arg-type]
    data = Dataset.from_arrays({"x": batch()["x"]}, batch()["label"], scale=2.0)
    known = mx.fit(teacher(), data, threads=1, progress=False).model
    with pytest.raises(DataError, match="the teacher expected inputs prepared by"):
        mx.distill(student(), known, Dataset.from_arrays({"x": batch()["x"]}, batch()["label"]), progress=False)
