"""Layers made of layers, and layers that only move data."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.errors import UsageError


class Sequential(Layer):
    """One layer after another. They are named by their place (`0`, `1`, ...) unless they have a name."""

    def __init__(self, *layers: Layer, name: str | None = None) -> None:
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "name", name)

    layers: tuple[Layer, ...]

    def forward(self, x: Value) -> Value:
        for place, layer in enumerate(self.layers):
            x = call_named(layer, str(place), x)
        return x


@dataclass(frozen=True)
class Residual(Layer):
    """y = body(x) + shortcut(x); without a shortcut, body(x) + x.   Source: He et al. 2016."""

    body: Layer
    shortcut: Layer | None = None

    def forward(self, x: Value) -> Value:
        y = call_named(self.body, "body", x)
        short = x if self.shortcut is None else call_named(self.shortcut, "shortcut", x)
        return y + short


@dataclass(frozen=True)
class Flatten(Layer):
    """All but the first dimension as one.   x: (batch, ...)   y: (batch, n)"""

    def forward(self, x: Value) -> Value:
        return x.builder.op("Flatten", x, axis=1)


def concat(*xs: Value, axis: int = 1) -> Value:
    """Branches side by side along `axis`, by default the channels."""
    return xs[0].builder.concat(xs, axis)


def call_named(layer: Layer, name: str, *xs: Value) -> Value:
    """Call `layer` under the name that its container gives it."""
    if not isinstance(layer, Layer):
        raise UsageError(f"expected a layer as {name!r}; found {layer!r}", at=xs[0].builder.source())
    return layer._call(layer.name or name, *xs)
