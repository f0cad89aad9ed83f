"""Inception: several convolutions side by side, large ones taken apart into small ones."""

from __future__ import annotations

from onnxmx.builder import layers as L
from onnxmx.models.blocks import ConvNorm, Size
from onnxmx.models.registry import Shape, images, model


@model(images)
def inception_v3(input: Shape = (3, 299, 299), classes: int = 1000, dropout: float = 0.5) -> L.Layer:
    """Inception of the third version, without the auxiliary head.

    input: (channels, height, width) of one sample, 75 pixels or more.   Returns (batch, classes) logits.
    Source: Szegedy et al. 2016, table 1, with batch normalization and in the widths of its authors' code.
    """
    return L.Sequential(
        L.Sequential(
            _conv(32, 3, 2, padding=0),
            _conv(32, 3, padding=0),
            _conv(64, 3),
            L.MaxPool2D(3, stride=2),
            _conv(80, 1),
            _conv(192, 3, padding=0),
            L.MaxPool2D(3, stride=2),
            name="stem",
        ),
        *(_wide(32), _wide(64), _wide(64)),
        _reduce_wide(),
        *(_factored(128), _factored(160), _factored(160), _factored(192)),
        _reduce_factored(),
        *(_spread(), _spread()),
        L.GlobalAvgPool2D(),
        L.Dropout(dropout),
        L.Dense(classes, name="head"),
    )


def _wide(pooled: int) -> L.Layer:
    """Branches of 1, 5 and twice 3 pixels; `pooled` channels from pooling.   Figure 5."""
    return L.Concat(
        _conv(64, 1),
        _chain(_conv(48, 1), _conv(64, 5)),
        _chain(_conv(64, 1), _conv(96, 3), _conv(96, 3)),
        _chain(_pool(), _conv(pooled, 1)),
    )


def _reduce_wide() -> L.Layer:
    """Half the size.   Figure 10."""
    return L.Concat(
        _conv(384, 3, 2, padding=0),
        _chain(_conv(64, 1), _conv(96, 3), _conv(96, 3, 2, padding=0)),
        L.MaxPool2D(3, stride=2),
    )


def _factored(n: int) -> L.Layer:
    """7x7 taken apart into 1x7 and 7x1, of n channels within.   Figure 6."""
    row, column = (1, 7), (7, 1)
    return L.Concat(
        _conv(192, 1),
        _chain(_conv(n, 1), _conv(n, row), _conv(192, column)),
        _chain(_conv(n, 1), _conv(n, column), _conv(n, row), _conv(n, column), _conv(192, row)),
        _chain(_pool(), _conv(192, 1)),
    )


def _reduce_factored() -> L.Layer:
    """Half the size."""
    return L.Concat(
        _chain(_conv(192, 1), _conv(320, 3, 2, padding=0)),
        _chain(_conv(192, 1), _conv(192, (1, 7)), _conv(192, (7, 1)), _conv(192, 3, 2, padding=0)),
        L.MaxPool2D(3, stride=2),
    )


def _spread() -> L.Layer:
    """1x3 and 3x1 side by side, on the smallest size.   Figure 7."""

    def both() -> L.Layer:
        return L.Concat(_conv(384, (1, 3)), _conv(384, (3, 1)))

    return L.Concat(
        _conv(320, 1),
        _chain(_conv(384, 1), both()),
        _chain(_conv(448, 1), _conv(384, 3), both()),
        _chain(_pool(), _conv(192, 1)),
    )


def _conv(channels: int, kernel: Size, stride: int = 1, padding: int | None = None) -> L.Layer:
    return ConvNorm(channels, kernel, stride, padding=padding, epsilon=1e-3)


def _pool() -> L.Layer:
    return L.AvgPool2D(3, stride=1, padding=1, count_include_pad=True)


def _chain(*layers: L.Layer) -> L.Layer:
    return L.Sequential(*layers)
