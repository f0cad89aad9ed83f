"""SqueezeNet: the accuracy of AlexNet with a fiftieth of its parameters."""

from __future__ import annotations

from onnxmx.builder import layers as L
from onnxmx.models.registry import Shape, images, model

IMAGE = (3, 224, 224)


@model(images)
def squeezenet1_0(input: Shape = IMAGE, classes: int = 1000, dropout: float = 0.5) -> L.Layer:
    """SqueezeNet: convolutions of one pixel squeeze the channels before wider ones expand them.

    input: (channels, height, width) of one sample, 21 pixels or more.   Returns (batch, classes) logits.
    Source: Iandola et al. 2016, table 1.
    """
    return L.Sequential(
        L.Conv2D(96, 7, stride=2, activation="relu", name="stem"),
        _pool(),
        *(fire(16, 64), fire(16, 64), fire(32, 128)),
        _pool(),
        *(fire(32, 128), fire(48, 192), fire(48, 192), fire(64, 256)),
        _pool(),
        fire(64, 256),
        *_head(classes, dropout),
    )


@model(images)
def squeezenet1_1(input: Shape = IMAGE, classes: int = 1000, dropout: float = 0.5) -> L.Layer:
    """SqueezeNet that pools earlier, with less than half the operations.

    input: (channels, height, width) of one sample, 17 pixels or more.   Returns (batch, classes) logits.
    Source: Iandola et al. 2016, in the form that its authors published later.
    """
    return L.Sequential(
        L.Conv2D(64, 3, stride=2, activation="relu", name="stem"),
        _pool(),
        *(fire(16, 64), fire(16, 64)),
        _pool(),
        *(fire(32, 128), fire(32, 128)),
        _pool(),
        *(fire(48, 192), fire(48, 192), fire(64, 256), fire(64, 256)),
        *_head(classes, dropout),
    )


def fire(squeeze: int, expand: int) -> L.Layer:
    """x: (batch, n, h, w)   y: (batch, 2 expand, h, w)   Source: Iandola et al. 2016, figure 1."""
    return L.Sequential(
        L.Conv2D(squeeze, 1, activation="relu", name="squeeze"),
        L.Concat(
            L.Conv2D(expand, 1, activation="relu", name="1x1"),
            L.Conv2D(expand, 3, padding=1, activation="relu", name="3x3"),
            name="expand",
        ),
    )


def _pool() -> L.Layer:
    return L.MaxPool2D(3, stride=2, ceil=True)


def _head(classes: int, dropout: float) -> list[L.Layer]:
    # Without the ReLU that the authors' code has after the head: of few classes it often silences all for good.
    return [L.Dropout(dropout), L.Conv2D(classes, 1, name="head"), L.GlobalAvgPool2D()]
