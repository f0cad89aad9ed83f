"""The rule of Pad, in all of its modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.constants import numbers
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.indexing import places, put_back
from onnxmx.trainer.autodiff.shapes import array, rank

_END = np.iinfo(np.int64).max


@gradient("Pad")
def pad(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the part of dy that came from x; what was mirrored, repeated or wrapped around it is added where it is from.

    dvalue = the sum of the other dy, where the value that is padded with is computed.
    """
    x, pads, value, axes = [*node.inputs, None, None][:4]
    assert x is not None
    assert pads is not None
    mode = node.attributes.get_string("mode", "constant")
    given = array(axes)
    along = list(range(rank(x))) if given is None else [int(a) % rank(x) for a in given]
    known = numbers(pads)
    ends = (
        None if known is None else {axis: (int(known[k]), int(known[k + len(along)])) for k, axis in enumerate(along)}
    )
    if mode == "constant":
        dx = _cut_at_run_time(g, x, dy, pads, along) if ends is None else _cut(g, dy, ends)
        if value is None or ir.convenience.get_const_tensor(value) is not None:
            return dx
        return dx, None, g.sub(g.reduce_sum(dy, keepdims=False), g.reduce_sum(dx, keepdims=False))
    for k, axis in enumerate(along):
        before, after = (None, None) if ends is None else ends[axis]
        n = x.shape[axis] if x.shape is not None else None
        if before == after == 0:
            continue
        if before is not None and after is not None and before >= 0 and after >= 0 and isinstance(n, int):
            dy = _fold(g, dy, axis, before, after, n, mode)
        else:
            pair = g.gather(pads, np.array([k, k + len(along)], np.int64))
            dy = put_back(g, x, dy, axis, g.op("Pad", places(g, x, axis), pair, None, None, mode=mode))
    return dy


def _cut(g: GraphBuilder, dy: ir.Value, ends: dict[int, tuple[int, int]]) -> ir.Value | Value:
    """dy without what was padded, and with zeros where a negative pad had cut."""
    grown = {axis: (max(b, 0), max(a, 0)) for axis, (b, a) in ends.items() if b > 0 or a > 0}
    if grown:
        starts, stops = [b for b, _ in grown.values()], [-a if a else _END for _, a in grown.values()]
        dy = g.slice(dy, starts, stops, list(grown))
    if any(b < 0 or a < 0 for b, a in ends.values()):
        sides = [ends.get(axis, (0, 0)) for axis in range(rank(dy))]
        dy = g.pad(dy, [max(-b, 0) for b, _ in sides] + [max(-a, 0) for _, a in sides])
    return dy


def _cut_at_run_time(g: GraphBuilder, x: ir.Value, dy: ir.Value, pads: ir.Value, along: list[int]) -> Value:
    """The same where the pads are computed."""
    axes = np.array(along, np.int64)
    before, after = g.ops("Split", g.max(pads, 0), outputs=2, num_outputs=2)
    inner = g.op("Slice", dy, before, g.sub(g.gather(g.op("Shape", dy), axes), after), axes)
    dx = g.op("Pad", inner, g.max(g.neg(pads), 0), None, axes)
    dx.shape = None if x.shape is None else ir.Shape(x.shape)
    return dx


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
