"""IDX files: exact round trips, and DataError for everything else."""

from __future__ import annotations

import contextlib
import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxmx.errors import DataError
from onnxmx.trainer.data import parse_idx, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encode(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


arrays = st.sampled_from(sorted(CODES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
)


@given(arrays)
def test_round_trip(array):
    found = parse_idx(encode(array))
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_round_trip_through_a_file(tmp_path, pack):
    array = np.arange(2_000_000, dtype=np.int16).reshape(2, 1000, 1000)
    path = tmp_path / "x.idx"
    path.write_bytes(pack(encode(array)))
    np.testing.assert_array_equal(read_idx(path), array)


@settings(max_examples=30)
@given(arrays)
def test_truncation_at_any_byte(array):
    whole = encode(array)
    for end in range(len(whole)):
        with pytest.raises(DataError):
            parse_idx(whole[:end])


def test_truncation_of_a_gzip_file_at_any_byte(tmp_path):
    whole = gzip.compress(encode(np.arange(60, dtype=np.int32).reshape(3, 20)))
    path = tmp_path / "x.idx.gz"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"x\.idx\.gz"):
            read_idx(path)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_an_array_or_an_error(data, real_header):
    with contextlib.suppress(DataError):
        assert isinstance(parse_idx(b"\0\0\x08" * real_header + data), np.ndarray)


def test_a_flipped_bit_in_a_gzip_file_never_gives_other_values(tmp_path):
    array = np.arange(60, dtype=np.int32).reshape(3, 20)
    errors = 0
    whole = gzip.compress(encode(array), mtime=0)
    path = tmp_path / "x"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:  # The header's time, or padding in the stream, may change and mean nothing.
            np.testing.assert_array_equal(read_idx(path), array)
        except DataError:
            errors += 1
    assert errors > len(whole) // 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "at least 4 bytes; found 0"),
        (b"\x89PNG\r\n", "bytes 0 and 1 to be 00 00; found 89 50"),
        (b"\0\x01\x08\x01", "found 00 01"),
        (b"\0\0\x0a\x01\0\0\0\0", "byte 2, the type, to be one of 08, .*; found 0a"),
        (b"\0\0\x08\0", r"byte 3, the number of axes, in 1\.\.32; found 0"),
        (b"\0\0\x08\xff" + bytes(2000), "found 255"),
        (b"\0\0\x08\x02\0\0\0\x01", "a header of 12 bytes for 2 axes; found 8"),
        (b"\0\0\x08\x01\0\0\0\x02abc", r"expected 10 bytes for uint8 of shape \(2,\); found 11"),
        (b"\0\0\x0e\x02" + b"\xff" * 8, "found 12"),
        (b"\0\0\x08\x03" + bytes(4) + b"\xff" * 8, "sizes that an array can have"),
    ],
)
def test_says_what_is_wrong(data, problem):
    with pytest.raises(DataError, match=f"MY FILE: .*{problem}"):
        parse_idx(data, name="MY FILE")


def test_a_forged_header_or_a_bomb_costs_no_memory(tmp_path):
    forged = tmp_path / "forged"
    forged.write_bytes(b"\0\0\x08\x01\xff\xff\xff\xff")
    bomb = tmp_path / "bomb"
    bomb.write_bytes(gzip.compress(b"\0\0\x08\x01\xff\xff\xff\xff" + bytes(64 << 20), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="found 8"):
            read_idx(forged)
        with pytest.raises(DataError, match="at most 2,097,152 bytes; found more"):
            read_idx(bomb, max_bytes=2 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_path_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"gone: .*No such file"):
        read_idx(tmp_path / "gone")
    with pytest.raises(DataError, match="directory"):
        read_idx(tmp_path)
