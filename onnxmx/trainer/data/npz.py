"""A user's own dataset in one .npz file, as numpy.savez writes it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from onnxmx.builder.arguments import checked_arguments
from onnxmx.errors import DataError, OnnxmxWarning, nearest
from onnxmx.trainer.data.arrays import Array
from onnxmx.trainer.data.dataset import Dataset, Origin
from onnxmx.trainer.data.registry import check_split

_INPUTS = {"train": ("x", "x_train"), "test": ("x_test",)}
_LABELS = {"train": ("y", "y_train"), "test": ("y_test",)}
_HELD_OUT = 0.2
"""The share of the samples that is held out of a file without a test split."""
_EXTRAS = ("classes", "scale", "shift")
_KNOWN = [name for table in (_INPUTS, _LABELS) for names in table.values() for name in names] + list(_EXTRAS)


@checked_arguments
def load_npz(path: str | PathLike[str], split: str = "train") -> Dataset:
    """The dataset in a .npz file: input "x", and label "label" when the file has labels.

    Arrays: `x` and `y` (or `x_train` and `y_train`) are the train split, `x_test` and `y_test` the test split. Several
    inputs or labels are an array each: `x.user` and `x.item`, `x_test.user` and `x_test.item`.
    Optional: `classes` (names, shape (c,)), and the numbers `scale` and `shift` of the preprocessing.
    Raises DataError for a file that is missing, damaged, or holds other arrays. Never unpickles.
    Warns of 8-bit images without `scale`. See docs/data.md.
    """
    check_split(split)
    arrays, found = _read(Path(path), {*_INPUTS[split], *_LABELS[split], *_EXTRAS})
    x, y = (_one_or_several(path, arrays, table[split]) for table in (_INPUTS, _LABELS))
    if x is None:
        raise DataError(
            f"{path}: expected an array {_INPUTS[split][0]!r} for the {split} split; found {found}",
            mend="Write it with numpy.savez(file, x=..., y=..., x_test=..., y_test=...).",
        )
    classes = arrays.get("classes")
    if classes is not None and (classes.dtype.kind != "U" or classes.ndim != 1):
        raise DataError(f"{path}: expected 'classes' as strings of shape (c,); found {classes.dtype}{classes.shape}")
    inputs = x.values() if isinstance(x, dict) else [x]
    if any(a.dtype == np.uint8 and a.ndim > 2 for a in inputs) and "scale" not in arrays:
        warnings.warn(
            f"{path}: 8-bit images without 'scale' are read as numbers from 0 to 255; for 0 to 1 add scale=1/255 to it",
            OnnxmxWarning,
            stacklevel=3,  # past the check of the arguments
        )
    return Dataset.from_arrays(
        x,
        y,
        name=Path(path).name,
        split=split,
        classes=None if classes is None else tuple(map(str, classes)),
        scale=_number(arrays, "scale", 1.0, path),
        shift=_number(arrays, "shift", 0.0, path),
    )


def split_npz(path: str | PathLike[str], split: str) -> Dataset:
    """`load_npz`, which of a file without a test split holds a fifth of the samples out as one, and warns of it.

    They are drawn at random, and are the same each time: files are often sorted by class, so the last ones would not
    do. Raises DataError as `load_npz`.
    """
    path = Path(path)
    check_split(split)
    _, found = _read(path, set())
    bases = {_base(name) for name in found}
    if {*_INPUTS["test"], *_LABELS["test"]} & bases or not {*_INPUTS["train"]} & bases:
        return load_npz(path, split)
    whole = load_npz(path)
    train, test = whole.hold_out(_HELD_OUT)
    warnings.warn(
        f"{path} has no x_test: a fifth of its {len(whole)} samples, the same in every command, is its test split, "
        "and the rest its train split",
        OnnxmxWarning,
        stacklevel=2,
    )
    part = test if split == "test" else train
    return replace(part, origin=Origin(str(path), part.rows))


def _read(path: Path, wanted: set[str]) -> tuple[dict[str, Array], list[str]]:
    """The wanted arrays that are there, and the names of all. Raises DataError for a name that means nothing.

    wanted: names without the part behind a point.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, as in a .npy file")
            names = list(archive.files)
            arrays = {name: np.asarray(archive[name]) for name in names if _base(name) in wanted}
    except OSError as cause:
        raise DataError(f"{path}: expected a .npz file; found: {cause.strerror or cause}") from cause
    except Exception as cause:  # zipfile, zlib, numpy and the header parser each have their own words for damage.
        raise DataError(
            f"{path}: expected a .npz file of plain arrays; found: {cause}", mend="Write it with numpy.savez."
        ) from cause
    for name in names:
        if _base(name) not in _KNOWN:
            near = nearest(name, _KNOWN)
            raise DataError(
                f"{path}: expected only the arrays {', '.join(_KNOWN)}, or x.<input>, y.<label>; found {name!r}",
                mend=f"Did you mean {near!r}?" if near else "Leave it out.",
            )
    return arrays, names


def _base(name: str) -> str:
    """`x` of `x.user`. What is no input or label has no parts."""
    base, _, part = name.partition(".")
    return base if part and base not in _EXTRAS else name


def _one_or_several(
    path: str | PathLike[str], arrays: dict[str, Array], names: tuple[str, ...]
) -> Array | dict[str, Array] | None:
    """The array of one of these names, or those of its parts by their own names; None where there is neither."""
    given = [name for name in names if any(_base(key) == name for key in arrays)]
    if len(given) > 1:
        raise DataError(
            f"{path}: expected one of {' and '.join(map(repr, given))}, which mean the same; found both",
            mend="Leave one of them out.",
        )
    for name in names:
        several = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{name}.")}
        if several and name in arrays:
            raise DataError(
                f"{path}: expected {name!r}, or arrays such as '{name}.{min(several)}'; found both",
                mend="Leave one of them out.",
            )
        if several or name in arrays:
            return several or arrays[name]
    return None


def _number(arrays: dict[str, Array], name: str, default: float, path: str | PathLike[str]) -> float:
    value = arrays.get(name)
    if value is None:
        return default
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected {name!r} as one number; found {value.dtype}{value.shape}")
    return float(value.reshape(()))
