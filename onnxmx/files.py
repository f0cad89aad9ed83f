"""Writing files so that a reader never sees half of one, and a failure leaves the former one as it was."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from onnxmx.errors import OnnxmxError


def write_atomic(path: str | os.PathLike[str], data: bytes | Iterable[bytes]) -> None:
    """Write `data` to `path` by way of a temporary file beside it, flushed to the disk and then renamed.

    Raises OnnxmxError when the folder cannot be written or the disk is full; `path` is then as it was.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # not mkstemp, which makes the file private
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise explain(error, path, unchanged=True) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def cache_folder() -> Path:
    """Where what can be made again is kept for this user: $XDG_CACHE_HOME/onnxmx, by default ~/.cache/onnxmx."""
    root = os.environ.get("XDG_CACHE_HOME")
    if root and Path(root).is_absolute():  # the specification: a relative path here is to be ignored
        return Path(root) / "onnxmx"
    try:
        return Path.home() / ".cache" / "onnxmx"
    except RuntimeError:  # a user without a name or a home, as in some containers
        return Path(tempfile.gettempdir()) / f"onnxmx-{os.getuid()}"


def sha256(*parts: bytes) -> str:
    """The hexadecimal SHA-256 of the parts, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def explain(error: OSError, path: Path, *, unchanged: bool = False) -> OnnxmxError:
    """The error for a write to `path` that failed, with what to do about it.

    unchanged: whether what was there before is sure to be as it was.
    """
    mend = {
        errno.ENOSPC: "The disk is full: free some space, or write to another disk with -o.",
        errno.EDQUOT: "The disk quota is used up: free some space, or write to another disk with -o.",
        errno.EFBIG: "The file is larger than this system allows: raise the limit (ulimit -f), or write elsewhere.",
        errno.EACCES: "Check the permissions of the folder, or write elsewhere with -o.",
        errno.EROFS: "The file system is read-only: write elsewhere with -o.",
    }.get(error.errno or 0, "Check the path, or write elsewhere with -o.")
    before = "; what was there before is unchanged" if unchanged else ""
    return OnnxmxError(f"cannot write {path}: {error.strerror or error}{before}", mend=mend)
