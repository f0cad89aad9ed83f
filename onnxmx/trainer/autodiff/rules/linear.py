"""Rules of matrix products."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import given, rank, static, unbroadcast


@gradient("Gemm")
def gemm(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = alpha A' B' + beta C:  dA' = alpha dy B'^T;  dB' = alpha A'^T dy;  dC = beta dy.   A' is A or A^T"""
    a, b, *c = node.inputs
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    ta, tb = node.attributes.get_int("transA", 0), node.attributes.get_int("transB", 0)
    if ta:
        da = g.gemm(b, dy, transA=tb, transB=1, alpha=alpha)
    else:
        da = g.gemm(dy, b, transB=1 - tb, alpha=alpha)
    if tb:
        db = g.gemm(dy, a, transA=1, transB=ta, alpha=alpha)
    else:
        db = g.gemm(a, dy, transA=1 - ta, alpha=alpha)
    if not c or c[0] is None:
        return da, db
    dc = unbroadcast(g, dy, c[0])
    return da, db, dc if beta == 1.0 else g.mul(dc, beta)


@gradient("MatMul")
def matmul(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """da = dy b^T;  db = a^T dy, over the last two axes; a vector counts as a matrix of one row (a) or column (b)"""
    a, b = given(node)
    if rank(a) == 1 or rank(b) == 1:
        return _vector_matmul(g, a, b, dy)
    da = unbroadcast(g, g.matmul(dy, _transposed(g, b)), a)
    sizes = list(b.shape or ())
    if len(sizes) == 2 and rank(a) > 2 and all(isinstance(d, int) for d in sizes):
        # One large product instead of a batch of small ones that is summed afterwards.
        n, units = static(b, 0), static(b, 1)
        return da, g.gemm(g.reshape(a, [-1, n]), g.reshape(dy, [-1, units]), transA=1)
    return da, unbroadcast(g, g.matmul(_transposed(g, a), dy), b)


def _vector_matmul(g: GraphBuilder, a: ir.Value, b: ir.Value, dy: ir.Value) -> tuple[Value, Value]:
    row = g.unsqueeze(a, [0]) if rank(a) == 1 else a
    column = g.unsqueeze(b, [1]) if rank(b) == 1 else b
    dy = g.unsqueeze(dy, [-2] * (rank(a) == 1) + [-1] * (rank(b) == 1))
    da = unbroadcast(g, g.matmul(dy, _transposed(g, column)), row)
    db = unbroadcast(g, g.matmul(_transposed(g, row), dy), column)
    return g.reshape_like(da, a), g.reshape_like(db, b)


def _transposed(g: GraphBuilder, x: ir.Value) -> Value:
    """The last two axes of `x` swapped."""
    *lead, m, n = range(rank(x))
    return g.transpose(x, [*lead, n, m])
