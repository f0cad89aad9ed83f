"""What the discriminator and the generator of a GAN make small, and the steps of both."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments, integer, plain_numbers
from onnxmx.builder.graph import Value
from onnxmx.builder.literals import is_finite, is_number
from onnxmx.builder.model import Model
from onnxmx.errors import OnnxmxWarning, ShapeError, UsageError
from onnxmx.trainer.joint import Joint, Nets
from onnxmx.trainer.losses import NonSaturatingGAN, Spec, WassersteinGAN
from onnxmx.trainer.step import StepGraph
from onnxmx.trainer.update import Update

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
Values = Mapping[str, Value]
_RULES: dict[str, type[NonSaturatingGAN | WassersteinGAN]] = {r.name: r for r in (NonSaturatingGAN, WassersteinGAN)}


@dataclass(frozen=True)
class Game(CheckedArguments):
    """The rules of a GAN.

    loss: "non_saturating_gan" (Goodfellow et al. 2014) or "wasserstein_gan" (Arjovsky et al. 2017).
    k: steps of the discriminator, each on a batch of its own, to one of the generator.
    smoothing: real images count as made by this share: one-sided label smoothing (Salimans et al. 2016, section 3.4).
    penalty: the weight of (|slope| - 1)^2 of the discriminator between real and made images; by default 10 for
    wasserstein_gan and else 0 (Gulrajani et al. 2017, alg. 1). It judges each image by itself: no BatchNorm.
    Raises UsageError for values out of range.
    """

    loss: str = NonSaturatingGAN.name
    k: int = 1
    smoothing: float = 0.0
    penalty: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.loss, str) or self.loss not in _RULES:
            raise UsageError(
                f"a GAN expected the loss {' or '.join(map(repr, _RULES))}; found {self.loss!r}",
                mend="Or write the steps with mx.Joint.",
            )
        plain_numbers(self)
        integer("k", self.k, 1)
        if not (is_number(self.smoothing) and 0 <= self.smoothing < 0.5):
            raise UsageError(f"smoothing expected a share of at least 0 and below 0.5; found {self.smoothing!r}")
        usual = 10.0 if self.loss == WassersteinGAN.name else 0.0
        weight = usual if self.penalty is None else self.penalty
        if not (is_finite(weight) and weight >= 0):
            raise UsageError(f"penalty expected a finite number of at least 0; found {self.penalty!r}")
        object.__setattr__(self, "penalty", weight)

    def steps(self, nets: Joint, batch_size: int, batches: int, provider: str = "cpu") -> dict[str, StepGraph]:
        """Both steps by name, that of the discriminator first. batches: those of the whole run.

        Warns of a penalty beside batch normalization in the discriminator.
        """
        if self.penalty and any(n.op_type == "BatchNormalization" for n in nets.models[DISCRIMINATOR].ir.graph):
            warnings.warn(
                "a gradient penalty judges each image by itself, and the discriminator's BatchNorm mixes those of a "
                "batch: leave it out or take LayerNorm (Gulrajani et al. 2017, section 4)",
                OnnxmxWarning,
                stacklevel=6,  # past fit_gan, and the checks of its arguments
            )
        image, code = nets.models[DISCRIMINATOR].inputs, nets.models[GENERATOR].inputs
        ((name, port),) = image.items()
        ((_, noise),) = code.items()
        sizes = [int(d) for d in (noise.shape or ())[1:] if isinstance(d, int)]
        spec = Spec(port.shape or (), ir.DataType.from_numpy(port.dtype))

        def discriminating(nets: Nets, batch: Values) -> tuple[ir.Value, dict[str, ir.Value]]:
            made = nets(GENERATOR, nets.normal(*sizes, like=batch[name]))
            return self.discriminating(nets, batch[name], made)

        def generating(nets: Nets, batch: Values) -> ir.Value:
            made = nets(GENERATOR, nets.normal(batch_size, *sizes))
            return self._as(nets, nets(DISCRIMINATOR, made), real=True)

        return {
            DISCRIMINATOR: nets.step(
                DISCRIMINATOR, discriminating, batch={name: spec}, total=batches, provider=provider
            ),
            GENERATOR: nets.step(GENERATOR, generating, total=max(batches // self.k, 1), provider=provider),
        }

    def discriminating(self, nets: Nets, real: Value, made: Value) -> tuple[ir.Value, dict[str, ir.Value]]:
        """The discriminator's loss, and its mean scores."""
        g = nets.g
        real_score, made_score = nets(DISCRIMINATOR, real), nets(DISCRIMINATOR, made)
        loss = self._as(nets, real_score, real=True)
        if self.smoothing:
            smooth = g.mul(self._as(nets, real_score, real=False), self.smoothing)
            loss = g.add(g.mul(loss, 1.0 - self.smoothing), smooth)
        loss = g.add(loss, self._as(nets, made_score, real=False))
        if self.penalty:
            loss = g.add(loss, g.mul(gradient_penalty(nets, real, made), float(self.penalty)))
        scores = {"real_score": real_score, "made_score": made_score}
        return loss, {name: g.reduce_mean(score, keepdims=False) for name, score in scores.items()}

    def _as(self, nets: Nets, score: ir.Value, *, real: bool) -> ir.Value:
        """The loss of scores that should be those of real images, or of made ones."""
        return _RULES[self.loss](real=real).compute(nets.g, {"score": score}, {})[0]


def gradient_penalty(nets: Nets, real: Value, made: Value) -> Value:
    """mean of (|d score / d x| - 1)^2 at a random x between each real image and a made one.

    Source: Gulrajani et al. 2017, alg. 1.
    """
    g = nets.g
    rank = len(real.shape or ())
    share = nets.uniform(*[1] * (rank - 1), like=real)
    between = g.add(made, g.mul(g.sub(real, made), share))
    (slope,) = nets.gradients(g.reduce_sum(nets(DISCRIMINATOR, between), keepdims=False), [between])
    squares = g.reduce_sum_square(slope, list(range(1, rank)), keepdims=False)
    # The root of 0 has no gradient.
    excess = g.sub(g.sqrt(g.add(squares, np.float32(1e-12))), 1.0)
    return g.reduce_mean(g.mul(excess, excess), keepdims=False)


def pair(generator: Model, discriminator: Model, first: Update, second: Update) -> Joint:
    """Both as a Joint. Raises ShapeError where the one does not give what the other takes."""
    for model, what in ((generator, GENERATOR), (discriminator, DISCRIMINATOR)):
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ShapeError(
                f"a GAN expected a {what} of one input and one output; "
                f"found {list(model.inputs)} and {list(model.outputs)}",
                mend="For others write the steps with mx.Joint.",
            )
    (made,), (taken,) = generator.outputs.values(), discriminator.inputs.values()
    if made.shape is None or taken.shape is None or made.shape[1:] != taken.shape[1:]:
        raise ShapeError(
            f"a GAN expected a generator of what the discriminator takes, {taken.shape}; found {made.shape}",
            mend="Build both for images of one size.",
        )
    return Joint({GENERATOR: generator, DISCRIMINATOR: discriminator}, {GENERATOR: first, DISCRIMINATOR: second})
