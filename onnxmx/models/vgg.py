"""VGG: 3x3 convolutions in five stages, each followed by pooling, then three dense layers."""

from __future__ import annotations

from collections.abc import Sequence

from onnxmx.builder import layers as L
from onnxmx.models.registry import Shape, images, model

IMAGE = (3, 224, 224)


@model(images)
def vgg11(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 11 layers.   Options: see vgg16.   Source: Simonyan & Zisserman 2015, table 1, A."""
    return _vgg((1, 1, 2, 2, 2), classes, width, units, dropout)


@model(images)
def vgg11_bn(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 11 layers with batch normalization.   Options: see vgg16.

    Source: Simonyan & Zisserman 2015, table 1, A; Ioffe & Szegedy 2015.
    """
    return _vgg((1, 1, 2, 2, 2), classes, width, units, dropout, norm=True)


@model(images)
def vgg13(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 13 layers.   Options: see vgg16.   Source: Simonyan & Zisserman 2015, table 1, B."""
    return _vgg((2, 2, 2, 2, 2), classes, width, units, dropout)


@model(images)
def vgg13_bn(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 13 layers with batch normalization.   Options: see vgg16.

    Source: Simonyan & Zisserman 2015, table 1, B; Ioffe & Szegedy 2015.
    """
    return _vgg((2, 2, 2, 2, 2), classes, width, units, dropout, norm=True)


@model(images)
def vgg16(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 16 layers.

    input: (channels, height, width) of one sample, 32 pixels or more.   width: channels of the first stage.
    units: of both hidden dense layers.   Returns (batch, classes) logits.
    Source: Simonyan & Zisserman 2015, table 1, D.
    """
    return _vgg((2, 2, 3, 3, 3), classes, width, units, dropout)


@model(images)
def vgg16_bn(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 16 layers with batch normalization.   Options: see vgg16.

    Source: Simonyan & Zisserman 2015, table 1, D; Ioffe & Szegedy 2015.
    """
    return _vgg((2, 2, 3, 3, 3), classes, width, units, dropout, norm=True)


@model(images)
def vgg19(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 19 layers.   Options: see vgg16.   Source: Simonyan & Zisserman 2015, table 1, E."""
    return _vgg((2, 2, 4, 4, 4), classes, width, units, dropout)


@model(images)
def vgg19_bn(
    input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
) -> L.Layer:
    """VGG of 19 layers with batch normalization.   Options: see vgg16.

    Source: Simonyan & Zisserman 2015, table 1, E; Ioffe & Szegedy 2015.
    """
    return _vgg((2, 2, 4, 4, 4), classes, width, units, dropout, norm=True)


def _vgg(depths: Sequence[int], classes: int, width: int, units: int, dropout: float, norm: bool = False) -> L.Layer:
    """depths: how many convolutions each stage has.   norm: with batch normalization."""

    def conv(channels: int) -> L.Layer:
        # The reference keeps the bias beside the norm, which makes it idle.
        plain = L.Conv2D(channels, 3, padding=1, activation=None if norm else "relu", name="conv" if norm else None)
        return L.Sequential(plain, L.BatchNorm(name="norm"), L.Activation("relu")) if norm else plain

    stages = [
        L.Sequential(*[conv(width * factor) for _ in range(depth)], L.MaxPool2D(2), name=f"stage{k + 1}")
        for k, (depth, factor) in enumerate(zip(depths, (1, 2, 4, 8, 8), strict=True))
    ]
    return L.Sequential(
        *stages,
        L.Flatten(),
        L.Dense(units, activation="relu"),
        L.Dropout(dropout),
        L.Dense(units, activation="relu"),
        L.Dropout(dropout),
        L.Dense(classes, name="head"),
    )
