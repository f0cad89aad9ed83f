"""Rules of operators that read regions of an image: RoiAlign, MaxRoiPool, DeformConv. Each is written as others."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import static

INT64 = ir.DataType.INT64
_LOWEST = float(np.finfo(np.float32).min)


@gradient("RoiAlign")
def roi_align(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As the mean, or the largest, of four weighed pixels around each sample of a bin   Source: He et al. 2017"""
    return through(g, node, [dy], functools.partial(_samples_of_bins, node=node))


def _samples_of_bins(g: GraphBuilder, x: ir.Value, rois: ir.Value, batch: ir.Value, *, node: ir.Node) -> Value:
    """x: (n, c, h, w)   rois: (r, 4) as x1, y1, x2, y2   batch: (r,)   -> (r, c, bins high, bins wide)"""
    bins = [node.attributes.get_int(name, 1) for name in ("output_height", "output_width")]
    half_pixel = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    largest = node.attributes.get_string("mode", "avg") == "max"
    edges = g.mul(rois, node.attributes.get_float("spatial_scale", 1.0))
    edges = g.sub(edges, 0.5) if half_pixel else edges
    x1, y1, x2, y2 = g.ops("Split", edges, outputs=4, axis=1, num_outputs=4)
    # Along every axis of (r, bins high, samples, bins wide, samples); then c channels.
    ratio, legacy = node.attributes.get_int("sampling_ratio", 0), not half_pixel
    high = _sampled(g, y1, y2, bins[0], ratio, static(x, 2), legacy)
    wide = _sampled(g, x1, x2, bins[1], ratio, static(x, 3), legacy).turned(g)
    table = g.reshape(g.transpose(x, [0, 2, 3, 1]), [-1, static(x, 1)])
    first = g.mul(g.reshape(g.cast(batch, INT64), [-1, 1, 1, 1, 1]), np.int64(static(x, 2) * static(x, 3)))
    corners = []
    for row, row_weight in high.neighbours:
        for column, column_weight in wide.neighbours:
            place = g.add(g.add(first, g.mul(row, np.int64(static(x, 3)))), column)
            weight = g.unsqueeze(g.mul(row_weight, column_weight), [5])
            corners.append(g.mul(g.gather(table, place), weight))
    used = g.unsqueeze(g.mul(high.used, wide.used), [5])
    counts = g.unsqueeze(g.mul(high.count, wide.count), [5])  # (r, 1, 1, 1, 1, 1)
    if largest:
        at_all = g.where(g.greater(used, 0.0), g.max(*corners), _LOWEST)
        y = g.where(g.greater(counts, 0.0), g.reduce_max(at_all, [2, 4]), 0.0)
    else:
        y = g.div(g.reduce_sum(g.mul(g.sum(*corners), used), [2, 4]), g.max(counts, 1.0))
    return g.transpose(g.squeeze(y, [2, 4]), [0, 3, 1, 2])


@dataclass(frozen=True)
class _Sampled:
    """The samples along one axis of all regions, (r, bins, samples, 1, 1).

    neighbours: the places of the two pixels beside each sample, and their weights.
    used: 1 for a sample of the region, 0 for those that only other regions have.   count: samples in a bin.
    """

    neighbours: list[tuple[Value, Value]]
    used: Value
    count: Value

    def turned(self, g: GraphBuilder) -> _Sampled:
        """(r, bins, samples, 1, 1) -> (r, 1, 1, bins, samples)"""

        def turn(v: Value) -> Value:
            return g.transpose(v, [0, 3, 4, 1, 2])

        return _Sampled([(turn(p), turn(w)) for p, w in self.neighbours], turn(self.used), turn(self.count))


def _sampled(
    g: GraphBuilder, start: ir.Value, end: ir.Value, bins: int, ratio: int, size: int, legacy: bool
) -> _Sampled:
    """start, end: (r, 1) in pixels.   legacy: a region is at least one pixel large."""
    start, end = (g.reshape(v, [-1, 1, 1, 1, 1]) for v in (start, end))
    length = g.sub(end, start)
    width = g.div(g.max(length, 1.0) if legacy else length, float(bins))
    count = g.add(g.mul(width, 0.0), float(ratio)) if ratio > 0 else g.op("Ceil", width)
    most = g.cast(g.max(g.reduce_max(count, keepdims=False), 1.0), INT64)
    samples = g.reshape(g.cast_like(g.range(np.int64(0), most, np.int64(1)), start), [1, 1, -1, 1, 1])
    used = g.cast_like(g.less(samples, count), start)
    along = g.div(g.add(samples, 0.5), g.max(count, 1.0))
    bin_numbers = g.cast_like(np.arange(bins, dtype=np.float32).reshape(1, -1, 1, 1, 1), start)
    at = g.add(start, g.mul(g.add(bin_numbers, along), width))
    inside = g.op("And", g.op("GreaterOrEqual", at, -1.0), g.op("LessOrEqual", at, float(size)))
    at = g.op("Clip", at, 0.0, size - 1.0)
    below = g.op("Floor", at)
    upper, within = g.sub(at, below), g.cast_like(inside, at)
    low = g.cast(below, INT64)
    high = g.min(g.add(low, np.int64(1)), np.int64(size - 1))
    return _Sampled([(low, g.mul(within, g.sub(1.0, upper))), (high, g.mul(within, upper))], used, count)


@gradient("MaxRoiPool")
def max_roi_pool(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As the largest of the whole pixels of each bin; equal ones share dy   Source: Girshick 2015"""
    return through(g, node, [dy], functools.partial(_largest_of_bins, node=node))


def _largest_of_bins(g: GraphBuilder, x: ir.Value, rois: ir.Value, *, node: ir.Node) -> Value:
    """x: (n, c, h, w)   rois: (r, 5) as image, x1, y1, x2, y2   -> (r, c, bins high, bins wide)"""
    high, wide = node.attributes["pooled_shape"].as_ints()
    image, *edges = g.ops("Split", rois, outputs=5, axis=1, num_outputs=5)
    edges = [g.mul(e, node.attributes.get_float("spatial_scale", 1.0)) for e in edges]
    # Rounded away from zero at a half.
    x1, y1, x2, y2 = (g.mul(g.sign(e), g.op("Floor", g.add(g.op("Abs", e), 0.5))) for e in edges)
    rows, columns = _bins(g, y1, y2, high, static(x, 2)), _bins(g, x1, x2, wide, static(x, 3))  # (r, bins, size)
    images = g.gather(x, g.reshape(g.cast(image, INT64), [-1]))
    by_column = g.where(g.unsqueeze(columns, [1, 2]), g.unsqueeze(images, [3]), _LOWEST)  # (r, c, h, wide, w)
    by_column = g.op("ReduceMax", by_column, np.array([4]), keepdims=0)
    by_row = g.where(g.unsqueeze(rows, [1, 4]), g.unsqueeze(by_column, [2]), _LOWEST)  # (r, c, high, h, wide)
    y = g.op("ReduceMax", by_row, np.array([3]), keepdims=0)
    return g.where(g.greater(y, _LOWEST), y, 0.0)  # a bin beyond the image holds nothing


def _bins(g: GraphBuilder, start: ir.Value, end: ir.Value, bins: int, size: int) -> Value:
    """Whether each bin holds each pixel, (r, bins, size), for regions from pixel `start` to `end`, (r, 1)."""
    width = g.div(g.max(g.add(g.sub(end, start), 1.0), 1.0), float(bins))
    number = g.cast_like(np.arange(bins, dtype=np.float32)[None], start)
    first = g.add(g.op("Floor", g.mul(number, width)), start)
    after = g.add(g.op("Ceil", g.mul(g.add(number, 1.0), width)), start)
    pixel = g.cast_like(np.arange(size, dtype=np.float32), start)
    first, after = g.unsqueeze(first, [2]), g.unsqueeze(after, [2])
    return g.op("And", g.op("GreaterOrEqual", pixel, first), g.less(pixel, after))


@gradient("DeformConv")
def deformed_conv(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As GridSample at each tap of the kernel, moved by its offset, and a product with W   Source: Dai et al. 2017"""
    return through(g, node, [dy], functools.partial(_sampled_conv, node=node))


def _sampled_conv(
    g: GraphBuilder,
    x: ir.Value,
    w: ir.Value,
    offset: ir.Value,
    bias: ir.Value | None = None,
    mask: ir.Value | None = None,
    *,
    node: ir.Node,
) -> Value:
    """x: (n, c, h, w)   w: (units, c / group, *kernel)   offset: (n, groups of offsets * taps * 2, *space)"""
    group, parts = node.attributes.get_int("group", 1), node.attributes.get_int("offset_group", 1)
    units, channels = static(w, 0), static(x, 1)
    kernel, size, space = ([static(v, 2), static(v, 3)] for v in (w, x, offset))
    taps = kernel[0] * kernel[1]
    stride, dilation = (list(node.attributes.get_ints(name, (1, 1))) for name in ("strides", "dilations"))
    pads = node.attributes.get_ints("pads", (0, 0, 0, 0))
    offsets = g.reshape(offset, [-1, taps, 2, *space])
    coordinates = []
    for axis in (1, 0):  # GridSample reads the column first
        tap = np.unravel_index(np.arange(taps), kernel)[axis] * dilation[axis] - pads[axis]
        grid = np.moveaxis(np.arange(space[axis])[None, :, None] * stride[axis], 1, axis + 1)
        at = g.add(g.squeeze(g.slice(offsets, [axis], [axis + 1], [2]), [2]), _like(g, tap[:, None, None] + grid, x))
        coordinates.append(g.sub(g.div(g.add(g.mul(at, 2.0), 1.0), float(size[axis])), 1.0))
    grid_of_all = g.concat([g.reshape(c, [-1, taps * space[0], space[1], 1]) for c in coordinates], 3)
    images = g.reshape(x, [-1, channels // parts, *size])
    read = g.op("GridSample", images, grid_of_all, mode="linear", padding_mode="zeros", align_corners=0)
    read = g.reshape(read, [-1, channels // parts, taps, space[0] * space[1]])
    if mask is not None:
        read = g.mul(read, g.reshape(mask, [-1, 1, taps, space[0] * space[1]]))
    columns = g.reshape(read, [-1, group, channels // group * taps, space[0] * space[1]])
    y = g.reshape(g.matmul(g.reshape(w, [group, units // group, -1]), columns), [-1, units, *space])
    return y if bias is None else g.add(y, g.reshape(bias, [-1, 1, 1]))


def _like(g: GraphBuilder, numbers: np.ndarray[Any, Any], x: ir.Value) -> Value:
    return g.cast_like(numbers.astype(np.float32), x)
