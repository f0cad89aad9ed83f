"""The datasets that go by a name. A new one is a function under @dataset, imported in the package's __init__."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from onnxmx.builder.arguments import checked_arguments
from onnxmx.errors import UsageError, unknown_name
from onnxmx.trainer.data.dataset import Dataset

SPLITS = ("train", "test")

DataDir = str | PathLike[str] | None
Load = Callable[[str, DataDir], Dataset]


@dataclass(frozen=True)
class DatasetInfo:
    """What can be known of a dataset without loading it. inputs: the shape of one sample, by input name."""

    name: str
    summary: str
    train: int
    test: int
    inputs: dict[str, tuple[int, ...]]
    classes: tuple[str, ...] | None
    licence: str
    available: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Entry:
    load: Load
    info: DatasetInfo
    available: Callable[[DataDir], bool]


_ENTRIES: dict[str, _Entry] = {}


def dataset(
    name: str,
    *,
    summary: str,
    train: int,
    test: int,
    inputs: dict[str, tuple[int, ...]],
    licence: str,
    classes: tuple[str, ...] | None = None,
    available: Callable[[DataDir], bool] = lambda data_dir: True,
) -> Callable[[Load], Load]:
    """Registers the function under it, `load(split, data_dir) -> Dataset`, as the dataset `name`.

    train, test: how many samples each split has. available: whether loading needs no download.
    """

    def register(load: Load) -> Load:
        info = DatasetInfo(name, summary, train, test, inputs, classes, licence, available=True)
        _ENTRIES[name] = _Entry(load, info, available)
        return load

    return register


@checked_arguments
def get_dataset(name: str, split: str, data_dir: DataDir = None) -> Dataset:
    """The dataset `name`, or the user's own file when the name ends in .npz (relative to `data_dir` if given).

    split: "train" or "test"; of a file without `x_test` a fifth of the samples is the test split.
    Raises UsageError for an unknown name or split, DataError for files that do not do.
    """
    check_split(split)
    if name.endswith(".npz"):
        from onnxmx.trainer.data.npz import split_npz

        return split_npz(Path(data_dir or ".") / name, split)
    if name not in _ENTRIES:
        if isinstance(name, str) and (Path(name).suffix or Path(name).exists()):
            raise UsageError(
                f"expected a dataset's name or an .npz file; found {name}",
                mend="Write numpy.savez('my_data.npz', x=samples, y=labels): docs/data.md.",
            )
        raise unknown_name("dataset", name, _ENTRIES)
    return _ENTRIES[name].load(split, data_dir)


@checked_arguments
def list_datasets(data_dir: DataDir = None) -> list[DatasetInfo]:
    """Every registered dataset, by name. `available` says whether it would load now without a download."""
    return [
        DatasetInfo(**{**vars(entry.info), "available": entry.available(data_dir)})
        for _, entry in sorted(_ENTRIES.items())
    ]


def check_split(split: str) -> None:
    """Raises UsageError, with the nearest name, unless `split` is "train" or "test"."""
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
