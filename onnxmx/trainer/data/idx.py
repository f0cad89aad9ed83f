"""The IDX format of the MNIST files: two zero bytes, a type, the number of axes, the sizes, then the values.

All numbers are big-endian. Source: "the IDX file format", Y. LeCun, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from os import PathLike
from pathlib import Path

import numpy as np

from onnxmx.builder.arguments import checked_arguments
from onnxmx.errors import DataError
from onnxmx.trainer.data.arrays import Array

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 32  # NumPy 1 has no more.
_CHUNK = 1 << 20
_MEND = "The file is damaged or not IDX: fetch it again."


@checked_arguments
def read_idx(path: str | PathLike[str], *, max_bytes: int = 1 << 30) -> Array:
    """The array in an IDX file, gzip-compressed or plain, in native byte order.

    Raises DataError when the file cannot be read, is larger than `max_bytes` once unpacked, or is not exact IDX.
    """
    return parse_idx(read_file(path, max_bytes=max_bytes), name=str(path))


def read_file(path: str | PathLike[str], *, max_bytes: int) -> bytearray:
    """All bytes of a file, unpacked when it is gzip (its checksum is verified then).

    Grows with what really arrives and stops past `max_bytes`: neither a forged header nor a gzip bomb costs more.
    Raises DataError for what cannot be read or is larger.
    """
    data = bytearray()
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            source = gzip.GzipFile(fileobj=raw) if packed else raw
            while chunk := source.read(_CHUNK):
                data += chunk
                if len(data) > max_bytes:
                    raise DataError(f"{path}: expected at most {max_bytes:,} bytes; found more", mend=_MEND)
    except EOFError as cause:  # The gzip module's word for a truncated stream.
        raise DataError(
            f"{path}: expected a whole gzip file; found its end after {len(data):,} unpacked bytes", mend=_MEND
        ) from cause
    except (gzip.BadGzipFile, zlib.error) as cause:
        raise DataError(
            f"{path}: expected valid gzip; found, after {len(data):,} unpacked bytes: {cause}", mend=_MEND
        ) from cause
    except OSError as cause:
        raise DataError(f"{path}: expected a file that can be read; found: {cause.strerror or cause}") from cause
    return data


@checked_arguments
def parse_idx(data: bytes | bytearray, *, name: str = "IDX data") -> Array:
    """The array that these bytes hold, in native byte order. Raises DataError unless they are exactly one IDX array.

    Nothing is allocated on the header's word: the sizes it claims must add up to the bytes that are there.
    """
    if len(data) < 4:
        raise DataError(f"{name}: expected a header of at least 4 bytes; found {len(data)}", mend=_MEND)
    if data[0] or data[1]:
        raise DataError(f"{name}: expected bytes 0 and 1 to be 00 00; found {data[0]:02x} {data[1]:02x}", mend=_MEND)
    if data[2] not in _TYPES:
        known = ", ".join(f"{code:02x}" for code in _TYPES)
        raise DataError(f"{name}: expected byte 2, the type, to be one of {known}; found {data[2]:02x}", mend=_MEND)
    axes, header = data[3], 4 + 4 * data[3]
    if not 1 <= axes <= _MAX_AXES:
        raise DataError(f"{name}: expected byte 3, the number of axes, in 1..{_MAX_AXES}; found {axes}", mend=_MEND)
    if len(data) < header:
        raise DataError(f"{name}: expected a header of {header} bytes for {axes} axes; found {len(data)}", mend=_MEND)
    shape = struct.unpack_from(f">{axes}I", data, 4)
    dtype = np.dtype(_TYPES[data[2]])
    length = header + math.prod(shape) * dtype.itemsize
    if len(data) != length:
        raise DataError(
            f"{name}: expected {length:,} bytes for {dtype.newbyteorder('=')} of shape {shape}; found {len(data):,}",
            mend=_MEND,
        )
    return (
        np.frombuffer(data, dtype, offset=header)
        .reshape(_buildable(shape, name))
        .astype(dtype.newbyteorder("="), copy=False)
    )


def _buildable(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """An empty array may claim axes whose product no array can have: (0, 2**32 - 1, 2**32 - 1)."""
    if math.prod(size for size in shape if size) > np.iinfo(np.intp).max // 8:
        raise DataError(f"{name}: expected sizes that an array can have; found {shape}", mend=_MEND)
    return shape
