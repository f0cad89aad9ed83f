"""Rules of operators that change the size of space: Pad, Resize, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.interpolation import matrix
from onnxmx.trainer.autodiff.rules.pool import tile_sums
from onnxmx.trainer.autodiff.shapes import Array, array, rank, static

_END = np.iinfo(np.int64).max


@gradient("Pad")
def pad(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the part of dy that came from x; what was mirrored, repeated or wrapped around it is added where it is from.

    dvalue = the sum of the other dy, where the value that is padded with is computed.
    """
    x = node.inputs[0]
    assert x is not None
    mode = node.attributes.get_string("mode", "constant")
    pads = _pads(node, rank(x))
    if mode == "constant":
        dx = _cut(g, dy, pads)
        value = node.inputs[2] if len(node.inputs) > 2 else None
        if value is None or ir.convenience.get_const_tensor(value) is not None:
            return dx
        return dx, None, g.sub(g.reduce_sum(dy, keepdims=False), g.reduce_sum(dx, keepdims=False))
    for axis, (before, after) in pads.items():
        if before < 0 or after < 0:
            raise GradientError(f"Pad in {node.name!r} cuts and mirrors at once, which has no gradient rule")
        dy = _fold(g, dy, axis, before, after, static(x, axis), mode)
    return dy


def _pads(node: ir.Node, n: int) -> dict[int, tuple[int, int]]:
    """By axis, how many elements are added before and after; axes without any are left out."""
    pads = array(node.inputs[1])
    assert pads is not None
    axes = array(node.inputs[3]) if len(node.inputs) > 3 else None
    along = range(n) if axes is None else [int(a) % n for a in axes]
    half = len(pads) // 2
    found = zip(along, pads[:half].tolist(), pads[half:].tolist(), strict=True)
    return {axis: (before, after) for axis, before, after in found if before or after}


def _cut(g: GraphBuilder, dy: ir.Value, pads: dict[int, tuple[int, int]]) -> ir.Value | Value:
    """dy without what was padded, and with zeros where a negative pad had cut."""
    grown = {axis: (max(b, 0), max(a, 0)) for axis, (b, a) in pads.items() if b > 0 or a > 0}
    if grown:
        starts, ends = [b for b, _ in grown.values()], [-a if a else _END for _, a in grown.values()]
        dy = g.slice(dy, starts, ends, list(grown))
    if any(b < 0 or a < 0 for b, a in pads.values()):
        sides = [pads.get(axis, (0, 0)) for axis in range(rank(dy))]
        dy = g.pad(dy, [max(-b, 0) for b, _ in sides] + [max(-a, 0) for _, a in sides])
    return dy


def _fold(g: GraphBuilder, dy: ir.Value, axis: int, before: int, after: int, n: int, mode: str) -> Value:
    """The parts of dy before and after the middle n, added to it where mode took them from."""
    parts = [g.slice(dy, [before], [before + n], [axis])]
    head, tail = ([0], [before]), ([before + n], [_END])
    if mode == "reflect":
        # Read backwards: the head is a copy of 1 ... before, the tail one of n - 1 - after ... n - 2.
        head, tail = ([before - 1], [-_END]), ([-1], [before + n - 1])
    at = {"reflect": (1, n - 1 - after), "edge": (0, n - 1), "wrap": (n - before, 0)}[mode]
    for count, (starts, ends), place in ((before, head, at[0]), (after, tail, at[1])):
        if count:
            part = g.slice(dy, starts, ends, [axis], [-1 if mode == "reflect" else 1])
            if mode == "edge":
                part, count = g.reduce_sum(part, [axis]), 1
            lead = [place if k == axis else 0 for k in range(rank(dy))]
            trail = [n - place - count if k == axis else 0 for k in range(rank(dy))]
            parts.append(g.pad(part, lead + trail))
    return g.sum(*parts)


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
