"""Pooling over sequences, images and volumes."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from onnxmx.builder.graph import Value
from onnxmx.builder.layers.spatial import Padding, Size, Spatial, sides
from onnxmx.errors import UsageError


@dataclass(frozen=True)
class _Pool(Spatial):
    """Fields of the pooling layers, and the windows that they put over their input."""

    size: Size = 2
    _: KW_ONLY
    stride: Size | None = None
    padding: Padding = "valid"
    ceil: bool = False

    def __post_init__(self) -> None:
        self._check_each("size", *(() if self.stride is None else ("stride",)))
        self._check_padding(self.padding)
        pairs = None if isinstance(self.padding, str) else sides(self.padding, self.rank)
        if pairs is not None and any(max(p) >= s for p, s in zip(pairs, self._each(self.size), strict=True)):
            raise UsageError(
                f"{type(self).__name__} expected less padding than its size {self.size}; found {self.padding}",
                at=self._source,
                mend="A window that lies in the padding alone has no value.",
            )

    def _window(self, x: Value) -> dict[str, Any]:
        """The attributes of a pooling node; windows stand side by side unless a stride says otherwise."""
        self._expect_space(x)
        kernel, stride = self._each(self.size), self._each(self.size if self.stride is None else self.stride)
        pads = self._pads(x, self.padding, kernel, stride)
        if self.ceil:
            # As padding: it counts for nothing in a pooling, and ONNX Runtime's ceil_mode differs between versions.
            for axis in range(self.rank):
                size, end = self._space(x, axis), axis + self.rank
                pads[end] += overhang(size, kernel[axis], stride[axis], pads[axis], pads[end])
        return {"kernel_shape": kernel, "strides": stride, "pads": pads}


def overhang(size: int, span: int, step: int, start: int, end: int) -> int:
    """How far the last window reaches past the padded input when their number is rounded up.

    A window that would begin behind the input is left out, as in PyTorch.
    """
    rest = (size + start + end - span) % step
    extra = step - rest if rest else 0
    begins = size + start + end + extra - span
    return 0 if begins >= size + start else extra


@dataclass(frozen=True)
class _MaxPool(_Pool):
    def forward(self, x: Value) -> Value:
        return x.builder.op("MaxPool", x, **self._window(x))


@dataclass(frozen=True)
class MaxPool1D(_MaxPool):
    """The largest value of each window.   x: (batch, c, length)   y: (batch, c, length')   Fields as in MaxPool2D."""

    rank = 1


@dataclass(frozen=True)
class MaxPool2D(_MaxPool):
    """The largest value of each window.   x: (batch, c, height, width)   y: (batch, c, height', width')

    stride: the window's size unless it is given.   padding: "valid", "same" or numbers, as in Conv2D.
    ceil: the last window may reach past the end.
    """

    rank = 2


@dataclass(frozen=True)
class MaxPool3D(_MaxPool):
    """The largest value of each window.   x: (batch, c, depth, height, width)   y: (batch, c, depth', height', width')

    Fields as in MaxPool2D.
    """

    rank = 3


@dataclass(frozen=True)
class _AvgPool(_Pool):
    _: KW_ONLY
    count_include_pad: bool = False

    def forward(self, x: Value) -> Value:
        g = x.builder
        window = self._window(x)
        if not (self.count_include_pad and any(window["pads"])):
            return g.op("AveragePool", x, **window)
        if not self.ceil:
            return g.op("AveragePool", x, count_include_pad=1, **window)
        # What hangs over the end is never counted; the padding proper is, so it becomes part of the input.
        proper = self._pads(x, self.padding, window["kernel_shape"], window["strides"])
        over = [p - q for p, q in zip(window["pads"], proper, strict=True)]
        n = self.rank
        padded = g.pad(x, [0, 0, *proper[:n], 0, 0, *proper[n:]]) if any(proper) else x
        return g.op("AveragePool", padded, **(window | {"pads": over}))


@dataclass(frozen=True)
class AvgPool1D(_AvgPool):
    """The mean of each window.   x: (batch, c, length)   y: (batch, c, length')   Fields as in AvgPool2D."""

    rank = 1


@dataclass(frozen=True)
class AvgPool2D(_AvgPool):
    """The mean of each window, padding not counted.   x: (batch, c, height, width)   y: (batch, c, height', width')

    stride: the window's size unless it is given.   padding: "valid", "same" or numbers, as in Conv2D.
    ceil: the last window may reach past the end.   count_include_pad: padding counts as zeros, as PyTorch's default.
    """

    rank = 2


@dataclass(frozen=True)
class AvgPool3D(_AvgPool):
    """The mean of each window.   x: (batch, c, depth, height, width)   y: (batch, c, depth', height', width')

    Fields as in AvgPool2D.
    """

    rank = 3


@dataclass(frozen=True)
class _GlobalMaxPool(Spatial):
    def forward(self, x: Value) -> Value:
        self._expect_space(x)
        return x.builder.reduce_max(x, range(2, self.rank + 2), keepdims=False)


@dataclass(frozen=True)
class GlobalMaxPool1D(_GlobalMaxPool):
    """The largest value of each channel.   x: (batch, c, length)   y: (batch, c)"""

    rank = 1


@dataclass(frozen=True)
class GlobalMaxPool2D(_GlobalMaxPool):
    """The largest value of each channel.   x: (batch, c, height, width)   y: (batch, c)"""

    rank = 2


@dataclass(frozen=True)
class GlobalMaxPool3D(_GlobalMaxPool):
    """The largest value of each channel.   x: (batch, c, depth, height, width)   y: (batch, c)"""

    rank = 3


@dataclass(frozen=True)
class _GlobalAvgPool(Spatial):
    def forward(self, x: Value) -> Value:
        self._expect_space(x)
        return x.builder.reduce_mean(x, range(2, self.rank + 2), keepdims=False)


@dataclass(frozen=True)
class GlobalAvgPool1D(_GlobalAvgPool):
    """The mean of each channel.   x: (batch, c, length)   y: (batch, c)"""

    rank = 1


@dataclass(frozen=True)
class GlobalAvgPool2D(_GlobalAvgPool):
    """The mean over height and width.   x: (batch, c, height, width)   y: (batch, c)"""

    rank = 2


@dataclass(frozen=True)
class GlobalAvgPool3D(_GlobalAvgPool):
    """The mean of each channel.   x: (batch, c, depth, height, width)   y: (batch, c)"""

    rank = 3
