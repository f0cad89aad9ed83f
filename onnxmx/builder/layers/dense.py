"""The fully connected layer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.activation import ActivationFunction, activate
from onnxmx.builder.layers.base import Layer


@dataclass(frozen=True)
class Dense(Layer):
    """y = activation(x @ W + b).   x: (..., n_in)   W: (n_in, units)   b: (units,)   y: (..., units)"""

    units: int
    _: KW_ONLY
    activation: str | ActivationFunction | None = None
    bias: bool = True
    weight_init: str | init.Initializer = "he"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("units")

    def forward(self, x: Value) -> Value:
        g = x.builder
        n_in = self._static_dim(
            x, -1, "a last dimension", "Add Flatten() before it, or give the input's size in build(...)."
        )
        w = g.parameter("weight", (n_in, self.units), self.weight_init)
        b = g.parameter("bias", (self.units,), self.bias_init) if self.bias else None
        if x.shape is not None and len(x.shape) == 2:
            y = g.gemm(x, w, b)
        else:
            y = g.matmul(x, w) if b is None else g.add(g.matmul(x, w), b)
        return activate(y, self.activation)
