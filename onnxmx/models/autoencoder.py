"""Networks that write their input in a few numbers, and read it back from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Input
from onnxmx.models.registry import Shape, images, model


@model(images)
def autoencoder(
    input: Shape = (1, 28, 28), hidden: Sequence[int] = (1000, 500, 250), code: int = 30, activation: str = "relu"
) -> L.Layer:
    """Autoencoder of dense layers.

    input: any shape of one sample, of numbers from 0 to 1.   hidden: units on the way to the `code` numbers, and back.
    Returns (batch, *input), from 0 to 1.
    Source: Hinton & Salakhutdinov 2006.
    """

    def dense(units: Sequence[int]) -> list[L.Layer]:
        return [L.Dense(n, activation=activation) for n in units]

    return L.Sequential(
        L.Sequential(L.Flatten(), *dense(hidden), L.Dense(code, name="code"), name="encoder"),
        L.Sequential(*dense(hidden[::-1]), L.Dense(math.prod(input), activation="sigmoid"), name="decoder"),
        L.Reshape(*input),
    )


def _image_and_noise(input: Shape, code: int, **_: Any) -> dict[str, Input]:
    return {"image": Input(("batch", *input)), "noise": Input(("batch", code))}


@dataclass(frozen=True)
class VAE(L.Layer):
    """Each input becomes a normal distribution of codes; one drawn from it is read back.

    x: (batch, *shape)   noise: (batch, code), normal of mean 0 and variance 1
    """

    shape: tuple[int, ...]
    hidden: Sequence[int]
    code: int

    def forward(self, x: Value, noise: Value) -> Any:
        g = x.builder
        h = L.Sequential(L.Flatten(), *[L.Dense(n, activation="relu") for n in self.hidden], name="encoder")(x)
        mean = L.Dense(self.code, name="mean")(h)
        log_variance = L.Dense(self.code, name="log_variance")(h)
        z = mean + g.exp(log_variance * 0.5) * noise
        back = [L.Dense(n, activation="relu") for n in self.hidden[::-1]]
        decoder = L.Sequential(*back, L.Dense(math.prod(self.shape), activation="sigmoid"), name="decoder")
        reconstruction = L.Reshape(*self.shape)(decoder(z))
        return {"reconstruction": reconstruction, "mean": mean, "log_variance": log_variance}


@model(_image_and_noise)
def vae(input: Shape = (1, 28, 28), hidden: Sequence[int] = (400,), code: int = 20) -> L.Layer:
    """Variational autoencoder of dense layers.

    input: any shape of one sample, of numbers from 0 to 1.   hidden: units on the way to the `code` numbers, and back.
    It takes the noise as an input, (batch, code) from a standard normal distribution; zeros give the mean.
    Returns reconstruction (batch, *input), from 0 to 1, and mean and log_variance (batch, code).
    Source: Kingma & Welling 2014.
    """
    return VAE(tuple(input), tuple(hidden), code)
