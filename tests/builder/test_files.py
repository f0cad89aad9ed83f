"""Atomic writing: the former file stays whole whatever happens, and nothing is left beside it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxmx.errors import OnnxmxError
from onnxmx.files import sha256, write_atomic


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomic(path, b"one")
    write_atomic(str(path), (part for part in (b"tw", b"", b"o")))
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_reader_of_the_former_file_reads_on(tmp_path: Path) -> None:
    """A file that is renamed over another is never half of either, even to who has the other one open."""
    path = tmp_path / "file"
    write_atomic(path, b"former")
    with open(path, "rb") as reader:
        write_atomic(path, b"the new one")
        assert reader.read() == b"former"
    assert path.read_bytes() == b"the new one"


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_failure_halfway_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"former")

    def parts() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, parts())
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_a_disk_without_room_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"former")
    code = f"""
import resource
from onnxmx.errors import OnnxmxError
from onnxmx.files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_atomic({str(path)!r}, [b"x" * 60_000] * 5)
except OnnxmxError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.startswith(f"cannot write {path}: ")
    assert "what was there before is unchanged" in run.stdout
    assert "ulimit -f" in run.stdout
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full gives the real ENOSPC; only where the temporary file lies is put there."""
    real = open
    monkeypatch.setattr("builtins.open", lambda name, mode: real("/dev/full" if mode == "xb" else name, "wb"))
    with pytest.raises(OnnxmxError, match="No space left on device") as caught:
        write_atomic(tmp_path / "file", b"x" * 100_000)
    assert caught.value.mend is not None
    assert caught.value.mend.startswith("The disk is full: free some space")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere") if hasattr(os, "geteuid") else lambda f: f
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OnnxmxError, match="Permission denied") as caught:
        write_atomic(tmp_path / "file", b"")
    assert "Check the permissions" in str(caught.value)


@pytest.mark.parametrize("place", ["folder", "file/below", "x" * 300], ids=["a folder", "below a file", "too long"])
def test_a_path_that_cannot_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"former")
    with pytest.raises(OnnxmxError, match="cannot write") as caught:
        write_atomic(tmp_path / place, b"new")
    assert caught.value.mend
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"former"


def test_sha256_of_parts() -> None:
    assert sha256(b"a", b"bc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
