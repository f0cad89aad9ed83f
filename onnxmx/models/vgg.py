"""VGG: 3x3 convolutions in five stages, each followed by pooling, then three dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxmx.builder import layers as L
from onnxmx.models.registry import Shape, images, model

IMAGE = (3, 224, 224)

_STAGES = {
    11: ("A", (1, 1, 2, 2, 2)),
    13: ("B", (2, 2, 2, 2, 2)),
    16: ("D", (2, 2, 3, 3, 3)),
    19: ("E", (2, 2, 4, 4, 4)),
}
"""By the number of convolutions and dense layers: the column of the paper's table, and the depth of each stage."""


def _of(layers: int, *, norm: bool = False) -> Callable[..., L.Layer]:
    """The build function of one column.   norm: with batch normalization."""
    column, depths = _STAGES[layers]

    def vgg(
        input: Shape = IMAGE, classes: int = 1000, width: int = 64, units: int = 4096, dropout: float = 0.5
    ) -> L.Layer:
        return _vgg(depths, classes, width, units, dropout, norm)

    vgg.__name__ = vgg.__qualname__ = f"vgg{layers}_bn" if norm else f"vgg{layers}"
    vgg.__doc__ = f"""VGG of {layers} layers{" with batch normalization" if norm else ""}.

    input: (channels, height, width) of one sample, 32 pixels or more.   width: channels of the first stage.
    units: of both hidden dense layers.   Returns (batch, classes) logits.
    Source: Simonyan & Zisserman 2015, table 1, {column}{"; Ioffe & Szegedy 2015" if norm else ""}.
    """
    return model(images)(vgg)


def _vgg(depths: Sequence[int], classes: int, width: int, units: int, dropout: float, norm: bool) -> L.Layer:
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


vgg11, vgg11_bn = _of(11), _of(11, norm=True)
vgg13, vgg13_bn = _of(13), _of(13, norm=True)
vgg16, vgg16_bn = _of(16), _of(16, norm=True)
vgg19, vgg19_bn = _of(19), _of(19, norm=True)
