"""Layers without parameters that pass on, move, or freely compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_size
from onnxmx.builder.source import line_of
from onnxmx.errors import GraphError, UsageError


@dataclass(frozen=True)
class Identity(Layer):
    """y = x, without a node of its own: a branch that does nothing."""

    def forward(self, x: Value) -> Value:
        return x


@dataclass(frozen=True)
class Flatten(Layer):
    """All but the first dimension as one.   x: (batch, ...)   y: (batch, n)"""

    def forward(self, x: Value) -> Value:
        return x.builder.op("Flatten", x, axis=1)


@dataclass(frozen=True, init=False)
class Reshape(Layer):
    """The same elements in another shape.   x: (batch, ...)   y: (batch, *shape)   shape: one may be -1, the rest."""

    shape: tuple[int, ...]

    def __init__(self, *shape: int, name: str | None = None) -> None:
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "name", name)
        if not all(is_size(d) or (isinstance(d, int) and d == -1) for d in shape) or shape.count(-1) > 1:
            raise UsageError(
                f"Reshape expected positive integers, one of them -1 at most; found {shape!r}",
                at=self._source,
                mend=f"Write Reshape{shape[0]}: one number after another, the batch left out."
                if len(shape) == 1 and isinstance(shape[0], tuple)
                else "For example Reshape(16, 7, 7); the batch is not named.",
            )

    def forward(self, x: Value) -> Value:
        return x.builder.reshape(x, [0, *self._filled(x)])

    def _filled(self, x: Value) -> list[int]:
        """The sizes with -1 replaced where the input's are known, so that what follows knows them too."""
        wanted = [int(d) for d in self.shape]
        sizes = [d for d in list(x.shape or ())[1:] if isinstance(d, int)]
        if len(sizes) + 1 != len(x.shape or ()):
            return wanted
        count, known = math.prod(sizes), abs(math.prod(wanted))
        if count % known if -1 in wanted else count != known:
            raise self._misfit(
                x, f"as many elements in a sample as in {self.shape}", "Change the sizes; one may be -1."
            )
        return [count // known if d == -1 else d for d in wanted]


@dataclass(frozen=True, init=False)
class Permute(Layer):
    """The axes of each sample in another order: Permute(2, 3, 1) puts the channels of an image last.

    x: (batch, ...)   axes: as they are counted in x, from 1, since the batch is 0 and stays.
    """

    axes: tuple[int, ...]

    def __init__(self, *axes: int, name: str | None = None) -> None:
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "name", name)
        if not all(is_size(a) for a in axes) or sorted(axes) != list(range(1, len(axes) + 1)):
            raise UsageError(
                f"Permute expected each of the axes 1, 2, ... once; found {axes!r}",
                at=self._source,
                mend="The batch is axis 0 and is not named: Permute(2, 1) swaps the two after it.",
            )

    def forward(self, x: Value) -> Value:
        self._expect_rank(x, len(self.axes) + 1, f"(batch and {len(self.axes)} more)")
        return x.builder.transpose(x, [0, *self.axes])


@dataclass(frozen=True)
class Lambda(Layer):
    """y = function(x, ...), any function of graph values; its gradient comes from the operators it uses."""

    function: Callable[..., Value]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(
                f"Lambda expected a function of graph values; found {self.function!r}",
                at=self._source,
                mend="Such as Lambda(lambda x: x * 2).",
            )

    def forward(self, *xs: Value) -> Value:
        y = self.function(*xs)
        if not isinstance(y, Value):
            raise GraphError(
                f"{xs[0].builder.what()} expected its function to return a graph value; found {y!r}",
                at=line_of(self.function) or self._source,
                mend="End it with `return y`.",
            )
        return y
