"""What takes the place of an operator, or of a form of it, that a device has no kernel for.

A substitute is a function (g, inputs, attributes) of what the node would have had. It returns the outputs, or None for
a form that the device can run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.ops import INT32, INT64

if TYPE_CHECKING:
    from onnxmx.builder.graph import GraphBuilder, Value

Substitute = Callable[["GraphBuilder", Sequence[Any], Mapping[str, Any]], "Value | None"]
_ENDS = 2**31 - 1


def symmetric_conv_transpose(g: GraphBuilder, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Value | None:
    """ConvTranspose takes away the same at both ends, and a Slice the rest: cuDNN knows no other pads."""
    pads = _pads(inputs[1], attributes)
    if pads is None or (begin := pads[: len(pads) // 2]) == (end := pads[len(pads) // 2 :]):
        return None
    same = [min(pair) for pair in zip(begin, end, strict=True)]
    more = {k: v for k, v in attributes.items() if k not in ("pads", "auto_pad")}
    y = g.op("ConvTranspose", *inputs, **more, pads=[*same, *same])
    starts = [b - s for b, s in zip(begin, same, strict=True)]
    ends = [s - e or _ENDS for e, s in zip(end, same, strict=True)]
    return g.slice(y, starts, ends, list(range(2, 2 + len(same))))


def _pads(w: Any, attributes: Mapping[str, Any]) -> list[int] | None:
    """A ConvTranspose's pads; None where they depend on the size of the image."""
    how = attributes.get("auto_pad", "NOTSET")
    if attributes.get("output_shape"):
        return None
    if how in ("NOTSET", b"NOTSET"):
        return list(attributes.get("pads") or []) or None
    if not str(how).startswith("SAME") or w.shape is None or not all(isinstance(d, int) for d in w.shape[2:]):
        return None
    rank = len(w.shape) - 2
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    extra = attributes.get("output_padding") or [0] * rank
    # The output is the image times the strides; what the kernel overhangs is the padding.
    total = [e + (k - 1) * d + 1 - s for e, k, d, s in zip(extra, w.shape[2:], dilations, strides, strict=True)]
    if min(total) < 0:
        return None
    less, rest = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *rest] if how == "SAME_UPPER" else [*rest, *less]


def celu(g: GraphBuilder, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))"""
    (x,), alpha = inputs, attributes.get("alpha", 1.0)
    below = g.mul(g.sub(g.exp(g.div(x, alpha)), 1.0), alpha)
    return g.add(g.max(x, 0.0), g.min(below, 0.0))


def mean(g: GraphBuilder, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Value:
    """sum(x_k) / n"""
    return g.div(g.op("Sum", *inputs), float(len(inputs)))


def tan(g: GraphBuilder, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Value:
    """sin x / cos x"""
    return g.div(g.op("Sin", *inputs), g.op("Cos", *inputs))


def pad(g: GraphBuilder, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Value | None:
    """Integers as float64, which holds them up to 2^53."""
    x, pads, *rest = inputs
    if not isinstance(x, ir.Value) or x.dtype not in (INT32, INT64):
        return None
    if rest and rest[0] is not None:
        rest[0] = g.cast(rest[0], ir.DataType.DOUBLE) if isinstance(rest[0], ir.Value) else np.float64(rest[0])
    return g.cast(g.op("Pad", g.cast(x, ir.DataType.DOUBLE), pads, *rest, **attributes), x.dtype)


def shift(g: GraphBuilder, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Value | None:
    """x >> n = x / 2^n and x << n = x 2^n, for n known while the graph is built."""
    x, n = inputs
    if not isinstance(n, (np.ndarray, np.generic)):
        return None
    power = np.left_shift(np.ones_like(n), n)
    return g.div(x, power) if attributes["direction"] == "RIGHT" else g.mul(x, power)


SUBSTITUTES: Mapping[str, Mapping[str, Substitute]] = {
    "cpu": {},
    "cuda": {
        "BitShift": shift,
        "Celu": celu,
        "ConvTranspose": symmetric_conv_transpose,
        "Mean": mean,
        "Pad": pad,
        "Tan": tan,
    },
}
"""By device and operator. Of BitwiseXor, which CUDA lacks too, see `random`."""
