"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value


@dataclass(frozen=True)
class BasicBlock(L.Layer):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).   x: (batch, c, h, w)   y: (batch, channels, h/s, w/s)"""

    channels: int
    stride: int = 1

    def forward(self, x: Value) -> Value:
        y = conv_norm(x, self.channels, 3, self.stride)
        y = conv_norm(L.relu(y), self.channels, 3)
        shortcut = x if self.stride == 1 else conv_norm(x, self.channels, 1, self.stride)
        return L.relu(y + shortcut)


def conv_norm(x: Value, channels: int, kernel: int, stride: int = 1) -> Value:
    """A convolution without bias, then batch normalization."""
    y = L.Conv2D(channels, kernel, stride=stride, padding=kernel // 2, bias=False)(x)
    return L.BatchNorm()(y)


@dataclass(frozen=True)
class Stem(L.Layer):
    """The first convolution.   x: (batch, c, h, w)   y: (batch, channels, h, w)"""

    channels: int

    def forward(self, x: Value) -> Value:
        return L.relu(conv_norm(x, self.channels, 3))


def resnet8(input: Sequence[int] = (3, 32, 32), classes: int = 10) -> L.Layer:
    """The residual network of 8 layers for images of about 32 pixels: three blocks of 16, 32 and 64 channels.

    input: (channels, height, width) of one sample.   Returns (batch, classes) logits.
    Source: He et al. 2016, section 4.2, with n = 1.
    """
    return L.Sequential(
        Stem(16, name="stem"),
        BasicBlock(16),
        BasicBlock(32, 2),
        BasicBlock(64, 2),
        L.GlobalAvgPool2D(),
        L.Dense(classes, name="head"),
    )
