"""Normalization and regularization."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_number
from onnxmx.errors import UsageError


@dataclass(frozen=True)
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(var + epsilon) * weight + bias, for each channel.   x, y: (batch, channels, ...)

    The model holds the running mean and variance; a training step normalizes by the batch's own and moves the
    running ones towards them: running <- momentum * running + (1 - momentum) * batch.
    Source: Ioffe & Szegedy 2015, alg. 1.
    """

    _: KW_ONLY
    epsilon: float = 1e-5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("epsilon", self.epsilon, is_number(self.epsilon) and self.epsilon > 0, "a positive number"),
            ("momentum", self.momentum, is_number(self.momentum) and 0 <= self.momentum <= 1, "a number in [0, 1]"),
        ):
            if not fits:
                raise UsageError(
                    f"BatchNorm expected {name} as {expected}; found {value!r}",
                    at=self._source,
                    mend="The defaults are epsilon=1e-5 and momentum=0.9.",
                )

    def forward(self, x: Value) -> Value:
        g = x.builder
        channels = (self._static_dim(x, 1, "a number of channels", "Give the input's channels in build(...)."),)
        return g.op(
            "BatchNormalization",
            x,
            g.parameter("weight", channels, init.ones()),
            g.parameter("bias", channels, init.zeros()),
            g.parameter("running_mean", channels, init.zeros(), trainable=False),
            g.parameter("running_var", channels, init.ones(), trainable=False),
            epsilon=self.epsilon,
            momentum=self.momentum,
        )


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
