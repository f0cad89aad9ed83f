"""Mixup and CutMix, inside the step: each sample of a batch with a part of another, and their losses in the same share.

What is drawn is a function of seed and step alone. A finished model knows nothing of it, so evaluation is as ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxmx.builder import random
from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.literals import is_finite
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import ShapeError, UsageError
from onnxmx.trainer.named import named

_TRIES = 16
_STREAM = 1 << 22
"""Where its random numbers lie: behind those of dropout, which are counted from 1, and of gradient noise."""


@function(outputs=("share",))
def BetaShare(g: GraphBuilder, seed: ir.Value, step: ir.Value, *, alpha: ir.Value, stream: ir.Value) -> Value:
    """share: one draw from Beta(alpha, alpha), a float32 scalar, from two Gamma(alpha) as x / (x + y)

    A Gamma is the first of 16 candidates that is accepted; that none is happens once in 10^20 draws.
    seed, step: int64 scalars.   Source: Marsaglia & Tsang 2000, sections 2 and 6.
    """
    count = 2 * (3 * _TRIES + 1)
    bits = random.uniform_int31(g, g.constant(np.int64(count)), random.key(g, seed, step, stream))
    u = g.reshape(g.mul(g.add(g.cast(bits, FLOAT), 0.5), 2.0**-31), [2, -1])
    u1, u2, u3, u4 = (g.slice(u, [k * _TRIES], [min((k + 1) * _TRIES, 3 * _TRIES + 1)], [1]) for k in range(4))
    d = g.add(alpha, 2.0 / 3.0)
    x = g.mul(g.sqrt(g.mul(g.log(u1), -2.0)), g.cos(g.mul(u2, 2.0 * math.pi)))
    root = g.add(g.div(x, g.sqrt(g.mul(d, 9.0))), 1.0)
    v = g.max(g.mul(root, g.mul(root, root)), 1e-30)
    limit = g.add(g.mul(g.mul(x, x), 0.5), g.mul(d, g.add(g.sub(1.0, v), g.log(v))))
    accepted = g.op("And", g.greater(root, 0.0), g.less(g.log(u3), limit))
    first = g.op("ArgMax", g.cast(accepted, FLOAT), axis=1, keepdims=1)
    # Gamma(alpha) is Gamma(alpha + 1) times U^(1 / alpha); in logarithms, since for a small alpha both may be 0.
    logs = g.add(g.log(g.op("GatherElements", v, first, axis=1)), g.div(g.log(u4), alpha))
    one, other = (g.slice(logs, [k], [k + 1], [0]) for k in range(2))
    return g.op("Sigmoid", g.reshape(g.sub(one, other), []))


@function(outputs=("partner",))
def Partners(g: GraphBuilder, x: ir.Value, seed: ir.Value, step: ir.Value, *, stream: ir.Value) -> Value:
    """partner: a permutation of the samples of x, int64 (batch,): the order of as many random numbers

    seed, step: int64 scalars.
    """
    count = g.op("Shape", x, start=0, end=1)
    draws = random.uniform_int31(g, g.squeeze(count, [0]), random.key(g, seed, step, stream))
    _, partner = g.ops("TopK", draws, count, outputs=2, axis=0)
    return partner


@function(outputs=("box", "share_kept"))
def CutBox(
    g: GraphBuilder, x: ir.Value, share: ir.Value, seed: ir.Value, step: ir.Value, *, stream: ir.Value
) -> tuple[Value, Value]:
    """box: 1 inside a random box of the area 1 - share, cut at the border, else 0;  share_kept: what lies outside

    x: (batch, channels, height, width).   box: (height, width) float32.   share, share_kept: float32 scalars.
    Source: Yun et al. 2019, section 3.1 and algorithm A1.
    """
    bits = random.uniform_int31(g, g.constant(np.int64(2)), random.key(g, seed, step, stream))
    u = g.mul(g.cast(bits, FLOAT), 2.0**-31)
    side = g.sqrt(g.sub(1.0, share))
    inside = []
    for k, axis in enumerate((2, 3)):
        size = g.squeeze(g.op("Shape", x, start=axis, end=axis + 1), [0])
        length = g.cast(size, FLOAT)
        center = g.op("Floor", g.mul(g.gather(u, np.int64(k)), length))
        half = g.op("Floor", g.mul(g.op("Floor", g.mul(side, length)), 0.5))
        distance = g.sub(g.cast(g.range(np.int64(0), size, np.int64(1)), FLOAT), center)
        both = g.op("And", g.op("GreaterOrEqual", distance, g.neg(half)), g.less(distance, half))
        inside.append(g.cast(both, FLOAT))
    box = g.mul(g.unsqueeze(inside[0], [1]), g.unsqueeze(inside[1], [0]))
    return box, g.sub(1.0, g.reduce_mean(box, keepdims=False))


class Mixed(NamedTuple):
    """inputs: mixed.   partner: for each sample, whose part it holds.   share: what is its own."""

    inputs: Mapping[str, ir.Value]
    partner: ir.Value
    share: ir.Value


@dataclass(frozen=True)
class Mixup(CheckedArguments):
    """x <- share x + (1 - share) x[partner], one share a batch, from Beta(alpha, alpha).

    The loss is mixed in the same share, which for labels that are classes is that of mixed labels.
    Source: Zhang et al. 2018, section 2.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        if not (is_finite(self.alpha) and self.alpha > 0):
            raise UsageError(f"{type(self).__name__} expected alpha to be a number above 0; found {self.alpha!r}")

    def __call__(self, g: GraphBuilder, inputs: Mapping[str, ir.Value], seed: ir.Value, step: ir.Value) -> Mixed:
        """inputs: float32, samples first. Raises ShapeError for others, of which there is no mean."""
        share, partner = self._draw(g, inputs, seed, step)

        def mixed(x: ir.Value) -> Value:
            other = g.gather(x, partner)
            return g.add(other, g.mul(g.sub(x, other), share))

        return Mixed({name: mixed(x) for name, x in inputs.items()}, partner, share)

    def _draw(
        self, g: GraphBuilder, inputs: Mapping[str, ir.Value], seed: ir.Value, step: ir.Value
    ) -> tuple[Value, Value]:
        for name, x in inputs.items():
            if x.dtype != FLOAT or x.shape is None or not len(x.shape):
                raise ShapeError(
                    f"{type(self).__name__} expected inputs of float32, samples first; found {name!r}, {describe(x)}",
                    mend="Symbols cannot be mixed: train without it.",
                )
        first = next(iter(inputs.values()))
        share: Any = BetaShare(g, seed, step, alpha=float(self.alpha), stream=_STREAM)
        return share, Partners(g, first, seed, step, stream=_STREAM + 1)


@dataclass(frozen=True)
class CutMix(Mixup):
    """A box of each image is that of its partner; its area is 1 - share, and share is from Beta(alpha, alpha).

    Inputs are images (batch, channels, height, width), all of one size.   Source: Yun et al. 2019, section 3.1.
    """

    alpha: float = 1.0

    def __call__(self, g: GraphBuilder, inputs: Mapping[str, ir.Value], seed: ir.Value, step: ir.Value) -> Mixed:
        """inputs: float32 images. Raises ShapeError for others."""
        for name, x in inputs.items():
            if x.shape is None or len(x.shape) != 4:
                raise ShapeError(
                    f"CutMix expected images (batch, channels, height, width); found {name!r}, {describe(x)}",
                    mend="Take mx.Mixup, which mixes any numbers.",
                )
        share, partner = self._draw(g, inputs, seed, step)
        first = next(iter(inputs.values()))
        box, kept = CutBox(g, first, share, seed, step, stream=_STREAM + 2)

        def cut(x: ir.Value) -> Value:
            return g.add(g.mul(x, g.sub(1.0, box)), g.mul(g.gather(x, partner), box))

        return Mixed({name: cut(x) for name, x in inputs.items()}, partner, kept)


MIXES = {"mixup": Mixup, "cutmix": CutMix}
"""By the name that the command line and `config.toml` use."""
MixLike = Mixup | str
"""A mix, or its name with options after a colon, "cutmix:alpha=0.5"."""


def get(mix: MixLike | None) -> Mixup | None:
    """The mix that a user gives. Raises UsageError for what is none, an unknown name, and an unknown option."""
    if isinstance(mix, str):
        made: Mixup = named("mix", mix, MIXES, {})
        return made
    if mix is not None and not isinstance(mix, Mixup):
        mend = "For example mx.Mixup(0.2)."
        raise UsageError(f"mix expected mx.Mixup or mx.CutMix; found {mix!r}", mend=mend)
    return mix
