"""LeNet, the convolutional network for digits."""

from __future__ import annotations

from onnxmx.builder import layers as L
from onnxmx.models.registry import Shape, images, model


@model(images)
def lenet(input: Shape = (1, 28, 28), classes: int = 10, activation: str = "relu") -> L.Layer:
    """Two convolutions with pooling, then two dense layers: 20 and 50 channels, 500 units.

    input: (channels, height, width) of one sample; images smaller than 16 pixels are padded so that they last through
    both poolings.   Returns (batch, classes) logits.
    Source: LeCun et al. 1998, in the size that Caffe and MXNet made common.
    """
    padding = "valid" if min(input[-2:]) >= 16 else "same"
    return L.Sequential(
        L.Conv2D(20, 5, padding=padding, activation=activation),
        L.MaxPool2D(2),
        L.Conv2D(50, 5, padding=padding, activation=activation),
        L.MaxPool2D(2),
        L.Flatten(),
        L.Dense(500, activation=activation),
        L.Dense(classes, name="head"),
    )
