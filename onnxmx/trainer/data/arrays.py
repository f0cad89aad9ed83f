"""What a user gives as the arrays of a dataset: as numpy has it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmx.builder.source import user_line
from onnxmx.errors import DataError

Array = npt.NDArray[Any]

_BLOCK = 1 << 20
"""Elements looked at together while checking and hashing, so that neither doubles the memory of a large dataset."""


def as_array(key: str, given: Any) -> Array:
    """What a user gives as an array. Raises DataError for lists of several lengths."""
    try:
        return np.asarray(given)
    except ValueError:
        raise DataError(
            f"a dataset expected samples of one shape in {key!r}; found a list of several lengths",
            at=user_line(),
            mend="Pad or cut them to one length; a model can take the lengths as one more input.",
        ) from None


def check_finite(where: str, key: str, array: Array) -> None:
    """Raises DataError where floats, samples first, are not all finite as float32. where: what holds them, in words."""
    if array.dtype.kind != "f" or not array.size:
        return
    for start, block in blocks(array):
        with np.errstate(over="ignore"):  # A float64 beyond float32 turns into infinity: found on the next line.
            bad = ~np.isfinite(block.astype(np.float32, copy=False))
        if bad.any():
            row, value = first_bad(block, bad)
            raise DataError(
                f"{where} expected finite float32 values in {key!r}; found {value} in sample {start + row}",
                mend="Repair or drop that sample.",
            )


def first_bad(array: Array, bad: Array) -> tuple[int, Any]:
    """The first sample that has a bad value, and that value.   bad: where they are, bool, one of them at least."""
    row = int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
    return row, array[row][bad[row]].flat[0]


def blocks(array: Array) -> Iterator[tuple[int, Array]]:
    """Runs of whole samples of about _BLOCK elements, each with the index of its first sample."""
    rows = max(1, _BLOCK // (array.size // len(array)))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]
