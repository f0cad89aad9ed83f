"""LeNet at a tenth of its size, the student of docs/results.md.

onnxmx distill examples/small_lenet.py:net --teacher runs/lenet-mnist/last.onnx --data mnist --epochs 3
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxmx import layers as L


def net(input: Sequence[int] = (1, 28, 28), classes: int = 10) -> L.Layer:
    """37,610 parameters beside LeNet's 431,080."""
    return L.Sequential(
        L.Conv2D(8, 5, activation="relu"),
        L.MaxPool2D(2),
        L.Conv2D(16, 5, activation="relu"),
        L.MaxPool2D(2),
        L.Flatten(),
        L.Dense(128, activation="relu"),
        L.Dense(classes),
    )
