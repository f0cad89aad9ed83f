"""Small models and data that the tests of the trainer share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.session import open_session
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.step import StepGraph, initial_state

Array = np.ndarray[Any, Any]
State = dict[str, Array]


@dataclass(frozen=True)
class Twice(L.Layer):
    """One dense layer called twice: its weight's gradient has two parts."""

    def forward(self, x: Value) -> Value:
        shared = L.Dense(6, activation="tanh", name="shared")
        return shared(shared(L.Dense(6)(x)))


@dataclass(frozen=True)
class Forked(L.Layer):
    """A value read by three nodes."""

    def forward(self, x: Value) -> Value:
        y = L.Dense(5, activation="tanh")(x)
        return L.Dense(4)(y * y + y)


def conv_net(*middle: L.Layer, activation: str = "tanh") -> L.Layer:
    return L.Sequential(
        L.Conv2D(3, 3, padding="same", activation=activation),
        *middle,
        L.MaxPool2D(2),
        L.Conv2D(4, 3, padding="same", bias=False),
        L.BatchNorm(),
        L.Activation(activation),
        L.GlobalAvgPool2D(),
        L.Dense(4),
    )


Build = Callable[[], mx.Model]

IMAGE = ("batch", 2, 6, 6)
TINY: dict[str, Build] = {
    "mlp": lambda: mx.models.mlp(input=(7,), classes=4, hidden=(8, 6)).build(x=("batch", 7)),
    "conv": lambda: conv_net().build(x=IMAGE),
    "dropout": lambda: L.Sequential(
        L.Dense(8, activation="tanh"), L.Dropout(0.5), L.Dense(8), L.Dropout(0.25), L.Dense(4)
    ).build(x=("batch", 7)),
    "residual": lambda: L.Sequential(
        L.Residual(L.Conv2D(2, 3, padding="same", activation="tanh")), L.AvgPool2D(2), L.Flatten(), L.Dense(4)
    ).build(x=IMAGE),
    "twice": lambda: Twice().build(x=("batch", 7)),
    "forked": lambda: Forked().build(x=("batch", 7)),
    "fixed batch": lambda: L.Dense(4).build(x=(5, 7)),
}
"""Models small enough for float64 on onnx.reference."""

ZOO: dict[str, Build] = {
    "lenet": lambda: mx.models.lenet(input=(1, 16, 16)).build(image=("batch", 1, 16, 16)),
    "resnet8": lambda: mx.models.resnet8(input=(3, 16, 16)).build(image=("batch", 3, 16, 16)),
}


def batch_for(model: mx.Model, size: int = 5, seed: int = 0) -> dict[str, Array]:
    """Random inputs of a model and labels for softmax cross-entropy."""
    random = np.random.default_rng(seed)
    batch: dict[str, Array] = {
        name: random.normal(size=(size, *(port.shape or ())[1:])).astype(np.float32)
        for name, port in model.inputs.items()
    }
    classes = (next(iter(model.outputs.values())).shape or ())[-1]
    assert isinstance(classes, int)
    return batch | {"label": random.integers(0, classes, size)}


def feeds(batch: dict[str, Array], state: dict[str, Array]) -> dict[str, Array]:
    """A step's inputs."""
    return {f"batch.{k}": v for k, v in batch.items()} | {f"state.{k}": np.asarray(v) for k, v in state.items()}


def run_steps(step: StepGraph, state: State, batches: list[dict[str, Array]]) -> list[State]:
    """The outputs of each step; a step starts from the state that the one before it left."""
    session, names, found = open_session(step.data, threads=1), [p["name"] for p in step.spec["outputs"]], []
    for batch in batches:
        out = dict(zip(names, session.run(names, feeds(batch, state)), strict=True))
        state = {n.removeprefix("next."): v for n, v in out.items() if n.startswith("next.")}
        found.append(out)
    return found


def compiled(model: mx.Model, optimizer: Any = None, **options: Any) -> tuple[StepGraph, State]:
    """A step for softmax cross-entropy, which ONNX's checker passes, and the state before it."""
    optimizer = optimizer or mx.SGD(lr=0.1)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer, **options)
    onnx.checker.check_model(onnx.load_from_string(step.data), full_check=True)
    return step, initial_state(model, optimizer, 0, options.get("average"))


def run_graph(build: Callable[[GraphBuilder], Any], **inputs: Array) -> list[Array]:
    """Build a graph, whose builder adds its own inputs and returns its outputs, and run it on ONNX Runtime."""
    import onnx_ir as ir

    g = GraphBuilder()
    made = build(g)
    for k, value in enumerate(made if isinstance(made, (tuple, list)) else [made]):
        g.output(value, f"y{k}")
    results: list[Array] = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1).run(None, inputs)
    return results


def blobs(n: int = 96, classes: int = 3, features: int = 4, seed: int = 0, spread: float = 0.5) -> Dataset:
    """Points around one centre a class: easy to learn."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, features)) * 2
    label = np.arange(n) % classes
    x = (centres[label] + spread * random.normal(size=(n, features))).astype(np.float32)
    return Dataset.from_arrays(x, label, name="blobs", classes=[f"c{k}" for k in range(classes)])


def blob_net(dropout: float = 0.0) -> mx.Model:
    """A model for `blobs`."""
    body = [L.Dense(8, activation="relu"), *([L.Dropout(dropout)] if dropout else [])]
    return L.Sequential(*body, L.Dense(3)).build(x=("batch", 4))
