"""Rules of operators that pick a part of a tensor: the gradient goes back to where each element came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.constants import numbers
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import array, given, rank, static

_ENDLESS = np.iinfo(np.int64)


@gradient("Gather")
def gather(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx[i] = the sum of the dy[k] with index[k] = i"""
    x, index = node.inputs[:2]
    assert x is not None
    assert index is not None
    axis = node.attributes.get_int("axis", 0) % rank(x)
    if rank(index) == 0:
        dy = g.unsqueeze(dy, [axis])
    elif rank(index) > 1:
        dy = g.reshape(dy, _with_rest(g, x, axis))
    return _put(g, zeros_like(g, x), g.reshape(index, [-1]), dy, axis), None


def _with_rest(g: GraphBuilder, x: ir.Value, axis: int) -> ir.Value | list[int]:
    """The shape of `x` with -1 along `axis`, for Reshape, which copies the sizes before it by itself."""
    after = list(x.shape or ())[axis + 1 :]
    if all(isinstance(d, int) for d in after):
        return [0] * axis + [-1] + [d for d in after if isinstance(d, int)]
    return g.concat([np.array([0] * axis + [-1], np.int64), g.op("Shape", x, start=axis + 1)], 0)


def _put(g: GraphBuilder, into: ir.Value, index: ir.Value, dy: ir.Value, axis: int) -> Value:
    """Add each slice of `dy` along `axis` to the one of `into` that `index` (n,) names."""
    shape = [1] * rank(into)
    shape[axis] = -1
    index = g.reshape(index, shape)
    # Not ScatterND, whose threads on CPU lose additions to one and the same row (ONNX Runtime 1.31).
    return g.op("ScatterElements", into, g.expand_like(index, dy), dy, axis=axis, reduction="add")


@gradient("Slice")
def slice_(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy at the places that were read, else 0"""
    x, starts, _ends, axes, steps = [*node.inputs, *[None] * 3][:5]
    assert x is not None
    assert starts is not None
    named = array(axes)
    along = list(range(static(starts, 0))) if named is None else [int(a) % rank(x) for a in named]
    begin, step = _numbers(starts), [1] * len(along) if steps is None else _numbers(steps)
    others = (None,) * (len(node.inputs) - 1)
    if begin is not None and step is not None and all(s == 1 for s in step):
        return _pad_back(g, x, dy, dict(zip(along, begin, strict=True))), *others
    if step == [-1] and begin == [-1] and (_numbers(_ends) or [0])[0] <= -_ENDLESS.max:
        return g.slice(dy, [-1], [_ENDLESS.min], along, [-1]), *others  # the whole axis, backwards
    for k, axis in enumerate(along):
        bounds = [None if v is None else g.slice(v, [k], [k + 1], [0]) for v in (starts, _ends, steps)]
        dy = put_back(g, x, dy, axis, g.op("Slice", places(g, x, axis), *bounds[:2], np.array([0]), bounds[2]))
    return dy, *others


def places(g: GraphBuilder, x: ir.Value, axis: int) -> Value:
    """0, 1 ... along an axis of x. What an operator does to them says where each element of its output came from."""
    return g.range(np.int64(0), g.squeeze(g.op("Shape", x, start=axis, end=axis + 1), [0]), np.int64(1))


def put_back(g: GraphBuilder, x: ir.Value, dy: ir.Value, axis: int, read: ir.Value) -> Value:
    """dy, as long as x along one axis: each of its slices added at the place that `read` (n,) says it came from."""
    sizes = [g.op("Shape", v, start=a, end=a + 1) for a, v in ((a, x if a == axis else dy) for a in range(rank(x)))]
    whole = zeros(g, g.concat(sizes, 0), dy)
    assert x.shape is not None
    assert dy.shape is not None
    whole.shape = ir.Shape([*dy.shape[:axis], x.shape[axis], *dy.shape[axis + 1 :]])
    return _put(g, whole, read, dy, axis)


def _pad_back(g: GraphBuilder, x: ir.Value, dy: ir.Value, begin: dict[int, int]) -> Value:
    """`dy` with zeros around it, where slices begin at `begin` (by axis) and go on by one."""
    assert x.shape is not None
    assert dy.shape is not None
    pads: list[ir.Value] = []
    axes = list(begin)
    for axis in axes:
        size, left = x.shape[axis], dy.shape[axis]
        if isinstance(size, int) and isinstance(left, int):
            before = min(begin[axis] if begin[axis] >= 0 else max(size + begin[axis], 0), size)
            pads.append(g.constant([before, size - left - before]))
        else:
            total, kept = (g.op("Shape", v, start=axis, end=axis + 1) for v in (x, dy))
            start = g.min(begin[axis], total) if begin[axis] >= 0 else g.max(g.add(total, begin[axis]), 0)
            pads.append(g.concat([start, g.sub(g.sub(total, kept), start)], 0))
    ends = g.transpose(g.reshape(g.concat(pads, 0), [-1, 2]), [1, 0]) if len(pads) > 1 else pads[0]
    out = g.op("Pad", dy, g.reshape(ends, [-1]) if len(pads) > 1 else ends, None, np.array(axes, np.int64))
    out.shape = ir.Shape(x.shape)
    return out


@gradient("Compress")
def compress(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy at the places that were kept, else 0"""
    x, condition = given(node)
    axis: int | None = node.attributes["axis"].as_int() % rank(x) if "axis" in node.attributes else None
    into = zeros_like(g, x) if axis is not None else zeros(g, g.reshape(g.op("Size", x), [1]), x)
    # The condition may be shorter than the axis.
    kept = g.reshape(g.op("NonZero", condition), [-1])
    return g.reshape_like(_put(g, into, kept, dy, axis or 0), x), None


@gradient("Unique")
def unique(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy of the element of y that x is equal to; equal ones share dy"""
    x = node.inputs[0]
    assert x is not None
    attributes = {name: a.value for name, a in node.attributes.items()}
    _y, _first, places_in_y, counts = g.ops("Unique", x, outputs=4, **attributes)
    axis = node.attributes["axis"].as_int() % rank(x) if "axis" in node.attributes else None
    share = g.div(dy, g.reshape(g.cast_like(counts, dy), [-1] + [1] * (rank(dy) - 1 - (axis or 0))))
    return g.reshape_like(g.gather(share, places_in_y, axis=axis or 0), x)


@gradient("OneHot")
def one_hot(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dvalues = (the sum of dy where it is cold, the sum where it is hot)"""
    index, depth, values = given(node)
    axis = node.attributes.get_int("axis", -1)
    hot = g.op("OneHot", index, depth, g.cast_like(np.array([0, 1], np.float32), values), axis=axis)
    total, at_hot = (g.reduce_sum(v, keepdims=False) for v in (dy, g.mul(dy, hot)))
    return None, None, g.concat([g.reshape(v, [1]) for v in (g.sub(total, at_hot), at_hot)], 0)


@gradient("Split")
def split(g: GraphBuilder, node: ir.Node, *dys: ir.Value | None) -> Any:
    """dx = the dy of all parts, side by side"""
    parts = [zeros_like(g, y) if dy is None else dy for y, dy in zip(node.outputs, dys, strict=True)]
    return g.concat(parts, node.attributes.get_int("axis", 0)), None


def zeros_like(g: GraphBuilder, x: ir.Value) -> Value:
    """Zeros of the shape and element type of `x`."""
    out = zeros(g, g.shape_of(x), x)
    if x.shape is not None:
        out.shape = ir.Shape(x.shape)
    return out


def zeros(g: GraphBuilder, shape: ir.Value, like: ir.Value) -> Value:
    """Zeros of the element type of `like`."""
    assert like.dtype is not None
    return g.op("ConstantOfShape", shape, value=ir.Tensor(np.zeros(1, like.dtype.numpy())))


def _numbers(x: ir.Value | None) -> Sequence[int] | None:
    """The numbers of a constant, or None where they are computed."""
    found = None if x is None else numbers(x)
    return None if found is None else [int(v) for v in found]
