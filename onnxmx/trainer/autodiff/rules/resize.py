"""Rules of operators that change the size of space: Resize, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.constants import Array
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.interpolation import Axis, matrix
from onnxmx.trainer.autodiff.rules.pool import tile_sums
from onnxmx.trainer.autodiff.shapes import array, rank, static


@gradient("Resize")
def resize(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = M^T dy along each axis, where M is the matrix that resizes that axis"""
    x = node.inputs[0]
    assert x is not None
    matrices = {k: matrix(node, axis).astype(np.float32) for k, axis in _resized(node, x).items()}
    if (tile := _tile(matrices, rank(x))) is not None:
        return tile_sums(g, dy, x, tile)
    shape = [0, *(static(dy, k) for k in range(1, rank(dy)))]
    for axis, numbers in matrices.items():
        n_out, n_in = numbers.shape
        m = g.cast_like(numbers, dy)
        inner = math.prod(static(dy, k) for k in range(axis + 1, rank(dy)))
        if inner == 1:
            dy = g.gemm(g.reshape(dy, [-1, n_out]), m)
        else:
            dy = g.matmul(g.transpose(m, [1, 0]), g.reshape(dy, [-1, n_out, inner]))
        shape[axis] = n_in
        dy = g.reshape(dy, [-1, *shape[1:]])
    return g.reshape_like(dy, x)


def _tile(matrices: dict[int, Array], n: int) -> list[int] | None:
    """How often each element of space is repeated, where that is all that is done; its sum is quicker than products."""
    tile = [1] * (n - 2)
    for axis, m in matrices.items():
        times = m.shape[0] // m.shape[1]
        if axis < 2 or not np.array_equal(m, np.repeat(np.eye(m.shape[1]), times, 0)):
            return None
        tile[axis - 2] = times
    return tile


def _resized(node: ir.Node, x: ir.Value) -> dict[int, Axis]:
    """The axes that are not left as they are."""
    _x, roi, scales, sizes = [*node.inputs, *[None] * 3][:4]
    n, y = rank(x), node.outputs[0]
    axes = [a % n for a in node.attributes.get_ints("axes", tuple(range(n)))]
    crops = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    parts = array(roi) if crops else None
    parts = np.tile([[0.0], [1.0]], len(axes)) if parts is None else parts.reshape(2, -1)
    given = array(scales)
    factors = _by_size(node, x, axes, sizes) if given is None or not given.size else given.tolist()
    return {
        k: Axis(static(x, k), static(y, k), factor or static(y, k) / static(x, k), (float(start), float(end)))
        for k, factor, start, end in zip(axes, factors, *parts, strict=True)
        if factor != 1 or (start, end) != (0, 1)
    }


def _by_size(node: ir.Node, x: ir.Value, axes: list[int], sizes: ir.Value | None) -> Sequence[float | None]:
    """The scales where sizes are given: None for that of the sizes, 1 where a size stays."""
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        y = node.outputs[0]
        return [1.0 if x.shape and y.shape and x.shape[k] == y.shape[k] else None for k in axes]
    wanted = array(sizes)
    assert wanted is not None
    scales = [float(size) / static(x, k) for k, size in zip(axes, wanted, strict=True)]
    return [min(scales) if policy == "not_larger" else max(scales)] * len(axes)


@gradient("DepthToSpace")
def depth_to_space(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = SpaceToDepth(dy), with its channels in the order of the mode"""
    x = node.inputs[0]
    assert x is not None
    block = node.attributes["blocksize"].as_int()
    dx = g.op("SpaceToDepth", dy, blocksize=block)
    if node.attributes.get_string("mode", "DCR") == "DCR":
        return dx
    channels = static(x, 1) // block**2
    dx = g.reshape(dx, [0, block**2, channels, -1])
    return g.reshape_like(g.transpose(dx, [0, 2, 1, 3]), x)


@gradient("SpaceToDepth")
def space_to_depth(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = DepthToSpace(dy)"""
    return g.op("DepthToSpace", dy, blocksize=node.attributes["blocksize"].as_int())
