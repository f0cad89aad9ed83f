"""Convolution and transposed convolution over sequences, images and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.activation import ActivationFunction, activate
from onnxmx.builder.layers.spatial import Padding, Size, Spatial, as_pads, spans_of
from onnxmx.errors import UsageError


@dataclass(frozen=True)
class _Conv(Spatial):
    """Fields and maths of Conv1D, Conv2D and Conv3D."""

    channels: int
    kernel: Size
    _: KW_ONLY
    stride: Size = 1
    padding: Padding = "valid"
    dilation: Size = 1
    groups: int = 1
    activation: str | ActivationFunction | None = None
    bias: bool = True
    weight_init: str | init.Initializer = "he"
    bias_init: str | init.Initializer = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("channels", "groups")
        self._check_each("kernel", "stride", "dilation")
        self._check_padding(self.padding)

    def forward(self, x: Value) -> Value:
        g = x.builder
        n_in = self._check_groups(x)
        kernel, stride, dilation = map(self._each, (self.kernel, self.stride, self.dilation))
        pads = self._pads(x, self.padding, spans_of(kernel, dilation), stride)
        self._warn_of_channels_last(x)
        w = g.parameter("weight", (self.channels, n_in // self.groups, *kernel), self.weight_init)
        b = g.parameter("bias", (self.channels,), self.bias_init) if self.bias else None
        y = g.conv(x, w, b, kernel_shape=kernel, strides=stride, dilations=dilation, group=self.groups, pads=pads)
        return activate(y, self.activation)

    def _check_groups(self, x: Value) -> int:
        """The number of input channels, which the groups must divide, as they must the output's."""
        self._expect_space(x)
        n_in = self._channels(x)
        if n_in % self.groups or self.channels % self.groups:
            raise self._misfit(
                x,
                f"input and output channels that {self.groups} groups divide ({n_in} and {self.channels})",
                "Change channels or groups.",
            )
        return n_in


@dataclass(frozen=True)
class Conv1D(_Conv):
    """y = activation(conv(x, W) + b) over sequences.

    x: (batch, n_in, length)   W: (channels, n_in / groups, kernel)   b: (channels,)   y: (batch, channels, length')
    padding: as in Conv2D; ((kernel - 1, 0),) makes a convolution that sees no later element.
    """

    rank = 1


@dataclass(frozen=True)
class Conv2D(_Conv):
    """y = activation(conv(x, W) + b) over images.

    x: (batch, n_in, height, width)   W: (channels, n_in / groups, *kernel)   b: (channels,)
    y: (batch, channels, height', width')
    padding: "valid" (none), "same" (the output is the input's size divided by the stride, rounded up; the odd pixel
    goes to the end), or the number of zeros on each side: one, one for each axis, or (before, after) for each.
    groups: channels are convolved in so many parts of their own; as many as n_in make it depthwise.
    """

    rank = 2


@dataclass(frozen=True)
class Conv3D(_Conv):
    """y = activation(conv(x, W) + b) over volumes.

    x: (batch, n_in, depth, height, width)   W: (channels, n_in / groups, *kernel)   b: (channels,)
    y: (batch, channels, depth', height', width')   padding: as in Conv2D.
    """

    rank = 3


@dataclass(frozen=True)
class _ConvTranspose(_Conv):
    """Fields and maths of the transposed convolutions."""

    _: KW_ONLY
    output_padding: Size = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_each("output_padding", least=0)
        extra = self._each(self.output_padding)
        if any(e >= s for e, s in zip(extra, self._each(self.stride), strict=True)):
            raise UsageError(
                f"{type(self).__name__} expected less output_padding than its stride {self.stride}; "
                f"found {self.output_padding}",
                at=self._source,
                mend="It tells apart the output sizes that one input size can have: 0 to stride - 1.",
            )
        if any(extra) and self.padding == "same":
            raise UsageError(
                f"{type(self).__name__} expected no output_padding beside padding 'same'; found {self.output_padding}",
                at=self._source,
                mend="'same' makes the output the input's size times the stride.",
            )

    def forward(self, x: Value) -> Value:
        g = x.builder
        n_in = self._check_groups(x)
        kernel, stride, dilation = map(self._each, (self.kernel, self.stride, self.dilation))
        pads, extra = self._cut(x, spans_of(kernel, dilation), stride)
        w = g.parameter("weight", (n_in, self.channels // self.groups, *kernel), self.weight_init)
        b = g.parameter("bias", (self.channels,), self.bias_init) if self.bias else None
        y = g.op(
            "ConvTranspose",
            x,
            w,
            b,
            kernel_shape=kernel,
            strides=stride,
            dilations=dilation,
            group=self.groups,
            pads=pads,
            output_padding=extra,
        )
        return activate(y, self.activation)

    def _cut(self, x: Value, spans: Sequence[int], stride: Sequence[int]) -> tuple[list[int], list[int]]:
        """What is cut from the output, all starts and then all ends, and what is added to its ends."""
        extra = self._each(self.output_padding)
        if self.padding == "same":
            total = [max(w - s, 0) for w, s in zip(spans, stride, strict=True)]
            extra = [max(s - w, 0) for w, s in zip(spans, stride, strict=True)]
            return [t // 2 for t in total] + [t - t // 2 for t in total], extra
        pads = as_pads(0 if self.padding == "valid" else self.padding, self.rank)
        for axis, (span, step) in enumerate(zip(spans, stride, strict=True)):
            dim = x.shape[axis + 2] if x.shape is not None else None
            cut = pads[axis] + pads[axis + self.rank]
            if isinstance(dim, int) and (dim - 1) * step + span + extra[axis] <= cut:
                raise self._misfit(
                    x, f"padding that leaves some of its output along axis {axis + 2}, not {cut}", "Use less padding."
                )
        return pads, extra


@dataclass(frozen=True)
class Conv1DTranspose(_ConvTranspose):
    """The transposed convolution of sequences: Conv1D run backwards, from its output's size to its input's.

    x: (batch, n_in, length)   W: (n_in, channels / groups, kernel)   b: (channels,)   y: (batch, channels, length')
    Sizes and padding as in Conv2DTranspose.
    """

    rank = 1


@dataclass(frozen=True)
class Conv2DTranspose(_ConvTranspose):
    """The transposed convolution of images: Conv2D run backwards, from its output's size to its input's.

    x: (batch, n_in, height, width)   W: (n_in, channels / groups, *kernel)   b: (channels,)
    y: (batch, channels, height', width'), height' = (height - 1) stride + (kernel - 1) dilation + 1
    + output_padding - padding before and after.   padding: as many elements are cut from each side; "same" makes
    height' = height * stride.   Source: Dumoulin & Visin 2016, section 4.
    """

    rank = 2


@dataclass(frozen=True)
class Conv3DTranspose(_ConvTranspose):
    """The transposed convolution of volumes: Conv3D run backwards, from its output's size to its input's.

    x: (batch, n_in, depth, height, width)   W: (n_in, channels / groups, *kernel)   b: (channels,)
    y: (batch, channels, depth', height', width').   Sizes and padding as in Conv2DTranspose.
    """

    rank = 3
