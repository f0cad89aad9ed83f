"""Normalization and regularization."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_number, is_size
from onnxmx.errors import UsageError

_CHANNELS = ("a number of channels", "Give the input's channels in build(...).")


@dataclass(frozen=True)
class _Norm(Layer):
    """What the norms share: a check of their numbers, and parameters for each channel."""

    def _check_range(self, name: str, fits: bool, expected: str, default: str) -> None:
        if not fits:
            raise UsageError(
                f"{type(self).__name__} expected {name} as {expected}; found {getattr(self, name)!r}",
                at=self._source,
                mend=f"The default is {default}.",
            )

    def _check_epsilon(self, epsilon: float) -> None:
        self._check_range("epsilon", is_number(epsilon) and epsilon > 0, "a positive number", "epsilon=1e-5")


@dataclass(frozen=True)
class BatchNorm(_Norm):
    """y = (x - mean) / sqrt(var + epsilon) * weight + bias, for each channel.   x, y: (batch, channels, ...)

    The model holds the running mean and variance; a training step normalizes by the batch's own and moves the
    running ones towards them: running <- momentum * running + (1 - momentum) * batch.
    Source: Ioffe & Szegedy 2015, alg. 1.
    """

    _: KW_ONLY
    epsilon: float = 1e-5
    momentum: float = 0.9
    weight_init: str | init.Initializer = "ones"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_epsilon(self.epsilon)
        fits = is_number(self.momentum) and 0 <= self.momentum <= 1
        self._check_range("momentum", fits, "a number in [0, 1]", "momentum=0.9")

    def forward(self, x: Value) -> Value:
        g = x.builder
        channels = (self._static_dim(x, 1, *_CHANNELS),)
        return g.op(
            "BatchNormalization",
            x,
            g.parameter("weight", channels, self.weight_init),
            g.parameter("bias", channels, self.bias_init),
            g.parameter("running_mean", channels, init.zeros(), trainable=False),
            g.parameter("running_var", channels, init.ones(), trainable=False),
            epsilon=self.epsilon,
            momentum=self.momentum,
        )


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """y = (x - mean) / sqrt(var + epsilon) * weight + bias over the last `axes` axes of each sample.

    x, y: (batch, ..., *shape)   weight, bias: shape, that of the last `axes` axes.
    Source: Ba et al. 2016, eq. 4.
    """

    axes: int = 1
    _: KW_ONLY
    epsilon: float = 1e-5
    bias: bool = True
    weight_init: str | init.Initializer = "ones"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("axes")
        self._check_epsilon(self.epsilon)

    def forward(self, x: Value) -> Value:
        g = x.builder
        what = "a last dimension" if self.axes == 1 else f"{self.axes} last dimensions"
        shape = [self._static_dim(x, k, what, "Give the sizes in build(...).") for k in range(-self.axes, 0)]
        w = g.parameter("weight", shape, self.weight_init)
        b = g.parameter("bias", shape, self.bias_init) if self.bias else None
        return g.op("LayerNormalization", x, w, b, axis=-self.axes, epsilon=self.epsilon)


@dataclass(frozen=True)
class RMSNorm(_Norm):
    """y = x / sqrt(mean(x^2) + epsilon) * weight over the last axis.   x, y: (..., n)   weight: (n,)

    Source: Zhang & Sennrich 2019, eq. 4.
    """

    _: KW_ONLY
    epsilon: float = 1e-5
    weight_init: str | init.Initializer = "ones"

    def __post_init__(self) -> None:
        self._check_epsilon(self.epsilon)

    def forward(self, x: Value) -> Value:
        g = x.builder
        n = self._static_dim(x, -1, "a last dimension", "Give its size in build(...).")
        # In plain operators: RMSNormalization comes with opset 23.
        root = g.sqrt(g.reduce_mean(x * x, [-1]) + self.epsilon)
        return x / root * g.parameter("weight", (n,), self.weight_init)


@dataclass(frozen=True)
class InstanceNorm(_Norm):
    """y = (x - mean) / sqrt(var + epsilon) * weight + bias, for each channel of each sample, over its space.

    x, y: (batch, channels, *space)   weight, bias: (channels,), none where affine is False.
    Source: Ulyanov et al. 2016, eq. 5.
    """

    _: KW_ONLY
    epsilon: float = 1e-5
    affine: bool = True
    weight_init: str | init.Initializer = "ones"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_epsilon(self.epsilon)

    def forward(self, x: Value) -> Value:
        g = x.builder
        _expect_space(self, x)
        channels = (self._static_dim(x, 1, *_CHANNELS),)
        if self.affine:
            w = g.parameter("weight", channels, self.weight_init)
            b = g.parameter("bias", channels, self.bias_init)
        else:
            w, b = g.constant(np.ones(channels, np.float32)), g.constant(np.zeros(channels, np.float32))
        return g.op("InstanceNormalization", x, w, b, epsilon=self.epsilon)


@dataclass(frozen=True)
class GroupNorm(_Norm):
    """y = (x - mean) / sqrt(var + epsilon) * weight + bias, over each group of channels of each sample and its space.

    x, y: (batch, channels, ...)   weight, bias: (channels,)   groups: how many parts the channels form.
    Source: Wu & He 2018, eq. 1 and 7.
    """

    groups: int
    _: KW_ONLY
    epsilon: float = 1e-5
    weight_init: str | init.Initializer = "ones"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("groups")
        self._check_epsilon(self.epsilon)

    def forward(self, x: Value) -> Value:
        g = x.builder
        channels = self._static_dim(x, 1, *_CHANNELS)
        if channels % self.groups:
            raise self._misfit(x, f"channels that {self.groups} groups divide ({channels})", "Change groups.")
        # GroupNormalization scales by group and not by channel before opset 21: here a group is an instance's channel.
        ones, zeros = (g.constant(np.full(self.groups, v, np.float32)) for v in (1, 0))
        rows = g.reshape(x, [0, self.groups, -1])
        y = g.reshape_like(g.op("InstanceNormalization", rows, ones, zeros, epsilon=self.epsilon), x)
        # In the shape that broadcasts against x, so that no node has to reshape them.
        column = (channels,) + (1,) * (len(x.shape or ()) - 2)
        return y * g.parameter("weight", column, self.weight_init) + g.parameter("bias", column, self.bias_init)


@dataclass(frozen=True)
class LocalResponseNorm(_Norm):
    """y = x / (k + alpha / size * sum(x^2))^beta, the sum over `size` neighbouring channels.

    x, y: (batch, channels, ...)   size: odd; half of it on each side.   Source: Krizhevsky et al. 2012, section 3.3.
    """

    size: int = 5
    _: KW_ONLY
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        # ONNX Runtime computes windows of odd size alone.
        self._check_range("size", is_size(self.size) and self.size % 2 == 1, "an odd positive integer", "size=5")
        for name in ("alpha", "beta", "k"):
            value = getattr(self, name)
            self._check_range(name, is_number(value) and value > 0, "a positive number", f"{name}={_LRN[name]}")

    def forward(self, x: Value) -> Value:
        _expect_space(self, x)
        return x.builder.op("LRN", x, size=int(self.size), alpha=self.alpha, beta=self.beta, bias=self.k)


_LRN = {"alpha": 1e-4, "beta": 0.75, "k": 1.0}


@dataclass(frozen=True)
class Dropout(Layer):
    """Training: each element is 0 with probability `ratio`, the others are divided by 1 - ratio. Inference: y = x.

    Source: Srivastava et al. 2014.
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        if not is_number(self.ratio) or not 0.0 <= self.ratio < 1.0:
            raise UsageError(
                f"Dropout expected a ratio in [0, 1); found {self.ratio!r}",
                at=self._source,
                mend="It is the share of elements that are dropped.",
            )

    def forward(self, x: Value) -> Value:
        return x.builder.op("Dropout", x, np.float32(self.ratio))


def _expect_space(layer: Layer, x: Value) -> None:
    if x.shape is not None and len(x.shape) < 3:
        raise layer._misfit(x, "batch, channels and at least one axis of space", "Check the layer before it.")
