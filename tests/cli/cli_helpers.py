"""Running `onnxmx`: as a process of its own, or in this one where that makes no difference."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxmx.cli import main


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


def process(
    *args: object,
    cwd: Path,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    file_limit: int | None = None,
    timeout_s: float = 60,
) -> Outcome:
    """`onnxmx ARGS` as its own process. file_limit: the bytes that it may write to a file, as on a full disk."""
    words = [sys.executable, "-m", "onnxmx.cli", *map(str, args)]
    if file_limit is not None:
        script = (
            "import os, resource, sys; n = int(sys.argv[1]); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); os.execv(sys.argv[2], sys.argv[2:])"
        )
        words = [sys.executable, "-c", script, str(file_limit), *words]
    done = subprocess.run(
        words,
        cwd=cwd,
        input=stdin,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def here(capsys: pytest.CaptureFixture[str], *args: object) -> Outcome:
    """`onnxmx ARGS` in this process: no second of imports."""
    capsys.readouterr()
    code = main([str(a) for a in args])
    caught = capsys.readouterr()
    return Outcome(code, caught.out, caught.err)


def digests(folder: Path) -> dict[str, str]:
    """What is in every file below `folder`."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
