"""Rows of the table of layers: convolution, pooling, and what changes the size of space."""

from __future__ import annotations

import numpy as np

import onnxmx.builder.layers as L
from tests.builder.layer_table import Array, Case, Reference
from tests.builder.windows import conv, conv_transpose, padded, pool

SEQUENCE, IMAGE, VOLUME = (2, 4, 9), (2, 4, 9, 8), (2, 4, 5, 6, 4)


def relu_of(reference: Reference) -> Reference:
    return lambda x, p: np.maximum(reference(x, p), 0)


def over_space(reduce: str) -> Reference:
    return lambda x, p: getattr(x, reduce)(tuple(range(2, x.ndim)))


def repeat(*scale: int) -> Reference:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        for axis, s in enumerate(scale):
            x = np.repeat(x, s, axis + 2)
        return x

    return compute


def interpolate(*scale: int) -> Reference:
    """Output element i lies at (i + 1/2) / scale - 1/2 of the input, whose borders go on for ever."""

    def compute(x: Array, p: dict[str, Array]) -> Array:
        for axis, s in enumerate(scale):
            n = x.shape[axis + 2]
            at = np.clip((np.arange(n * s) + 0.5) / s - 0.5, 0, n - 1)
            x = np.apply_along_axis(lambda row, at=at, n=n: np.interp(at, np.arange(n), row), axis + 2, x)
        return x

    return compute


def shuffle(r: int) -> Reference:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        n, c, h, w = x.shape
        y = np.zeros((n, c // r**2, h * r, w * r))
        for i in range(r):
            for j in range(r):
                y[:, :, i::r, j::r] = x[:, i * r + j :: r**2]
        return y

    return compute


def reflect(*pairs: tuple[int, int]) -> Reference:
    return lambda x, p: np.pad(x, [(0, 0), (0, 0), *pairs], mode="reflect")


CONV = [
    Case(L.Conv2D(6, 3), IMAGE, conv()),
    Case(L.Conv2D(6, 3, bias=False, stride=2), IMAGE, conv(stride=2)),
    Case(L.Conv2D(6, (3, 2), padding=(1, 2)), IMAGE, conv(pads=(1, 2, 1, 2))),
    Case(L.Conv2D(6, [3, 2], padding=1), IMAGE, conv(pads=1)),
    Case(L.Conv2D(6, 3, padding=((0, 1), (2, 0))), IMAGE, conv(pads=(0, 2, 1, 0))),
    Case(L.Conv2D(6, 3, padding="same"), IMAGE, conv(pads=1), out=(2, 6, 9, 8)),
    # 9 wide: 5 windows of 4 in steps of 2 span 12; 8 wide: 4 windows span 10: the odd pixel goes to the end.
    Case(L.Conv2D(6, 4, padding="same", stride=2), IMAGE, conv(stride=2, pads=(1, 1, 2, 1)), out=(2, 6, 5, 4)),
    Case(L.Conv2D(6, 3, dilation=2), IMAGE, conv(dilation=2)),
    Case(L.Conv2D(6, 3, groups=2), IMAGE, conv(groups=2)),
    Case(L.Conv2D(4, 3, groups=4, activation="relu"), IMAGE, relu_of(conv(groups=4))),
    Case(L.Conv2D(8, 3, groups=4, padding=1), IMAGE, conv(groups=4, pads=1)),
    Case(L.Conv1D(6, 3), SEQUENCE, conv(), out=(2, 6, 7)),
    Case(L.Conv1D(6, 4, stride=2, padding="same"), SEQUENCE, conv(stride=2, pads=(1, 2)), out=(2, 6, 5)),
    Case(L.Conv1D(6, 3, dilation=2, padding=((4, 0),)), SEQUENCE, conv(dilation=2, pads=(4, 0)), out=(2, 6, 9)),
    Case(L.Conv1D(4, (3,), groups=4, activation="relu"), SEQUENCE, relu_of(conv(groups=4))),
    Case(L.Conv3D(6, 3), VOLUME, conv(), out=(2, 6, 3, 4, 2)),
    Case(L.Conv3D(6, (3, 2, 3), stride=(1, 2, 1), padding="same"), VOLUME,
         conv(stride=(1, 2, 1), pads=(1, 0, 1, 1, 0, 1)), out=(2, 6, 5, 3, 4)),
    Case(L.Conv3D(2, 2, padding=(0, 1, 2), dilation=(1, 2, 1), groups=2, bias=False), VOLUME,
         conv(pads=(0, 1, 2, 0, 1, 2), dilation=(1, 2, 1), groups=2)),
]  # fmt: skip

TRANSPOSED = [
    Case(L.Conv2DTranspose(6, 3), IMAGE, conv_transpose(), out=(2, 6, 11, 10)),
    Case(L.Conv2DTranspose(6, 3, stride=2, bias=False), IMAGE, conv_transpose(stride=2), out=(2, 6, 19, 17)),
    Case(L.Conv2DTranspose(6, 4, stride=2, padding=1), IMAGE, conv_transpose(stride=2, pads=1), out=(2, 6, 18, 16)),
    Case(L.Conv2DTranspose(6, 3, stride=2, padding=1, output_padding=1), IMAGE,
         conv_transpose(stride=2, pads=1, extra=1), out=(2, 6, 18, 16)),
    Case(L.Conv2DTranspose(6, (3, 2), stride=(3, 2), output_padding=(2, 0), activation="relu"), IMAGE,
         relu_of(conv_transpose(stride=(3, 2), extra=(2, 0)))),
    Case(L.Conv2DTranspose(6, 5, stride=2, padding="same"), IMAGE,
         conv_transpose(stride=2, pads=(1, 1, 2, 2)), out=(2, 6, 18, 16)),
    Case(L.Conv2DTranspose(6, 1, stride=2, padding="same"), IMAGE,
         conv_transpose(stride=2, extra=1), out=(2, 6, 18, 16)),
    Case(L.Conv2DTranspose(6, 3, padding=((0, 1), (2, 0))), IMAGE, conv_transpose(pads=(0, 2, 1, 0))),
    Case(L.Conv2DTranspose(6, 3, dilation=2), IMAGE, conv_transpose(dilation=2), out=(2, 6, 13, 12)),
    # onnx.reference mixes up groups of more than one channel.
    Case(L.Conv2DTranspose(6, 3, groups=2, stride=2), IMAGE, conv_transpose(stride=2, groups=2), reference=False),
    Case(L.Conv2DTranspose(4, 3, groups=4), IMAGE, conv_transpose(groups=4), reference=False),
    Case(L.Conv1DTranspose(6, 4, stride=2, padding=1), SEQUENCE, conv_transpose(stride=2, pads=1), out=(2, 6, 18)),
    Case(L.Conv1DTranspose(6, 3, stride=3, padding="same"), SEQUENCE, conv_transpose(stride=3), out=(2, 6, 27)),
    Case(L.Conv3DTranspose(3, 2, stride=2), VOLUME, conv_transpose(stride=2), out=(2, 3, 10, 12, 8)),
    Case(L.Conv3DTranspose(3, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 0), output_padding=(0, 1, 0)), VOLUME,
         conv_transpose(stride=(1, 2, 1), pads=(0, 1, 0, 0, 1, 0), extra=(0, 1, 0))),
]  # fmt: skip

POOL = [
    Case(L.MaxPool2D(2), IMAGE, pool(np.nanmax, 2, 2)),
    Case(L.MaxPool2D(3, stride=2, padding=1), IMAGE, pool(np.nanmax, 3, 2, 1)),
    Case(L.MaxPool2D(3, stride=1, padding="same"), IMAGE, pool(np.nanmax, 3, 1, 1), out=IMAGE),
    Case(L.MaxPool2D(2, ceil=True), IMAGE, pool(np.nanmax, 2, 2, (0, 0, 1, 0)), out=(2, 4, 5, 4)),
    Case(L.MaxPool2D(3, stride=2, ceil=True), (2, 4, 8, 9), pool(np.nanmax, 3, 2, (0, 0, 1, 0)), out=(2, 4, 4, 4)),
    # Rounded up there would be 4 rows, the last of which begins behind the input.
    Case(L.MaxPool2D((2, 1), stride=(3, 1), padding=(1, 0), ceil=True), IMAGE,
         pool(np.nanmax, (2, 1), (3, 1), (1, 0, 1, 0)), out=(2, 4, 4, 8)),
    Case(L.MaxPool2D((2, 1), stride=(3, 1), padding=(1, 0), ceil=True), (2, 4, 8, 2),
         pool(np.nanmax, (2, 1), (3, 1), (1, 0, 0, 0)), out=(2, 4, 3, 2)),
    Case(L.MaxPool1D(3), SEQUENCE, pool(np.nanmax, 3, 3), out=(2, 4, 3)),
    # onnx.reference reads past the end of a padded sequence.
    Case(L.MaxPool1D(3, stride=1, padding="same"), SEQUENCE, pool(np.nanmax, 3, 1, 1), out=SEQUENCE, reference=False),
    Case(L.MaxPool3D((2, 3, 2)), VOLUME, pool(np.nanmax, (2, 3, 2), (2, 3, 2)), out=(2, 4, 2, 2, 2)),
    Case(L.MaxPool3D(2, padding=1), VOLUME, pool(np.nanmax, 2, 2, 1)),
    Case(L.AvgPool2D(2), IMAGE, pool(np.nanmean, 2, 2)),
    Case(L.AvgPool2D((3, 3), stride=(1, 1), padding=1), IMAGE, pool(np.nanmean, 3, 1, 1)),
    Case(L.AvgPool2D(3, stride=1, padding=1, count_include_pad=True), IMAGE, pool(np.nanmean, 3, 1, zeros=1)),
    Case(L.AvgPool2D(3, stride=2, ceil=True), IMAGE, pool(np.nanmean, 3, 2, (0, 0, 0, 1)), out=(2, 4, 4, 4)),
    Case(L.AvgPool2D(3, stride=2, ceil=True, count_include_pad=True), IMAGE, pool(np.nanmean, 3, 2, (0, 0, 0, 1))),
    Case(L.AvgPool2D(3, stride=2, padding=1, ceil=True, count_include_pad=True), IMAGE,
         pool(np.nanmean, 3, 2, (0, 0, 0, 1), zeros=1), out=(2, 4, 5, 5)),
    Case(L.AvgPool1D(2, stride=1), SEQUENCE, pool(np.nanmean, 2, 1), out=(2, 4, 8)),
    Case(L.AvgPool1D(4, stride=3, padding="same", count_include_pad=True), SEQUENCE,
         pool(np.nanmean, 4, 3, zeros=(0, 1)), out=(2, 4, 3)),
    Case(L.AvgPool3D(2), VOLUME, pool(np.nanmean, 2, 2), out=(2, 4, 2, 3, 2)),
    Case(L.AvgPool3D((1, 2, 3), stride=1, padding=(0, 1, 1)), VOLUME, pool(np.nanmean, (1, 2, 3), 1, (0, 1, 1) * 2)),
    Case(L.GlobalMaxPool1D(), SEQUENCE, over_space("max"), out=(2, 4)),
    Case(L.GlobalMaxPool2D(), IMAGE, over_space("max"), out=(2, 4)),
    Case(L.GlobalMaxPool3D(), VOLUME, over_space("max"), out=(2, 4)),
    Case(L.GlobalAvgPool1D(), SEQUENCE, over_space("mean"), out=(2, 4)),
    Case(L.GlobalAvgPool2D(), IMAGE, over_space("mean"), out=(2, 4)),
    Case(L.GlobalAvgPool3D(), VOLUME, over_space("mean"), out=(2, 4)),
]  # fmt: skip

RESIZE = [
    Case(L.UpSample(), IMAGE, repeat(2, 2), out=(2, 4, 18, 16)),
    Case(L.UpSample((3, 1)), IMAGE, repeat(3, 1)),
    Case(L.UpSample(2), SEQUENCE, repeat(2)),
    Case(L.UpSample(2), VOLUME, repeat(2, 2, 2)),
    Case(L.UpSample(2, mode="bilinear"), IMAGE, interpolate(2, 2)),
    Case(L.UpSample((2, 3), mode="bilinear"), IMAGE, interpolate(2, 3)),
    Case(L.UpSample(3, mode="bilinear"), SEQUENCE, interpolate(3)),
    Case(L.UpSample(2, mode="bilinear"), VOLUME, interpolate(2, 2, 2)),
    Case(L.PixelShuffle(2), IMAGE, shuffle(2), out=(2, 1, 18, 16)),
    Case(L.PixelShuffle(3), (2, 18, 2, 4), shuffle(3), out=(2, 2, 6, 12)),
    Case(L.ZeroPad(1), IMAGE, lambda x, p: padded(x, 1), out=(2, 4, 11, 10)),
    Case(L.ZeroPad((1, 2)), IMAGE, lambda x, p: padded(x, (1, 2, 1, 2))),
    Case(L.ZeroPad(((0, 1), (2, 0))), IMAGE, lambda x, p: padded(x, (0, 2, 1, 0))),
    Case(L.ZeroPad(2), SEQUENCE, lambda x, p: padded(x, 2)),
    Case(L.ReflectionPad(3), IMAGE, reflect((3, 3), (3, 3)), out=(2, 4, 15, 14)),
    Case(L.ReflectionPad(((0, 2), (1, 0))), IMAGE, reflect((0, 2), (1, 0))),
    Case(L.ReflectionPad(1), VOLUME, reflect(*[(1, 1)] * 3)),
]

CASES = [*CONV, *TRANSPOSED, *POOL, *RESIZE]
