"""The network of deep Q-learning."""

from __future__ import annotations

from typing import Any

from onnxmx.builder import layers as L
from onnxmx.builder.model import Input
from onnxmx.models.registry import Shape, model


def _frames(input: Shape, **_: Any) -> dict[str, Input]:
    return {"state": Input(("batch", *input))}


@model(_frames)
def dqn(input: Shape = (4, 84, 84), actions: int = 18, units: int = 512) -> L.Layer:
    """Q-network: what each action is worth, seen from the last frames of a game.

    input: (frames, height, width) of one state, 36 pixels or more.   units: of the hidden dense layer.
    Returns (batch, actions), the value of each.
    Source: Mnih et al. 2015, methods.
    """
    return L.Sequential(
        L.Conv2D(32, 8, stride=4, activation="relu"),
        L.Conv2D(64, 4, stride=2, activation="relu"),
        L.Conv2D(64, 3, activation="relu"),
        L.Flatten(),
        L.Dense(units, activation="relu"),
        L.Dense(actions, name="head"),
    )
