"""The model zoo: one build function each, written in the DSL.

Each takes options, such as the shape of one input sample and the number of classes, and returns a layer to build:

    from onnxmx import models
    model = models.lenet(input=(1, 28, 28), classes=10).build(image=("batch", 1, 28, 28))
    model = models.build("lenet", classes=10)  # the same, on the model's own inputs

docs/models.md lists them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxmx.builder.elsewhere import ZOO, without
from onnxmx.models.alexnet import alexnet
from onnxmx.models.autoencoder import autoencoder, vae
from onnxmx.models.densenet import densenet121, densenet161, densenet169, densenet201
from onnxmx.models.dqn import dqn
from onnxmx.models.gan import (
    GAN,
    dcgan,
    dcgan_discriminator,
    dcgan_generator,
    mlp_gan,
    mlp_gan_discriminator,
    mlp_gan_generator,
)
from onnxmx.models.inception import inception_v3
from onnxmx.models.language import char_rnn, gpt_mini, seq2seq
from onnxmx.models.lenet import lenet
from onnxmx.models.mlp import mlp
from onnxmx.models.mobilenet import mobilenet_v1, mobilenet_v2
from onnxmx.models.recommend import ncf
from onnxmx.models.registry import MODELS, build, get_model, inputs_of, list_models, show_inputs
from onnxmx.models.resnet import (
    resnet8,
    resnet18,
    resnet18_v2,
    resnet20,
    resnet34,
    resnet34_v2,
    resnet50,
    resnet50_v2,
    resnet56,
    resnet101,
    resnet101_v2,
    resnet152,
    resnet152_v2,
)
from onnxmx.models.squeezenet import squeezenet1_0, squeezenet1_1
from onnxmx.models.text import text_bilstm, text_cnn, text_gru, text_lstm, transformer_classifier
from onnxmx.models.unet import unet
from onnxmx.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = [
    "GAN",
    "MODELS",
    "alexnet",
    "autoencoder",
    "build",
    "char_rnn",
    "dcgan",
    "dcgan_discriminator",
    "dcgan_generator",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "dqn",
    "get_model",
    "gpt_mini",
    "inception_v3",
    "inputs_of",
    "lenet",
    "list_models",
    "mlp",
    "mlp_gan",
    "mlp_gan_discriminator",
    "mlp_gan_generator",
    "mobilenet_v1",
    "mobilenet_v2",
    "ncf",
    "resnet8",
    "resnet18",
    "resnet18_v2",
    "resnet20",
    "resnet34",
    "resnet34_v2",
    "resnet50",
    "resnet50_v2",
    "resnet56",
    "resnet101",
    "resnet101_v2",
    "resnet152",
    "resnet152_v2",
    "seq2seq",
    "show_inputs",
    "squeezenet1_0",
    "squeezenet1_1",
    "text_bilstm",
    "text_cnn",
    "text_gru",
    "text_lstm",
    "transformer_classifier",
    "unet",
    "vae",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = without(__name__, ZOO, __all__)
