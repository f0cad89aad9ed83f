"""The `ai.onnxmx` operators that a training step is made of, besides clipping, schedules and optimizers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmx.builder import random
from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.scan import scan

_Values = Sequence[ir.Value]


@function(outputs=("y", "mask"))
def Dropout(
    g: GraphBuilder, x: ir.Value, seed: ir.Value, step: ir.Value, *, ratio: ir.Value, stream: ir.Value
) -> tuple[Value, ...]:
    """y = x * mask, where mask is 1 / (1 - ratio) with probability 1 - ratio, else 0.

    x, y, mask: one shape, float32.   seed, step: int64 scalars.   ratio: float in [0, 1).
    stream: an integer that sets this node's random numbers apart from those of the other nodes.
    The mask is a function of (seed, step, stream, position) alone.   Source: Srivastava et al. 2014.
    """
    mask = g.cast_like(random.keep_mask(g, x, ratio, random.key(g, seed, step, stream)), x)
    return g.mul(x, mask), mask


_NORMALIZED = ("y", "mean", "var", "inverse_std", "centered")


@function(outputs=_NORMALIZED)
def BatchNorm(g: GraphBuilder, x: ir.Value, scale: ir.Value, bias: ir.Value, *, epsilon: ir.Value) -> tuple[Value, ...]:
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias, mean and var being the batch's own for each channel.

    x, y, centered = x - mean: (n, c, ...) float32.   scale, bias, mean, var, inverse_std: (c,).   var is that of the
    population.   Source: Ioffe & Szegedy 2015, alg. 1.
    """
    y, *statistics, centered = _normalize(g, g.reshape(x, [0, 0, -1]), scale, bias, epsilon, [0, 2])
    return g.reshape_like(y, x), *statistics, g.reshape_like(centered, x)


@function(outputs=_NORMALIZED)
def BatchNorm2D(
    g: GraphBuilder, x: ir.Value, scale: ir.Value, bias: ir.Value, *, epsilon: ir.Value
) -> tuple[Value, ...]:
    """BatchNorm of images, (n, c, h, w), with no reshaping between: an engine may hold them in a layout of its own."""
    return _normalize(g, x, scale, bias, epsilon, [0, 2, 3])


def _normalize(
    g: GraphBuilder, x: ir.Value, scale: ir.Value, bias: ir.Value, epsilon: ir.Value, axes: list[int]
) -> tuple[Value, ...]:
    by_channel = [1, -1] + [1] * (len(axes) - 1)
    mean = g.reduce_mean(x, axes)
    centered = g.sub(x, mean)
    var = g.reduce_mean(g.mul(centered, centered), axes)
    inverse_std = g.div(g.cast_like(1.0, x), g.sqrt(g.add(var, g.cast_like(epsilon, x))))
    factor = g.mul(inverse_std, g.reshape(scale, by_channel))
    y = g.add(g.mul(centered, factor), g.reshape(bias, by_channel))
    return y, *(g.reshape(v, [-1]) for v in (mean, var, inverse_std)), centered


@function(outputs=("y",))
def TileStretch(g: GraphBuilder, t: ir.Value, matrix: ir.Value, x: ir.Value) -> Value:
    """Each element of t repeated over its tile of x, by a product with a matrix of zeros and ones.

    t: (n, c, h, w).   x, y: (n, c, h r, w s).   matrix: (w, r s w), a row of t to the r rows of its tiles.
    """
    return g.reshape_like(g.matmul(t, matrix), x)


@function(outputs=("sums",))
def TileSums(g: GraphBuilder, x: ir.Value, matrix: ir.Value, t: ir.Value) -> Value:
    """The sum of each tile of x, in the shape of t.   matrix: that of TileStretch, transposed."""
    whole = np.array([0, 0], np.int64), np.array([-1], np.int64)
    rows = g.reshape(x, g.concat([whole[0], g.op("Shape", t, start=2, end=3), whole[1]], 0))
    return g.matmul(rows, matrix)


@function(outputs=("y", "h", "c", "t", "i", "o", "f", "a", "ia", "fc"))
def LSTMSteps(g: GraphBuilder, x: ir.Value, w: ir.Value, r: ir.Value, h0: ir.Value, c0: ir.Value) -> tuple[Value, ...]:
    """One direction of an LSTM, keeping what its gradient reads, which the operator of ONNX does not give out.

    h[t] = o tanh(c[t]), c[t] = f c[t-1] + i a;   i, o, f = sigmoid, a = tanh of R h[t-1] + W x[t], in this order.

    x: (time, batch, n_in), a bias being the weights of an input of ones.   w: (4 units, n_in).   r: (4 units, units).
    h0, c0: (batch, units).   y: (time, batch, units), every h[t].   h, c: (batch, units), the last ones.
    t = tanh(c), i, o, f, a, ia = i a, fc = f c[t-1]: (time, batch, units).   Source: Gers et al. 2000.
    """
    both = g.concat([r, w], 1)

    def step(b: GraphBuilder, before: _Values, element: _Values) -> tuple[list[Value], list[Value]]:
        h, c = before
        z = b.gemm(b.concat([h, element[0]], 1), both, transB=1)
        parts = b.ops("Split", z, outputs=4, axis=1, num_outputs=4)
        i, o, f = (b.op("Sigmoid", part) for part in parts[:3])
        a = b.op("Tanh", parts[3])
        ia, fc = b.mul(i, a), b.mul(f, c)
        c = b.add(fc, ia)
        t = b.op("Tanh", c)
        return [b.mul(o, t), c], [t, i, o, f, a, ia, fc]

    last, (t, i, o, *kept) = scan(g, step, [h0, c0], [x])
    # All of y as one product: given out by each step, it would be copied, as it is a state too.
    return g.mul(o, t), *last, t, i, o, *kept


@function(outputs=("y", "h", "z", "r", "n", "rn", "zd"))
def GRUSteps(
    g: GraphBuilder,
    gates: ir.Value,
    new: ir.Value,
    r_gates: ir.Value,
    r_new: ir.Value,
    bias: ir.Value,
    h0: ir.Value,
) -> tuple[Value, ...]:
    """One direction of a GRU that resets after the product, keeping what its gradient reads.

    h[t] = n + z (h[t-1] - n);   z, r = sigmoid of gates[t] + Rg h[t-1], n = tanh of new[t] + r (Rn h[t-1] + bias).

    gates: (time, batch, 2 units), of z and r, new: (time, batch, units), W x[t] + b of every step.
    r_gates: (2 units, units).   r_new: (units, units).   bias: (units,).   h0, h: (batch, units), the first and last.
    y, every h[t], z, r, n, rn = Rn h[t-1] + bias, zd = z (h[t-1] - n): (time, batch, units).
    Source: Cho et al. 2014, in cuDNN's form.
    """

    def step(b: GraphBuilder, before: _Values, element: _Values) -> tuple[list[Value], list[Value]]:
        (h,) = before
        both = b.op("Sigmoid", b.gemm(h, r_gates, element[0], transB=1))
        z, r = b.ops("Split", both, outputs=2, axis=1, num_outputs=2)
        rn = b.gemm(h, r_new, bias, transB=1)
        n = b.op("Tanh", b.add(element[1], b.mul(r, rn)))
        zd = b.mul(z, b.sub(h, n))
        return [b.add(n, zd)], [z, r, n, rn, zd]

    (h,), kept = scan(g, step, [h0], [gates, new])
    return g.add(kept[2], kept[4]), h, *kept
