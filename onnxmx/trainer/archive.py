"""The arrays of an .npz file a row at a time, so that a large file needs the memory of a row."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

Array = np.ndarray[Any, Any]
_ENDING = ".npy"


class Member:
    """An array of an archive that is being read.   shape, dtype: those of the whole.

    Raises ValueError where it is no array of plain values.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"an array of the .npy format {version}")
        self.shape, fortran, self.dtype = read(file)
        if self.dtype.hasobject:
            raise ValueError("an array of Python objects")
        self._by_columns = fortran and len(self.shape) > 1

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it."""
        return self._take(self.shape[::-1]).T if self._by_columns else self._take(self.shape)

    def __iter__(self) -> Iterator[Array]:
        """The rows, each read when it is asked for; one that lies in columns is read as a whole first."""
        if self._by_columns:
            yield from np.asarray(self)
            return
        for _ in range(self.shape[0]):
            yield self._take(self.shape[1:])

    def _take(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * self.dtype.itemsize
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("an array that ends early")
        return np.ndarray(shape, self.dtype, data)


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[dict[str, Member]]:
    """The arrays of an .npz file by name, while the file is open.

    zipfile, zlib and numpy each raise errors of their own for damage, here and where rows are read.
    """
    with contextlib.ExitStack() as open_files:
        archive = open_files.enter_context(zipfile.ZipFile(path))
        names = [name for name in archive.namelist() if name.endswith(_ENDING)]
        yield {name.removesuffix(_ENDING): Member(open_files.enter_context(archive.open(name))) for name in names}
