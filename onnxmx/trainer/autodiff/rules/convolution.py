"""The two halves of a convolution's gradient, each in the ways that this or that machine and shape favours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.choice import Choice, Uncovered
from onnxmx.trainer.autodiff.shapes import static


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an input: one number for each spatial axis, the defaults and `auto_pad` filled in.

    rest: input elements at the end that no window reaches.
    """

    size: list[int]
    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    start: list[int]
    end: list[int]
    rest: list[int]

    @classmethod
    def of(cls, node: ir.Node, x: ir.Value, kernel: list[int]) -> Window:
        """Read from a convolution or pooling node. Raises GradientError where the size of `x` is unknown.

        `ceil_mode` is not looked at.
        """
        n = len(kernel)
        size = [static(x, k + 2) for k in range(n)]
        stride = list(node.attributes.get_ints("strides", (1,) * n))
        dilation = list(node.attributes.get_ints("dilations", (1,) * n))
        span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        auto = node.attributes.get_string("auto_pad", "NOTSET")
        pads = list(node.attributes.get_ints("pads", (0,) * (2 * n)))
        if auto == "VALID":
            pads = [0] * (2 * n)
        elif auto != "NOTSET":
            total = [max((-(-d // s) - 1) * s + w - d, 0) for d, s, w in zip(size, stride, span, strict=True)]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = small + large if auto == "SAME_UPPER" else large + small
        start, end = pads[:n], pads[n:]
        rest = [(d + p + q - w) % s for d, p, q, w, s in zip(size, start, end, span, stride, strict=True)]
        return cls(size, kernel, stride, dilation, start, end, rest)


# dx


def transposed(g: GraphBuilder, dy: ir.Value, w: ir.Value, *, window: Window, group: int) -> Value:
    """The transposed convolution of dy by W. Elements that no window reached get zero, by output_padding."""
    return g.op(
        "ConvTranspose",
        dy,
        w,
        kernel_shape=window.kernel,
        strides=window.stride,
        dilations=window.dilation,
        pads=window.start + window.end,
        output_padding=window.rest,
        group=group,
    )


def flipped(g: GraphBuilder, dy: ir.Value, w: ir.Value, *, window: Window, group: int) -> Value:
    """With stride 1: the convolution of dy by W turned round, its channels swapped."""
    n = len(window.size)
    reach = [d * (k - 1) for d, k in zip(window.dilation, window.kernel, strict=True)]
    pads = [r - p for r, p in zip(reach * 2, window.start + window.end, strict=True)]
    if group != 1 or max(window.stride) > 1 or min(pads) < 0:
        raise Uncovered
    far = [np.iinfo(np.int64).min] * n
    turned = g.slice(w, [-1] * n, far, list(range(2, 2 + n)), [-1] * n)
    kernel = g.transpose(turned, [1, 0, *range(2, 2 + n)])
    return g.conv(dy, kernel, kernel_shape=window.kernel, dilations=window.dilation, pads=pads)


INPUT = Choice("Conv", "dx", transposed=transposed, flipped=flipped)


# dW


def weight_gradient(g: GraphBuilder, x: ir.Value, w: ir.Value, dy: ir.Value, window: Window, group: int) -> Value:
    """The sum over images and places of dy times the x that it was made from, at each place of the kernel."""
    x, window = _reached(g, x, window)
    # Few columns cost less to lay out than a convolution on one channel does.
    columns = static(x, 1) * int(np.prod(window.kernel))
    default = "one_hot" if group == 1 and columns <= 16 else "dilated"
    return WEIGHT(g, x, w, dy, window=window, group=group, default=default)


def _reached(g: GraphBuilder, x: ir.Value, window: Window) -> tuple[ir.Value, Window]:
    """The part of x that windows reach, and the window over it, which then leaves nothing over.

    What they leave would make the gradient as much larger, to be thrown away.
    """
    if not any(window.rest):
        return x, window
    if max(window.kernel) == 1 and not any(window.start + window.end):
        axes = list(range(2, 2 + len(window.size)))
        x = g.slice(x, [0] * len(axes), window.size, axes, window.stride)
        ones = [1] * len(axes)
        size = [-(-d // s) for d, s in zip(window.size, window.stride, strict=True)]
        return x, replace(window, size=size, stride=ones, rest=[0] * len(axes))
    end = [max(e - r, 0) for e, r in zip(window.end, window.rest, strict=True)]
    rest = [max(r - e, 0) for e, r in zip(window.end, window.rest, strict=True)]
    return x, replace(window, end=end, rest=rest)


def dilated(g: GraphBuilder, x: ir.Value, w: ir.Value, dy: ir.Value, *, window: Window, group: int) -> Value:
    """dW as one convolution: images as channels, dy as the kernel, and the channels of x laid along the last axis.

    With x as (1, group N, ..., W C) and dy as (O, N, ...), dilated by the stride (times C along the last axis), output
    element (.., j C + c) is dW[.., c, j]. Three times faster than the convolution that swaps batch and channel, and
    nearly twice as fast as im2col by slices (docs/performance.md).
    """
    n = len(window.size)
    channels = static(x, 1) // group
    units = static(dy, 1)
    # x: (N, G C, *S) -> (1, G N, *S[:-1], S[-1] C)
    if group == 1:
        rows = g.transpose(x, [0, *range(2, n + 2), 1])
    else:
        rows = g.reshape(x, [-1, group, channels, *window.size])
        rows = g.transpose(rows, [1, 0, *range(3, n + 3), 2])
    rows = g.reshape(rows, [1, -1, *window.size[:-1], window.size[-1] * channels])
    # dy: (N, O, *S') -> (O, N, *S')
    kernel = g.transpose(dy, [1, 0, *range(2, 2 + n)])
    last = [1] * (n - 1) + [channels]
    out = g.conv(
        rows,
        kernel,
        dilations=[s * c for s, c in zip(window.stride, last, strict=True)],
        strides=[*window.dilation[:-1], 1],
        pads=[p * c for p, c in zip(window.start, last, strict=True)]
        + [p * c for p, c in zip(window.end, last, strict=True)],
        group=group,
    )
    # out: (1, O, K' ..., K'[-1] C), K' the kernel's extent and what the stride left over -> (O, C, *K)
    lead = [k + r // d for k, r, d in zip(window.kernel[:-1], window.rest[:-1], window.dilation[:-1], strict=True)]
    extent = [*lead, (window.kernel[-1] - 1) * window.dilation[-1] + 1 + window.rest[-1]]
    out = g.reshape(out, [units, *extent, channels])
    if extent != window.kernel:
        axes = list(range(1, 1 + n))
        ends = [*window.kernel[:-1], (window.kernel[-1] - 1) * window.dilation[-1] + 1]
        out = g.slice(out, [0] * n, ends, axes, [1] * (n - 1) + [window.dilation[-1]])
    return g.reshape_like(g.transpose(out, [0, n + 1, *range(1, n + 1)]), w)


def one_hot(g: GraphBuilder, x: ir.Value, w: ir.Value, dy: ir.Value, *, window: Window, group: int) -> Value:
    """dW as a product with what each output element was made from, laid out by a convolution that copies (im2col)."""
    columns = static(x, 1) * int(np.prod(window.kernel))
    if group != 1 or columns > _MOST_COLUMNS:
        raise Uncovered
    dtype = np.float32 if x.dtype is None else x.dtype.numpy()
    copies = np.eye(columns, dtype=dtype).reshape(columns, static(x, 1), *window.kernel)
    pads = window.start + window.end
    patches = g.conv(x, copies, strides=window.stride, dilations=window.dilation, pads=pads)
    rows = g.transpose(g.reshape(patches, [0, columns, -1]), [0, 2, 1])
    products = g.matmul(g.reshape(dy, [0, static(dy, 1), -1]), rows)
    return g.reshape_like(g.reduce_sum(products, [0], keepdims=False), w)


_MOST_COLUMNS = 1024
"""Its copies are a matrix of columns by columns: beyond, they alone cost more than the gradient, and megabytes."""
WEIGHT = Choice("Conv", "dW", dilated=dilated, one_hot=one_hot)
