"""Where in the user's own code something was built."""

from __future__ import annotations

import functools
import itertools
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
# The zoo is written in the DSL as a user would write it: its lines are worth pointing at.
_ZOO = _PACKAGE + "models" + os.sep
_LIBRARIES = tuple(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


def user_line() -> str | None:
    """`file:line` of the nearest frame outside onnxmx and the libraries, or None when there is none.

    A file under the working directory is named relative to it, any other by its name alone, so that what is written
    into a model file says nothing about the machine it was made on.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if _is_user_code(frame.f_code.co_filename):
            return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]  # the outermost frame's f_back is None, which ends the loop
    return None


def raised_at(error: BaseException) -> str | None:
    """`file:line` of the innermost frame of the user's own that an error came through, or None."""
    line = None
    entry = error.__traceback__
    while entry is not None:
        if _is_user_code(entry.tb_frame.f_code.co_filename):
            line = f"{_short(entry.tb_frame.f_code.co_filename)}:{entry.tb_lineno}"
        entry = entry.tb_next
    return line


def called_at(error: BaseException) -> str | None:
    """The function that the user's code called where an error came from: `cos` of `math.cos(t)`; None for others."""
    entry, place = error.__traceback__, None
    while entry is not None:
        if _is_user_code(entry.tb_frame.f_code.co_filename):
            code = entry.tb_frame.f_code
            lines = next(itertools.islice(code.co_positions(), entry.tb_lasti // 2, None), (None,) * 4)
            place = code.co_filename, *lines
        entry = entry.tb_next
    if place is None:
        return None
    file, line, _, start, _ = place
    if line is None:
        return None
    written = linecache.getline(file, line).encode()[start:].decode(errors="replace")
    found = re.match(r"(?:\w+\.)*(\w+)\(", written)
    return found[1] if found else None


def line_of(function: Callable[..., Any]) -> str | None:
    """`file:line` where a function of the user's was written, or None where that is not known."""
    code = getattr(function, "__code__", None)
    return f"{_short(code.co_filename)}:{code.co_firstlineno}" if code is not None else None


@functools.cache
def _is_user_code(file: str) -> bool:
    if file.startswith(_ZOO):
        return True
    library = file.startswith(_LIBRARIES) or "site-packages" in file or "dist-packages" in file
    return not (library or file.startswith(("<", _PACKAGE)))  # "<string>": what dataclasses generate


def _short(file: str) -> str:
    if file.startswith(_PACKAGE):
        return "onnxmx/" + file[len(_PACKAGE) :]
    relative = os.path.relpath(file)
    return Path(file).name if relative.startswith("..") else relative
