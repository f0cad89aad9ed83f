"""What onnx.reference 1.23 gets wrong, rounds, or does not know, as its definition reads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from tests.recurrent import GRU, LSTM, RNN, Loop, Scan

Array = np.ndarray[Any, Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])


class Erf(OpRun):
    """The reference's own Erf rounds to float32, which is too coarse for finite differences."""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """As Erf."""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return ((x / 2 * (1 + _erf(x / math.sqrt(2)))).astype(x.dtype),)


class GatherElements(OpRun):
    """The reference's own takes no more than 64 elements along the axis, and no index smaller than x elsewhere."""

    def _run(self, x: Array, index: Array, axis: int | None = None) -> tuple[Array]:
        axis = (axis or 0) % x.ndim
        near = x[tuple(slice(None) if k == axis else slice(n) for k, n in enumerate(index.shape))]
        return (np.take_along_axis(near, index, axis),)


class ConvTranspose(OpRun):
    """Each element of x puts W, times itself, onto y. The reference mixes up groups, and the pads of output_shape."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: list[int] | None = None,
        group: int | None = None,
        kernel_shape: list[int] | None = None,
        output_padding: list[int] | None = None,
        output_shape: list[int] | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[Array]:
        n, groups, kernel = x.ndim - 2, group or 1, w.shape[2:]
        stride, dilation = np.array(strides or [1] * n), np.array(dilations or [1] * n)
        extra, pad = np.array(output_padding or [0] * n), np.array(pads or [0] * 2 * n).reshape(2, n)
        full = (np.array(x.shape[2:]) - 1) * stride + (np.array(kernel) - 1) * dilation + 1 + extra
        if output_shape or (auto_pad or "").startswith("SAME"):
            size = np.array(output_shape) if output_shape else np.array(x.shape[2:]) * stride
            total = full - size
            half = total // 2
            pad = np.array([half, total - half] if auto_pad == "SAME_UPPER" else [total - half, half])
        xs, ws = x.reshape(x.shape[0], groups, -1, *x.shape[2:]), w.reshape(groups, -1, *w.shape[1:])
        y = np.zeros((x.shape[0], groups, w.shape[1], *full), x.dtype)
        for tap in np.ndindex(*kernel):
            first = np.array(tap) * dilation
            there = tuple(slice(f, f + (m - 1) * s + 1, s) for f, m, s in zip(first, x.shape[2:], stride, strict=True))
            y[(..., *there)] += np.einsum("ngi...,gio->ngo...", xs, ws[(..., *tap)])
        y = y.reshape(x.shape[0], -1, *full)[
            (..., *(slice(p, f - q) for p, q, f in zip(pad[0], pad[1], full, strict=True)))
        ]
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


BETTER = [Erf, Gelu, GatherElements, ConvTranspose, RNN, LSTM, GRU, Scan, Loop]
