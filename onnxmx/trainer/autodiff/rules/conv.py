"""The rule of convolution, in any number of spatial dimensions, with strides, dilations, pads and groups."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.captures import is_asked_for
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.convolution import INPUT, Window, weight_gradient
from onnxmx.trainer.autodiff.rules.taps import conv_by_taps, of_unknown_size
from onnxmx.trainer.autodiff.shapes import rank, static


@gradient("Conv")
def conv(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy convolved backwards by W;  dW = x convolved with dy;  db = the sum of dy over batch and space"""
    x, w, *bias = node.inputs
    assert x is not None
    assert w is not None
    if of_unknown_size(x):
        return through(g, node, [dy], functools.partial(conv_by_taps, node=node))
    group = node.attributes.get_int("group", 1)
    window = Window.of(node, x, [static(w, k) for k in range(2, rank(w))])
    db = [g.reduce_sum(dy, [0, *range(2, rank(x))], keepdims=False)] if bias else []
    inner, scale = _unscaled(g, dy, w)
    dx: ir.Value | None = None
    dw: ir.Value | None = None
    if is_asked_for(node, 0):  # else there would be formulations of it to measure
        wide = w if scale is None else g.mul(w, scale)
        dx = INPUT(g, inner, wide, window=window, group=group, default="transposed")
    if is_asked_for(node, 1):
        dw = weight_gradient(g, x, w, inner, window, group)
        dw = dw if scale is None else g.mul(dw, scale)
    return dx, dw, *db


def _unscaled(g: GraphBuilder, dy: ir.Value, w: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """dy without a factor for each channel, and that factor in the shape in which it multiplies W.

    The gradient of batch normalization ends in such a factor: on the weights, it is a pass over the images less.
    """
    made, channels = dy.producer(), static(w, 0)
    if made is None or made.op_type != "Mul" or made.domain != "":
        return dy, None
    by_channel = [channels] + [1] * (rank(w) - 2)
    for inner, factor in (made.inputs, reversed(made.inputs)):
        assert inner is not None
        assert factor is not None
        if (
            factor.shape is not None
            and list(factor.shape) in (by_channel, [1, *by_channel])
            and inner.shape == dy.shape
        ):
            return inner, g.reshape(factor, [channels] + [1] * (rank(w) - 1))
    return dy, None


@gradient("ConvTranspose")
def conv_transpose(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy convolved with W;  dW = dy convolved with x;  db = the sum of dy over batch and space

    y = ConvTranspose(x, W) is the gradient of Conv(., W), so x and y have changed places.
    """
    x, w, *bias = node.inputs
    assert x is not None
    assert w is not None
    group = node.attributes.get_int("group", 1)
    db = [g.reduce_sum(dy, [0, *range(2, rank(x))], keepdims=False)] if bias else []
    if of_unknown_size(x) and _places_are_given(node):
        names = ("kernel_shape", "strides", "dilations", "pads", "group")
        dx = g.op("Conv", dy, w, **{n: node.attributes[n].value for n in names if n in node.attributes})
        back = dx.producer()
        assert back is not None
        _, dw = through(g, back, [x], functools.partial(conv_by_taps, node=back))
        return dx, dw, *db
    window = _transposed(node, x, [static(w, k) for k in range(2, rank(w))])
    if min(window.start + window.end) < 0:
        first = [max(-p, 0) for p in window.start]
        ends = [p + d for p, d in zip(first, window.size, strict=True)]
        dy = g.slice(dy, first, ends, list(range(2, rank(x))))
        window = replace(window, **{k: [max(p, 0) for p in getattr(window, k)] for k in ("start", "end")})
    dx = g.conv(
        dy,
        w,
        kernel_shape=window.kernel,
        strides=window.stride,
        dilations=window.dilation,
        pads=window.start + window.end,
        group=group,
    )
    dw = weight_gradient(g, dy, w, x, window, group) if is_asked_for(node, 1) else None
    return dx, dw, *db


def _places_are_given(node: ir.Node) -> bool:
    """Whether it is known without the size of the image where each of its elements goes, and all of them are kept."""
    strides, extra, pads = (node.attributes.get_ints(n, ()) for n in ("strides", "output_padding", "pads"))
    return (
        node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        and "output_shape" not in node.attributes
        and min(pads, default=0) >= 0
        and all(e < s for e, s in zip(extra, strides or [1] * len(extra), strict=False))
    )


def _transposed(node: ir.Node, x: ir.Value, kernel: list[int]) -> Window:
    """The window that moves over the output of a transposed convolution and meets each element of `x` once."""
    n = len(kernel)
    size = [static(node.outputs[0], k + 2) for k in range(n)]
    stride = list(node.attributes.get_ints("strides", (1,) * n))
    dilation = list(node.attributes.get_ints("dilations", (1,) * n))
    extra = list(node.attributes.get_ints("output_padding", (0,) * n))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    full = [(static(x, k + 2) - 1) * s + w + e for k, (s, w, e) in enumerate(zip(stride, spans, extra, strict=True))]
    pads = list(node.attributes.get_ints("pads", (0,) * (2 * n)))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = [0] * (2 * n)
    elif auto != "NOTSET" or "output_shape" in node.attributes:
        total = [f - d for f, d in zip(full, size, strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if auto == "SAME_UPPER" else large + small
    if min(pads) < 0 or any(e >= s for e, s in zip(extra, stride, strict=True)):
        # What lies further out than any element of x reaches is the bias alone.
        pads, extra = pads[:n] + [q - e for q, e in zip(pads[n:], extra, strict=True)], [0] * n
        size = [d + min(p, 0) + min(q, 0) for d, p, q in zip(size, pads[:n], pads[n:], strict=True)]
    return Window(size, kernel, stride, dilation, pads[:n], pads[n:], extra)
