"""Layers made of layers."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.elsewhere import LAYERS
from onnxmx.builder.graph import Value, describe
from onnxmx.builder.layers.activation import ACTIVATIONS
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.source import user_line
from onnxmx.errors import UsageError


@dataclass(frozen=True, init=False)
class Sequential(Layer):
    """One layer after another. They are named by their place (`0`, `1`, ...) unless they have a name.

    Lists and generators of layers are laid out: Sequential([Flatten(), Dense(8)], Dense(2)) has three.
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer | Iterable[Layer], name: str | None = None, checkpoint: bool = False) -> None:
        object.__setattr__(self, "layers", tuple(_laid_out(layers)))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "checkpoint", checkpoint)

    def forward(self, x: Value) -> Value:
        for place, layer in enumerate(self.layers):
            x = call_named(layer, str(place), x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, place: int) -> Layer:
        """A layer by its place; so they are iterated too."""
        return self.layers[place]


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


@dataclass(frozen=True, init=False)
class _Branches(Layer):
    """Layers on one input, named by their place (`0`, `1`, ...) unless they have a name."""

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer | Iterable[Layer], name: str | None = None, checkpoint: bool = False) -> None:
        object.__setattr__(self, "branches", tuple(_laid_out(branches)))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "checkpoint", checkpoint)
        _expect_some(self, self.branches)

    def _apply(self, x: Value) -> list[Value]:
        return [call_named(layer, str(place), x) for place, layer in enumerate(self.branches)]

    def _alike(self, x: Value) -> list[Value]:
        """The outputs, which must be of one shape: Add would broadcast (n, 1, h, w) over the channels in silence."""
        first, *rest = ys = self._apply(x)
        for y in rest:
            if y.shape is not None and first.shape is not None and y.shape != first.shape:
                raise self._misfit(
                    y, f"branches of one shape, {describe(first)}", "Give all branches the same channels and stride."
                )
        return ys


@dataclass(frozen=True, init=False)
class Concat(_Branches):
    """y = branches(x) side by side along `axis`, by default the channels.   Source: Szegedy et al. 2015."""

    axis: int

    def __init__(
        self,
        *branches: Layer | Iterable[Layer],
        axis: int = 1,
        name: str | None = None,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(*branches, name=name, checkpoint=checkpoint)
        object.__setattr__(self, "axis", axis)

    def forward(self, x: Value) -> Value:
        ys = self._apply(x)
        return concat(*ys, axis=self.axis) if len(ys) > 1 else ys[0]


@dataclass(frozen=True, init=False)
class Add(_Branches):
    """y = the sum of branches(x), all of one shape."""

    def forward(self, x: Value) -> Value:
        return x.builder.sum(*self._alike(x))


@dataclass(frozen=True, init=False)
class Multiply(_Branches):
    """y = the product of branches(x), all of one shape."""

    def forward(self, x: Value) -> Value:
        return functools.reduce(operator.mul, self._alike(x))


@dataclass(frozen=True, init=False)
class Parallel(Layer):
    """{name: layer(x)}: several named outputs of one input, as in Parallel(mean=Dense(2), spread=Dense(2)).

    As the last layer of a model it names the model's outputs.
    """

    branches: tuple[tuple[str, Layer], ...]

    def __init__(self, **branches: Layer) -> None:
        object.__setattr__(self, "branches", tuple(branches.items()))
        object.__setattr__(self, "name", None)
        _expect_some(self, self.branches)

    def forward(self, x: Value) -> dict[str, Value]:  # type: ignore[override]  # the one layer with several outputs
        return {name: call_named(layer, name, x) for name, layer in self.branches}


def _expect_some(layer: Layer, branches: tuple[object, ...]) -> None:
    if not branches:
        raise UsageError(
            f"{type(layer).__name__} expected at least one layer; found none",
            at=layer._source,
            mend="Give it layers that read one input, of which Identity() is the input itself. Values are joined by "
            "a + b, a * b and mx.layers.concat(a, b).",
        )


def _laid_out(layers: Iterable[Layer | Iterable[Layer]]) -> Iterator[Layer]:
    """The layers, those in lists and generators one by one. What is no layer is left for `call_named` to refuse."""
    for layer in layers:
        if isinstance(layer, (list, tuple, Iterator)):
            yield from _laid_out(layer)
        else:
            yield layer  # type: ignore[misc]  # a Layer, or what the user has mistaken for one


@checked_arguments
def concat(*xs: Value | Sequence[Value], axis: int = 1) -> Value:
    """Branches side by side along `axis`, by default the channels.   xs: of one shape but for `axis`, or a list of such

    Raises UsageError for what is no graph value.
    """
    if len(xs) == 1 and isinstance(xs[0], (list, tuple)):
        return concat(*xs[0], axis=axis)
    values = [x for x in xs if isinstance(x, Value)]
    if not values or len(values) < len(xs):
        raise UsageError(
            f"concat expected graph values; found {xs!r}", at=user_line(), mend="Call it as concat(x, y, axis=1)."
        )
    return values[0].builder.concat(values, axis)


def call_named(layer: Layer, name: str, *xs: Value) -> Value:
    """Call `layer` under the name that its container gives it. Raises UsageError for what is no layer."""
    if not isinstance(layer, Layer):
        g = xs[0].builder
        raise UsageError(
            f"{g.what()} expected a layer as {name!r}; found {layer!r}", at=g.source(), mend=_instead_of(layer)
        )
    return layer._call(layer.name or name, *xs)


def _instead_of(found: object) -> str:
    """What to write in the place of what is no layer."""
    name = getattr(found, "__name__", found)
    if isinstance(found, type):
        return f"Write {name}(...)."
    if isinstance(name, str) and name in ACTIVATIONS:
        return f'Write Activation("{name}").'
    if callable(found) and hasattr(found, "replace_head"):
        return "A model gets other layers at its end by model.replace_head(name, layers)."
    kind = type(found).__name__  # mx.Linear is a learning rate
    return f"Write mx.layers.{LAYERS[kind]}." if kind in LAYERS else "Wrap a function of values in Lambda."
