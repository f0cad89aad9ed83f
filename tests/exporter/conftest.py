"""A LeNet trained on the digits, once for all tests, and the digits."""

from __future__ import annotations

import pytest

from onnxmx.builder import layers as L
from onnxmx.builder.model import Model
from onnxmx.trainer.data import Dataset, Loader, digits
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.optimizers import Adam
from onnxmx.trainer.step import compile_step, initial_state


def train(model: Model, data: Dataset, epochs: int) -> Model:
    """The model after some epochs of Adam on softmax cross-entropy."""
    optimizer = Adam(1e-3)
    engine = OrtEngine(
        compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer), initial_state(model, optimizer, 1)
    )
    for epoch in range(epochs):
        for _, batch in Loader(data, 64, seed=1, drop_last=True).epoch(epoch):
            engine.step(batch)
    state = engine.state()
    return model.with_parameters({name: state[name] for name in model.parameters()})


@pytest.fixture(scope="session")
def train_data() -> Dataset:
    return digits("train")


@pytest.fixture(scope="session")
def test_data() -> Dataset:
    return digits("test")


@pytest.fixture(scope="session")
def lenet(train_data: Dataset) -> Model:
    net = L.Sequential(
        *(L.Conv2D(20, 5, padding="same", activation="relu"), L.MaxPool2D(2)),
        *(L.Conv2D(50, 5, padding="same", activation="relu"), L.MaxPool2D(2)),
        *(L.Flatten(), L.Dense(500, activation="relu"), L.Dense(10)),
    )
    model = train(net.build(image=("batch", 1, 8, 8), seed=1), train_data, 6)
    model.metadata["onnxmx.labels"] = '["zero", "one"]'
    return model
