"""Rules of AffineGrid and GridSample: reading an image at computed coordinates.   Source: Jaderberg et al. 2015."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.constants import Array
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.indexing import zeros_like
from onnxmx.trainer.autodiff.shapes import given, rank, static

# By mode: the neighbours read, counted from the one below, and by power of the offset t the weights of each.
_A = -0.75  # Keys 1981, eq. 4
_TAPS: dict[str, tuple[list[int], list[list[float]]]] = {
    "nearest": ([0], [[1]]),
    "linear": ([0, 1], [[1, 0], [-1, 1]]),
    "cubic": (
        [-1, 0, 1, 2],
        [[0, 1, 0, 0], [_A, 0, -_A, 0], [-2 * _A, -_A - 3, 2 * _A + 3, _A], [_A, _A + 2, -_A - 2, -_A]],
    ),
}


@gradient("AffineGrid")
def affine_grid(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = theta p at each place p = (coordinates, 1):  dtheta = the sum of dy p^T over all places"""
    theta, size = given(node)
    n = static(theta, 1)
    # The grid of the identity holds the coordinates of all places.
    one = g.cast_like(np.eye(n, n + 1, dtype=np.float32)[None], theta)
    sizes = g.concat([np.array([1], np.int64), g.slice(size, [1], [n + 2], [0])], 0)
    places = g.op("AffineGrid", one, sizes, align_corners=node.attributes.get_int("align_corners", 0))
    places = g.reshape(places, [-1, n])
    flat = g.reshape(dy, g.concat([g.op("Shape", theta, end=1), np.array([-1, n], np.int64)], 0))
    flat.shape = ir.Shape([None, None, n])
    d = g.transpose(flat, [0, 2, 1])
    return g.reshape_like(g.concat([g.matmul(d, places), g.reduce_sum(d, [2])], 2), theta), None


@gradient("GridSample")
def grid_sample(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = the sum over neighbours of w x, w a product over axes:  dx = the sum of w dy;  dgrid = the sum of dw x dy"""
    x, grid = given(node)
    axes, channels = rank(x) - 2, static(x, 1)
    sizes = [static(x, k + 2) for k in range(axes)]
    places = g.reshape(grid, [0, -1, axes])
    taps = [_taps(g, node, places, axes - 1 - k, size) for k, size in enumerate(sizes)]
    strides = [math.prod(sizes[k + 1 :]) for k in range(axes)]
    index = _outer(g, "Add", [g.mul(t.index, np.int64(s)) for t, s in zip(taps, strides, strict=True)])
    # d: (batch, channels, 1, places);  index and the weights: (batch, neighbours, places)
    d = g.unsqueeze(g.reshape(dy, [0, channels, -1]), [2])
    rows = g.reshape(x, [0, channels, math.prod(sizes)])
    weighed = g.reshape(g.mul(d, g.unsqueeze(_outer(g, "Mul", [t.weight for t in taps]), [1])), [0, channels, -1])
    flat = g.expand_like(g.reshape(index, [0, 1, -1]), weighed)
    dx = g.op("ScatterElements", zeros_like(g, rows), flat, weighed, axis=2, reduction="add")
    if node.attributes.get_string("mode", "linear") == "nearest":
        return g.reshape_like(dx, x), None
    read = g.reshape(g.op("GatherElements", rows, flat, axis=2), [0, channels, math.prod(t.count for t in taps), -1])
    value = g.reduce_sum(g.mul(read, d), [1], keepdims=False)
    slopes = []
    for k in reversed(range(axes)):
        w = _outer(g, "Mul", [t.slope if j == k else t.weight for j, t in enumerate(taps)])
        slopes.append(g.reduce_sum(g.mul(w, value), [1], keepdims=False))
    dgrid = g.concat([g.unsqueeze(s, [2]) for s in slopes], 2)
    return g.reshape_like(dx, x), g.reshape_like(dgrid, grid)


@dataclass(frozen=True)
class _Taps:
    """The neighbours along one axis, (batch, count, places): where, how much, and how that changes with the grid."""

    index: Value
    weight: Value
    slope: Value
    count: int


def _taps(g: GraphBuilder, node: ir.Node, places: Value, column: int, size: int) -> _Taps:
    """What one axis of `size` elements, whose coordinate is in a column of the grid, is read at."""
    mode = node.attributes.get_string("mode", "linear")
    padding = node.attributes.get_string("padding_mode", "zeros")
    corners = node.attributes.get_int("align_corners", 0)
    low, high = (0.0, size - 1.0) if corners else (-0.5, size - 0.5)
    at = g.transpose(g.slice(places, [column], [column + 1], [2]), [0, 2, 1])
    per_unit = (high - low) / 2  # the grid runs from -1 to 1
    at = g.add(g.mul(g.add(at, 1.0), per_unit), low)
    if mode == "nearest":
        at = g.op("Round", at)
    turn: Value | None = None
    if padding == "border":
        inside = g.cast_like(g.op("And", g.op("GreaterOrEqual", at, low), g.op("LessOrEqual", at, high)), at)
        at, turn = g.where(g.cast(inside, ir.DataType.BOOL), at, g.op("Clip", at, 0.0, size - 1.0)), inside
    elif padding == "reflection":
        at, turn = _reflected(g, at, low, high)
    below = at if mode == "nearest" else g.op("Floor", at)
    offsets, powers = _TAPS[mode]
    taps = g.add(below, _column(g, offsets, at))
    t, coefficients = g.sub(at, below), [_column(g, row, at) for row in powers]
    weight, slope = (
        _polynomial(g, t, coefficients),
        _polynomial(
            g, t, [g.mul(c, float(k)) for k, c in enumerate(coefficients)][1:] or [g.mul(coefficients[0], 0.0)]
        ),
    )
    slope = g.mul(slope, per_unit if turn is None else g.mul(turn, per_unit))
    if padding == "zeros":
        known = g.op("And", g.op("GreaterOrEqual", taps, 0.0), g.op("LessOrEqual", taps, size - 1.0))
        known = g.cast_like(known, at)
        weight, slope = g.mul(weight, known), g.mul(slope, known)
    elif padding == "reflection":
        taps, _ = _reflected(g, taps, low, high)
    index = g.cast(g.op("Clip", taps, 0.0, size - 1.0), ir.DataType.INT64)
    return _Taps(index, weight, slope, len(offsets))


def _reflected(g: GraphBuilder, at: Value, low: float, high: float) -> tuple[Value, Value]:
    """Coordinates mirrored at both ends until they are inside, and 1 or -1 for the way they then run."""
    span = max(high - low, 1.0)
    t = g.sub(at, low)
    t = g.sub(t, g.mul(g.op("Floor", g.div(t, 2 * span)), 2 * span))
    back = g.cast_like(g.greater(t, span), at)
    turn = g.sub(1.0, g.mul(back, 2.0))
    return g.add(g.add(g.mul(t, turn), g.mul(back, 2 * span)), low), turn


def _polynomial(g: GraphBuilder, t: Value, coefficients: list[Value]) -> Value:
    """Horner's rule; coefficients by rising power, one for each neighbour."""
    total = g.add(g.mul(t, 0.0), coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = g.add(g.mul(total, t), c)
    return total


def _column(g: GraphBuilder, numbers: list[Any], like: ir.Value) -> Value:
    column: Array = np.array(numbers, np.float32).reshape(1, -1, 1)
    return g.cast_like(column, like)


def _outer(g: GraphBuilder, operator: str, parts: list[Value]) -> Value:
    """Every neighbour along one axis with every one along the others.   (n, k, places) each -> (n, k ..., places)"""
    total = parts[0]
    for part in parts[1:]:
        pairs = g.op(operator, g.unsqueeze(total, [2]), g.unsqueeze(part, [1]))
        a, b = static(total, 1), static(part, 1)
        total = g.reshape(pairs, [0, a * b, -1])
    return total
