"""Losses of distances: between the outputs of a model for things that belong together, or do not.

They read several outputs, (batch, n) each, in the order of the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.errors import ShapeError
from onnxmx.trainer.losses.base import Array, Loss, Spec, Specs, Values, dims_of, refuse, sign, size


@dataclass(frozen=True, kw_only=True)
class _Pair(Loss):
    """A loss of two outputs, and a label that says whether they belong together."""

    margin: float = 1.0
    takes: ClassVar[str] = "1 where the two belong together, else 0 or -1; integers or float32, (batch,)"
    reads: ClassVar[int] = 2
    function: ClassVar[Function]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("margin", 0.0)

    def labels(self, outputs: Values, found: Mapping[str, Spec | None]) -> Specs:
        vectors(self, outputs)
        ((name, spec),) = found.items()
        batch = dims_of(self, next(iter(outputs.values())))[0]
        return {name: Spec((batch,), INT64 if spec is not None and spec.dtype == INT64 else FLOAT)}

    def check(self, name: str, array: Array, outputs: Values) -> None:
        refuse(self, name, array, (array != 0) & (array != 1) & (array != -1), "1, 0 or -1")

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        (a, b), (label,) = outputs.values(), labels.values()
        together = g.greater(sign(g, g.cast_like(label, a)), 0.0)
        losses = self.function(g, a, b, g.cast_like(together, a), margin=float(self.margin))
        return g.reduce_sum(losses, keepdims=False), size(g, losses)


@function(outputs=("loss",))
def ContrastiveError(g: GraphBuilder, a: ir.Value, b: ir.Value, together: ir.Value, *, margin: ir.Value) -> Value:
    """loss = together d^2 / 2 + (1 - together) max(0, margin - d)^2 / 2, d = |a - b|, an L2 norm

    a, b: (batch, n).   together: (batch,), 1 or 0.   Source: Hadsell et al. 2006, eq. 4.
    """
    error = g.sub(a, b)
    square = g.reduce_sum(g.mul(error, error), [-1], keepdims=False)
    # The root of a number above 0: at 0 its gradient would be infinite.
    short = g.op("Relu", g.sub(g.cast_like(margin, a), g.sqrt(g.add(square, 1e-12))))
    apart = g.mul(g.sub(1.0, together), g.mul(short, short))
    return g.mul(g.add(g.mul(together, square), apart), 0.5)


@dataclass(frozen=True, kw_only=True)
class Contrastive(_Pair):
    """d^2 / 2 for two that belong together, else max(0, margin - d)^2 / 2, d = |a - b|.

    Source: Hadsell et al. 2006, eq. 4.
    """

    name: ClassVar[str] = "contrastive"
    function: ClassVar[Function] = ContrastiveError


@function(outputs=("loss",))
def CosineError(g: GraphBuilder, a: ir.Value, b: ir.Value, together: ir.Value, *, margin: ir.Value) -> Value:
    """loss = together (1 - c) + (1 - together) max(0, c - margin), c = a.b / (|a| |b|)

    a, b: (batch, n).   together: (batch,), 1 or 0.
    """
    dot, aa, bb = (g.reduce_sum(g.mul(x, y), [-1], keepdims=False) for x, y in ((a, b), (a, a), (b, b)))
    c = g.div(dot, g.sqrt(g.mul(g.add(aa, 1e-12), g.add(bb, 1e-12))))
    near = g.op("Relu", g.sub(c, g.cast_like(margin, a)))
    return g.add(g.mul(together, g.sub(1.0, c)), g.mul(g.sub(1.0, together), near))


@dataclass(frozen=True, kw_only=True)
class CosineEmbedding(_Pair):
    """1 - c for two that belong together, else max(0, c - margin), c = a.b / (|a| |b|)."""

    margin: float = 0.0
    name: ClassVar[str] = "cosine_embedding"
    function: ClassVar[Function] = CosineError


@function(outputs=("loss",))
def TripletError(
    g: GraphBuilder, anchor: ir.Value, positive: ir.Value, negative: ir.Value, *, margin: ir.Value
) -> Value:
    """loss = max(0, |anchor - positive| - |anchor - negative| + margin), L2 norms

    anchor, positive, negative: (batch, n).   Source: Schroff et al. 2015; norms as in Balntas et al. 2016.
    """

    def distance(other: ir.Value) -> Value:
        error = g.add(g.sub(anchor, other), 1e-6)  # above 0, where a root has a gradient
        return g.sqrt(g.reduce_sum(g.mul(error, error), [-1], keepdims=False))

    return g.op("Relu", g.add(g.sub(distance(positive), distance(negative)), g.cast_like(margin, anchor)))


@dataclass(frozen=True, kw_only=True)
class Triplet(Loss):
    """max(0, |a - p| - |a - n| + margin) of three outputs: an anchor, one that belongs to it, and one that does not.

    It needs no label.   Source: Schroff et al. 2015; norms as in Balntas et al. 2016.
    """

    margin: float = 1.0
    name: ClassVar[str] = "triplet"
    takes: ClassVar[str] = "no label"
    reads: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("margin", 0.0)

    def columns(self, main: str | None) -> tuple[str | None, ...]:
        return ()

    def labels(self, outputs: Values, found: Mapping[str, Spec | None]) -> Specs:
        vectors(self, outputs)
        return {}

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        losses = TripletError(g, *outputs.values(), margin=float(self.margin))
        return g.reduce_sum(losses, keepdims=False), size(g, losses)


def vectors(loss: Loss, outputs: Values) -> None:
    """Raises ShapeError unless the outputs are as many vectors of one size as the loss reads."""
    shapes = [dims_of(loss, v)[1:] for v in outputs.values()]
    if len(shapes) != loss.reads or len(set(shapes)) != 1 or len(shapes[0]) != 1:
        found = ", ".join(f"{name} {describe(v)}" for name, v in outputs.items())
        raise ShapeError(
            f"{loss.name} expected {loss.reads} outputs of one shape (batch, n); found {found}",
            mend="Build the model with these outputs alone, in this order.",
        )
