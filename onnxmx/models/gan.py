"""Generative adversarial networks: one makes images out of noise, the other tells them from real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxmx.builder import init
from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Input
from onnxmx.errors import UsageError
from onnxmx.models.registry import Shape, images, model

# Radford et al. 2016, section 4.
_SMALL = init.normal(0.02)


def _noise(code: int, **_: Any) -> dict[str, Input]:
    return {"noise": Input(("batch", code))}


def _noise_and_image(input: Shape, code: int, **_: Any) -> dict[str, Input]:
    return {"noise": Input(("batch", code)), "image": Input(("batch", *input))}


@dataclass(frozen=True)
class GAN(L.Layer):
    """Both networks in one graph; the discriminator judges made and real images with the same parameters."""

    generator: L.Layer
    discriminator: L.Layer

    def forward(self, noise: Value, image: Value) -> Any:
        generator, discriminator = self.generator, self.discriminator
        made = generator._call("generator", noise)
        judged = discriminator._call("discriminator", made)
        return {"made": made, "made_score": judged, "real_score": discriminator._call("discriminator", image)}


@model(_noise_and_image)
def mlp_gan(input: Shape = (1, 28, 28), code: int = 100, hidden: Sequence[int] = (256, 512, 1024)) -> L.Layer:
    """Generator and discriminator of dense layers.

    input: any shape of one sample, of numbers from -1 to 1.   code: numbers of noise, from a standard normal
    distribution.   hidden: units of the generator; the discriminator has them the other way round.
    Returns made (batch, *input), and made_score and real_score (batch, 1), logits of being real.
    Source: Goodfellow et al. 2014.
    """
    return GAN(mlp_gan_generator(input, code, hidden), mlp_gan_discriminator(input, hidden[::-1]))


@model(_noise)
def mlp_gan_generator(
    output: Shape = (1, 28, 28), code: int = 100, hidden: Sequence[int] = (256, 512, 1024)
) -> L.Layer:
    """The generator of mlp_gan: noise to an image.

    output: the shape of one image.   Returns (batch, *output), from -1 to 1.   Source: Goodfellow et al. 2014.
    """
    body = [L.Dense(n, activation=_leaky) for n in hidden]
    return L.Sequential(*body, L.Dense(math.prod(output), activation="tanh"), L.Reshape(*output))


@model(images)
def mlp_gan_discriminator(
    input: Shape = (1, 28, 28), hidden: Sequence[int] = (1024, 512, 256), dropout: float = 0.3
) -> L.Layer:
    """The discriminator of mlp_gan: whether an image is real.

    input: the shape of one image.   Returns (batch, 1), the logit of being real.   Source: Goodfellow et al. 2014.
    """
    body: list[L.Layer] = []
    for n in hidden:
        body += [L.Dense(n, activation=_leaky), L.Dropout(dropout)]
    return L.Sequential(L.Flatten(), *body, L.Dense(1, name="head"))


@model(_noise_and_image)
def dcgan(input: Shape = (3, 64, 64), code: int = 100, width: int = 64) -> L.Layer:
    """Generator and discriminator of convolutions.

    input: (channels, size, size) of one image, of numbers from -1 to 1; the size is 8 or more.
    code: numbers of noise, from a standard normal distribution.   width: channels beside the image.
    Returns made (batch, *input), and made_score and real_score (batch, 1), logits of being real.
    Source: Radford et al. 2016.
    """
    return GAN(dcgan_generator(input, code, width), dcgan_discriminator(input, width))


@model(_noise)
def dcgan_generator(output: Shape = (3, 64, 64), code: int = 100, width: int = 64) -> L.Layer:
    """The generator of dcgan: noise to an image.

    output: (channels, size, size) of one image; a size that is no power of 2 is cut out of the next one.
    Returns (batch, *output), from -1 to 1.   Source: Radford et al. 2016, figure 1.
    """
    steps, (before, after) = _doublings("dcgan_generator", output)
    body: list[L.Layer] = [L.Reshape(code, 1, 1), _grow(width * 2 ** (steps - 1), stride=1, padding=0)]
    for k in reversed(range(steps - 1)):
        body += [L.BatchNorm(), L.Activation("relu"), _grow(width * 2**k)]
    end = [*body, L.BatchNorm(), L.Activation("relu"), _grow(output[0]), L.Activation("tanh")]
    inner = slice(before, before + output[-1])
    return L.Sequential(*end, *([L.Lambda(lambda x: x[..., inner, inner])] if before or after else []))


@model(images)
def dcgan_discriminator(input: Shape = (3, 64, 64), width: int = 64) -> L.Layer:
    """The discriminator of dcgan: whether an image is real.

    input: (channels, size, size) of one image; a size that is no power of 2 is padded to the next one, with -1.
    Returns (batch, 1), the logit of being real.   Source: Radford et al. 2016, section 3.
    """
    steps, (before, after) = _doublings("dcgan_discriminator", input)
    body: list[L.Layer] = [L.Lambda(lambda x: _padded(x, before, after))] if before or after else []
    body += [_shrink(width), L.LeakyReLU(0.2)]
    for k in range(1, steps):
        body += [_shrink(width * 2**k), L.BatchNorm(), L.LeakyReLU(0.2)]
    head = L.Conv2D(1, 4, bias=False, weight_init=_SMALL, name="head")
    return L.Sequential(*body, head, L.Flatten())


def _leaky(x: Value) -> Value:
    return L.leaky_relu(x, 0.2)


def _grow(channels: int, stride: int = 2, padding: int = 1) -> L.Layer:
    return L.Conv2DTranspose(channels, 4, stride=stride, padding=padding, bias=False, weight_init=_SMALL)


def _shrink(channels: int) -> L.Layer:
    return L.Conv2D(channels, 4, stride=2, padding=1, bias=False, weight_init=_SMALL)


def _padded(x: Value, before: int, after: int) -> Value:
    return x.builder.op("Pad", x, np.array([0, 0, before, before, 0, 0, after, after]), np.float32(-1))


def _doublings(name: str, image: Shape) -> tuple[int, tuple[int, int]]:
    """How often 4 pixels are doubled to reach the image's size, and by how many it is short before and after."""
    size = image[-1]
    if len(image) != 3 or image[1] != size or size < 8:
        raise UsageError(
            f"{name} expected (channels, size, size) with a size of 8 or more; found {tuple(image)}",
            mend="Resize or pad the images.",
        )
    doublings = (size - 1).bit_length() - 2
    missing = (4 << doublings) - size
    return doublings, (missing // 2, missing - missing // 2)
