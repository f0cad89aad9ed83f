"""What a dataset is: named arrays that share their first axis, and how stored values become what a model reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, Never

import numpy as np
import numpy.typing as npt

from onnxmx.builder.arguments import CheckedArguments, checked_arguments, integer
from onnxmx.builder.elsewhere import DATASET, KnowsOthers
from onnxmx.builder.source import user_line
from onnxmx.errors import DataError, UsageError
from onnxmx.trainer.data.arrays import Array, as_array, blocks, check_finite, check_integers, first_bad
from onnxmx.trainer.data.order import shuffled

Indices = npt.ArrayLike | slice
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Preprocessing(CheckedArguments):
    """x -> x * scale + shift, in float32, from whatever type is stored. It travels with the model as metadata."""

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for key, value in self.to_dict().items():
            if (
                isinstance(value, bool) or not isinstance(value, Real) or not abs(value) <= _LARGEST
            ):  # NaN is not either
                raise DataError(f"preprocessing {key!r} expected a finite number; found {value!r}")
            object.__setattr__(self, key, float(value))

    def apply(self, array: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """A new C-contiguous float32 array of the same shape. array: any integer, boolean or float type."""
        x = np.asarray(array)
        if self.scale == 1.0:
            y = np.array(x, dtype=np.float32, order="C")
        else:  # One pass: the cast happens inside the multiplication.
            y = np.empty(x.shape, dtype=np.float32)
            np.multiply(x, np.float32(self.scale), out=y, dtype=np.float32, casting="unsafe")
        if self.shift != 0.0:
            y += np.float32(self.shift)
        return y

    def to_dict(self) -> dict[str, float]:
        """As a model's metadata holds it."""
        return {"scale": self.scale, "shift": self.shift}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`. Raises DataError for an unknown key or a value that is no finite number."""
        unknown = sorted(set(values) - {"scale", "shift"})
        if unknown:
            raise DataError(f"preprocessing expected the keys 'scale' and 'shift'; found {unknown}")
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Origin:
    """What samples were cut from.   name: in words, for errors.   rows: their numbers there, integers (n,)."""

    name: str
    rows: Array


@dataclass(frozen=True, eq=False)
class Dataset(KnowsOthers, CheckedArguments):
    """Named input and label arrays whose first axis counts samples. Checked once, here; read-only afterwards.

    inputs: by model input name, any integer, boolean or float type, e.g. {"image": uint8 (n, 1, 28, 28)}.
    labels: by label name; integers are kept as int64, floats (targets of a regression) as float32.
    classes: a name for each value that the first label may take, an integer; None when it is no class.
    types: by input name, the element type of a batch where it is not float32, e.g. {"tokens": "int64"}; such an input
    is not preprocessed.
    origin: what they are a part of; by default they are the whole.
    Raises DataError for lengths that differ, no samples, labels outside the classes, NaN or infinity, masked values.
    """

    name: str
    split: str
    inputs: dict[str, Array]
    labels: dict[str, Array] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing = Preprocessing()
    types: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    _others: ClassVar[Mapping[str, str]] = DATASET

    def __post_init__(self) -> None:
        inputs = {key: as_array(key, value) for key, value in self.inputs.items()}
        labels = {key: as_array(key, value) for key, value in self.labels.items()}
        self._check_lengths(inputs, labels)
        for key, array in {**inputs, **labels}.items():
            self._check_values(key, array)
        for key, array in labels.items():
            check_integers(self.called, key, array)
        if self.classes is not None:
            for key, array in list(labels.items())[:1]:
                self._check_range(key, array, len(self.classes))
            object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        object.__setattr__(self, "inputs", {key: _read_only(array) for key, array in inputs.items()})
        object.__setattr__(self, "labels", {key: _read_only(_label_type(array)) for key, array in labels.items()})

    @classmethod
    @checked_arguments
    def from_arrays(
        cls,
        inputs: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        labels: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
        *,
        name: str = "arrays",
        split: str = "train",
        classes: Sequence[str] | None = None,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> Dataset:
        """A dataset of your own arrays. A single input array is named "x", a single label array "label".

        >>> Dataset.from_arrays(images, digits, classes=list("0123456789"), scale=1 / 255)
        """
        x = inputs if isinstance(inputs, Mapping) else {"x": inputs}
        y = {} if labels is None else labels if isinstance(labels, Mapping) else {"label": labels}
        return cls(
            name=name,
            split=split,
            inputs={key: as_array(key, value) for key, value in x.items()},
            labels={key: as_array(key, value) for key, value in y.items()},
            classes=None if classes is None else tuple(map(str, classes)),
            preprocessing=Preprocessing(scale, shift),
        )

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, place: object) -> Never:
        """Refused, and so is a loop: of what is stored or what a model reads, a sample or a batch, as dict or tuple?"""
        raise UsageError(
            "a dataset expected to be asked for several samples; found data[...], or a loop over it",
            at=user_line(),
            mend="data.batch([0, 1]) has them by name, as a model reads them; data.inputs and data.labels are all, as "
            "stored; data.subset(slice(100)) is a dataset of some. For a loop over batches: mx.data.Loader(data, "
            "64).epoch(0).",
        )

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{key} {array.dtype}{list(array.shape)}" for key, array in {**self.inputs, **self.labels}.items()
        )
        return f"Dataset({self.name!r}, {self.split!r}: {shapes})"

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample, by input name: {"image": (1, 28, 28)}."""
        return {key: array.shape[1:] for key, array in self.inputs.items()}

    @property
    def label_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample's label, by label name: {"label": ()}."""
        return {key: array.shape[1:] for key, array in self.labels.items()}

    def batch(self, indices: Indices) -> dict[str, Array]:
        """The samples at `indices` as new arrays: inputs in float32 or their `types`, labels in int64 or float32.

        indices: integers of shape (b,), a boolean mask of shape (n,), or a slice. Keys are the bare names.
        Raises DataError for an index outside the dataset.
        """
        chosen = self._positions(indices)
        batch: dict[str, Array] = {key: self._prepared(key, array[chosen]) for key, array in self.inputs.items()}
        # A slice gives a view of what must not change, fancy indexing a copy already.
        labels = {key: array[chosen] for key, array in self.labels.items()}
        return batch | {key: array.copy() if isinstance(chosen, slice) else array for key, array in labels.items()}

    def _prepared(self, key: str, array: Array) -> Array:
        if key in self.types:
            return np.array(array, self.types[key], order="C")
        return self.preprocessing.apply(array)

    @checked_arguments
    def typed(self, types: Mapping[str, str]) -> Dataset:
        """The same data with these inputs given as they are, in these element types: {"tokens": "int64"}."""
        return replace(self, types={**self.types, **types})

    def subset(self, indices: Indices) -> Dataset:
        """The dataset of these samples only, in this order."""
        chosen = self._positions(indices)
        return replace(
            self,
            inputs={key: array[chosen] for key, array in self.inputs.items()},
            labels={key: array[chosen] for key, array in self.labels.items()},
            origin=Origin(self.origin.name if self.origin else self.called, self.rows[chosen]),
        )

    @property
    def rows(self) -> Array:
        """The number of each sample in what it was cut from, integers (n,)."""
        return self.origin.rows if self.origin else np.arange(len(self))

    def read_from(self, sample: int) -> tuple[str, int]:
        """What a sample was read from, in words, and its number there."""
        return (self.origin.name if self.origin else self.called), int(self.rows[sample])

    @checked_arguments
    def hold_out(self, share: float = 0.2, *, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two datasets: most samples to train on, and `share` of them, drawn at random, to validate or test on.

            train, test = data.hold_out(0.2)

        share: between 0 and 1; each dataset gets one sample at least, and keeps the order that they have here.
        Raises UsageError for another share, DataError for fewer than two samples.
        """
        if not 0 < share < 1:
            raise UsageError(f"hold_out expected a share between 0 and 1; found {share!r}", at=user_line())
        if len(self) < 2:
            raise DataError(f"{self.called} expected 2 samples or more, one of them to test; found {len(self)}")
        order = shuffled(len(self), integer("seed", seed, 0, 2**64))
        count = min(max(1, int(len(self) * share)), len(self) - 1)
        rest, held = (self.subset(np.sort(part)) for part in (order[count:], order[:count]))
        return rest, replace(held, split="test")

    @checked_arguments
    def take(self, n: int) -> Dataset:
        """The first `n` samples (all of them when there are fewer). Raises UsageError when n < 1."""
        if n < 1:
            raise UsageError(f"take expected at least 1 sample; found {n}")
        return self.subset(slice(n))

    @checked_arguments
    def rename(self, names: Mapping[str, str]) -> Dataset:
        """The same data under other names, e.g. {"x": "image"} to suit a model whose input is called image."""
        return replace(
            self,
            inputs={names.get(key, key): array for key, array in self.inputs.items()},
            types={names.get(key, key): kind for key, kind in self.types.items()},
            labels={names.get(key, key): array for key, array in self.labels.items()},
        )

    @checked_arguments
    def check_classes(self, count: int) -> None:
        """Raises DataError unless every integer label lies in [0, count), the outputs that a model has."""
        for key, array in self.labels.items():
            self._check_range(key, array, count)

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that reaches a model: names, types, shapes, values, preprocessing, classes.

        Not of the dataset's own name: the same data read from another file has the same digest.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(json.dumps([self.preprocessing.to_dict(), self.classes]).encode())
        for kind, arrays in (("input", self.inputs), ("label", self.labels)):
            for key, array in sorted(arrays.items()):
                little = array.dtype.newbyteorder("<")
                sha.update(json.dumps([kind, key, little.str, array.shape]).encode())
                for _, block in blocks(array):
                    sha.update(np.ascontiguousarray(block, dtype=little).data)
        return sha.hexdigest()

    def _positions(self, indices: Indices) -> Array | slice:
        if isinstance(indices, slice):
            return indices
        try:
            chosen = np.atleast_1d(np.asarray(indices))
        except ValueError:
            raise DataError(f"{self.called} expected indices of one axis; found a list of several lengths") from None
        if chosen.dtype.kind == "b" and chosen.shape == (len(self),):
            return np.flatnonzero(chosen)
        if chosen.size == 0:
            return np.zeros(0, dtype=np.intp)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
            raise DataError(
                f"{self.called} expected indices as integers of one axis or a mask of shape ({len(self)},); "
                f"found {chosen.dtype} of shape {chosen.shape}"
            )
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            bad = int(chosen.min()) if int(chosen.min()) < 0 else int(chosen.max())
            raise DataError(f"{self.called} expected indices in [0, {len(self)}); found {bad}")
        return chosen

    @property
    def called(self) -> str:
        """What errors call it: its name and split."""
        return f"dataset {self.name!r} ({self.split})"

    def _check_lengths(self, inputs: dict[str, Array], labels: dict[str, Array]) -> None:
        if not inputs:
            raise DataError(f"{self.called} expected at least one input array; found none")
        twice = sorted(set(inputs) & set(labels))
        if twice:
            raise DataError(
                f"{self.called} expected different names for inputs and labels; found {twice} in both",
                mend="Rename one of them.",
            )
        for key, array in {**inputs, **labels}.items():
            if array.ndim == 0 or array.size == 0:
                raise DataError(f"{self.called} expected samples in {key!r}; found an array of shape {array.shape}")
        lengths = {key: len(array) for key, array in {**inputs, **labels}.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(
                f"{self.called} expected the same number of samples in every array; found {lengths}",
                mend="The first axis counts samples: row i of each array belongs to sample i.",
            )

    def _check_values(self, key: str, array: Array) -> None:
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{self.called} expected numbers in {key!r}; found {array.dtype}",
                mend="Convert it first; class names become integers that count from 0.",
            )
        check_finite(self.called, key, array)

    def _check_range(self, key: str, array: Array, count: int) -> None:
        if array.dtype.kind not in "biu":
            return
        bad = (array < 0) | (array >= count)
        if bad.any():
            sample, value = first_bad(array, bad)
            here, row = self.read_from(sample)
            raise DataError(
                f"{here} expected {key!r} in [0, {count}), one of {count} classes; found {value} in sample {row}",
                mend="Number the classes from 0, or name as many classes as there are.",
            )


def _label_type(array: Array) -> Array:
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64, copy=False)


def _read_only(array: Array) -> Array:
    """A view that cannot be written to: the digest stays true. The caller's own array stays as it was."""
    view = array.view()
    view.flags.writeable = False
    return view
