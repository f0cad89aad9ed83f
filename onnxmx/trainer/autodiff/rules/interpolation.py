"""The matrix of a Resize along one axis: output = M input. Resize is linear, so its transpose is the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmx.trainer.autodiff.constants import Array


@dataclass(frozen=True)
class Axis:
    """How one axis is resized: from n_in elements to n_out.

    scale: the size that is aimed at by that of the input.   roi: the part of the axis that is read, from 0 to 1.
    """

    n_in: int
    n_out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


def matrix(node: ir.Node, axis: Axis) -> Array:
    """(n_out, n_in), float64, for the mode of a Resize node."""
    at = _coordinates(node, axis)
    mode = node.attributes.get_string("mode", "nearest")
    if mode == "nearest":
        taps, weights = _nearest(node, at)[:, None], np.ones((axis.n_out, 1))
    else:
        kernel = _cubic if mode == "cubic" else _linear
        # Antialiasing stretches the kernel to the distance of output elements where they lie further apart.
        antialias = bool(node.attributes.get_int("antialias", 0))
        closer = min(axis.scale, 1.0) if antialias else 1.0
        reach = math.ceil((2 if mode == "cubic" else 1) / closer)
        taps = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - reach, 1 + reach)
        weights = kernel(node, np.abs(taps - at[:, None]) * closer)
        if node.attributes.get_int("exclude_outside", 0):
            weights = np.where((taps >= 0) & (taps < axis.n_in), weights, 0.0)
        weights /= weights.sum(1, keepdims=True)
    m = np.zeros((axis.n_out, axis.n_in))
    np.add.at(m, (np.arange(axis.n_out)[:, None], np.clip(taps, 0, axis.n_in - 1)), weights)
    if _crops(node):
        m[(at < 0) | (at > axis.n_in - 1)] = 0.0  # there y is a constant
    return m


def _crops(node: ir.Node) -> bool:
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _coordinates(node: ir.Node, axis: Axis) -> Array:
    """Where each output element lies in the input."""
    how = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    i, scale, last = np.arange(axis.n_out, dtype=np.float64), axis.scale, axis.n_in - 1
    if how == "asymmetric":
        return i / scale
    if how == "align_corners":
        return i * last / max(axis.n_out - 1, 1)
    if how == "tf_crop_and_resize":
        start, end = axis.roi
        way = i / (axis.n_out - 1) if axis.n_out > 1 else np.full(1, 0.5)
        return (start + way * (end - start)) * last
    if how == "pytorch_half_pixel" and axis.n_out == 1:
        return np.zeros(1)
    shift = axis.n_in / 2 * (1 - axis.n_out / (axis.n_in * scale)) if how == "half_pixel_symmetric" else 0.0
    return shift + (i + 0.5) / scale - 0.5


def _nearest(node: ir.Node, at: Array) -> Array:
    round_by: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    rounded = round_by[node.attributes.get_string("nearest_mode", "round_prefer_floor")](at)
    return rounded.astype(np.int64)


def _linear(node: ir.Node, d: Array) -> Array:
    """The weight of an element at a distance."""
    weights: Array = np.clip(1 - d, 0.0, None)
    return weights


def _cubic(node: ir.Node, d: Array) -> Array:
    """As _linear.   Source: Keys 1981, eq. 4 with a for -1/2."""
    a = node.attributes.get_float("cubic_coeff_a", -0.75)
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    weights: Array = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return weights
