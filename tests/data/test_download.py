"""Downloads against a real server that drops, lies and ignores."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from onnxmx.errors import DataError
from onnxmx.trainer.data.download import fetch

BODY = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "new" / "folder" / "file.bin"


@pytest.fixture
def url(mirror):
    mirror.files["/file.bin"] = BODY
    return f"{mirror.url}/file.bin"


def dead_url() -> str:
    with socket.socket() as free:  # A port that nobody listens on once this is closed.
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"


def start_part(dest, content: bytes):
    dest.parent.mkdir(parents=True)
    part = dest.with_name("file.bin.part")
    part.write_bytes(content)
    return part


def assert_complete(dest):
    assert dest.read_bytes() == BODY
    assert os.listdir(dest.parent) == ["file.bin"]


def test_fetches_once(mirror, url, dest, capsys):
    assert fetch("file", [url], SHA, dest) == dest
    assert_complete(dest)
    assert capsys.readouterr() == ("", "downloading file, 0.3 MB\n")
    fetch("file", [url], SHA, dest)
    assert mirror.ranges == [None]
    assert capsys.readouterr() == ("", "")


def test_several_at_once_download_once(mirror, url, dest):
    pytest.importorskip("fcntl")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: fetch("file", [url], SHA, dest), range(4))) == [dest] * 4
    assert_complete(dest)
    assert mirror.ranges == [None]


def test_resumes_what_an_earlier_call_left(mirror, url, dest):
    start_part(dest, BODY[:100_000])
    fetch("file", [url], SHA, dest)
    assert_complete(dest)
    assert mirror.ranges == ["bytes=100000-"]


def test_resumes_after_dropped_connections(mirror, url, dest):
    mirror.plan = [100_000, 50_000]
    fetch("file", [url], SHA, dest)
    assert_complete(dest)
    assert mirror.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_another_mirror_continues_what_the_first_dropped(mirror, url, dest):
    mirror.plan = [1000, "404"]
    mirror.files["/two"] = BODY
    fetch("file", [url, f"{mirror.url}/two"], SHA, dest)
    assert_complete(dest)
    assert mirror.ranges == [None, "bytes=1000-", "bytes=1000-"]


def test_a_server_that_ignores_range(mirror, url, dest):
    start_part(dest, BODY[:100_000])
    mirror.plan = ["ignore-range"]
    fetch("file", [url], SHA, dest)
    assert_complete(dest)
    assert len(mirror.ranges) == 1


def test_a_server_that_continues_at_the_wrong_byte(mirror, url, dest):
    start_part(dest, BODY[:100_000])
    mirror.plan = ["wrong-range"]
    fetch("file", [url], SHA, dest)
    assert_complete(dest)
    assert mirror.ranges == ["bytes=100000-", None]


@pytest.mark.parametrize(
    ("left", "requests"),
    [(BODY, 1), (BODY + b"more", 2), (b"\0" * 1000, 2)],  # All there (416); too long (416); of another file.
)
def test_what_was_left_may_be_complete_or_wrong(mirror, url, dest, left, requests):
    start_part(dest, left)
    fetch("file", [url], SHA, dest)
    assert_complete(dest)
    assert len(mirror.ranges) == requests


def test_dead_missing_and_corrupt_mirrors_come_before_a_good_one(mirror, url, dest):
    mirror.files["/corrupt"] = BODY[:-1] + b"?"
    fetch("file", [dead_url(), f"{mirror.url}/missing", f"{mirror.url}/corrupt", url], SHA, dest)
    assert_complete(dest)
    assert len(mirror.ranges) == 3  # Each of the living is asked once: none is worth a retry.


def test_the_error_lists_what_was_tried(mirror, dest):
    mirror.files["/corrupt"] = b"?"
    urls = [dead_url(), f"{mirror.url}/missing", f"{mirror.url}/corrupt", "ftp://127.0.0.1/x"]
    with pytest.raises(DataError) as caught:
        fetch("file", urls, SHA, dest)
    wrong = hashlib.sha256(b"?").hexdigest()
    reasons = ["refused", "HTTP 404", f"expected content with SHA-256 {SHA}; found {wrong}", "expected an http://"]
    lines = caught.value.problem.splitlines()
    assert len(lines) == 5
    for line, address, reason in zip(lines[1:], urls, reasons, strict=True):
        assert address in line
        assert reason in line
    assert str(dest) in caught.value.mend
    assert os.listdir(dest.parent) == []


def test_a_server_that_falls_silent(dest):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        with pytest.raises(DataError, match="timed out"):
            fetch("file", [url], SHA, dest, timeout=0.2)
        assert time.monotonic() - start < 3


def test_a_server_that_never_stops(url, dest):
    with pytest.raises(DataError, match="at most 1,000 bytes; found more"):
        fetch("file", [url], SHA, dest, max_bytes=1000)
    assert not dest.exists()


def test_an_altered_file_in_place_is_replaced(mirror, url, dest):
    start_part(dest, b"")
    dest.write_bytes(b"altered")
    fetch("file", [url], SHA, dest)
    assert_complete(dest)


def test_gzip_is_judged_by_what_it_unpacks_to(mirror, dest):
    mirror.files |= {
        "/damaged": gzip.compress(BODY)[:-9],
        "/other": gzip.compress(b"?"),
        "/good": gzip.compress(BODY, 1),
    }
    with pytest.raises(DataError, match=r"(?s)damaged: .*found no valid gzip.*other: .*found [0-9a-f]{64}"):
        fetch("file", [f"{mirror.url}/damaged", f"{mirror.url}/other"], SHA, dest, gzipped=True)
    fetch("file", [f"{mirror.url}/good"], SHA, dest, gzipped=True)
    assert gzip.decompress(dest.read_bytes()) == BODY


def test_a_full_disk_is_said_at_once_and_the_start_is_kept(mirror, url, dest):
    pytest.importorskip("resource")
    code = f"""
        import resource, pathlib
        from onnxmx.trainer.data.download import fetch
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        fetch("file", ["{url}", "{url}"], "{SHA}", pathlib.Path("{dest}"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30)
    assert "DataError: expected to write" in done.stderr
    assert "File too large" in done.stderr
    assert len(mirror.ranges) == 1  # The next mirror cannot help.
    assert os.listdir(dest.parent) == ["file.bin.part"]
    fetch("file", [url], SHA, dest)
    assert_complete(dest)
    assert mirror.ranges[1] == "bytes=150000-"


def test_a_folder_that_cannot_be_written(url, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="expected to write"):
        fetch("file", [url], SHA, tmp_path / "file" / "x")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_bar_on_a_terminal(mirror, url, dest):
    import pty

    code = f"""
        import pathlib
        from onnxmx.trainer.data.download import fetch
        fetch("file", ["{url}"], "{SHA}", pathlib.Path("{dest}"))
    """
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env=environment,
        timeout=30,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert (done.returncode, done.stdout) == (0, b"")
    assert "300.0/300.0 kB" in shown
