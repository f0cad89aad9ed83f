"""Rules of Det, of the Fourier transform and of Col2Im: linear algebra beyond products."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import array, rank, static


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
    along = int((np.array(-2) if axis is None else array(axis)) % rank(x))  # type: ignore[operator]
    size = static(x, along)
    n = (size - 1) * 2 if inverse and half else size
    n = n if length is None else int(array(length))  # type: ignore[arg-type]
    if inverse and half:
        return _resized(g, _half_spectrum(g, dy, along, n), along, n // 2 + 1, size)
    if half:
        dy = _resized(g, dy, along, n // 2 + 1, n)
    dx = g.op("DFT", dy, None, np.array(along), inverse=1 - inverse)
    dx = g.mul(dx, 1.0 / n if inverse else float(n))
    if static(x, -1) == 1:
        dx = g.slice(dx, [0], [1], [rank(x) - 1])
    return _resized(g, dx, along, n, size)


def _half_spectrum(g: GraphBuilder, dy: ir.Value, axis: int, n: int) -> Value:
    """The gradient of half a spectrum: each frequency stands for its mirror image too, but 0 and the one in the middle.

    Both of those are real: what is imaginary in them was not read, and in the transform of a real dy it is 0.
    """
    times = np.full(n // 2 + 1, 2.0 / n)
    times[0] = 1.0 / n
    if n % 2 == 0:
        times[-1] = 1.0 / n
    shape = [-1 if k == axis else 1 for k in range(rank(dy))]
    return g.mul(g.op("DFT", dy, None, np.array(axis), onesided=1), g.cast_like(times.reshape(shape), dy))


@gradient("STFT")
def short_time_fourier(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As DFT of window * the frames of x"""
    return through(g, node, [dy], functools.partial(_of_frames, onesided=node.attributes.get_int("onesided", 1)))


def _of_frames(
    g: GraphBuilder,
    x: ir.Value,
    step: ir.Value,
    window: ir.Value | None = None,
    length: ir.Value | None = None,
    *,
    onesided: int,
) -> Value:
    """x: (batch, time, 1 or 2) -> (batch, frames, frequencies, 2)"""
    n = static(window, 0) if window is not None else int(array(length))  # type: ignore[arg-type]
    hop = int(array(step))  # type: ignore[arg-type]
    last = g.sub(g.squeeze(g.op("Shape", x, start=1, end=2), [0]), np.int64(n - 1))
    starts = g.range(np.int64(0), last, np.int64(hop))
    frames = g.gather(x, g.add(g.unsqueeze(starts, [1]), np.arange(n)), axis=1)
    if window is not None:
        frames = g.mul(frames, g.reshape(window, [n, 1]))
    return g.op("DFT", frames, None, np.array(2), onesided=onesided)


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
