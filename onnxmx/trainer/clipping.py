"""What happens to gradients before the optimizer sees them, inside the graph: clipping, noise, centralization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder import random
from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_finite, is_number
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError
from onnxmx.trainer.named import named

_NOISE_STREAM = 1 << 20
"""Where the streams of gradient noise begin: dropout counts from 0."""


@dataclass(frozen=True)
class Gradients:
    """The gradients of a step, and what a transform may want to know beside them.

    values, parameters: by the parameter's name.   seed, step: int64 scalars.
    """

    g: GraphBuilder
    values: Mapping[str, ir.Value]
    parameters: Mapping[str, ir.Value]
    seed: ir.Value
    step: ir.Value

    @cached_property
    def norm(self) -> Value:
        """The L2 norm of all gradients together, a float32 scalar."""
        return global_norm(self.g, list(self.values.values()))

    def map(self, transform: Any) -> dict[str, ir.Value]:
        """transform(dp, p) of each gradient and its parameter, by name."""
        return {name: transform(dp, self.parameters[name]) for name, dp in self.values.items()}


class Transform(CheckedArguments):
    """The base of what changes gradients: called with `Gradients`, it returns the next ones by name."""

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        raise NotImplementedError  # pragma: no cover - every transform defines it

    def check(self, parameters: Sequence[str]) -> None:
        """Raises UsageError where it asks for what the parameters, by name, have not."""


@function(outputs=("scale",))
def ClipScale(g: GraphBuilder, norm: ir.Value, *, max_norm: ir.Value) -> Value:
    """scale = max_norm / max(norm, max_norm), by which all gradients are multiplied; 1 where norm <= max_norm.

    norm, scale: float32 scalars.   Source: Pascanu et al. 2013, alg. 1.
    """
    return g.div(max_norm, g.max(norm, max_norm))


@dataclass(frozen=True)
class ClipGlobalNorm(Transform):
    """Scale all gradients together so that their common L2 norm is at most `max_norm`."""

    max_norm: float

    def __post_init__(self) -> None:
        _check_limit("clip_global_norm", self.max_norm)

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        scale = ClipScale(at.g, at.norm, max_norm=float(self.max_norm))
        return at.map(lambda dp, p: at.g.mul(dp, scale))


@dataclass(frozen=True)
class ClipNorm(Transform):
    """Scale each parameter's gradient so that its own L2 norm is at most `max_norm`."""

    max_norm: float

    def __post_init__(self) -> None:
        _check_limit("clip_norm", self.max_norm)

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        def clipped(dp: ir.Value, p: ir.Value) -> Value:
            return at.g.mul(dp, ClipScale(at.g, global_norm(at.g, [dp]), max_norm=float(self.max_norm)))

        return at.map(clipped)


@dataclass(frozen=True)
class ClipValue(Transform):
    """Bring every element of every gradient into [-limit, limit]."""

    limit: float

    def __post_init__(self) -> None:
        _check_limit("clip_value", self.limit)

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        low, high = np.float32(-self.limit), np.float32(self.limit)
        return at.map(lambda dp, p: at.g.op("Clip", dp, low, high))


@function(outputs=("clipped",))
def AdaptiveClip(
    g: GraphBuilder, dp: ir.Value, dp_norm: ir.Value, p_norm: ir.Value, *, ratio: ir.Value, epsilon: ir.Value
) -> Value:
    """clipped = dp min(1, ratio max(p_norm, epsilon) / dp_norm), unit by unit.   Source: Brock et al. 2021, eq. 3."""
    limit = g.mul(g.max(p_norm, epsilon), ratio)
    return g.mul(dp, g.div(limit, g.max(dp_norm, limit)))


@dataclass(frozen=True)
class ClipAdaptive(Transform):
    """Keep the norm of each unit's gradient below `ratio` times that of the unit's weights.

    A unit is an output: a column of a matrix (n_in, units), a filter of a convolution; a vector is one unit.
    epsilon: the least norm that weights count with, so that zeros can grow.   Source: Brock et al. 2021, eq. 3.
    """

    ratio: float = 0.01
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check_limit("clip_adaptive", self.ratio)
        _check_limit("the epsilon of clip_adaptive", self.epsilon)

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        def clipped(dp: ir.Value, p: ir.Value) -> ir.Value:
            norms = [unit_norms(at.g, x) for x in (dp, p)]
            found: Value = AdaptiveClip(at.g, dp, *norms, ratio=float(self.ratio), epsilon=float(self.epsilon))
            return found

        return at.map(clipped)


@dataclass(frozen=True)
class Centralize(Transform):
    """Take from each unit's gradient its mean; vectors stay.   Source: Yong et al. 2020, eq. 1.

    A unit is an output: a column of a matrix (n_in, units), a filter of a convolution.
    """

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        def centered(dp: ir.Value, p: ir.Value) -> ir.Value:
            axes = unit_axes(p)
            return dp if axes is None else at.g.sub(dp, at.g.reduce_mean(dp, axes))

        return at.map(centered)


@function(outputs=("noisy",))
def AddNoise(
    g: GraphBuilder,
    dp: ir.Value,
    seed: ir.Value,
    step: ir.Value,
    *,
    variance: ir.Value,
    decay: ir.Value,
    stream: ir.Value,
) -> Value:
    """noisy = dp + n, n normal of mean 0 and of variance `variance` / (1 + step)^decay.

    seed, step: int64 scalars.   stream: an integer that sets these random numbers apart from others.
    Source: Neelakantan et al. 2015, eq. 1.
    """
    fading = g.pow(g.add(g.cast(step, FLOAT), 1.0), decay)
    return g.add(dp, g.mul(random.normal_like(g, dp, seed, step, stream), g.sqrt(g.div(variance, fading))))


@dataclass(frozen=True)
class GradientNoise(Transform):
    """Add normal noise that fades as training goes on.   Source: Neelakantan et al. 2015.

    variance: that of the first step; it falls as (1 + step)^-decay.
    """

    variance: float = 0.01
    decay: float = 0.55

    def __post_init__(self) -> None:
        for name in ("variance", "decay"):
            value = getattr(self, name)
            if not (is_finite(value) and value >= 0):
                raise UsageError(f"the {name} of GradientNoise expected a finite number of at least 0; found {value!r}")

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        numbers = {"variance": float(self.variance), "decay": float(self.decay)}
        return {
            name: AddNoise(at.g, dp, at.seed, at.step, stream=_NOISE_STREAM + 2 * k, **numbers)
            for k, (name, dp) in enumerate(at.values.items())
        }


clip_global_norm, clip_norm, clip_value, clip_adaptive = ClipGlobalNorm, ClipNorm, ClipValue, ClipAdaptive


def global_norm(g: GraphBuilder, gradients: Sequence[ir.Value]) -> Value:
    """The L2 norm over all elements of all gradients, a float32 scalar."""
    return g.sqrt(g.sum(*(g.reduce_sum_square(dp, keepdims=False) for dp in gradients)))


def unit_axes(p: ir.Value) -> list[int] | None:
    """The axes that the weights of one output lie along: those of x @ W, of a convolution; None for a vector."""
    rank = len(p.shape or ())
    return None if rank < 2 else [0] if rank == 2 else list(range(1, rank))


def unit_norms(g: GraphBuilder, x: ir.Value) -> Value:
    """The L2 norm of each unit, with sizes of 1 along its axes."""
    return g.sqrt(g.reduce_sum_square(x, unit_axes(x)))


CLIPS = {
    "global_norm": ClipGlobalNorm,
    "norm": ClipNorm,
    "value": ClipValue,
    "adaptive": ClipAdaptive,
    "centralize": Centralize,
    "noise": GradientNoise,
}
"""By the name that the command line and `config.toml` use."""
ClipLike = Transform | str | float | Sequence[Transform | str | float]
"""One or several: a transform, its name with options after a colon, "value:limit=0.5", or the largest global norm."""


def as_transforms(clip: ClipLike | None) -> tuple[Transform, ...]:
    """One transform, several in their order, or none. Raises UsageError for anything else."""
    given = () if clip is None else clip if isinstance(clip, (list, tuple)) else (clip,)
    norms = [ClipGlobalNorm(t) if is_number(t) else t for t in given]
    found = [named("clipping", t, CLIPS, {}) if isinstance(t, str) else t for t in norms]
    if not all(isinstance(t, Transform) for t in found):
        raise UsageError(
            f"expected a clipping or a list of them; found {clip!r}",
            mend="For example mx.clip_global_norm(1.0), mx.clip_value(0.5), or mx.clip_adaptive(0.01), which is AGC.",
        )
    return tuple(found)


def _check_limit(what: str, limit: Any) -> None:
    if not (is_finite(limit) and limit > 0):
        raise UsageError(f"{what} expected a finite number above 0; found {limit!r}")
