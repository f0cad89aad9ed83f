"""Layers made of layers, and layers that only move data."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmx.builder.graph import Value, describe
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.source import user_line
from onnxmx.errors import UsageError


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """One layer after another. They are named by their place (`0`, `1`, ...) unless they have a name."""

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer, name: str | None = None) -> None:
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "name", name)

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
        if y.shape is not None and short.shape is not None and y.shape != short.shape:
            # Add would broadcast (n, 1, h, w) over the channels without a word.
            raise self._misfit(
                short,
                f"body and shortcut of one shape, {describe(y)}",
                "Give the body the channels and stride of its input, or the shortcut a Conv2D of kernel 1.",
            )
        return y + short


@dataclass(frozen=True)
class Flatten(Layer):
    """All but the first dimension as one.   x: (batch, ...)   y: (batch, n)"""

    def forward(self, x: Value) -> Value:
        return x.builder.op("Flatten", x, axis=1)


def concat(*xs: Value, axis: int = 1) -> Value:
    """Branches side by side along `axis`, by default the channels.   xs: of one shape but for `axis`"""
    if not xs or not all(isinstance(x, Value) for x in xs):
        raise UsageError(
            f"concat expected graph values; found {xs!r}", at=user_line(), mend="Call it as concat(x, y, axis=1)."
        )
    return xs[0].builder.concat(xs, axis)


def call_named(layer: Layer, name: str, *xs: Value) -> Value:
    """Call `layer` under the name that its container gives it."""
    if not isinstance(layer, Layer):
        g = xs[0].builder
        written = layer.__name__ if isinstance(layer, type) else None
        raise UsageError(
            f"{g.what()} expected a layer as {name!r}; found {layer!r}",
            at=g.source(),
            mend=f"Write {written}(...)." if written else "Wrap a function in Activation, a list in Sequential(*list).",
        )
    return layer._call(layer.name or name, *xs)
