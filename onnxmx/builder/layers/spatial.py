"""What convolution, pooling and resizing share: sizes and paddings for each axis of space, and windows that fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxmx.builder.graph import Value, describe
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_size
from onnxmx.errors import OnnxmxWarning, UsageError

Size = int | tuple[int, ...]
"""One number for every axis of space, or one for each."""

Padding = str | int | tuple[int | tuple[int, int], ...]
"""A name, or how many elements on each side: for every axis, for each, or as (before, after) for each."""

LAYOUTS = {
    1: "(batch, channels, length)",
    2: "(batch, channels, height, width)",
    3: "(batch, channels, depth, height, width)",
}
_NOUNS = {1: "a sequence", 2: "an image", 3: "a volume"}
_MANY = {1: "", 2: " or two of them", 3: " or three of them"}


@dataclass(frozen=True)
class Spatial(Layer):
    """A layer over (batch, channels, *space), where space has `rank` axes."""

    rank: ClassVar[int]

    # --- what a constructor checks
    def _check_each(self, *names: str, least: int = 1) -> None:
        """The fields must be integers of `least` or more, one or one for each axis; a list becomes a tuple."""
        for name in names:
            value = getattr(self, name)
            many = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.rank
            if len(many) != self.rank or not all(_is_count(v, least) for v in many):
                kind = "a positive integer" if least else "an integer of 0 or more"
                raise self._wrong(name, f"{kind}{_MANY[self.rank]}", value)
            plain = tuple(int(v) for v in many)
            object.__setattr__(self, name, plain if isinstance(value, (tuple, list)) else plain[0])

    def _check_padding(self, padding: Any) -> None:
        if not (isinstance(padding, str) and padding in ("valid", "same")) and sides(padding, self.rank) is None:
            raise UsageError(
                f"{type(self).__name__} expected padding 'valid', 'same' or a number of zeros; found {padding!r}",
                at=self._source,
                mend="For example padding='same', padding=1, or a number for each axis.",
            )

    # --- what a forward needs
    def _each(self, size: Size) -> list[int]:
        """`size` as a list with one number for each axis of space."""
        return list(size) if isinstance(size, tuple) else [size] * self.rank

    def _expect_space(self, x: Value) -> None:
        self._expect_rank(x, self.rank + 2, LAYOUTS[self.rank])

    def _warn_of_channels_last(self, x: Value) -> None:
        """(batch, 28, 28, 3), as Keras has images, would train as 28 channels without a word."""
        if mend := _channels_first(x):
            g = x.builder
            warnings.warn(
                f"{g.what()} takes the second axis of {describe(x)} for its channels\n"
                f"  built at {g.source()}\n  {mend}",
                OnnxmxWarning,
                stacklevel=2,
            )

    def _channels(self, x: Value) -> int:
        return self._static_dim(x, 1, "a number of channels", "Give the input's channels in build(...).")

    def _space(self, x: Value, axis: int) -> int:
        """The size of `x` along an axis of space, which must be a number."""
        mend = f"Give {_NOUNS[self.rank]}'s size in build(...), or the padding as a number."
        return self._static_dim(x, axis + 2, f"{_NOUNS[self.rank]} size", mend)

    def _pads(self, x: Value, padding: Padding, spans: Sequence[int], stride: Sequence[int]) -> list[int]:
        """ONNX pads, all starts and then all ends, for a padding by name or number; checks that the windows fit.

        spans: what a window covers along each axis, its dilation included.
        """
        if padding == "valid":
            pads = [0] * (2 * self.rank)
        elif padding == "same":
            pads = self._same_pads(x, spans, stride)
        else:
            pads = as_pads(padding, self.rank)
        for axis, span in enumerate(spans):
            dim = x.shape[axis + 2] if x.shape is not None else None
            if isinstance(dim, int) and dim + pads[axis] + pads[axis + self.rank] < span:
                raise self._misfit(
                    x,
                    f"{_NOUNS[self.rank]} of at least {span} along axis {axis + 2} for its window",
                    _channels_first(x) or "Use padding or a smaller window.",
                )
        return pads

    def _same_pads(self, x: Value, spans: Sequence[int], stride: Sequence[int]) -> list[int]:
        total = [
            # With steps of one the size does not matter, so it may be symbolic.
            span - 1 if step == 1 else same_padding(self._space(x, axis), span, step)
            for axis, (span, step) in enumerate(zip(spans, stride, strict=True))
        ]
        return [t // 2 for t in total] + [t - t // 2 for t in total]


def _channels_first(x: Value) -> str | None:
    """What to write where an input is of square images whose channels seem to come last; None where they do not."""
    if not x.is_graph_input() or x.shape is None or len(x.shape) != 4:
        return None
    batch, height, width, channels = x.shape
    if not isinstance(height, int) or height != width or channels not in (1, 3, 4) or height <= 4:
        return None
    return (
        f"Channels come before height and width: build(image=({str(batch)!r}, {channels}, {height}, {width})), and "
        "x.transpose(0, 3, 1, 2) of the data."
    )


def same_padding(size: int, span: int, step: int) -> int:
    """How many elements to add so that windows of `span` in steps of `step` number size / step, rounded up."""
    return max((-(-size // step) - 1) * step + span - size, 0)


def sides(padding: Any, rank: int) -> list[tuple[int, int]] | None:
    """An explicit padding as (before, after) for each axis; None where it is not one."""
    many = list(padding) if isinstance(padding, (tuple, list)) else [padding] * rank
    pairs = [tuple(p) if isinstance(p, (tuple, list)) else (p, p) for p in many]
    if len(pairs) != rank or not all(len(p) == 2 and all(_is_count(n, 0) for n in p) for p in pairs):
        return None
    return [(int(before), int(after)) for before, after in pairs]


def as_pads(padding: Any, rank: int) -> list[int]:
    """A checked explicit padding as ONNX writes it: all starts, then all ends."""
    pairs = sides(padding, rank)
    assert pairs is not None  # the constructor has checked it
    return [before for before, _ in pairs] + [after for _, after in pairs]


def spans_of(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """What a kernel covers along each axis."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]


def _is_count(x: object, least: int) -> bool:
    return is_size(x) or (least == 0 and isinstance(x, int) and not isinstance(x, bool) and x == 0)
