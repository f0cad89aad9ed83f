"""Residual networks: for photographs, of the first version and of the second; and those for small images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.models.blocks import ConvNorm, NormConv, conv
from onnxmx.models.registry import Shape, images, model

IMAGE = (3, 224, 224)
Block = Callable[..., L.Layer]
"""A residual block from its inner channels, its stride, and whether training computes its activations again."""


@dataclass(frozen=True)
class BasicBlock(L.Layer):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).   x: (batch, n, h, w)   y: (batch, channels, h/s, w/s)

    padding: where sizes differ the shortcut has no weights, it skips pixels and adds channels of zeros.
    Source: He et al. 2016, figure 2; the shortcuts: options B and A.
    """

    channels: int
    stride: int = 1
    padding: bool = False

    def forward(self, x: Value) -> Value:
        y = ConvNorm(self.channels, 3, self.stride, name="1")(x)
        y = ConvNorm(self.channels, 3, activation=None, name="2")(y)
        shortcut = padded if self.padding else projected
        return L.relu(y + shortcut(x, self.channels, self.stride))


@dataclass(frozen=True)
class Bottleneck(L.Layer):
    """Convolutions of 1, 3 and 1 pixels, and the shortcut.   x: (batch, n, h, w)   y: (batch, 4 channels, h/s, w/s)

    The stride is in the middle one, as in PyTorch and other later versions; the paper has it in the first.
    Source: He et al. 2016, figure 5.
    """

    channels: int
    stride: int = 1

    def forward(self, x: Value) -> Value:
        y = ConvNorm(self.channels, 1, name="1")(x)
        y = ConvNorm(self.channels, 3, self.stride, name="2")(y)
        y = ConvNorm(4 * self.channels, 1, activation=None, name="3")(y)
        return L.relu(y + projected(x, 4 * self.channels, self.stride))


@dataclass(frozen=True)
class BasicBlockV2(L.Layer):
    """conv(relu(norm(conv(relu(norm(x)))))) + shortcut.   x: (batch, n, h, w)   y: (batch, channels, h/s, w/s)

    Source: He et al. 2016b, figure 1b.
    """

    channels: int
    stride: int = 1

    def forward(self, x: Value) -> Value:
        active = L.relu(L.BatchNorm(name="norm")(x))
        y = conv(self.channels, 3, self.stride)(active)
        y = NormConv(self.channels, 3, name="2")(y)
        return y + shortcut_v2(x, active, self.channels, self.stride)


@dataclass(frozen=True)
class BottleneckV2(L.Layer):
    """Norm and ReLU before each of three convolutions.   x: (batch, n, h, w)   y: (batch, 4 channels, h/s, w/s)

    Source: He et al. 2016b, figure 1b.
    """

    channels: int
    stride: int = 1

    def forward(self, x: Value) -> Value:
        active = L.relu(L.BatchNorm(name="norm")(x))
        y = conv(self.channels, 1)(active)
        y = NormConv(self.channels, 3, self.stride, name="2")(y)
        y = NormConv(4 * self.channels, 1, name="3")(y)
        return y + shortcut_v2(x, active, 4 * self.channels, self.stride)


def projected(x: Value, channels: int, stride: int) -> Value:
    """x, brought to these channels and this stride by a convolution where it differs."""
    if stride == 1 and x.shape is not None and x.shape[1] == channels:
        return x
    return ConvNorm(channels, 1, stride, activation=None, name="shortcut")(x)


def padded(x: Value, channels: int, stride: int) -> Value:
    """x, brought to these channels and this stride without weights: pixels are skipped, channels of zeros added."""
    g = x.builder
    if stride > 1:
        end = np.iinfo(np.int64).max
        x = g.slice(x, [0, 0], [end, end], [2, 3], [stride, stride])
    n = x.shape[1] if x.shape is not None else None
    more = channels - n if isinstance(n, int) else 0
    return g.pad(x, [0, more // 2, 0, 0, 0, more - more // 2, 0, 0]) if more else x


def shortcut_v2(x: Value, active: Value, channels: int, stride: int) -> Value:
    """x itself where it fits; else a convolution of `active`, what the block's own first convolution reads."""
    if stride == 1 and x.shape is not None and x.shape[1] == channels:
        return x
    return conv(channels, 1, stride, name="shortcut")(active)


@model(images)
def resnet18(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 18 layers.   Options: see resnet50.   Source: He et al. 2016, table 1."""
    return _resnet(BasicBlock, (2, 2, 2, 2), classes, width, checkpoint)


@model(images)
def resnet34(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 34 layers.   Options: see resnet50.   Source: He et al. 2016, table 1."""
    return _resnet(BasicBlock, (3, 4, 6, 3), classes, width, checkpoint)


@model(images)
def resnet50(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 50 layers.

    input: (channels, height, width) of one sample.   width: channels of the first stage.
    checkpoint: training computes the activations inside each block again instead of keeping them.
    Returns (batch, classes) logits.
    Source: He et al. 2016, table 1.
    """
    return _resnet(Bottleneck, (3, 4, 6, 3), classes, width, checkpoint)


@model(images)
def resnet101(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 101 layers.   Options: see resnet50.   Source: He et al. 2016, table 1."""
    return _resnet(Bottleneck, (3, 4, 23, 3), classes, width, checkpoint)


@model(images)
def resnet152(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 152 layers.   Options: see resnet50.   Source: He et al. 2016, table 1."""
    return _resnet(Bottleneck, (3, 8, 36, 3), classes, width, checkpoint)


@model(images)
def resnet18_v2(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 18 layers, norms first.   Options: see resnet50.   Source: He et al. 2016b."""
    return _resnet_v2(BasicBlockV2, (2, 2, 2, 2), classes, width, checkpoint)


@model(images)
def resnet34_v2(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 34 layers, norms first.   Options: see resnet50.   Source: He et al. 2016b."""
    return _resnet_v2(BasicBlockV2, (3, 4, 6, 3), classes, width, checkpoint)


@model(images)
def resnet50_v2(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 50 layers, norms first.   Options: see resnet50.   Source: He et al. 2016b."""
    return _resnet_v2(BottleneckV2, (3, 4, 6, 3), classes, width, checkpoint)


@model(images)
def resnet101_v2(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 101 layers, norms first.   Options: see resnet50.   Source: He et al. 2016b."""
    return _resnet_v2(BottleneckV2, (3, 4, 23, 3), classes, width, checkpoint)


@model(images)
def resnet152_v2(input: Shape = IMAGE, classes: int = 1000, width: int = 64, checkpoint: bool = False) -> L.Layer:
    """Residual network of 152 layers, norms first.   Options: see resnet50.   Source: He et al. 2016b."""
    return _resnet_v2(BottleneckV2, (3, 8, 36, 3), classes, width, checkpoint)


@model(images)
def resnet8(input: Shape = (3, 32, 32), classes: int = 10, padding: bool = False, checkpoint: bool = False) -> L.Layer:
    """Residual network of 8 layers for small images: three blocks of 16, 32 and 64 channels.

    Options: see resnet20.   Source: He et al. 2016, section 4.2, with n = 1; Banbury et al. 2021.
    """
    return _small(1, classes, padding, checkpoint)


@model(images)
def resnet20(input: Shape = (3, 32, 32), classes: int = 10, padding: bool = True, checkpoint: bool = False) -> L.Layer:
    """Residual network of 20 layers for small images.

    input: (channels, height, width) of one sample, of about 32 pixels.   padding: shortcuts that change size have no
    weights, as in the paper; else they are convolutions.   checkpoint: see resnet50.   Returns (batch, classes) logits.
    Source: He et al. 2016, section 4.2.
    """
    return _small(3, classes, padding, checkpoint)


@model(images)
def resnet56(input: Shape = (3, 32, 32), classes: int = 10, padding: bool = True, checkpoint: bool = False) -> L.Layer:
    """Residual network of 56 layers for small images.   Options: see resnet20.

    Source: He et al. 2016, section 4.2.
    """
    return _small(9, classes, padding, checkpoint)


def _resnet(block: Block, depths: Sequence[int], classes: int, width: int, checkpoint: bool) -> L.Layer:
    stem = [ConvNorm(width, 7, 2, name="stem"), L.MaxPool2D(3, stride=2, padding=1)]
    return L.Sequential(
        *stem, *_stages(block, depths, width, checkpoint), L.GlobalAvgPool2D(), L.Dense(classes, name="head")
    )


def _resnet_v2(block: Block, depths: Sequence[int], classes: int, width: int, checkpoint: bool) -> L.Layer:
    stem = [ConvNorm(width, 7, 2, name="stem"), L.MaxPool2D(3, stride=2, padding=1)]
    end = [L.BatchNorm(name="norm"), L.Activation("relu"), L.GlobalAvgPool2D(), L.Dense(classes, name="head")]
    return L.Sequential(*stem, *_stages(block, depths, width, checkpoint), *end)


def _small(n: int, classes: int, padding: bool, checkpoint: bool) -> L.Layer:
    stages = _stages(functools.partial(BasicBlock, padding=padding), (n, n, n), 16, checkpoint)
    return L.Sequential(ConvNorm(16, 3, name="stem"), *stages, L.GlobalAvgPool2D(), L.Dense(classes, name="head"))


def _stages(block: Block, depths: Sequence[int], width: int, checkpoint: bool) -> list[L.Layer]:
    """One stage after another, each with twice the channels on half the size."""

    def stage(k: int, depth: int) -> L.Layer:
        strides = [2 if k > 0 else 1, *[1] * (depth - 1)]
        return L.Sequential(*[block(width * 2**k, s, checkpoint=checkpoint) for s in strides], name=f"stage{k + 1}")

    return [stage(k, depth) for k, depth in enumerate(depths)]
