"""Rules of operators that only move elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient, zero_gradient
from onnxmx.trainer.autodiff.rules.indexing import places
from onnxmx.trainer.autodiff.shapes import given, rank, unbroadcast

zero_gradient("Shape", "Size", "Constant", "ConstantOfShape", "EyeLike")


@gradient("Range")
def range_(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y_k = start + k delta:  dstart = sum(dy);  ddelta = sum(k dy). The limit says only how many there are."""
    k = g.cast_like(places(g, dy, 0), dy)
    return g.reduce_sum(dy, keepdims=False), None, g.reduce_sum(g.mul(k, dy), keepdims=False)


@gradient("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy in the shape of x"""
    return g.reshape_like(dy, given(node)[0])


@gradient("Transpose")
def transpose(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy with its axes put back"""
    assert dy.shape is not None
    perm = list(node.attributes.get_ints("perm", tuple(reversed(range(len(dy.shape))))))
    return g.transpose(dy, sorted(range(len(perm)), key=perm.__getitem__))


@gradient("Expand")
def expand(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the sum of dy over the axes that were stretched"""
    return unbroadcast(g, dy, given(node)[0]), None


@gradient("Tile")
def tile(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the sum of dy over the copies: dy as (copies, size) along each axis, summed over the copies"""
    x, repeats = given(node)
    pairs = g.concat([g.unsqueeze(v, [1]) for v in (repeats, g.shape_of(x))], 1)
    split = g.op("Reshape", dy, g.reshape(pairs, [-1]), allowzero=1)
    split.shape = ir.Shape([None] * (2 * rank(x)))
    return g.reshape_like(g.reduce_sum(split, list(range(0, 2 * rank(x), 2)), keepdims=False), x), None


@gradient("Trilu")
def trilu(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the same triangle of dy"""
    k = node.inputs[1] if len(node.inputs) > 1 else None
    return g.op("Trilu", dy, k, upper=node.attributes.get_int("upper", 1)), None


@gradient("ReverseSequence")
def reverse_sequence(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy reversed back"""
    axes = {name: node.attributes.get_int(name, d) for name, d in (("batch_axis", 1), ("time_axis", 0))}
    return g.op("ReverseSequence", dy, node.inputs[1], **axes), None


@gradient("CenterCropPad")
def center_crop_pad(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy padded where x was cut, and cut where it was padded"""
    x = given(node)[0]
    axes = node.attributes.get_ints("axes", tuple(range(rank(x))))
    sizes = g.gather(g.shape_of(x), np.array([a % rank(x) for a in axes], np.int64))
    dx = g.op("CenterCropPad", dy, sizes, axes=list(axes))
    dx.shape = None if x.shape is None else ir.Shape(x.shape)
    return dx, None


@gradient("Concat")
def concat(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx_k = the part of dy that came from x_k"""
    axis = node.attributes.get_int("axis", 0)
    xs = given(node)
    if len(xs) == 1:
        return dy
    parts = g.ops("Split", dy, _sizes(g, xs, axis), outputs=len(xs), axis=axis)
    for x, part in zip(xs, parts, strict=True):
        part.shape = None if x.shape is None else ir.Shape(x.shape)
    return parts


def _sizes(g: GraphBuilder, xs: list[ir.Value], axis: int) -> Value:
    """How large each of `xs` is along `axis`."""
    sizes = [None if x.shape is None else x.shape[axis] for x in xs]
    if all(isinstance(d, int) for d in sizes):
        return g.constant([d for d in sizes if isinstance(d, int)], ir.DataType.INT64)
    axis %= max(rank(x) for x in xs)
    return g.concat([g.op("Shape", x, start=axis, end=axis + 1) for x in xs], 0)
