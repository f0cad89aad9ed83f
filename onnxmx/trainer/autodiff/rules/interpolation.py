"""The matrix of a Resize along one axis: output = M input. Resize is linear, so its transpose is the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.errors import GradientError

Array = np.ndarray[Any, Any]


def matrix(node: ir.Node, n_in: int, n_out: int, scale: float) -> Array:
    """(n_out, n_in), float64, for the mode of a Resize node. Raises GradientError for one that is not covered."""
    if node.attributes.get_int("antialias", 0):
        raise GradientError(
            f"Resize in {node.name!r} smooths before it shrinks (antialias), which has no gradient rule"
        )
    at = _coordinates(node, n_in, n_out, scale)
    mode = node.attributes.get_string("mode", "nearest")
    if mode == "nearest":
        taps, weights = _nearest(node, at)[:, None], np.ones((n_out, 1))
    else:
        below = np.floor(at).astype(np.int64)
        weights = _linear(at - below) if mode == "linear" else _cubic(node, at - below)
        taps = below[:, None] + (np.arange(2) if mode == "linear" else np.arange(-1, 3))
    if mode == "cubic" and node.attributes.get_int("exclude_outside", 0) != 0:
        weights = np.where((taps >= 0) & (taps < n_in), weights, 0.0)
        weights /= weights.sum(1, keepdims=True)
    m = np.zeros((n_out, n_in))
    np.add.at(m, (np.arange(n_out)[:, None], np.clip(taps, 0, n_in - 1)), weights)
    return m


def _coordinates(node: ir.Node, n_in: int, n_out: int, scale: float) -> Array:
    """Where each output element lies in the input."""
    how = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    i = np.arange(n_out, dtype=np.float64)
    if how == "asymmetric":
        return i / scale
    if how == "align_corners":
        return i * (n_in - 1) / max(n_out - 1, 1)
    if how == "pytorch_half_pixel" and n_out == 1:
        return np.zeros(1)
    if how == "half_pixel_symmetric":
        shift = n_in / 2 * (1 - n_out / (n_in * scale))
        return shift + (i + 0.5) / scale - 0.5
    if how not in ("half_pixel", "pytorch_half_pixel"):
        raise GradientError(f"Resize in {node.name!r} has no gradient rule for {how!r}")
    return (i + 0.5) / scale - 0.5


def _nearest(node: ir.Node, at: Array) -> Array:
    round_by: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    rounded = round_by[node.attributes.get_string("nearest_mode", "round_prefer_floor")](at)
    return rounded.astype(np.int64)


def _linear(t: Array) -> Array:
    return np.stack([1 - t, t], 1)


def _cubic(node: ir.Node, t: Array) -> Array:
    """The weights of the four neighbours.   Source: Keys 1981, eq. 4 with a for -1/2."""
    a = node.attributes.get_float("cubic_coeff_a", -0.75)

    def near(d: Array) -> Array:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1

    def far(d: Array) -> Array:
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return np.stack([far(1 + t), near(t), near(1 - t), far(2 - t)], 1)
