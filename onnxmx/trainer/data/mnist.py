"""MNIST: 70,000 handwritten digits of 28x28 pixels.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits", 1998; LeCun, Bottou, Bengio,
Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), 1998. Licence: CC BY-SA 3.0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from onnxmx.builder.arguments import checked_arguments
from onnxmx.errors import DataError
from onnxmx.files import cache_folder
from onnxmx.trainer.data.arrays import Array
from onnxmx.trainer.data.dataset import Dataset, Preprocessing
from onnxmx.trainer.data.idx import parse_idx, read_file
from onnxmx.trainer.data.registry import DataDir, check_split, dataset

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Where the .gz files are fetched from, in this order. $ONNXMX_MIRROR, addresses separated by spaces, replaces them."""

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the unpacked files: mirrors differ in how they compress."""

_MAX_BYTES = 64 << 20  # The largest file unpacks to 47,040,016 bytes.
_CLASSES = tuple("0123456789")


def _available(data_dir: DataDir) -> bool:
    return all(_find(file, _places(data_dir)) for files in FILES.values() for file in files)


@dataset(
    "mnist",
    summary="handwritten digits, 28x28 grey",
    train=60_000,
    test=10_000,
    inputs={"image": (1, 28, 28)},
    classes=_CLASSES,
    licence="CC BY-SA 3.0",
    available=_available,
)
@checked_arguments
def mnist(split: str, data_dir: DataDir = None) -> Dataset:
    """The train or test split: image uint8 (n, 1, 28, 28), scaled to 0..1 in a batch; label int64 (n,).

    Looks in `data_dir` alone when it is given; otherwise in $ONNXMX_DATA, then in the user's cache, where it downloads
    what is missing. Each of these may hold the files themselves or a folder `mnist`, plain or as .gz.
    Raises DataError for a missing file or one whose SHA-256 is not the published one.
    """
    check_split(split)
    images, labels = (_read(file, _locate(file, data_dir)) for file in FILES[split])
    return Dataset(
        name="mnist",
        split=split,
        inputs={"image": images.reshape(-1, 1, 28, 28)},
        labels={"label": labels},
        classes=_CLASSES,
        preprocessing=Preprocessing(scale=1 / 255),
    )


def _places(data_dir: DataDir) -> Iterator[Path]:
    """The folders to look in, first to last."""
    if data_dir is not None:
        yield from (Path(data_dir), Path(data_dir) / "mnist")
        return
    if root := os.environ.get("ONNXMX_DATA"):
        yield from (Path(root), Path(root) / "mnist")
    yield cache_folder() / "mnist"


def _find(file: str, places: Iterator[Path]) -> Path | None:
    candidates = (place / (file + ending) for place in places for ending in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _locate(file: str, data_dir: DataDir) -> Path:
    if path := _find(file, _places(data_dir)):
        return path
    if data_dir is not None:
        raise DataError(
            f"expected the MNIST file {file} or {file}.gz in {data_dir} or its folder mnist; found neither",
            mend="Name the folder that holds the four files, or leave the data directory out to download them.",
        )
    from onnxmx.trainer.data.download import fetch  # Here: the HTTP client is slow to import and rarely needed.

    mirrors = os.environ.get("ONNXMX_MIRROR", "").split() or MIRRORS
    urls = [f"{mirror.rstrip('/')}/{file}.gz" for mirror in mirrors]
    return fetch(file, urls, DIGESTS[file], cache_folder() / "mnist" / f"{file}.gz", gzipped=True, max_bytes=_MAX_BYTES)


def _read(file: str, path: Path) -> Array:
    data = read_file(path, max_bytes=_MAX_BYTES)
    found = hashlib.sha256(data).hexdigest()
    if found != DIGESTS[file]:
        raise DataError(
            f"{path}: expected content with SHA-256 {DIGESTS[file]}; found {found}",
            mend="The file is altered or damaged: delete it and fetch it again.",
        )
    return parse_idx(data, name=str(path))
