"""Where in the user's own code something was built."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
# The zoo is written in the DSL as a user would write it: its lines are worth pointing at.
_ZOO = _PACKAGE + "models" + os.sep
_INTERNAL_PREFIXES = ("<", sys.prefix, sys.base_prefix)


def user_line() -> str | None:
    """`file:line` of the nearest frame outside onnxmx and the libraries, or None when there is none.

    A file under the working directory is named relative to it, any other by its name alone, so that what is written
    into a model file says nothing about the machine it was made on.
    """
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_ZOO) or not (file.startswith(_PACKAGE) or _is_library(file)):
            return f"{_short(file)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]  # the outermost frame's f_back is None, which ends the loop
    return None


def _is_library(file: str) -> bool:
    return file.startswith("<") or (
        file.startswith(_INTERNAL_PREFIXES) and ("site-packages" in file or "/lib/" in file)
    )


def _short(file: str) -> str:
    if file.startswith(_PACKAGE):
        return "onnxmx/" + file[len(_PACKAGE) :]
    relative = os.path.relpath(file)
    return Path(file).name if relative.startswith("..") else relative
