"""MobileNet: each channel is convolved on its own, then one-pixel convolutions mix them."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.models.blocks import ConvNorm
from onnxmx.models.registry import Shape, images, model

IMAGE = (3, 224, 224)


@model(images)
def mobilenet_v1(input: Shape = IMAGE, classes: int = 1000, width: float = 1.0, dropout: float = 0.001) -> L.Layer:
    """MobileNet: depthwise separable convolutions.

    input: (channels, height, width) of one sample.   width: multiplies the channels; 0.25, 0.5, 0.75 are usual.
    Returns (batch, classes) logits.
    Source: Howard et al. 2017, table 1.
    """
    n = int(32 * width)
    body: list[L.Layer] = [ConvNorm(n, 3, 2, name="stem")]
    steps = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for channels, stride in steps:
        depthwise = ConvNorm(n, 3, stride, groups=n, name="depthwise")
        n = int(channels * width)
        body.append(L.Sequential(depthwise, ConvNorm(n, 1, name="pointwise")))
    return L.Sequential(*body, L.GlobalAvgPool2D(), L.Dropout(dropout), L.Dense(classes, name="head"))


@dataclass(frozen=True)
class InvertedResidual(L.Layer):
    """More channels, a convolution of each, fewer channels; plus x where sizes agree.

    x: (batch, n, h, w)   y: (batch, channels, h/s, w/s)   expansion: how many times n the channels within are.
    Source: Sandler et al. 2018, table 1.
    """

    channels: int
    stride: int = 1
    expansion: int = 6

    def forward(self, x: Value) -> Value:
        n = self._static_dim(x, 1, "a number of channels", "Give the input's channels in build(...).")
        inner = n * self.expansion
        y = x if self.expansion == 1 else ConvNorm(inner, 1, activation="relu6", name="expand")(x)
        y = ConvNorm(inner, 3, self.stride, groups=inner, activation="relu6", name="depthwise")(y)
        y = ConvNorm(self.channels, 1, activation=None, name="project")(y)
        return x + y if self.stride == 1 and n == self.channels else y


@model(images)
def mobilenet_v2(input: Shape = IMAGE, classes: int = 1000, width: float = 1.0, dropout: float = 0.2) -> L.Layer:
    """MobileNet of the second version: residual blocks that are wide within and narrow between.

    input: (channels, height, width) of one sample.   width: multiplies the channels, which are rounded to eights;
    0.35, 0.5, 0.75, 1.4 are usual.   Returns (batch, classes) logits.
    Source: Sandler et al. 2018, table 2.
    """
    body: list[L.Layer] = [ConvNorm(_eights(32 * width), 3, 2, activation="relu6", name="stem")]
    steps = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, channels, count, stride in steps:
        for k in range(count):
            body.append(InvertedResidual(_eights(channels * width), stride if k == 0 else 1, expansion))
    last = ConvNorm(_eights(1280 * max(width, 1.0)), 1, activation="relu6", name="last")
    return L.Sequential(*body, last, L.GlobalAvgPool2D(), L.Dropout(dropout), L.Dense(classes, name="head"))


def _eights(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth less."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8
