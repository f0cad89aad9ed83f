"""Convolution and pooling by sums of images whose size is known only at run time, tap by tap of the kernel.

Where it is known, conv.py and pool.py are quicker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.shapes import rank, static


def of_unknown_size(x: ir.Value) -> bool:
    """Whether a size of space is no number. x: (n, c, ...)"""
    return x.shape is not None and not all(isinstance(d, int) for d in list(x.shape)[2:])


def conv_by_taps(g: GraphBuilder, x: ir.Value, w: ir.Value, bias: ir.Value | None = None, *, node: ir.Node) -> ir.Value:
    """y = the sum over taps of the channels that each reads times its weights."""
    group, units, channels = node.attributes.get_int("group", 1), static(w, 0), static(w, 1)
    kernel = [static(w, k) for k in range(2, rank(w))]
    parts = [g.unsqueeze(part, [2]) for part in _taps(g, node, x, kernel, 0.0)]
    columns = g.reshape(g.concat(parts, 2), [0, group, channels * len(parts), -1])
    y = g.matmul(g.reshape(w, [group, units // group, -1]), columns)
    y = g.reshape_like(y, node.outputs[0])
    return y if bias is None else g.add(y, g.reshape(bias, [-1] + [1] * len(kernel)))


def average_by_taps(g: GraphBuilder, x: ir.Value, *, node: ir.Node) -> Value:
    """y = the sum over taps of what each reads, over how many of them count."""
    padding = float(node.attributes.get_int("count_include_pad", 0))
    ones = g.expand_like(g.cast_like(np.ones(1, np.float32), x), x)
    return g.div(sum_by_taps(g, x, node=node), sum_by_taps(g, ones, node=node, padding=padding))


def sum_by_taps(g: GraphBuilder, x: ir.Value, *, node: ir.Node, padding: float = 0.0) -> Value:
    """y = the sum over taps of what each reads. node: a pooling of that size."""
    if node.attributes.get_int("ceil_mode", 0):
        raise _unknown(node, "in ceil_mode")
    return g.sum(*_taps(g, node, x, list(node.attributes["kernel_shape"].as_ints()), padding))


def _taps(g: GraphBuilder, node: ir.Node, x: ir.Value, kernel: list[int], padding: float) -> Iterator[Value]:
    """What each tap of the kernel reads, (n, c, ...) as the output of the node is."""
    n = len(kernel)
    stride = node.attributes.get_ints("strides", (1,) * n)
    dilation = node.attributes.get_ints("dilations", (1,) * n)
    axes = np.arange(2, n + 2)
    ends = np.array(_pads(node, kernel, stride, dilation), np.int64)
    framed = g.op("Pad", x, ends, g.cast_like(np.array(padding, np.float32), x), axes) if ends.any() else x
    last = g.mul(g.sub(g.op("Shape", node.outputs[0], start=2), 1), np.array(stride))
    for tap in np.ndindex(*kernel):
        start = np.array(tap) * np.array(dilation)
        yield g.op("Slice", framed, start, g.add(last, start + 1), axes, np.array(stride))


def _pads(node: ir.Node, kernel: list[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(node.attributes.get_ints("pads", (0,) * (2 * len(kernel))))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    if max(stride) > 1:
        raise _unknown(node, f"with strides and auto_pad={auto}")
    total = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return small + large if auto == "SAME_UPPER" else large + small


def _unknown(node: ir.Node, how: str) -> GradientError:
    return GradientError(
        f"the gradient of {node.op_type} in {node.name!r} {how} needs the size of its input",
        mend="Give the size as numbers in build(...).",
    )
