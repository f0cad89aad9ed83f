"""Muon: momentum made orthogonal for matrices, AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers.adam import AdamW
from onnxmx.trainer.optimizers.base import Optimizer, Values, check_match
from onnxmx.trainer.schedules import Rate, Scaled

_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@function(outputs=("direction", "next_m"))
def MuonMomentum(g: GraphBuilder, dp: ir.Value, m: ir.Value, *, momentum: ir.Value) -> tuple[Value, ...]:
    """m <- momentum m + (1 - momentum) dp;  direction = momentum m + (1 - momentum) dp, as Nesterov's."""
    fresh = g.mul(dp, g.sub(1.0, momentum))
    m = g.add(g.mul(m, momentum), fresh)
    return g.add(g.mul(m, momentum), fresh), m


@function(outputs=("y",))
def Orthogonalize(g: GraphBuilder, x: ir.Value, *, epsilon: ir.Value) -> Value:
    """y: nearly U V' where x = U S V': its singular values are about 1.   x, y: (m, n), quickest for m <= n.

    x <- x / max(|x|, epsilon);  then five times x <- a x + (b A + c A A) x with A = x x'.
    Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), the quintic Newton-Schulz iteration.
    """
    a, b, c = _COEFFICIENTS
    x = g.div(x, g.max(g.sqrt(g.reduce_sum_square(x, keepdims=False)), epsilon))
    for _ in range(_ITERATIONS):
        square = g.matmul(x, g.transpose(x, [1, 0]))
        mixed = g.add(g.mul(square, b), g.matmul(g.mul(square, c), square))
        x = g.add(g.mul(x, a), g.matmul(mixed, x))
    return x


@function(outputs=("next_p",))
def MuonUpdate(g: GraphBuilder, p: ir.Value, direction: ir.Value, rate: ir.Value, *, scale: ir.Value) -> Value:
    """p <- p - rate scale direction.   p, direction: (m, n)"""
    return g.sub(p, g.mul(direction, g.mul(rate, scale)))


@dataclass(frozen=True)
class Muon(Optimizer):
    """Momentum made orthogonal by five Newton-Schulz iterations.   Source: Jordan et al. 2024.

    Parameters of rank 2 only; the others, and those that match a pattern of `adam`, go to AdamW. Embeddings and the
    last layer do better there: `adam=("*embedding*", "head.*")`.
    adam_ratio: the rate of AdamW as a share of this one's.   Weight decay is decoupled.
    A step is scaled by sqrt(max(1, n_out / n_in)), a matrix being (n_in, n_out) as Dense has it.
    """

    lr: Rate = 2e-2
    momentum: float = 0.95
    epsilon: float = 1e-7
    adam: tuple[str, ...] = ()
    adam_ratio: float = 0.015
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = field(default=0.0, kw_only=True)
    decoupled: ClassVar[bool] = True
    fractions: ClassVar[tuple[str, ...]] = ("momentum", "beta1", "beta2")
    positives: ClassVar[tuple[str, ...]] = ("epsilon",)
    rates: ClassVar[tuple[str, ...]] = ("weight_decay", "adam_ratio")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "adam", (self.adam,) if isinstance(self.adam, str) else tuple(self.adam))

    def check_groups(self, names: Iterable[str]) -> None:
        names = list(names)
        super().check_groups(names)
        for pattern in self.adam:
            check_match(pattern, names)

    def of(self, name: str, shape: Sequence[int]) -> Optimizer:
        if len(shape) == 2 and not any(fnmatchcase(name, pattern) for pattern in self.adam):
            return self
        lr = self.lr * self.adam_ratio if isinstance(self.lr, (int, float)) else Scaled(self.lr, self.adam_ratio)
        return AdamW(lr, self.beta1, self.beta2, weight_decay=self.weight_decay, groups=self.groups)

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        return {"m": 0.0}

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        assert p.shape is not None
        n_in, n_out = (int(d) for d in p.shape if isinstance(d, int))
        direction, m = self.apply(MuonMomentum, g, dp, *slots)
        tall = n_in > n_out  # then the products of the transpose are the smaller ones
        x = g.transpose(direction, [1, 0]) if tall else direction
        (y,) = self.apply(Orthogonalize, g, x)
        y = g.transpose(y, [1, 0]) if tall else y
        return MuonUpdate(g, p, y, *shared, scale=math.sqrt(max(1.0, n_out / n_in))), m
