"""The layers. `from onnxmx import layers as L`."""

from onnxmx.builder.layers.activation import (
    ACTIVATIONS,
    Activation,
    elu,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.layers.container import Flatten, Residual, Sequential, concat
from onnxmx.builder.layers.conv import AvgPool2D, Conv2D, GlobalAvgPool2D, MaxPool2D
from onnxmx.builder.layers.dense import Dense
from onnxmx.builder.layers.norm import BatchNorm, Dropout

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "AvgPool2D",
    "BatchNorm",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2D",
    "Layer",
    "MaxPool2D",
    "Residual",
    "Sequential",
    "concat",
    "elu",
    "gelu",
    "leaky_relu",
    "log_softmax",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]
