"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmx.builder import layers as L
from onnxmx.models.registry import Shape, images, model


@model(images)
def mlp(
    input: Shape = (1, 28, 28), classes: int = 10, hidden: Sequence[int] = (256, 256), dropout: float = 0.0
) -> L.Layer:
    """Dense layers with ReLU between them.

    input: any shape of one sample.   hidden: the units of each hidden layer.   Returns (batch, classes) logits.
    Source: Rumelhart et al. 1986.
    """
    body: list[L.Layer] = []
    for units in hidden:
        body.append(L.Dense(units, activation="relu"))
        if dropout:
            body.append(L.Dropout(dropout))
    return L.Sequential(L.Flatten(), *body, L.Dense(classes, name="head"))
