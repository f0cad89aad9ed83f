"""`x[...]` on a value: numbers, slices with steps, `...` and None, as numpy's basic indexing; by Slice and Squeeze."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from onnxmx.builder.source import user_line
from onnxmx.builder.values import Value, describe
from onnxmx.errors import ShapeError

_FAR = np.iinfo(np.int64).max
_MEND = "Indices are numbers, slices, ... and None; for an index that is a value: x.builder.gather(x, index, axis=0)."


def index(x: Value, key: Any) -> Value:
    """`x[key]`.   x: any shape of known rank

    Raises ShapeError at the user's line for an index of another kind, one too many, or one out of range.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    if x.shape is None:
        raise ShapeError("indexing expected a value of known rank; found one of unknown rank", at=user_line())
    rest = len(x.shape) - sum(k is not None and k is not Ellipsis for k in keys)
    dots = [n for n, k in enumerate(keys) if k is Ellipsis]
    if rest < 0 or len(dots) > 1:
        raise ShapeError(
            f"indexing expected at most {len(x.shape)} indices and one ...; found [{_show(keys)}] on {describe(x)}",
            at=user_line(),
            mend="Leave some out.",
        )
    place = dots[0] if dots else len(keys)
    full = [*keys[:place], *[slice(None)] * rest, *keys[place + 1 :]]
    slices: list[tuple[int, int, int, int]] = []
    picked: list[int] = []
    added: list[int] = []
    axis = 0
    for k in full:
        if k is None:
            added.append(axis - len(picked) + len(added))
            continue
        if not isinstance(k, slice):
            k = _one(x, axis, k, keys)
            picked.append(axis)
        if k != slice(None):
            slices.append((*_bounds(k, keys), axis))
        axis += 1
    g, y = x.builder, x
    if slices:
        starts, ends, steps, axes = (list(column) for column in zip(*slices, strict=True))
        y = g.slice(y, starts, ends, axes, steps)
    if picked:
        y = g.squeeze(y, picked)
    return g.unsqueeze(y, added) if added else y


def _one(x: Value, axis: int, k: Any, keys: list[Any]) -> slice:
    """The slice of the single element `k`."""
    n = _integer(k, keys)
    assert x.shape is not None
    size = x.shape[axis]
    if isinstance(size, int) and not -size <= n < size:
        raise ShapeError(
            f"indexing expected an index of axis {axis} from {-size} to {size - 1}; found {n} on {describe(x)}",
            at=user_line(),
        )
    return slice(n, n + 1 if n != -1 else None)


def _bounds(k: slice, keys: list[Any]) -> tuple[int, int, int]:
    """Start, end and step as Slice takes them: what lies beyond the end stands for the end."""
    step = 1 if k.step is None else _integer(k.step, keys)
    if step == 0:
        raise ShapeError(f"indexing expected a step other than 0; found [{_show(keys)}]", at=user_line())
    first, last = (0, _FAR) if step > 0 else (_FAR, -_FAR)
    start = first if k.start is None else _integer(k.start, keys)
    return start, last if k.stop is None else _integer(k.stop, keys), step


def _integer(k: Any, keys: list[Any]) -> int:
    try:
        if isinstance(k, (bool, np.bool_)):
            raise TypeError
        return operator.index(k)
    except TypeError:
        raise ShapeError(
            f"indexing expected whole numbers; found [{_show(keys)}]", at=user_line(), mend=_MEND
        ) from None


def _show(keys: list[Any]) -> str:
    def one(k: Any) -> str:
        if isinstance(k, slice):
            return ":".join("" if v is None else one(v) for v in (k.start, k.stop, k.step)).removesuffix(":") or ":"
        return "..." if k is Ellipsis else describe(k) if isinstance(k, Value) else repr(k)

    return ", ".join(map(one, keys))
