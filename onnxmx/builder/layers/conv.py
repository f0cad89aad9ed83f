"""Convolution and pooling over images, (batch, channels, height, width)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.activation import ActivationFunction, activate
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_size
from onnxmx.errors import UsageError

Pair = int | tuple[int, int]
Padding = str | int | tuple[int, int]
_LAYOUT = "(batch, channels, height, width)"


@dataclass(frozen=True)
class Conv2D(Layer):
    """y = activation(conv(x, W) + b).

    x: (batch, n_in, height, width)   W: (channels, n_in / groups, *kernel)   b: (channels,)
    padding: "valid" (none), "same" (the output is the input's size divided by the stride, rounded up; the odd pixel
    goes to the end), or the number of zeros on each side.
    """

    channels: int
    kernel: Pair
    _: KW_ONLY
    stride: Pair = 1
    padding: Padding = "valid"
    dilation: Pair = 1
    groups: int = 1
    activation: str | ActivationFunction | None = None
    bias: bool = True
    weight_init: str | init.Initializer = "he"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("channels", "groups")
        self._check_pairs("kernel", "stride", "dilation")
        _check_padding(self, self.padding)

    def forward(self, x: Value) -> Value:
        g = x.builder
        self._expect_rank(x, 4, _LAYOUT)
        n_in = self._static_dim(x, 1, "a number of channels", "Give the input's channels in build(...).")
        if n_in % self.groups or self.channels % self.groups:
            raise self._misfit(
                x,
                f"input and output channels that {self.groups} groups divide ({n_in} and {self.channels})",
                "Change channels or groups.",
            )
        kernel, stride, dilation = pair(self.kernel), pair(self.stride), pair(self.dilation)
        pads = _pads(self, x, self.padding, kernel, stride, dilation)
        w = g.parameter("weight", (self.channels, n_in // self.groups, *kernel), self.weight_init)
        b = g.parameter("bias", (self.channels,), self.bias_init) if self.bias else None
        y = g.conv(x, w, b, kernel_shape=kernel, strides=stride, dilations=dilation, group=self.groups, pads=pads)
        return activate(y, self.activation)


@dataclass(frozen=True)
class MaxPool2D(Layer):
    """The largest value of each window.   x: (batch, c, height, width)   y: (batch, c, height', width')"""

    size: Pair = 2
    _: KW_ONLY
    stride: Pair | None = None
    padding: Padding = "valid"

    def __post_init__(self) -> None:
        _check_window(self)

    def forward(self, x: Value) -> Value:
        return x.builder.op("MaxPool", x, **_window(self, x, self.size, self.stride, self.padding))


@dataclass(frozen=True)
class AvgPool2D(Layer):
    """The mean of each window, padding not counted.   x: (batch, c, height, width)   y: (batch, c, height', width')"""

    size: Pair = 2
    _: KW_ONLY
    stride: Pair | None = None
    padding: Padding = "valid"

    def __post_init__(self) -> None:
        _check_window(self)

    def forward(self, x: Value) -> Value:
        return x.builder.op("AveragePool", x, **_window(self, x, self.size, self.stride, self.padding))


@dataclass(frozen=True)
class GlobalAvgPool2D(Layer):
    """The mean over height and width.   x: (batch, c, height, width)   y: (batch, c)"""

    def forward(self, x: Value) -> Value:
        self._expect_rank(x, 4, _LAYOUT)
        return x.builder.reduce_mean(x, (2, 3), keepdims=False)


def _check_padding(layer: Layer, padding: Padding) -> None:
    sides = padding if isinstance(padding, tuple) else (padding, padding)
    if padding not in ("valid", "same") and not (len(sides) == 2 and all(is_size(p) or p == 0 for p in sides)):
        raise UsageError(
            f"{type(layer).__name__} expected padding 'valid', 'same' or a number of zeros; found {padding!r}",
            at=layer._source,
            mend="For example padding='same', padding=1 or padding=(1, 2).",
        )


def _check_window(layer: MaxPool2D | AvgPool2D) -> None:
    layer._check_pairs("size", *(() if layer.stride is None else ("stride",)))
    _check_padding(layer, layer.padding)
    if not isinstance(layer.padding, str) and any(
        p >= s for p, s in zip(pair(layer.padding), pair(layer.size), strict=True)
    ):
        raise UsageError(
            f"{type(layer).__name__} expected less padding than its size {layer.size}; found {layer.padding}",
            at=layer._source,
            mend="A window that lies in the padding alone has no value.",
        )


def pair(x: Pair) -> list[int]:
    """`n` or `(n, m)` as `[n, m]`."""
    return list(x) if isinstance(x, tuple) else [x, x]


def _window(layer: Layer, x: Value, size: Pair, stride: Pair | None, padding: Padding) -> dict[str, Any]:
    """The attributes of a pooling node; windows stand side by side unless a stride says otherwise."""
    layer._expect_rank(x, 4, _LAYOUT)
    kernel, strides = pair(size), pair(size if stride is None else stride)
    pads = _pads(layer, x, padding, kernel, strides, [1, 1])
    return {"kernel_shape": kernel, "strides": strides, "pads": pads}


def _pads(
    layer: Layer, x: Value, padding: Padding, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """ONNX pads [top, left, bottom, right] for a padding by name or number; checks that the window fits."""
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if padding == "valid":
        pads = [0, 0, 0, 0]
    elif padding == "same":
        pads = _same_pads(layer, x, spans, stride)
    else:
        pads = pair(padding) * 2  # type: ignore[arg-type]  # _check_padding lets no other name through
    for axis, span in enumerate(spans):
        dim = x.shape[axis + 2] if x.shape is not None else None
        if isinstance(dim, int) and dim + pads[axis] + pads[axis + 2] < span:
            raise layer._misfit(
                x,
                f"an image of at least {span} along axis {axis + 2} for its window",
                "Use padding or a smaller window.",
            )
    return pads


def _same_pads(layer: Layer, x: Value, spans: Sequence[int], stride: Sequence[int]) -> list[int]:
    starts, ends = [], []
    for axis, (span, step) in enumerate(zip(spans, stride, strict=True)):
        if step == 1:
            total = span - 1
        else:
            mend = "Give the image's size in build(...), or the padding as a number."
            dim = layer._static_dim(x, axis + 2, "an image size", mend)
            total = max((-(-dim // step) - 1) * step + span - dim, 0)
        starts.append(total // 2)
        ends.append(total - total // 2)
    return starts + ends
