"""The nets of the benchmark, in onnxmx."""

from onnxmx import layers as L
from onnxmx import models


def make(net, shape):
    if net == "cnn":
        return L.Sequential(
            L.Conv2D(16, 3, padding="same", activation="relu"),
            L.MaxPool2D(2),
            L.Conv2D(32, 3, padding="same", activation="relu"),
            L.MaxPool2D(2),
            L.Flatten(),
            L.Dense(10),
        )
    if net == "lstm":
        return L.Sequential(L.LSTM(128, return_sequences=False), L.Dense(10))
    return getattr(models, net)(input=shape)
