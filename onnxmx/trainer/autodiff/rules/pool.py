"""Rules of pooling."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.convolution import Window, transposed
from onnxmx.trainer.autodiff.rules.taps import average_by_taps, of_unknown_size, sum_by_taps
from onnxmx.trainer.autodiff.shapes import static
from onnxmx.trainer.functions import TileStretch, TileSums


@gradient("MaxPool")
def max_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy at the largest element of each window, else 0. Equal largest elements share dy, where windows tile."""
    x = node.inputs[0]
    assert x is not None
    if not of_unknown_size(x) and _tiles(window := _window(node)[1]):
        return _max_of_tiles(g, x, node.outputs[0], dy, window)
    return _max_by_index(g, x, dy, node)


@gradient("AveragePool")
def average_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the sum of dy / n over the windows that hold the element, n the elements counted in each"""
    if node.inputs[0] is not None and of_unknown_size(node.inputs[0]):
        return through(g, node, [dy], functools.partial(average_by_taps, node=node))
    x, window = _window(node)
    window, counted = _counted(node, window)
    return _over_windows(g, x, g.div(dy, g.cast_like(counted.astype(np.float32), dy)), window)


@gradient("LpPool")
def lp_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = sign(x) |x|^(p - 1) times the sum of dy y^(1 - p) over the windows that hold the element; 0 where y is 0"""
    p = node.attributes.get_int("p", 2)
    dsum = _by_norm(g, dy, node.outputs[0], p)
    if node.inputs[0] is not None and of_unknown_size(node.inputs[0]):
        (spread,) = through(g, node, [dsum], functools.partial(sum_by_taps, node=node))
        return g.mul(_power(g, node.inputs[0], p), spread)
    x, window = _window(node)
    window, _ = _counted(node, window)
    return g.mul(_power(g, x, p), _over_windows(g, x, dsum, window))


@gradient("GlobalLpPool")
def global_lp_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy sign(x) |x|^(p - 1) y^(1 - p); 0 where y is 0"""
    p = node.attributes.get_int("p", 2)
    return g.mul(_power(g, node.inputs[0], p), _by_norm(g, dy, node.outputs[0], p))


def _power(g: GraphBuilder, x: ir.Value | None, p: int) -> ir.Value | Value | None:
    """sign(x) |x|^(p - 1)"""
    return x if p == 2 else g.mul(g.sign(x), g.pow(g.op("Abs", x), float(p - 1)))


def _by_norm(g: GraphBuilder, dy: ir.Value, y: ir.Value, p: int) -> Value:
    """dy y^(1 - p), and dy where y is 0, for it then meets an x of 0."""
    safe = g.add(y, g.cast_like(g.equal(y, 0.0), y))
    return g.div(dy, safe if p == 2 else g.pow(safe, float(p - 1)))


@gradient("MaxUnpool")
def max_unpool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy at the places that x was put to"""
    # With an output_shape ONNX Runtime still counts the places through the whole output.
    return g.gather(g.reshape(dy, [-1]), node.inputs[1]), None


def _over_windows(g: GraphBuilder, x: ir.Value, dy: ir.Value, window: Window) -> Value:
    """For each element of x, the sum of dy over the windows that hold it."""
    channels = static(x, 1)
    ones = np.ones((channels, 1, *window.kernel), np.float32)
    return transposed(g, dy, g.cast_like(ones, dy), window=window, group=channels)


def _window(node: ir.Node) -> tuple[ir.Value, Window]:
    x = node.inputs[0]
    assert x is not None
    return x, Window.of(node, x, list(node.attributes["kernel_shape"].as_ints()))


def _tiles(window: Window) -> bool:
    """Whether the windows stand side by side and cover the input."""
    ones = [1] * len(window.kernel)
    zeros = [0] * len(window.kernel)
    return (
        window.kernel == window.stride
        and window.dilation == ones
        and window.start == window.end == window.rest == zeros
    )


def _max_of_tiles(g: GraphBuilder, x: ir.Value, y: ir.Value, dy: ir.Value, window: Window) -> Value:
    """Stretch y back over its tiles and compare: quicker than indices. The tied elements of a tile share dy."""
    chosen = g.cast_like(g.equal(x, _stretch(g, y, x, window.kernel)), dy)
    ties = tile_sums(g, chosen, y, window.kernel)
    return g.mul(chosen, _stretch(g, g.div(dy, ties), x, window.kernel))


# Up to this width a product with a 0-1 matrix stretches a row quicker than Resize does; its cost grows with the width.
_NARROW = 32


def _stretch(g: GraphBuilder, t: ir.Value, x: ir.Value, kernel: list[int]) -> Value:
    """Each element of t repeated over its tile of x."""
    if (matrix := _tile_matrix(t, kernel)) is not None:
        stretched: Value = TileStretch(g, t, g.cast_like(matrix, t), x)
        return stretched
    scales = np.array([1, 1, *kernel], np.float32)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.op("Resize", t, None, scales, **how)


def tile_sums(g: GraphBuilder, x: ir.Value, t: ir.Value, kernel: list[int]) -> Value:
    """The sum of each tile of x, in the shape of t."""
    if (matrix := _tile_matrix(t, kernel)) is not None:
        sums: Value = TileSums(g, x, g.cast_like(np.ascontiguousarray(matrix.T), t), t)
        sums.shape = t.shape
        return sums
    mean = g.op("AveragePool", x, kernel_shape=kernel, strides=kernel)
    return g.mul(mean, math.prod(kernel))


def _tile_matrix(t: ir.Value, kernel: list[int]) -> np.ndarray[Any, Any] | None:
    """The 0-1 matrix that stretches one row of t to the rows of its tiles, (width, height of a tile * width of x)."""
    if len(kernel) != 2 or static(t, 3) > _NARROW:
        return None
    rows, columns = kernel
    row = np.kron(np.eye(static(t, 3), dtype=np.float32), np.ones((1, columns), np.float32))
    return np.tile(row, (1, rows))


def _max_by_index(g: GraphBuilder, x: ir.Value, dy: ir.Value, node: ir.Node) -> Value:
    """Scatter dy to the first largest element of each window; windows may overlap."""
    # storage_order would count the indices column by column.
    attributes = {name: a.value for name, a in node.attributes.items() if name != "storage_order"}
    _, index = g.ops("MaxPool", x, outputs=2, **attributes)
    empty = g.op("ConstantOfShape", g.reshape(g.op("Size", x), [1]), value=_zero_like(dy))
    flat = g.op("ScatterElements", empty, g.reshape(index, [-1]), g.reshape(dy, [-1]), axis=0, reduction="add")
    return g.reshape_like(flat, x)


def _zero_like(x: ir.Value) -> ir.Tensor[Any]:
    assert x.dtype is not None
    return ir.Tensor(np.zeros(1, x.dtype.numpy()))


def _counted(node: ir.Node, window: Window) -> tuple[Window, np.ndarray[Any, Any]]:
    """The window with its end where the last one ends, and how many elements each averages, (1, 1, *S').

    Padding counts where the node says so; what hangs over the end because of ceil_mode never does.
    """
    padding = node.attributes.get_int("count_include_pad", 0)
    ends, rests, total = list(window.end), list(window.rest), np.ones((1, 1), np.int64)
    for axis, kernel in enumerate(window.kernel):
        size, start, end = window.size[axis], window.start[axis], window.end[axis]
        first = np.arange(static(node.outputs[0], axis + 2)) * window.stride[axis] - start
        taps = first[:, None] + np.arange(kernel) * window.dilation[axis]
        over = int(taps.max()) + 1 - (size + end)
        ends[axis], rests[axis] = end + max(over, 0), max(-over, 0)
        low, high = (-start, size + end) if padding else (0, size)
        total = total[..., None] * ((taps >= low) & (taps < high)).sum(1)
    return replace(window, end=ends, rest=rests), total
