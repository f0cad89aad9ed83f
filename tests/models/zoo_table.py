"""Every model of the zoo, at a size that is quick to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

IMAGE = {"input": (3, 32, 32), "classes": 5}
NARROW = {**IMAGE, "width": 8}
VGG = {**NARROW, "units": 16}
TEXT = {"vocabulary": 11, "embedding": 6, "units": 8, "classes": 3}


@dataclass
class Case:
    """A model with these options, on a batch of 2, gives outputs of these shapes of one sample.

    sizes: of symbolic dimensions.   below: what integers stay below.
    """

    name: str
    options: dict[str, Any]
    outputs: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"output": (5,)})
    sizes: dict[str, int] = field(default_factory=lambda: {"time": 7})
    below: int = 11

    def __str__(self) -> str:
        return self.name


def out(*shape: int) -> dict[str, tuple[int, ...]]:
    return {"output": shape}


RESNETS = [f"resnet{n}{v}" for n in (18, 34, 50, 101, 152) for v in ("", "_v2")]
DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
VGGS = [f"vgg{n}{v}" for n in (11, 13, 16, 19) for v in ("", "_bn")]
GAN = {"input": (1, 16, 16), "code": 6}
MADE = {"made": (1, 16, 16), "made_score": (1,), "real_score": (1,)}

CASES = [
    Case("mlp", {**IMAGE, "hidden": (8, 6), "dropout": 0.2}),
    Case("lenet", {"input": (1, 16, 16), "classes": 5}),
    Case("alexnet", {"input": (3, 64, 64), "classes": 5, "units": 16}),
    *[Case(name, VGG) for name in VGGS],
    *[Case(name, NARROW) for name in RESNETS],
    *[Case(name, {**IMAGE, "input": (3, 16, 16)}) for name in ("resnet8", "resnet20", "resnet56")],
    *[Case(name, {**IMAGE, "growth": 4, "dropout": 0.1}) for name in DENSENETS],
    *[Case(name, IMAGE) for name in ("squeezenet1_0", "squeezenet1_1")],
    Case("inception_v3", {"input": (3, 75, 75), "classes": 5}),
    *[Case(name, {**IMAGE, "width": 0.25}) for name in ("mobilenet_v1", "mobilenet_v2")],
    Case("unet", {"input": (2, 16, 32), "classes": 4, "width": 4, "depth": 3}, out(4, 16, 32)),
    Case("autoencoder", {"input": (1, 6, 6), "hidden": (12, 8), "code": 3}, out(1, 6, 6)),
    Case("vae", {"input": (1, 6, 6), "hidden": (12, 8), "code": 3},
         {"reconstruction": (1, 6, 6), "mean": (3,), "log_variance": (3,)}),
    Case("mlp_gan", {**GAN, "hidden": (8, 12)}, MADE),
    Case("mlp_gan_generator", {"output": (1, 6, 6), "code": 5, "hidden": (8, 12)}, out(1, 6, 6)),
    Case("mlp_gan_discriminator", {"input": (1, 6, 6), "hidden": (12, 8)}, out(1)),
    Case("dcgan", {**GAN, "width": 4}, MADE),
    Case("dcgan_generator", {"output": (3, 13, 13), "code": 5, "width": 4}, out(3, 13, 13)),
    Case("dcgan_discriminator", {"input": (3, 27, 27), "width": 4}, out(1)),
    Case("text_lstm", {**TEXT, "layers": 2}, out(3)),
    Case("text_gru", TEXT, out(3)),
    Case("text_bilstm", TEXT, out(3)),
    Case("text_cnn", {"input": (9,), "vocabulary": 11, "embedding": 6, "channels": 4, "classes": 3}, out(3)),
    Case("transformer_classifier", {"vocabulary": 11, "units": 8, "heads": 2, "hidden": 12, "classes": 3}, out(3)),
    Case("char_rnn", {"vocabulary": 11, "embedding": 6, "units": 8}, out(7, 11)),
    Case("gpt_mini", {"vocabulary": 11, "length": 8, "units": 8, "heads": 2, "layers": 2}, out(7, 11)),
    Case("seq2seq", {"vocabulary": 11, "target_vocabulary": 13, "embedding": 6, "units": 8, "layers": 2}, out(4, 13),
         {"source_time": 6, "target_time": 4}),
    Case("ncf", {"users": 11, "items": 12, "factors": 3, "hidden": (8, 6, 4)}, out(1)),
    Case("dqn", {"input": (2, 36, 36), "actions": 5, "units": 16}),
]  # fmt: skip
