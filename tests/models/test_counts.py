"""Parameters at the default size against the figures of the well-known implementations."""

from __future__ import annotations

import functools
import math

import pytest

from onnxmx import models
from onnxmx.builder.model import Model

TORCHVISION = {
    "alexnet": 61_100_840,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "inception_v3": 23_834_568,  # without the auxiliary head
    "mobilenet_v2": 3_504_872,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}

ELSEWHERE = {
    "lenet": 431_080,  # Caffe
    "autoencoder": 2_837_314,  # Hinton & Salakhutdinov's sizes, counted in Martens 2010
    "vae": 652_824,  # PyTorch's example
    "dcgan_generator": 3_576_704,  # PyTorch's example
    "dcgan_discriminator": 2_765_568,
    "mobilenet_v1": 4_231_976,  # Keras
    "resnet20": 269_722,  # He et al. 2016, table 6: 0.27M
    "resnet56": 853_018,  # and 0.85M
    "unet": 31_037_698,  # milesial's, with transposed convolutions and two classes
}

# Gluon's figures count running statistics, and its second version 12 of a norm of the image that has no parameters.
GLUON = {
    "densenet121": 8_062_504,
    "densenet161": 28_900_936,
    "densenet169": 14_307_880,
    "densenet201": 20_242_984,
    "inception_v3": 23_869_000,
    "mobilenet_v1": 4_253_864,
    "resnet18": 11_699_112,
    "resnet34": 21_814_696,
    "resnet18_v2": 11_695_796 - 12,
    "resnet34_v2": 21_811_380 - 12,
    "resnet50_v2": 25_595_060 - 12,
    "resnet101_v2": 44_639_412 - 12,
    "resnet152_v2": 60_329_140 - 12,
    "vgg16_bn": 138_374_440,
}


@functools.cache
def built(name: str) -> Model:
    """A model at its default size, once for all that is counted of it; its weights are not drawn."""
    return models.build(name)


@pytest.mark.parametrize(("name", "count"), (TORCHVISION | ELSEWHERE).items())
def test_parameters(name: str, count: int) -> None:
    summary = built(name).summary()
    assert summary.parameters == summary.trainable == count


@pytest.mark.parametrize(("name", "count"), GLUON.items())
def test_parameters_and_statistics(name: str, count: int) -> None:
    summary = built(name).summary()
    assert summary.parameters + summary.statistics == count


@pytest.mark.parametrize(
    ("name", "width", "count"),
    [
        ("mobilenet_v1", 0.75, 2_601_976),  # Gluon, as above
        ("mobilenet_v1", 0.5, 1_342_536),
        ("mobilenet_v1", 0.25, 475_544),
    ],
)
def test_width_multipliers(name: str, width: float, count: int) -> None:
    summary = models.build(name, width=width).summary()
    assert summary.parameters + summary.statistics == count


@pytest.mark.parametrize(("width", "millions"), [(0.5, 1.97), (1.4, 6.11)])
def test_width_multipliers_of_the_second_version(width: float, millions: float) -> None:
    """The figures of timm, where channels are rounded to eights too."""
    assert round(models.build("mobilenet_v2", width=width).summary().parameters / 1e6, 2) == millions


def test_gpt() -> None:
    """Its parts, by hand: embeddings, each layer's two norms, attention and feed-forward, the last norm, the head."""
    v, t, n, d = 256, 256, 6, 192
    layer = 2 * 2 * d + 4 * (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d)
    assert models.build("gpt_mini").summary().parameters == v * d + t * d + n * layer + 2 * d + d * v


def test_ncf() -> None:
    embeddings = (6040 + 3706) * (8 + 32)
    dense = (64 * 32 + 32) + (32 * 16 + 16) + (16 * 8 + 8) + (16 + 1)
    assert models.build("ncf").summary().parameters == embeddings + dense


def test_dqn() -> None:
    """Breakout has four actions."""
    assert models.build("dqn", actions=4).summary().parameters == 1_686_180


BILLIONS = {  # torchvision's; mobilenet_v1: Howard et al. 2017, table 8
    "alexnet": 0.714,
    "densenet121": 2.834,
    "densenet161": 7.728,
    "densenet169": 3.360,
    "densenet201": 4.291,
    "inception_v3": 5.713,
    "mobilenet_v1": 0.569,
    "mobilenet_v2": 0.301,
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "squeezenet1_0": 0.819,
    "squeezenet1_1": 0.349,
    "vgg11": 7.609,
    "vgg13": 11.308,
    "vgg16": 15.470,
    "vgg19": 19.632,
}


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_products(name: str, billions: float) -> None:
    """Multiplications in convolutions and dense layers: what strides and padding decide, and parameters do not."""
    found = 0
    for node in built(name).ir.graph:
        if node.op_type in ("Conv", "Gemm"):
            output, weight = (list(v.shape) for v in (node.outputs[0], node.inputs[1]))
            found += math.prod(output[1:]) * (weight[0] if node.op_type == "Gemm" else math.prod(weight[1:]))
    assert found / 1e9 == pytest.approx(billions, abs=0.001)
