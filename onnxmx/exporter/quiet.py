"""Keeping the chatter of ONNX Runtime's quantizer off the user's terminal, and out of the user's own logging."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxmx.builder.session import runtime

_FATAL, _WARNING = 4, 2
"""Severities of ONNX Runtime's own log; it starts with the second and cannot be asked for the present one."""


@contextmanager
def quiet() -> Iterator[Any]:
    """Gives `onnxruntime.quantization`, and lets no line of it reach a terminal or a log; what others log still does.

    The quantizer calls `logging.warning`, which writes to the root logger and, where that has no handler, installs one
    for good. So here the root logger gets one that does nothing, and a filter by the file that a record comes from.
    Raises MissingExtraError where onnxruntime is not installed.
    """
    ort = runtime()
    folder = str(Path(ort.__file__).parent)

    def foreign(record: logging.LogRecord) -> bool:
        return not record.pathname.startswith(folder)

    root, own, nothing = logging.getLogger(), logging.getLogger("onnxruntime"), logging.NullHandler()
    level = own.level
    root.addHandler(nothing)
    root.addFilter(foreign)
    own.setLevel(logging.CRITICAL + 1)
    ort.set_default_logger_severity(_FATAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Untyped, and too slow to import for those who never quantize.
            yield importlib.import_module("onnxruntime.quantization")
    finally:
        ort.set_default_logger_severity(_WARNING)
        own.setLevel(level)
        root.removeFilter(foreign)
        root.removeHandler(nothing)
