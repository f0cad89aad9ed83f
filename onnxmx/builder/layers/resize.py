"""Layers that change the size of space: upsampling, pixel shuffle, padding."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.layers.spatial import Padding, Size, as_pads, sides
from onnxmx.builder.literals import is_size
from onnxmx.errors import UsageError, unknown_name

_MODES: dict[str, dict[str, str]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}


@dataclass(frozen=True)
class UpSample(Layer):
    """Space made `scale` times larger.   x: (batch, c, *space)   y: (batch, c, *(scale * space))

    scale: a whole number for all axes of space, or one for each.
    mode: "nearest" repeats elements; "bilinear" interpolates between the centres of the four nearest (two in a
    sequence, eight in a volume), as PyTorch does with align_corners=False.
    """

    scale: Size = 2
    _: KW_ONLY
    mode: str = "nearest"

    def __post_init__(self) -> None:
        many = list(self.scale) if isinstance(self.scale, (tuple, list)) else [self.scale]
        if not many or not all(is_size(s) for s in many):
            raise self._wrong("scale", "a positive integer or one for each axis of space", self.scale)
        plain = tuple(int(s) for s in many)
        object.__setattr__(self, "scale", plain if isinstance(self.scale, (tuple, list)) else plain[0])
        if self.mode not in _MODES:
            raise unknown_name("mode of UpSample", str(self.mode), _MODES, at=self._source)

    def forward(self, x: Value) -> Value:
        rank = _space_rank(self, x, self.scale)
        scale = self.scale if isinstance(self.scale, tuple) else (self.scale,) * rank
        y = x.builder.op("Resize", x, None, np.array([1, 1, *scale], np.float32), **_MODES[self.mode])
        # onnx infers no size for a batch that is a name.
        sizes = [d * s if isinstance(d, int) else None for d, s in zip(list(x.shape or ())[2:], scale, strict=True)]
        y.shape = ir.Shape([*list(x.shape or ())[:2], *sizes])
        return y


@dataclass(frozen=True)
class PixelShuffle(Layer):
    """Channels laid out as space: y[c, h r + i, w r + j] = x[c r^2 + i r + j, h, w], r the scale.

    x: (batch, c * scale^2, height, width)   y: (batch, c, height * scale, width * scale)
    Source: Shi et al. 2016, eq. 4.
    """

    scale: int = 2

    def __post_init__(self) -> None:
        self._check_sizes("scale")

    def forward(self, x: Value) -> Value:
        self._expect_rank(x, 4, "(batch, channels, height, width)")
        channels = self._static_dim(x, 1, "a number of channels", "Give the input's channels in build(...).")
        if channels % self.scale**2:
            raise self._misfit(
                x, f"channels that {self.scale**2} divides", "Give the layer before it scale^2 times the channels."
            )
        return x.builder.op("DepthToSpace", x, blocksize=self.scale, mode="CRD")


@dataclass(frozen=True)
class ZeroPad(Layer):
    """Zeros around space.   x: (batch, c, *space)   y: (batch, c, *space')

    padding: the number of zeros on each side: one, one for each axis, or (before, after) for each.
    """

    padding: Padding = 1

    def __post_init__(self) -> None:
        _check_sides(self, self.padding)

    def forward(self, x: Value) -> Value:
        return x.builder.pad(x, _pads(self, x, self.padding))


@dataclass(frozen=True)
class ReflectionPad(Layer):
    """Space mirrored at its borders, which are not repeated.   x: (batch, c, *space)   y: (batch, c, *space')

    padding: the number of elements on each side, less than the size of x: one, one for each axis, or (before, after)
    for each.
    """

    padding: Padding = 1

    def __post_init__(self) -> None:
        _check_sides(self, self.padding)

    def forward(self, x: Value) -> Value:
        g = x.builder
        pads = _pads(self, x, self.padding)
        for axis, dim in enumerate(x.shape or ()):
            if isinstance(dim, int) and max(pads[axis], pads[axis + len(pads) // 2]) >= dim:
                raise self._misfit(x, f"more than its padding along axis {axis}", "Use less padding.")
        return g.op("Pad", x, np.array(pads, np.int64), mode="reflect")


def _check_sides(layer: Layer, padding: Any) -> None:
    rank = len(padding) if isinstance(padding, (tuple, list)) else 1
    if isinstance(padding, str) or rank == 0 or sides(padding, rank) is None:
        raise UsageError(
            f"{type(layer).__name__} expected padding as a number of elements; found {padding!r}",
            at=layer._source,
            mend="For example 1, (1, 2) for height and width, or ((0, 1), (0, 1)) for the ends alone.",
        )


def _pads(layer: Layer, x: Value, padding: Padding) -> list[int]:
    """ONNX pads for all axes of x, none for batch and channels."""
    rank = _space_rank(layer, x, padding)
    pads = as_pads(padding, rank)
    return [0, 0, *pads[:rank], 0, 0, *pads[rank:]]


def _space_rank(layer: Layer, x: Value, given: object) -> int:
    """How many axes of space x has; as many as numbers are given, where they are given for each axis."""
    rank = len(x.shape) - 2 if x.shape is not None else 0
    wanted = len(given) if isinstance(given, (tuple, list)) else rank
    if rank < 1 or rank != wanted:
        axes = f"{wanted} axes of space" if wanted > 0 else "axes of space"
        raise layer._misfit(x, f"batch, channels and {axes}", "Check the layer before it.")
    return rank
