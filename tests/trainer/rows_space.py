"""Rows of the table of gradient rules: pooling by norm, sampling, normalization in all forms, linear algebra."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.trainer.rule_case import Case, Shape


def lp_pool(shape: Shape, kernel: list[int], **attributes: Any) -> Case:
    return Case("LpPool", (shape,), {"kernel_shape": kernel, **attributes}, avoid=0.0)


def sample(shapes: tuple[Shape, Shape], **attributes: Any) -> Case:
    """Coordinates in and beyond the image, none on a pixel. onnx.reference rounds them to float32.

    Where one coordinate is beyond a border, ONNX Runtime's cubic mode moves the other one too: there all are inside.
    """
    mode, padding = attributes["mode"], attributes["padding_mode"]
    reach = 0.7 if (mode, padding) == ("cubic", "border") else 1.37
    base = np.random.default_rng(2).permutation(np.linspace(-reach, reach - 0.06, int(np.prod(shapes[1]))))

    def make(g: Any, x: Any, *grid: Any) -> Any:
        places = g.cast_like(base.reshape(shapes[1]), x)
        return g.op(
            "GridSample", x, *(g.add(g.mul(v, 0.01), places) for v in grid or [g.mul(places, 0.0)]), **attributes
        )

    given = shapes[:1] if mode == "nearest" else shapes  # the nearest pixel does not follow the grid smoothly
    return Case("GridSample", given, make=make, step=2e-2, label=f"{attributes}")


def einsum(equation: str, *shapes: Shape) -> Case:
    return Case("Einsum", shapes, {"equation": equation})


def fourier(shape: Shape, length: int | None, axis: int | None, **attributes: Any) -> Case:
    def make(g: Any, x: Any) -> Any:
        n, a = (None if v is None else np.array(v, np.int64) for v in (length, axis))
        return g.op("DFT", x, n, a, **attributes)

    return Case("DFT", (shape,), make=make, label=f"{shape}{length}{axis}{attributes}")


def short_time_fourier(shape: Shape, n: int, window: bool, onesided: int | None) -> Case:
    """Frames of n elements, 3 apart; the window is an input. onnx.reference needs one."""

    def make(g: Any, x: Any, *windows: Any) -> Any:
        given = windows or (None, np.array(n, np.int64))
        return g.op("STFT", x, np.array(3, np.int64), *given, onesided=onesided)

    shapes = (shape, (n,)) if window else (shape,)
    return Case("STFT", shapes, make=make, label=f"{onesided}", step=None if window else 0.5)


def columns(shape: Shape, image: list[int], block: list[int], **attributes: Any) -> Case:
    def make(g: Any, x: Any) -> Any:
        return g.op("Col2Im", x, np.array(image, np.int64), np.array(block, np.int64), **attributes)

    return Case("Col2Im", (shape,), make=make, label=f"{image}{block}{attributes}")


def unpool(shape: Shape, index: Any, size: list[int] | None = None) -> Case:
    def make(g: Any, x: Any) -> Any:
        given = None if size is None else np.array(size, np.int64)
        return g.op("MaxUnpool", x, np.array(index, np.int64), given, kernel_shape=[2, 2], strides=[2, 2])

    return Case("MaxUnpool", (shape,), make=make, label=f"{index}{size}")


def batch_norm_in_training(shape: Shape, read: int) -> Case:
    def make(g: Any, *xs: Any) -> Any:
        x, scale, bias, mean, var = xs
        ys = g.ops("BatchNormalization", x, scale, bias, mean, g.add(g.mul(var, var), 0.5), outputs=3, training_mode=1,
                   momentum=0.7, epsilon=0.01)  # fmt: skip
        # Every input matters a little, for the table wants a gradient of each.
        rest = g.mul(g.reduce_sum(g.sum(scale, bias, mean, var), keepdims=False), 0.1)
        return g.add(ys[read], rest)

    return Case("BatchNormalization", (shape, *[(3,)] * 4), make=make, label=f"training{read}")


def layer_norm_statistics(read: int) -> Case:
    def make(g: Any, x: Any, scale: Any) -> Any:
        ys = g.ops("LayerNormalization", x, scale, outputs=3, axis=1)
        return g.add(g.mul(ys[0], 0.5), ys[read])

    # The statistics are float32 whatever x is, so in float64 there are none.
    return Case("LayerNormalization", ((3, 4, 5), (4, 5)), make=make, step=1e-2, label=f"read{read}")


CASES = [
    *(lp_pool((2, 3, 5, 6), [2, 3], strides=[2, 2], p=p) for p in (1, 2, 3)),
    lp_pool((1, 2, 6, 7), [3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    lp_pool((2, 3, 9), [3], strides=[2], dilations=[2]),
    *(Case("GlobalLpPool", ((2, 3, 4, 2),), {"p": p}, avoid=0.0, step=1e-2) for p in (1, 2, 3)),
    unpool((1, 1, 2, 2), [[[[5, 7], [8, 15]]]]),
    # onnx.reference counts the places through what the output would be without a size.
    replace(unpool((1, 1, 2, 2), [[[[5, 7], [8, 24]]]], [1, 1, 5, 5]), step=0.5),
    *(Case("LpNormalization", ((3, 4, 2),), {"axis": a, "p": p}, avoid=0.0, step=1e-2)
      for a in (1, -1) for p in (1, 2)),  # onnx.reference takes no absolute values
    Case("LpNormalization", ((3, 4),), label="zeros", step=1e-2, make=lambda g, x: g.op(
        "LpNormalization", g.mul(x, g.cast_like(np.array([[1.0], [0.0], [1.0]]), x)), axis=1)),
    Case("BatchNormalization", ((4, 3, 2), *[(3,)] * 4), label="statistics", make=lambda g, x, s, b, m, v: g.op(
        "BatchNormalization", x, s, b, m, g.add(g.mul(v, v), 0.5))),
    batch_norm_in_training((4, 3, 5), 0),
    *(batch_norm_in_training((4, 3), read) for read in (0, 1, 2)),
    *(Case("AffineGrid", (s,), step=0.5, label=f"{n}{c}", make=lambda g, t, n=n, c=c: g.op(
        "AffineGrid", t, np.array(n, np.int64), align_corners=c)) for c in (0, 1)
      for s, n in (((2, 2, 3), [2, 3, 4, 5]), ((2, 3, 4), [2, 1, 2, 3, 4]))),
    *(sample(((2, 2, 4, 5), (2, 3, 4, 2)), mode=m, padding_mode=p, align_corners=c)
      for m in ("nearest", "linear", "cubic") for p in ("zeros", "border", "reflection") for c in (0, 1)),
    # Linear in the image and, between pixels, in the coordinates.
    *(sample(((1, 2, 3, 4, 3), (1, 2, 3, 2, 3)), mode="linear", padding_mode=p) for p in ("zeros", "reflection")),
    *(Case("Det", (s,)) for s in ((3, 3), (2, 4, 4), (2, 3, 2, 2), (3, 1, 1))),
    Case("Det", ((3, 3),), label="singular", make=lambda g, x: g.op(
        "Det", g.matmul(x, g.cast_like(np.diag([1.0, 2.0, 0.0]), x)))),
    *(fourier((2, 6, 3, c), n, a, inverse=i) for c in (1, 2) for i in (0, 1)
      for n, a in ((None, None), (None, 1), (4, 1), (8, -3))),
    *(fourier((2, n, 1), None, 1, onesided=1) for n in (6, 5)),
    *(fourier((2, 4, c), n, 1, onesided=1, inverse=1) for c in (2,) for n in (None, 7, 9)),
    *(short_time_fourier((2, 11, 1), n, window, o) for n, window in ((4, True), (5, False)) for o in (None, 0, 1)),
    short_time_fourier((2, 11, 2), 4, True, 0),
    einsum("ij,jk->ik", (3, 4), (4, 2)),
    einsum("bij,bjk", (2, 3, 4), (2, 4, 2)),
    einsum("ij->ji", (3, 4)),
    einsum("ij->i", (3, 4)),
    einsum("ij,k->", (3, 4), (2,)),
    einsum("ii->i", (3, 3)),
    einsum("bii->b", (2, 3, 3)),
    einsum("...ij,jk->...ik", (2, 2, 3, 4), (4, 2)),
    einsum("b...,b...->...", (3, 2), (3, 2)),
    einsum("i,i,ij->j", (3,), (3,), (3, 4)),
    columns((2, 12, 6), [3, 4], [2, 2]),
    columns((1, 12, 6), [5, 6], [2, 3], pads=[1, 0, 0, 2], strides=[2, 2], dilations=[2, 1]),
    *(layer_norm_statistics(read) for read in (1, 2)),
]  # fmt: skip
