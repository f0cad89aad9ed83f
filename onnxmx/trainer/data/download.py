"""Downloads that can be interrupted: several mirrors, resumed where they stopped, checked before they are used."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from onnxmx.errors import DataError

_CHUNK = 1 << 16
_ATTEMPTS = 6
_FIRST_WAIT_S = 0.05  # Doubles with each attempt at the same mirror.

Report = Callable[[int, int | None], None]
"""Told the bytes that are here, and the bytes there will be when that is known."""


class _MirrorError(Exception):
    """One mirror did not deliver; the message says why."""


def fetch(
    name: str,
    urls: Sequence[str],
    sha256: str,
    dest: Path,
    *,
    gzipped: bool = False,
    max_bytes: int = 1 << 30,
    timeout: float = 20.0,
) -> Path:
    """Download `name` to `dest` from the first of `urls` that delivers; returns `dest`.

    sha256: of the file, or with `gzipped` of what it unpacks to, so that mirrors may compress as they like.
    The bytes gather in `<dest>.part`, which a later call continues; `dest` appears by atomic rename, complete and
    verified, or not at all. timeout: seconds without an answer. Raises DataError that lists what was tried.
    """
    part = dest.with_name(dest.name + ".part")
    with _disk(dest):
        dest.parent.mkdir(parents=True, exist_ok=True)
    tried = []
    with _alone(dest.parent), _progress(name) as report:
        with _disk(dest):  # Now, not before: whoever had the folder until now may have brought it.
            if dest.exists() and file_digest(dest, gzipped) == sha256:
                return dest
        for url in urls:
            problem = _complete(part, url, sha256, gzipped=gzipped, max_bytes=max_bytes, timeout=timeout, report=report)
            if problem is None:
                with _disk(dest):
                    part.replace(dest)
                return dest
            tried.append(f"\n  {url}: {problem}")
    raise DataError(
        f"expected to download {name} from one of {len(urls)} mirrors; found:{''.join(tried)}",
        mend=f"Check the connection and run it again, or put the file at {dest} yourself.",
    )


def file_digest(path: Path, gzipped: bool = False) -> str:
    """The SHA-256 of a file, or of what it unpacks to; for a damaged gzip file a phrase instead. Raises OSError."""
    sha = hashlib.sha256()
    with path.open("rb") as raw:
        source = gzip.GzipFile(fileobj=raw) if gzipped else raw
        try:
            while chunk := source.read(1 << 20):
                sha.update(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error) as cause:
            return f"no valid gzip ({cause})"
    return sha.hexdigest()


def _complete(
    part: Path, url: str, sha256: str, *, gzipped: bool, max_bytes: int, timeout: float, report: Report
) -> str | None:
    """Bring `part` to its full, verified content from one mirror. Returns None, or why that could not be done."""
    problem = "no answer"
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_WAIT_S * 2**attempt)
        before = _size(part)
        try:
            _transfer(part, url, max_bytes, timeout, report)
        except _MirrorError as cause:
            problem = str(cause)
            if _size(part) == before:  # Nothing came of it: a dead mirror stays dead.
                return problem
            continue
        with _disk(part):
            found = file_digest(part, gzipped)
            if found == sha256:
                return None
            part.unlink()
        problem = f"expected content with SHA-256 {sha256}; found {found}"
        if before == 0:  # All of it came from this mirror just now. Otherwise the older start may be to blame.
            return problem
    return problem


def _transfer(part: Path, url: str, max_bytes: int, timeout: float, report: Report) -> None:
    """One request: append what `part` lacks, or start over where the server does not continue."""
    have = _size(part)
    headers = {"User-Agent": "onnxmx"} | ({"Range": f"bytes={have}-"} if have else {})
    if not url.startswith(("http://", "https://")):
        raise _MirrorError("expected an http:// or https:// address")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
            offset = _offset(response, have, part)
            length = response.headers.get("Content-Length", "")
            total = offset + int(length) if length.isdecimal() else None
            _write(part, response, offset, total, max_bytes, report)
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code == 416 and have:  # Nothing lies beyond what is here: complete, or wrong. The digest decides.
            return
        raise _MirrorError(f"HTTP {answer.code} {answer.reason}") from answer
    except (OSError, http.client.HTTPException, ValueError) as cause:
        reason = cause.reason if isinstance(cause, urllib.error.URLError) else cause
        raise _MirrorError(f"{reason}" or type(cause).__name__) from cause


def _offset(response: http.client.HTTPResponse, have: int, part: Path) -> int:
    """Where in the file the body of this answer starts."""
    if response.status != 206:
        return 0  # The server ignored Range and sends everything.
    found = response.headers.get("Content-Range", "")
    match = re.match(r"bytes (\d+)-", found)
    if match and int(match[1]) == have:
        return have
    part.unlink(missing_ok=True)  # The next attempt asks for the whole file, which no server gets wrong.
    raise _MirrorError(f"expected Content-Range from byte {have}; found {found!r}")


def _write(part: Path, response: IO[bytes], offset: int, total: int | None, max_bytes: int, report: Report) -> None:
    done = offset
    with _disk(part):
        out = part.open("ab" if offset else "wb", buffering=0)  # Unbuffered: a full disk shows here, not at close.
    with out:
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if done > max_bytes:
                out.truncate(0)
                raise _MirrorError(f"expected at most {max_bytes:,} bytes; found more")
            with _disk(part):
                view = memoryview(chunk)
                while view:
                    view = view[out.write(view) :]
            report(done, total)
        with _disk(part):
            os.fsync(out.fileno())
    if total is not None and done < total:
        raise _MirrorError(f"the connection ended at byte {done:,} of {total:,}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One download at a time in a folder: two processes would both append to the same `.part`."""
    try:
        import fcntl
    except ImportError:  # Windows: there it refuses to rename a file that another process has open.
        yield
        return
    with _disk(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # Some network file systems have no locks; the digest still guards the result.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What fails in here is our disk, not a mirror: no other mirror can help."""
    try:
        yield
    except OSError as cause:
        raise DataError(
            f"expected to write {path}; found: {cause.strerror or cause}",
            mend="Free some space or set $XDG_CACHE_HOME to a place that can be written; a download then continues.",
        ) from cause


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    """A bar on stderr when that is a terminal, otherwise a line."""
    if not sys.stderr.isatty():
        said: list[str] = []

        def say_once(done: int, total: int | None) -> None:
            if not said:
                said.append(name)
                print(f"downloading {name}" + (f", {total / 1e6:.1f} MB" if total else ""), file=sys.stderr)

        yield say_once
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
