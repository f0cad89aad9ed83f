"""Losses of yes or no: each element of an output is a question of its own, and above 0 says yes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.losses.base import Array, Binary, Signed, Specs, Values, refuse


@function(outputs=("loss",))
def SigmoidCrossEntropy(g: GraphBuilder, output: ir.Value, label: ir.Value, *, positive: ir.Value) -> Value:
    """loss = (1 - label) x + (1 + (positive - 1) label) log(1 + exp(-x)), x = output

    That is -positive label log(p) - (1 - label) log(1 - p), p = sigmoid(x), without its overflow.
    """
    factor = g.add(g.mul(label, g.cast_like(g.sub(positive, 1.0), label)), 1.0)
    return g.add(g.mul(g.sub(1.0, label), output), g.mul(factor, g.op("Softplus", g.neg(output))))


@dataclass(frozen=True, kw_only=True)
class SigmoidBCE(Binary):
    """-positive t log(p) - (1 - t) log(1 - p), p = sigmoid(output): binary cross-entropy of logits.

    positive: the weight of a label of 1.   smoothing: t = (1 - smoothing) label + smoothing / 2.
    Labels may lie between 0 and 1.
    """

    positive: float = 1.0
    smoothing: float = 0.0
    name: ClassVar[str] = "sigmoid_bce"
    activation: ClassVar[str | None] = "Sigmoid"
    allowed: ClassVar[str] = "between 0 and 1"
    function: ClassVar[Function] = SigmoidCrossEntropy

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("positive", 0.0, above=True)
        self._at_least("smoothing", 0.0, below=1.0)

    def check(self, name: str, array: Array, outputs: Values) -> None:
        refuse(self, name, array, (array < 0) | (array > 1), self.allowed)

    def terms(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        if self.smoothing:
            _, label = self.compared(g, outputs, labels)
            labels = {"label": g.add(g.mul(label, 1.0 - self.smoothing), self.smoothing / 2)}
        return super().terms(g, outputs, labels)


@function(outputs=("loss",))
def SigmoidFocal(g: GraphBuilder, output: ir.Value, label: ir.Value, *, alpha: ir.Value, gamma: ir.Value) -> Value:
    """loss = -a (1 - q)^gamma log(q), q = sigmoid(output) and a = alpha where the label is 1, 1 - q' and 1 - alpha else

    Source: Lin et al. 2017, eq. 5.
    """
    s = g.sub(g.mul(label, 2.0), 1.0)
    x = g.mul(output, s)
    a = g.add(g.mul(s, g.cast_like(g.sub(alpha, 0.5), label)), 0.5)
    # (1 - q)^gamma = exp(-gamma log(1 + exp(x))): finite for every x, and so is its gradient.
    wrong = g.exp(g.mul(g.neg(g.op("Softplus", x)), g.cast_like(gamma, x)))
    return g.mul(g.mul(a, wrong), g.op("Softplus", g.neg(x)))


@dataclass(frozen=True, kw_only=True)
class Focal(Binary):
    """-a (1 - q)^gamma log(q), q the probability of what is right, a = alpha or 1 - alpha.

    Source: Lin et al. 2017, eq. 5.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    name: ClassVar[str] = "focal"
    activation: ClassVar[str | None] = "Sigmoid"
    function: ClassVar[Function] = SigmoidFocal

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("alpha", 0.0, below=1.0)
        self._at_least("gamma", 0.0)


@function(outputs=("loss",))
def HingeError(g: GraphBuilder, output: ir.Value, sign: ir.Value, *, margin: ir.Value) -> Value:
    """loss = max(0, margin - sign output), sign = 1 or -1.   Source: Cortes & Vapnik 1995."""
    return g.op("Relu", g.sub(g.cast_like(margin, output), g.mul(sign, output)))


@dataclass(frozen=True, kw_only=True)
class Hinge(Signed):
    """max(0, margin - sign output), sign = 1 or -1.   Source: Cortes & Vapnik 1995."""

    margin: float = 1.0
    name: ClassVar[str] = "hinge"
    function: ClassVar[Function] = HingeError

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("margin", 0.0, above=True)


@function(outputs=("loss",))
def SquaredHingeError(g: GraphBuilder, output: ir.Value, sign: ir.Value, *, margin: ir.Value) -> Value:
    """loss = max(0, margin - sign output)^2, sign = 1 or -1"""
    short = g.op("Relu", g.sub(g.cast_like(margin, output), g.mul(sign, output)))
    return g.mul(short, short)


@dataclass(frozen=True, kw_only=True)
class SquaredHinge(Hinge):
    """max(0, margin - sign output)^2, sign = 1 or -1."""

    name: ClassVar[str] = "squared_hinge"
    function: ClassVar[Function] = SquaredHingeError


@function(outputs=("loss",))
def LogisticError(g: GraphBuilder, output: ir.Value, sign: ir.Value) -> Value:
    """loss = log(1 + exp(-sign output)), sign = 1 or -1"""
    return g.op("Softplus", g.neg(g.mul(sign, output)))


@dataclass(frozen=True, kw_only=True)
class Logistic(Signed):
    """log(1 + exp(-sign output)), sign = 1 or -1."""

    name: ClassVar[str] = "logistic"
    function: ClassVar[Function] = LogisticError


@dataclass(frozen=True, kw_only=True)
class Adversarial(Signed):
    """A loss of a discriminator's score, where the label says whether the sample is real.

    real: the same for all samples, and then there is no label: a generator is trained with real=true, which asks for
    scores as of real ones.
    """

    real: bool | None = None

    def columns(self, main: str | None) -> tuple[str | None, ...]:
        return (main,) if self.real is None else ()

    def labels(self, outputs: Values, found: object) -> Specs:
        return super().labels(outputs, found) if self.real is None else {}  # type: ignore[arg-type]

    def compared(self, g: GraphBuilder, outputs: Values, labels: Values) -> tuple[ir.Value, ir.Value]:
        if self.real is None:
            return super().compared(g, outputs, labels)
        return (output := self.only(outputs)), g.constant(1.0 if self.real else -1.0, output.dtype)


@function(outputs=("loss",))
def WassersteinError(g: GraphBuilder, score: ir.Value, sign: ir.Value) -> Value:
    """loss = -sign score, sign = 1 for real samples and -1 for made ones.   Source: Arjovsky et al. 2017, eq. 3."""
    return g.neg(g.mul(score, sign))


@dataclass(frozen=True, kw_only=True)
class WassersteinGAN(Adversarial):
    """-sign score, sign = 1 for real samples and -1 for made ones.   Source: Arjovsky et al. 2017, eq. 3.

    real: whether all samples are to count as real, or as made; then there is no label.
    """

    name: ClassVar[str] = "wasserstein_gan"
    function: ClassVar[Function] = WassersteinError


@dataclass(frozen=True, kw_only=True)
class NonSaturatingGAN(Adversarial):
    """log(1 + exp(-sign score)), sign = 1 for real samples and -1 for made ones.

    A discriminator learns by it from labels; a generator, with real=true, makes -log(sigmoid(score)) of its samples
    small.   real: whether all samples are to count as real, or as made; then there is no label.
    Source: Goodfellow et al. 2014, section 3.
    """

    name: ClassVar[str] = "non_saturating_gan"
    function: ClassVar[Function] = LogisticError
