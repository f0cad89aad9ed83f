"""Rules of Det, of the Fourier transform and of Col2Im: linear algebra beyond products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.registry import gradient, refuse_gradient
from onnxmx.trainer.autodiff.shapes import array, rank, static

refuse_gradient("STFT", why="it has no rule yet; DFT of frames taken with Gather has one")


@gradient("Det")
def determinant(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx[i, j] = dy (-1)^(i + j) times the determinant of x without row i and column j, singular or not"""
    x = node.inputs[0]
    assert x is not None
    n = static(x, -1)
    slope: ir.Value = g.unsqueeze(dy, [-1, -2])
    if n == 1:
        return g.reshape_like(slope, x)
    rest = np.array([[j for j in range(n) if j != i] for i in range(n)], np.int64)
    minors = g.gather(g.gather(x, rest, axis=rank(x) - 2), rest, axis=rank(x))  # (..., i, rows, j, columns)
    lead = list(range(rank(x) - 2))
    k = len(lead)
    minors = g.transpose(minors, [*lead, k, k + 2, k + 1, k + 3])
    signs = ((-1.0) ** np.add.outer(np.arange(n), np.arange(n))).astype(np.float32)
    return g.mul(slope, g.mul(g.op("Det", minors), g.cast_like(signs, x)))


@gradient("DFT")
def fourier(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the transform the other way of dy, without its 1/n: the adjoint of a unitary map, up to that factor

    Half of a spectrum is filled up with zeros; of a real signal the real part is kept; what was cut or padded to
    reach the length is put back.
    """
    x, length, axis = [*node.inputs, None, None][:3]
    assert x is not None
    inverse, half = node.attributes.get_int("inverse", 0), node.attributes.get_int("onesided", 0)
    if inverse and half:
        raise GradientError(f"DFT in {node.name!r} goes back from half of a spectrum, which has no gradient rule")
    along = int((np.array(-2) if axis is None else array(axis)) % rank(x))  # type: ignore[operator]
    size = static(x, along)
    n = size if length is None else int(array(length))  # type: ignore[arg-type]
    if half:
        dy = _resized(g, dy, along, n // 2 + 1, n)
    dx = g.op("DFT", dy, None, np.array(along), inverse=1 - inverse)
    dx = g.mul(dx, 1.0 / n if inverse else float(n))
    if static(x, -1) == 1:
        dx = g.slice(dx, [0], [1], [rank(x) - 1])
    return _resized(g, dx, along, n, size)


def _resized(g: GraphBuilder, x: ir.Value, axis: int, n: int, size: int) -> ir.Value:
    """x of n elements along an axis, cut or filled with zeros to `size`."""
    if size < n:
        return g.slice(x, [0], [size], [axis])
    if size == n:
        return x
    return g.pad(x, [0] * rank(x) + [size - n if k == axis else 0 for k in range(rank(x))])


@gradient("Col2Im")
def columns_to_image(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = the blocks of dy, read where they were added"""
    x = node.inputs[0]
    assert x is not None
    image, block = ([int(v) for v in array(s)] for s in node.inputs[1:3])  # type: ignore[union-attr]
    n = len(image)
    dilation, stride = (list(node.attributes.get_ints(name, (1,) * n)) for name in ("dilations", "strides"))
    pads = list(node.attributes.get_ints("pads", (0,) * (2 * n)))
    padded = [d + p + q for d, p, q in zip(image, pads[:n], pads[n:], strict=True)]
    # index: (elements of a block, blocks), places in the padded image
    index = np.zeros((1, 1), np.int64)
    for size, b, d, s in zip(padded, block, dilation, stride, strict=True):
        steps = np.arange((size - (b - 1) * d - 1) // s + 1) * s
        along = np.arange(b)[:, None] * d + steps
        index = (index[:, None, :, None] * size + along[None, :, None, :]).reshape(len(index) * b, -1)
    channels = static(dy, 1)
    framed: Value = g.pad(dy, [0, 0, *pads[:n], 0, 0, *pads[n:]])
    blocks = g.gather(g.reshape(framed, [0, channels, math.prod(padded)]), index, axis=2)
    return g.reshape_like(blocks, x), None, None
