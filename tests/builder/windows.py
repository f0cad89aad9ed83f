"""Convolution and pooling in numpy, in any number of spatial axes, as their definitions read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.builder.layer_table import Array, Reference

Each = int | Sequence[int]


def each(n: Each, rank: int) -> list[int]:
    return [n] * rank if isinstance(n, int) else list(n)


def padded(x: Array, pads: Each, value: float = 0.0) -> Array:
    """pads: as in ONNX, all starts and then all ends."""
    rank = x.ndim - 2
    p = each(pads, 2 * rank)
    return np.pad(x, [(0, 0), (0, 0), *zip(p[:rank], p[rank:], strict=True)], constant_values=value)


def windows(x: Array, kernel: Sequence[int], stride: Each, dilation: Each = 1) -> Array:
    """(n, c, *out, taps)"""
    rank = x.ndim - 2
    strides, dilations = each(stride, rank), each(dilation, rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, s) for s in (*strides, *dilations))
    view = view[(slice(None), slice(None), *steps)]
    return view.reshape(*view.shape[: 2 + rank], -1)


def conv(*, stride: Each = 1, pads: Each = 0, dilation: Each = 1, groups: int = 1) -> Reference:
    """One product a window."""

    def compute(x: Array, p: dict[str, Array]) -> Array:
        w = p["weight"]
        taps = windows(padded(x, pads), w.shape[2:], stride, dilation)
        parts = [
            np.einsum("nc...k,ock->no...", xs, ws.reshape(*ws.shape[:2], -1))
            for xs, ws in zip(np.split(taps, groups, 1), np.split(w, groups, 0), strict=True)
        ]
        return np.concatenate(parts, 1) + _column(p, w.shape[0], x.ndim)

    return compute


def conv_transpose(
    *, stride: Each = 1, pads: Each = 0, dilation: Each = 1, groups: int = 1, extra: Each = 0
) -> Reference:
    """Each input element adds its multiple of the kernel to the output; then the pads are cut off."""

    def compute(x: Array, p: dict[str, Array]) -> Array:
        w, rank = p["weight"], x.ndim - 2
        s, d, e, cut = each(stride, rank), each(dilation, rank), each(extra, rank), each(pads, 2 * rank)
        reach = [(n - 1) * a + 1 for n, a in zip(x.shape[2:], s, strict=True)]
        size = [r + (k - 1) * b + c for r, k, b, c in zip(reach, w.shape[2:], d, e, strict=True)]
        parts = []
        for xs, ws in zip(np.split(x, groups, 1), np.split(w, groups, 0), strict=True):
            y = np.zeros((x.shape[0], w.shape[1], *size))
            for tap in itertools.product(*map(range, w.shape[2:])):
                at = tuple(slice(t * b, t * b + r, a) for t, b, r, a in zip(tap, d, reach, s, strict=True))
                y[(slice(None), slice(None), *at)] += np.einsum("nc...,co->no...", xs, ws[(..., *tap)])
            parts.append(y)
        y = np.concatenate(parts, 1)
        kept = tuple(slice(a, n - b) for a, b, n in zip(cut[:rank], cut[rank:], size, strict=True))
        return y[(slice(None), slice(None), *kept)] + _column(p, y.shape[1], x.ndim)

    return compute


def pool(reduce: Any, size: Each, stride: Each, pads: Each = 0, zeros: Each = 0) -> Reference:
    """pads count for nothing (nan stands for them), zeros are padding that counts."""

    def compute(x: Array, p: dict[str, Array]) -> Array:
        x = padded(padded(x, zeros), pads, np.nan)
        result: Array = reduce(windows(x, each(size, x.ndim - 2), stride), axis=-1)
        return result

    return compute


def _column(p: dict[str, Array], channels: int, rank: int) -> Array:
    return p.get("bias", np.zeros(channels)).reshape(-1, *(1,) * (rank - 2))
