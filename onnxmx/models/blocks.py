"""Parts that several convolutional families share."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value

Size = int | tuple[int, int]


@dataclass(frozen=True)
class ConvNorm(L.Layer):
    """activation(norm(conv(x))), the convolution without bias.   x: (batch, n, h, w)   y: (batch, channels, h', w')

    padding: half the kernel unless given, so that a stride of 1 keeps the size.
    """

    channels: int
    kernel: Size
    stride: int = 1
    _: KW_ONLY
    padding: int | None = None
    groups: int = 1
    activation: str | None = "relu"
    epsilon: float = 1e-5

    def forward(self, x: Value) -> Value:
        padding = half(self.kernel) if self.padding is None else self.padding
        conv = L.Conv2D(
            self.channels,
            self.kernel,
            stride=self.stride,
            padding=padding,
            groups=self.groups,
            bias=False,
            name="conv",
        )
        y = L.BatchNorm(epsilon=self.epsilon, name="norm")(conv(x))
        return y if self.activation is None else L.ACTIVATIONS[self.activation](y)


@dataclass(frozen=True)
class NormConv(L.Layer):
    """conv(relu(norm(x))), the convolution without bias.   x: (batch, n, h, w)   y: (batch, channels, h', w')

    Source: He et al. 2016b, figure 1.
    """

    channels: int
    kernel: int
    stride: int = 1

    def forward(self, x: Value) -> Value:
        y = L.relu(L.BatchNorm(name="norm")(x))
        return conv(self.channels, self.kernel, self.stride)(y)


def conv(channels: int, kernel: int, stride: int = 1, name: str = "conv") -> L.Layer:
    """A convolution without bias, padded by half its kernel."""
    return L.Conv2D(channels, kernel, stride=stride, padding=half(kernel), bias=False, name=name)


def half(kernel: Size) -> Size:
    """The padding that keeps the size under a kernel of odd size."""
    return kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
