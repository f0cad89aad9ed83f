"""Embeddings of integers, and of places in a sequence."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import onnx_ir as ir

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_number, is_size
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.errors import UsageError

Init = str | init.Initializer
DOUBLE = ir.DataType.DOUBLE


@dataclass(frozen=True)
class Embedding(Layer):
    """y = weight[x].   x: int64, any shape   weight: (count, units)   y: (*x.shape, units)

    The input is one of integers: build(tokens=mx.Input(("batch", "time"), "int64")).
    padding: a number that stands for nothing; its row counts as zeros, and is not trained.
    """

    count: int
    units: int
    _: KW_ONLY
    padding: int | None = None
    weight_init: Init = "normal"

    def __post_init__(self) -> None:
        self._check_sizes("count", "units")
        p = self.padding
        if p is not None and not ((is_size(p) or (is_number(p) and p == 0)) and p < self.count):
            raise UsageError(
                f"Embedding expected padding as an integer in [0, {self.count}); found {p!r}",
                at=self._source,
                mend="It is one of the numbers that are embedded.",
            )

    def forward(self, x: Value) -> Value:
        g = x.builder
        if x.dtype not in (INT64, ir.DataType.INT32):
            mend = "Give the input's type: build(tokens=mx.Input(('batch', 'time'), 'int64'))."
            raise self._misfit(x, "an input of int64", mend)
        y = g.gather(g.parameter("weight", (self.count, self.units), self.weight_init), x)
        if self.padding is None:
            return y
        counts = g.cast(g.op("Not", g.equal(x, int(self.padding))), FLOAT)
        return y * g.unsqueeze(counts, [-1])


class _Position(Layer):
    """What the encodings of places share."""

    def _size(self, x: Value, even: bool = True) -> int:
        n = self._static_dim(x, -1, "a last dimension", "Give the input's size in build(...).")
        if even and n % 2:
            raise self._misfit(x, "an even last dimension", "Each frequency takes two of its elements.")
        return n


def frequencies(n: int, base: float) -> init.Array:
    """base^(-2i / n) for i in [0, n / 2): the angle that each pair of elements turns by from one place to the next."""
    return np.asarray(base ** (-np.arange(0, n, 2, dtype=np.float64) / n))


def angles(x: Value, axis: int, turns: init.Array) -> Value:
    """place * turns for each place along `axis` of `x`, float64 (time, len(turns)).

    In float64: float32 would lose the third decimal of the angle at place 10,000.
    """
    g = x.builder
    axis %= len(x.shape or ())
    dim = x.shape[axis] if x.shape is not None else None
    if isinstance(dim, int):
        places = g.constant(np.arange(dim, dtype=np.float64)[:, None])
    else:
        time = g.squeeze(g.op("Shape", x, start=axis, end=axis + 1), [0])
        places = g.unsqueeze(g.range(np.float64(0), g.cast(time, DOUBLE), np.float64(1)), [1])
    out = g.mul(places, turns)
    out.shape = ir.Shape([dim, len(turns)])
    return out


@dataclass(frozen=True)
class SinusoidalPosition(_Position):
    """y = x + p;   p[t, 2i] = sin(t / base^(2i / n)), p[t, 2i + 1] = cos of the same.   x, y: (batch, time, n)

    Source: Vaswani et al. 2017, section 3.5.
    """

    _: KW_ONLY
    base: float = 10000.0

    def forward(self, x: Value) -> Value:
        self._expect_rank(x, 3, "(batch, time, features)")
        g, n = x.builder, self._size(x)
        # cos(a) = sin(a + pi / 2), so that one Sin gives both in their order.
        turned = g.add(angles(x, 1, frequencies(n, self.base).repeat(2)), np.tile([0.0, np.pi / 2], n // 2))
        return x + g.cast_like(g.sin(turned), x)


@dataclass(frozen=True)
class LearnedPosition(_Position):
    """y = x + weight[:time].   x, y: (batch, time, n), time <= length   weight: (length, n)

    Source: Gehring et al. 2017, section 3.1.
    """

    length: int
    _: KW_ONLY
    weight_init: Init = "normal"

    def __post_init__(self) -> None:
        self._check_sizes("length")

    def forward(self, x: Value) -> Value:
        self._expect_rank(x, 3, "(batch, time, features)")
        g, time = x.builder, x.shape[1] if x.shape is not None else None
        if isinstance(time, int) and time > self.length:
            raise self._misfit(x, f"at most {self.length} steps", "Give LearnedPosition a larger length.")
        weight = g.parameter("weight", (self.length, self._size(x, even=False)), self.weight_init)
        if time == self.length:
            return x + weight
        if isinstance(time, int):
            return x + g.slice(weight, [0], [time], [0])
        # Gather and not Slice: a sequence that is too long is an error, whatever the length.
        places = g.range(np.int64(0), g.squeeze(g.op("Shape", x, start=1, end=2), [0]), np.int64(1))
        rows = g.gather(weight, places)
        rows.shape = ir.Shape([time, *list(rows.shape or ())[1:]])
        return x + rows


@dataclass(frozen=True)
class RotaryPosition(_Position):
    """Turns the pair (x[i], x[i + n/2]) by the angle t / base^(2i / n).   x, y: (..., time, n)

    Applied to queries and keys, it makes their products depend on the distance between their places alone.
    Source: Su et al. 2021, eq. 34, with the halves as pairs (GPT-NeoX).
    """

    _: KW_ONLY
    base: float = 10000.0

    def forward(self, x: Value) -> Value:
        if x.shape is not None and len(x.shape) < 2:
            raise self._misfit(x, "an input of rank 2 or more (..., time, features)", "Check the layer before it.")
        g, n = x.builder, self._size(x)
        turned = angles(x, -2, frequencies(n, self.base))
        cos, sin = g.cast_like(g.cos(turned), x), g.cast_like(g.sin(turned), x)
        a, b = g.ops("Split", x, outputs=2, axis=-1, num_outputs=2)
        return g.concat([a * cos - b * sin, b * cos + a * sin], -1)
