"""Rules of operators that change the size of space: Resize, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.constants import Array
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.interpolation import matrix
from onnxmx.trainer.autodiff.rules.pool import tile_sums
from onnxmx.trainer.autodiff.shapes import array, rank, static


@gradient("Resize")
def resize(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = M^T dy along each axis, where M is the matrix that resizes that axis"""
    x = node.inputs[0]
    assert x is not None
    matrices: dict[int, Array] = {}
    for axis, scale in _scales(node, x).items():
        n_in, n_out = static(x, axis), static(node.outputs[0], axis)
        matrices[axis] = matrix(node, n_in, n_out, scale or n_out / n_in).astype(np.float32)
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


def _scales(node: ir.Node, x: ir.Value) -> dict[int, float | None]:
    """The axes that change their size, with the scale that is given, or None where a size is given."""
    _x, _roi, scales, _sizes = [*node.inputs, *[None] * 3][:4]
    axes = node.attributes.get_ints("axes", tuple(range(rank(x))))
    given = array(scales)
    if given is not None and given.size:
        return {a % rank(x): float(s) for a, s in zip(axes, given, strict=True) if s != 1}
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise GradientError(f"Resize in {node.name!r} keeps the aspect ratio, which has no gradient rule")
    y = node.outputs[0]
    return {a % rank(x): None for a in axes if x.shape is None or y.shape is None or x.shape[a] != y.shape[a]}


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
