"""What a user gives as the arrays of a dataset: as numpy has it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmx.builder.source import user_line
from onnxmx.errors import DataError
from onnxmx.trainer.data.others import instead_of_dataset, instead_of_uneven

Array = npt.NDArray[Any]

_BLOCK = 1 << 20
"""Elements looked at together while checking and hashing, so that neither doubles the memory of a large dataset."""


def as_array(key: str, given: Any) -> Array:
    """What a user gives as an array. Raises DataError for what is none: lists of several lengths, what is iterated.

    longdouble, of which ONNX has none, becomes float64.
    """
    check_masked("a dataset", key, given)
    try:
        array = np.asarray(given)
    except ValueError:
        raise DataError(
            f"a dataset expected samples of one shape in {key!r}; found a list of several lengths",
            at=user_line(),
            mend=instead_of_uneven(given),
        ) from None
    if array.ndim == 0 and not isinstance(given, np.ndarray):
        raise DataError(
            f"a dataset expected an array of samples in {key!r}; found {type(given).__name__}",
            at=user_line(),
            mend="Its first axis counts samples, (n,) where each is one number; what is iterated becomes a list first."
            + (f" {instead_of_dataset(given)}" if array.dtype == object else ""),
        )
    with np.errstate(over="ignore"):  # what becomes infinity is refused as such
        return array.astype(np.float64) if array.dtype.char == "g" else array


def check_masked(where: str, key: str, given: Any) -> None:
    """Raises DataError for a masked array that lacks values: what lies under its mask means nothing."""
    if not np.ma.is_masked(given):
        return
    mask = np.atleast_1d(np.ma.getmaskarray(given))
    row = int(np.argmax(mask.reshape(len(mask), -1).any(axis=1)))
    raise DataError(
        f"{where} expected a value everywhere in {key!r}; found {int(mask.sum())} under a mask, the first in "
        f"sample {row}",
        at=user_line(),
        mend="Fill them, as x.filled(0) does, or drop those samples.",
    )


def check_integers(where: str, key: str, array: Array) -> None:
    """Raises DataError for uint64 that int64 does not hold."""
    bad = array > np.uint64(np.iinfo(np.int64).max) if array.dtype == np.uint64 else None
    if bad is not None and bad.any():
        row, value = first_bad(array, bad)
        raise DataError(
            f"{where} expected integers below 2^63 in {key!r}; found {value} in sample {row}",
            mend="Number classes from 0; give what is no class as float32.",
        )


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
