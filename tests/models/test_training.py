"""Models of each kind learn: the loss of a small one falls within a few steps, on a few samples learned by heart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx import models
from onnxmx.models.densenet import DenseLayer, Transition
from onnxmx.models.squeezenet import fire
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.step import initial_state
from tests.builder.layer_table import Array

SIZES = {"batch": 8, "time": 6, "source_time": 5, "target_time": 6}
IMAGES = {"input": (3, 32, 32), "classes": 4}
WORDS = {"vocabulary": 20, "classes": 4, "dropout": 0.0}
RECURRENT = {**WORDS, "embedding": 12, "units": 16}
ENTROPY, ERROR = "softmax_cross_entropy", "mean_squared_error"


@dataclass
class Case:
    """A small model, and how it learns."""

    name: str
    options: dict[str, Any]
    lr: float = 0.003
    loss: str = ENTROPY
    steps: int = 20

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("alexnet", {**IMAGES, "input": (3, 64, 64), "units": 32, "dropout": 0.1}),
    Case("vgg11_bn", {**IMAGES, "width": 8, "units": 16, "dropout": 0.1}),
    Case("resnet18", {**IMAGES, "width": 8}),
    Case("resnet50_v2", {**IMAGES, "width": 4}),
    Case("resnet20", {**IMAGES, "input": (3, 16, 16)}),
    Case("mobilenet_v1", {**IMAGES, "width": 0.25}),
    Case("mobilenet_v2", {**IMAGES, "width": 0.25}, steps=25),
    Case("unet", {"input": (2, 8, 8), "width": 4, "depth": 2, "classes": 4}, lr=0.03),
    Case("autoencoder", {"input": (1, 4, 4), "hidden": (24, 16), "code": 8}, lr=0.02, loss=ERROR, steps=60),
    Case("dcgan_generator", {"output": (1, 16, 16), "code": 12, "width": 8}, lr=0.01, loss=ERROR, steps=60),
    Case("dcgan_discriminator", {"input": (1, 16, 16), "width": 8}, loss=ERROR),
    Case("text_lstm", RECURRENT, lr=0.03),
    Case("text_gru", RECURRENT, lr=0.03),
    Case("text_bilstm", RECURRENT, lr=0.03),
    Case("text_cnn", {**WORDS, "input": (6,), "embedding": 12, "channels": 8}, lr=0.03),
    Case("transformer_classifier", {**WORDS, "units": 16, "heads": 2, "hidden": 24}, lr=0.03),
    Case("char_rnn", {"vocabulary": 20, "units": 32, "dropout": 0.0}, lr=0.03, steps=60),
    Case("gpt_mini", {"vocabulary": 20, "length": 6, "layers": 2, "heads": 2, "units": 16}, lr=0.02, steps=60),
    Case("seq2seq", {"vocabulary": 20, "embedding": 16, "units": 32, "dropout": 0.0}, lr=0.03, steps=60),
    Case("ncf", {"users": 20, "items": 20}, lr=0.03, loss=ERROR),
    Case("dqn", {"input": (2, 36, 36), "actions": 3, "units": 16}, loss=ERROR),
]


def batch(model: mx.Model, loss: str) -> dict[str, Array]:
    """Random samples: integers below 20 with zeros at the end, labels below 4, numbers from 0 to 1 to come near to."""
    random = np.random.default_rng(4)

    def shape(port: Any) -> list[int]:
        return [SIZES[d] if isinstance(d, str) else d for d in port.shape]

    found: dict[str, Array] = {}
    for name, port in model.inputs.items():
        found[name] = random.normal(size=shape(port)).astype(np.float32)
        if port.dtype == np.int64:
            found[name] = random.integers(1, 20, shape(port))
            found[name].reshape(len(found[name]), -1)[0, 4:] = 0
    (output,) = model.outputs.values()
    label = shape(output)
    if loss == ENTROPY:
        del label[1 if len(label) == 4 else -1]
    values = random.integers(0, 4, label) if loss == ENTROPY else random.random(label).astype(np.float32)
    return found | {"label": values}


def losses_of(model: mx.Model, loss: str, lr: float, steps: int) -> list[float]:
    optimizer = mx.Adam(lr=lr)
    step = mx.compile_step(model, loss=loss, optimizer=optimizer, clip=mx.clip_global_norm(1.0))
    engine = OrtEngine(step, initial_state(model, optimizer, 0), threads=1)
    data = batch(model, loss)
    return [engine.step(data)["loss"] for _ in range(steps)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_falls(case: Case) -> None:
    model = models.build(case.name, **case.options)
    losses = losses_of(model, case.loss, case.lr, case.steps)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.6 * losses[0]


@pytest.mark.parametrize(
    "part",
    [L.Sequential(DenseLayer(6), DenseLayer(6), Transition()), L.Sequential(fire(4, 8), fire(4, 8))],
    ids=["densenet", "squeezenet"],
)
def test_parts_of_models_whose_steps_are_long_to_open(part: L.Layer) -> None:
    """ONNX Runtime takes half a minute for densenet121's step."""
    net = L.Sequential(L.Conv2D(8, 3), part, L.Flatten(), L.Dense(4))
    losses = losses_of(net.build(image=("batch", 3, 8, 8)), ENTROPY, 0.01, 20)
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
