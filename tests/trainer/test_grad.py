"""Gradients as a public function: of models, of their gradients, and of values within a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.metadata import AS_IT_IS, PREPROCESSING
from onnxmx.errors import DataError, GradientError, GraphError, OnnxmxError, UsageError
from tests.trainer.penalty_oracle import given

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def net() -> mx.Model:
    return L.Sequential(L.Dense(5, activation="tanh"), L.Dense(3)).build(x=("batch", 4))


def energy() -> mx.Model:
    """sum(sin(x) y), whose derivatives of any order are known."""
    return mx.build(
        lambda x, y: {"energy": x.builder.reduce_sum(x.builder.sin(x) * y, keepdims=False)}, x=("batch", 4), y=(4,)
    )


def test_of_a_scalar() -> None:
    y = np.arange(4, dtype=np.float32)
    found = mx.grad(energy(), of="energy", wrt=["x", "y"])(x=X, y=y)
    assert set(found) == {"energy", "grad.x", "grad.y"}
    np.testing.assert_allclose(found["grad.x"], np.cos(X) * y, atol=1e-6)
    np.testing.assert_allclose(found["grad.y"], np.sin(X).sum(0), atol=1e-6)


def test_of_anything_else_it_is_a_vector_jacobian_product() -> None:
    model = net()
    product = mx.grad(model, of="output", wrt=["x", "0.weight", "0"])
    assert product.inputs["cotangent.output"].shape == ("batch", 3)
    assert product.outputs["grad.0"].shape == ("batch", 5)
    v = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    found = product(X, v)
    w = {k: p.astype(np.float64) for k, p in model.parameters().items()}
    h = np.tanh(X @ w["0.weight"] + w["0.bias"])
    dh = v @ w["1.weight"].T
    dz = dh * (1 - h**2)
    np.testing.assert_allclose(found["grad.0"], dh, atol=1e-5)
    np.testing.assert_allclose(found["grad.x"], dz @ w["0.weight"].T, atol=1e-5)
    np.testing.assert_allclose(found["grad.0.weight"], X.T @ dz, atol=1e-5)


def test_of_a_gradient() -> None:
    """The product of the Hessian with a vector; a name that is taken gets a number."""
    y = np.arange(1, 5, dtype=np.float32)
    twice = mx.grad(mx.grad(energy(), of="energy", wrt="x"), of="grad.x", wrt=["x", "y"])
    v = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    found = twice(x=X, y=y, **{"cotangent.grad.x": v})
    np.testing.assert_allclose(found["grad.x_1"], -np.sin(X) * y * v, atol=1e-5)
    np.testing.assert_allclose(found["grad.y"], (np.cos(X) * v).sum(0), atol=1e-5)
    thrice = mx.grad(twice, of="grad.x_1", wrt="x")
    found = thrice(x=X, y=y, **{"cotangent.grad.x": v, "cotangent.grad.x_1": v})
    np.testing.assert_allclose(found["grad.x_2"], -np.cos(X) * y * v**2, atol=1e-5)


def test_of_a_loss() -> None:
    model = L.Sequential(L.Dense(3), L.Softmax()).build(x=("batch", 4))
    found = mx.grad(model, loss="softmax_cross_entropy", wrt="x", label="target")(x=X, target=np.array([0, 2, 1]))
    p = found["output"].astype(np.float64)
    np.testing.assert_allclose(found["loss"], -np.log(p[[0, 1, 2], [0, 2, 1]]).mean(), rtol=1e-5)
    dz = (p - np.eye(3)[[0, 2, 1]]) / 3
    np.testing.assert_allclose(found["grad.x"], dz @ model.parameters()["0.weight"].T, atol=1e-6)


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_a_file_that_stock_onnx_runtime_runs(name: str, tmp_path: Path) -> None:
    """BatchNorm and Dropout as they infer; against central differences along the gradient."""
    model = mx.models.build(name, input=(1, 16, 16) if name == "lenet" else (3, 16, 16))
    mx.grad(model, loss="softmax_cross_entropy", wrt=["image", "head.weight"]).save(tmp_path / "grad.onnx")
    file = mx.load(tmp_path / "grad.onnx")
    image = np.random.default_rng(3).normal(size=(2, *(model.inputs["image"].shape or ())[1:])).astype(np.float32)
    found = file(image=image, label=np.array([1, 7]))
    np.testing.assert_allclose(found["output"], model(image), rtol=1e-4, atol=1e-5)
    slope = found["grad.image"]
    step = 0.02 * slope / np.sqrt((slope**2).sum())
    up, down = (file(image=image + s * step, label=np.array([1, 7]))["loss"] for s in (1, -1))
    np.testing.assert_allclose((up - down) / 2, (slope * step).sum(), rtol=2e-2)


def test_functions_and_checkpoints() -> None:
    """Whatever a model is made of: calls of functions, and regions that are computed again."""

    @mx.function(outputs=("y",))
    def Cubed(g: GraphBuilder, x: Any) -> Value:
        """y = x^3"""
        return g.mul(x, g.mul(x, x))

    def cubed(x: Value) -> Value:
        return Cubed(x.builder, x)

    kept, again = (
        L.Sequential(L.Dense(4), L.Lambda(cubed), L.Dense(2), checkpoint=c).build(x=("batch", 4)) for c in (False, True)
    )
    v = np.ones((3, 2), np.float32)
    expected, found = (mx.grad(m, wrt=["x", "0.weight"])(X, v) for m in (kept, again))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
    w = {k: p.astype(np.float64) for k, p in kept.parameters().items()}
    dz = v @ w["2.weight"].T * 3 * (X @ w["0.weight"] + w["0.bias"]) ** 2
    np.testing.assert_allclose(expected["grad.x"], dz @ w["0.weight"].T, rtol=1e-3, atol=1e-4)


def critic_loss(real: Value, fake: Value, share: Value) -> dict[str, Value]:
    g = real.builder
    critic = L.Sequential(
        L.Conv2D(4, 3, stride=2, padding=1, name="conv"),
        L.LeakyReLU(0.2),
        L.Flatten(),
        L.Dense(5, activation="tanh", name="inner"),
        L.Dense(1, name="score"),
        name="critic",
    )
    mix = share * real + (1.0 - share) * fake
    (slope,) = mx.gradients(g.reduce_sum(critic(mix), keepdims=False), [mix])
    norm = g.sqrt(g.reduce_sum(slope * slope, [1, 2, 3], keepdims=False))
    penalty = g.reduce_mean((norm - 1.0) ** 2, keepdims=False)
    scores = [g.reduce_mean(critic(x), keepdims=False) for x in (fake, real)]
    return {"loss": scores[0] - scores[1] + penalty * 10.0, "penalty": penalty}


def test_a_gradient_penalty_as_pytorch_has_it() -> None:
    """A loss that holds a gradient, and the gradients of that with respect to every parameter."""
    parameters, images = given()
    image = ("batch", 2, 6, 6)
    model = mx.build(critic_loss, real=image, fake=image, share=("batch", 1, 1, 1))
    model = model.with_parameters({f"critic.{k}": v for k, v in parameters.items()})
    step = mx.grad(model, of="loss", wrt=model.trainable)
    found = step(**{k: v.astype(np.float32) for k, v in images.items()})
    expected = json.loads(Path(__file__).with_name("penalty_oracle.json").read_text())
    np.testing.assert_allclose([found["loss"], found["penalty"]], [expected["loss"], expected["penalty"]], rtol=1e-5)
    assert len(expected["gradients"]) == 6
    for name, gradient in expected["gradients"].items():
        np.testing.assert_allclose(found[f"grad.critic.{name}"], gradient, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("layer", [L.BatchNorm(), L.Dropout(0.5)])
def test_no_training_where_a_gradient_is_that_of_the_inference_form(layer: L.Layer) -> None:
    """It would be that of another function, without a word. Cut off, it does no harm; before it, none either."""

    def energy(x: Value) -> dict[str, Value]:
        y = L.Dense(1, name="last")(layer(L.Dense(3, name="first")(x)))
        return {"force": mx.gradients(x.builder.reduce_sum(y, keepdims=False), [x])[0], "energy": y}

    def compiled(model: mx.Model) -> mx.Model:
        mx.compile_step(model, loss="mean_squared_error", optimizer=mx.SGD())
        return model

    model = mx.build(energy, x=("batch", 4))
    with pytest.raises(GraphError, match="which training changes; found that of"):
        compiled(model.cut("force"))
    compiled(model.cut("energy").freeze("first"))
    compiled(mx.grad(model.cut("energy"), wrt="last.weight").cut("energy"))


def test_training_on_a_gradient() -> None:
    """Forces as the gradient of an energy: the step holds gradients of a gradient."""

    def force(x: Value) -> Value:
        energy = L.Sequential(L.Dense(16, activation="softplus"), L.Dense(1))(x)
        return -mx.gradients(x.builder.reduce_sum(energy, keepdims=False), [x])[0]

    x = np.random.default_rng(0).normal(size=(128, 2)).astype(np.float32)
    data = mx.data.Dataset.from_arrays(x, -2 * x, name="springs")
    model = mx.build(force, x=("batch", 2)).freeze("sequential.1.bias")  # a constant has no force
    run = mx.fit(model, data, loss="mean_squared_error", optimizer=mx.Adam(lr=0.03), epochs=30, batch_size=32)
    assert run.history[-1]["loss"] < 0.05 * run.history[0]["loss"]


def tokens() -> mx.Model:
    return L.Sequential(L.Embedding(7, 4), L.Flatten(), L.Dense(2)).build(tokens=mx.Input(("batch", 3), "int64"))


ERRORS: list[tuple[Callable[[], Any], type[OnnxmxError], str]] = [
    (lambda: mx.grad(net(), of="outptu", wrt="x"), UsageError, "no value or layer named 'outptu'.*'output'"),
    (lambda: mx.grad(net(), wrt=["0.wieght"]), UsageError, "Did you mean '0.weight'"),
    (lambda: mx.grad(net(), wrt=[]), UsageError, r"names of one or more values; found \[\]"),
    (lambda: mx.grad(net(), wrt=3), UsageError, "names of one or more values; found 3"),  # type: ignore[arg-type]
    (lambda: mx.grad(net(), of="0", wrt="1.weight"), GradientError, "'0.Tanh' expected to depend on '1.weight'"),
    (lambda: mx.grad(tokens(), wrt="tokens"), GradientError, "floating-point type; found 'tokens', int64"),
    (lambda: mx.grad(tokens(), of="tokens", wrt="2.weight"), GradientError, "found 'tokens', int64"),
    (lambda: mx.grad(net(), loss="softmax_cross_entropy", label="x", wrt="0"), UsageError, "both named 'x'"),
    (lambda: mx.grad(net(), loss="softmax_cross_entropi", wrt="x"), UsageError, "softmax_cross_entropy"),
    (lambda: mx.build(lambda x: mx.gradients(x, [x])[0], x=(2, 3)), GradientError, "taken of a scalar; found 'x'"),
    (lambda: mx.gradients(net(), []), UsageError, "values of a graph that is being built"),  # type: ignore[arg-type]
    (lambda: mx.grad(mx.build(lambda x: {"a": x * 2.0, "b": x + 1.0}, x=(2,)), wrt="x"), OnnxmxError, "'a', 'b'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_errors(call: Callable[[], Any], error: type[OnnxmxError], text: str) -> None:
    with pytest.raises(error, match=f"(?s){text}") as raised:
        call()
    assert raised.value.at is None or "test_grad.py" in raised.value.at


def test_bytes_that_the_file_says_to_scale_are_refused() -> None:
    data = mx.data.digits("train").take(64)
    model = L.Sequential(L.Flatten(), L.Dense(10)).build(image=("batch", 1, 8, 8))
    raw, prepared = data.inputs["image"][:4], data.batch(slice(4))
    assert model(raw).shape == (4, 10)  # it has not been said yet how they are prepared
    learned = mx.fit(model, data, progress=False).model
    slopes = mx.grad(learned, of="loss", wrt="image", loss="softmax_cross_entropy")
    for run in (learned, lambda image: slopes(image=image, label=prepared["label"])):
        run(prepared["image"])
        with pytest.raises(
            DataError, match=r"prepared as the model's file says, \{\"scale\": 0.0625.* found uint8"
        ) as caught:
            run(raw)
        assert "test_grad.py" in (caught.value.at or "")
    assert json.loads(AS_IT_IS) == mx.data.Preprocessing().to_dict()
    learned.metadata[PREPROCESSING] = json.dumps(mx.data.Preprocessing().to_dict())
    learned(raw)
