"""Densely connected networks: each layer reads the outputs of all those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.models.blocks import ConvNorm, NormConv
from onnxmx.models.registry import Shape, images, model

IMAGE = (3, 224, 224)


@dataclass(frozen=True)
class DenseLayer(L.Layer):
    """x and `growth` new channels.   x: (batch, n, h, w)   y: (batch, n + growth, h, w)

    Source: Huang et al. 2017, section 3, with bottlenecks (B).
    """

    growth: int
    dropout: float = 0.0

    def forward(self, x: Value) -> Value:
        y = NormConv(4 * self.growth, 1, name="1")(x)
        y = NormConv(self.growth, 3, name="2")(y)
        return L.concat(x, L.Dropout(self.dropout)(y) if self.dropout else y)


@dataclass(frozen=True)
class Transition(L.Layer):
    """Half the channels on half the size.   x: (batch, n, h, w)   y: (batch, n/2, h/2, w/2)"""

    def forward(self, x: Value) -> Value:
        n = self._static_dim(x, 1, "a number of channels", "Give the input's channels in build(...).")
        return L.AvgPool2D(2)(NormConv(n // 2, 1, name="conv")(x))


@model(images)
def densenet121(input: Shape = IMAGE, classes: int = 1000, growth: int = 32, dropout: float = 0.0) -> L.Layer:
    """Densely connected network of 121 layers.

    input: (channels, height, width) of one sample, 32 pixels or more.   growth: channels that each layer adds.
    Returns (batch, classes) logits.
    Source: Huang et al. 2017, table 1.
    """
    return _densenet((6, 12, 24, 16), classes, growth, dropout)


@model(images)
def densenet161(input: Shape = IMAGE, classes: int = 1000, growth: int = 48, dropout: float = 0.0) -> L.Layer:
    """Densely connected network of 161 layers, wider.   Options: see densenet121.

    Source: Huang et al. 2017, table 1, in the width that its authors published later.
    """
    return _densenet((6, 12, 36, 24), classes, growth, dropout)


@model(images)
def densenet169(input: Shape = IMAGE, classes: int = 1000, growth: int = 32, dropout: float = 0.0) -> L.Layer:
    """Densely connected network of 169 layers.   Options: see densenet121.   Source: Huang et al. 2017, table 1."""
    return _densenet((6, 12, 32, 32), classes, growth, dropout)


@model(images)
def densenet201(input: Shape = IMAGE, classes: int = 1000, growth: int = 32, dropout: float = 0.0) -> L.Layer:
    """Densely connected network of 201 layers.   Options: see densenet121.   Source: Huang et al. 2017, table 1."""
    return _densenet((6, 12, 48, 32), classes, growth, dropout)


def _densenet(depths: Sequence[int], classes: int, growth: int, dropout: float) -> L.Layer:
    body: list[L.Layer] = [ConvNorm(2 * growth, 7, 2, name="stem"), L.MaxPool2D(3, stride=2, padding=1)]
    for k, depth in enumerate(depths, 1):
        body.append(L.Sequential(*[DenseLayer(growth, dropout) for _ in range(depth)], name=f"block{k}"))
        if k < len(depths):
            body.append(Transition(name=f"transition{k}"))
    end = [L.BatchNorm(name="norm"), L.Activation("relu"), L.GlobalAvgPool2D(), L.Dense(classes, name="head")]
    return L.Sequential(*body, *end)
