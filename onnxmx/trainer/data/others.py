"""What other libraries hold samples in, and how to make a dataset of it."""

from __future__ import annotations

from typing import Any

import numpy as np

_ARRAYS = "Make one of arrays: mx.data.Dataset.from_arrays(x, labels)."
_COLUMNS = "Make one of columns: mx.data.Dataset.from_arrays(table[['a', 'b']], table['label'])."
_SAMPLES = "Make one of samples (x, label): mx.data.Dataset.from_arrays(*zip(*{}))."


def instead_of_dataset(found: object) -> str:
    """What to write where `found` is given in the place of a dataset."""
    if hasattr(found, "columns"):  # pandas
        return _COLUMNS
    if hasattr(found, "dataset"):  # a DataLoader, which gives batches
        return _SAMPLES.format("loader.dataset")
    held = hasattr(found, "__getitem__") or hasattr(found, "__iter__")
    plain = isinstance(found, (str, list, tuple, dict)) or hasattr(found, "__array__")
    return _SAMPLES.format("samples") if _are_pairs(found) or (held and not plain) else _ARRAYS


def instead_of_uneven(given: Any) -> str:
    """What to do about an array of several lengths, which may be inputs and labels in one."""
    if _are_pairs(given):
        return _SAMPLES.format("samples")
    if isinstance(given, tuple) and len(given) == 2:
        return "Labels are the second argument: mx.data.Dataset.from_arrays(x, labels)."
    return "Pad or cut them to one length; a model can take the lengths as one more input."


def _are_pairs(found: Any) -> bool:
    """Whether the first of them is a sample with its label."""
    try:
        x, label = found[0]
        return isinstance(found[0], tuple) and np.ndim(x) > np.ndim(label)
    except Exception:  # whatever an object of the user's raises, and numpy over lists of several lengths
        return False
