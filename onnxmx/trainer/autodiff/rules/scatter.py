"""Rules of operators that read or write elements at computed places: GatherElements, GatherND, Scatter*, TopK."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.indexing import zeros_like
from onnxmx.trainer.autodiff.shapes import given, rank, static


@gradient("GatherElements")
def gather_elements(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx[index] = the sum of the dy that were read there"""
    x, index = given(node)
    return _added(g, zeros_like(g, x), index, dy, node.attributes.get_int("axis", 0)), None


@gradient("TopK")
def top_k(g: GraphBuilder, node: ir.Node, dy: ir.Value | None, _: Any = None) -> Any:
    """dx = dy at the chosen elements, else 0"""
    if dy is None:
        return None
    x, _k = given(node)
    return _added(g, zeros_like(g, x), node.outputs[1], dy, node.attributes.get_int("axis", -1)), None


@gradient("GatherND")
def gather_nd(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx[index] = the sum of the dy that were read there, x being a table of rows"""
    x, index = given(node)
    rows, places = _as_rows(g, x, index, node.attributes.get_int("batch_dims", 0))
    dy = g.reshape(dy, _row_shape(x, index, node))
    dx = _added(g, zeros_like(g, rows), g.expand_like(places, dy), dy, 0)
    return g.reshape_like(dx, x), None


@gradient("ScatterElements")
def scatter_elements(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """By reduction, with g[index] for what is read at the places written:

    none: dx = dy where nothing was written, else 0;  du = dy[index]
    add:  dx = dy;  du = dy[index]
    mul:  dx = dy * the product written there;  du = (dy x)[index] * the product of the other updates
    max, min: dy goes to x or the updates, whichever is y; equal ones share dy
    """
    x, index, updates = given(node)
    axis = node.attributes.get_int("axis", 0)
    written = _Written(g, x, index, updates, node.outputs[0], dy, axis)
    dx, du = written.gradient(node.attributes.get_string("reduction", "none"))
    return dx, None, du


@gradient("ScatterND")
def scatter_nd(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As ScatterElements, x being a table of rows: ScatterND itself adds wrongly on two threads (docs/decisions.md)"""
    x, index, updates = given(node)
    rows, places = _as_rows(g, x, index, 0)
    shape = _row_shape(x, index, node)
    flat = g.reshape(updates, shape)
    y, dy = g.reshape(node.outputs[0], _table(x, rank(x) - static(index, -1))), g.reshape_like(dy, rows)
    written = _Written(g, rows, g.expand_like(places, flat), flat, y, dy, 0)
    dx, du = written.gradient(node.attributes.get_string("reduction", "none"))
    return g.reshape_like(dx, x), None, g.reshape_like(du, updates)


class _Written:
    """y = x with updates written at an index along an axis."""

    def __init__(
        self, g: GraphBuilder, x: ir.Value, index: ir.Value, updates: ir.Value, y: ir.Value, dy: ir.Value, axis: int
    ) -> None:
        self.g, self.x, self.index, self.updates, self.y, self.dy, self.axis = g, x, index, updates, y, dy, axis

    def gradient(self, reduction: str) -> tuple[ir.Value, ir.Value]:
        if reduction == "none":
            return self.write(self.dy, zeros_like(self.g, self.updates), "none"), self.read(self.dy)
        if reduction == "add":
            return self.dy, self.read(self.dy)
        return self.product() if reduction == "mul" else self.extreme()

    def product(self) -> tuple[Value, Value]:
        """The product of the others is right where one of them is 0: p / u of those that are not 0, unless one is."""
        g, x, u = self.g, self.x, self.updates
        zero = g.cast_like(g.equal(u, 0.0), u)
        safe = g.add(u, zero)
        ones = g.add(zeros_like(g, x), 1.0)
        others = g.div(self.read(self.write(ones, safe, "mul")), safe)
        zeros = g.sub(self.read(self.write(zeros_like(g, x), zero, "add")), zero)
        du = g.mul(g.mul(self.read(g.mul(self.dy, x)), others), g.cast_like(g.equal(zeros, 0.0), u))
        return g.mul(self.dy, self.write(ones, u, "mul")), du

    def extreme(self) -> tuple[Value, Value]:
        g = self.g
        kept = g.cast_like(g.equal(self.x, self.y), self.x)
        taken = g.cast_like(g.equal(self.updates, self.read(self.y)), self.updates)
        share = g.div(self.dy, self.write(kept, taken, "add"))
        return g.mul(share, kept), g.mul(self.read(share), taken)

    def read(self, table: ir.Value) -> Value:
        return self.g.op("GatherElements", table, self.index, axis=self.axis)

    def write(self, table: ir.Value, values: ir.Value, reduction: str) -> Value:
        return self.g.op("ScatterElements", table, self.index, values, axis=self.axis, reduction=reduction)


def _added(g: GraphBuilder, into: ir.Value, index: ir.Value, dy: ir.Value, axis: int) -> Value:
    return g.op("ScatterElements", into, index, dy, axis=axis, reduction="add")


def _as_rows(g: GraphBuilder, x: ir.Value, index: ir.Value, batch: int) -> tuple[Value, Value]:
    """x as a table of rows, (n, m), and the row that each entry of `index` (..., k) names, (entries, 1).

    batch: how many leading dimensions x and index share.
    """
    k = static(index, -1)
    sizes = g.op("Shape", x, start=batch, end=batch + k)
    inner = [static(x, batch + j) for j in range(1, k)]  # the first may be a batch of unknown size
    strides = np.array([math.prod(inner[j:]) for j in range(k)], np.int64)
    index = g.cast(index, ir.DataType.INT64)
    index = g.add(index, g.mul(g.cast(g.less(index, np.int64(0)), ir.DataType.INT64), sizes))
    places = g.reduce_sum(g.mul(index, strides), [-1], keepdims=False)
    if batch:
        samples = g.reduce_prod(g.op("Shape", x, end=batch), keepdims=True)
        places = g.reshape(places, g.concat([samples, np.array([-1], np.int64)], 0))
        each = g.reduce_prod(sizes, keepdims=False)
        first = g.mul(g.range(np.int64(0), g.squeeze(samples, [0]), np.int64(1)), each)
        places = g.add(places, g.unsqueeze(first, [1]))
    return g.reshape(x, _table(x, rank(x) - batch - k)), g.reshape(places, [-1, 1])


def _row_shape(x: ir.Value, index: ir.Value, node: ir.Node) -> list[int]:
    """The shape of updates as rows."""
    return _table(x, rank(x) - node.attributes.get_int("batch_dims", 0) - static(index, -1))


def _table(x: ir.Value, inner: int) -> list[int]:
    """The shape (-1, m) for the m elements of the last `inner` dimensions of x."""
    m = 1
    for k in range(rank(x) - inner, rank(x)):
        m *= static(x, k)
    if m == 0:
        raise GradientError(f"the gradient needs {x.name!r} to have elements")
    return [-1, m]
