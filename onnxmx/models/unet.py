"""U-Net, which says of each pixel what it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.errors import UsageError
from onnxmx.models.blocks import ConvNorm
from onnxmx.models.registry import Shape, images, model


@dataclass(frozen=True)
class UNet(L.Layer):
    """Down and up again, each size joined with its like.   x: (batch, n, h, w)   y: (batch, classes, h, w)"""

    classes: int
    width: int
    depth: int

    def forward(self, x: Value) -> Value:
        skips = []
        x = _double(self.width, "down0")(x)
        for k in range(1, self.depth + 1):
            skips.append(x)
            x = _double(self.width * 2**k, f"down{k}")(L.MaxPool2D(2)(x))
        for k in reversed(range(self.depth)):
            x = L.Conv2DTranspose(self.width * 2**k, 2, stride=2, name=f"grow{k}")(x)
            x = _double(self.width * 2**k, f"up{k}")(L.concat(skips.pop(), x))
        return L.Conv2D(self.classes, 1, name="head")(x)


@model(images)
def unet(input: Shape = (3, 256, 256), classes: int = 2, width: int = 64, depth: int = 4) -> L.Layer:
    """U-Net: the classes of all pixels of an image.

    input: (channels, height, width) of one sample, which 2^depth divides.   width: channels at full size.
    Returns (batch, classes, height, width) logits.
    Source: Ronneberger et al. 2015, figure 1, with padding and batch normalization.
    """
    if any(size % 2**depth for size in input[1:]):
        raise UsageError(
            f"unet expected a height and width that {2**depth} divides; found {tuple(input[1:])}",
            mend="Pad or resize the images, or take a smaller depth.",
        )
    return UNet(classes, width, depth)


def _double(channels: int, name: str) -> L.Layer:
    return L.Sequential(ConvNorm(channels, 3), ConvNorm(channels, 3), name=name)
