"""AlexNet, which began the deep convolutional networks."""

from __future__ import annotations

from onnxmx.builder import layers as L
from onnxmx.models.registry import Shape, images, model


@model(images)
def alexnet(input: Shape = (3, 224, 224), classes: int = 1000, units: int = 4096, dropout: float = 0.5) -> L.Layer:
    """AlexNet: five convolutions, three of them followed by pooling, then three dense layers.

    input: (channels, height, width) of one sample, 63 pixels or more.   units: of both hidden dense layers.
    Returns (batch, classes) logits.
    Source: Krizhevsky et al. 2012, in the size for one device of Krizhevsky 2014.
    """
    return L.Sequential(
        L.Conv2D(64, 11, stride=4, padding=2, activation="relu"),
        L.MaxPool2D(3, stride=2),
        L.Conv2D(192, 5, padding=2, activation="relu"),
        L.MaxPool2D(3, stride=2),
        L.Conv2D(384, 3, padding=1, activation="relu"),
        L.Conv2D(256, 3, padding=1, activation="relu"),
        L.Conv2D(256, 3, padding=1, activation="relu"),
        L.MaxPool2D(3, stride=2),
        L.Flatten(),
        L.Dropout(dropout),
        L.Dense(units, activation="relu"),
        L.Dropout(dropout),
        L.Dense(units, activation="relu"),
        L.Dense(classes, name="head"),
    )
