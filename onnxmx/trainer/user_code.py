"""Python files of the user's own, named as `path.py:function`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxmx.builder.layers import Layer
from onnxmx.builder.model import Model
from onnxmx.builder.source import raised_at
from onnxmx.errors import ModelFileError, OnnxmxError, unknown_name


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """A user's file may import what lies beside it, also while its function runs."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def load_function(path: Path, name: str) -> Any:
    """What is called `name` in a Python file. Raises ModelFileError for a file that cannot be imported, UsageError for
    a name that is not there."""
    if not path.is_file():
        raise ModelFileError(f"no file {path}", mend="What is your own is named path.py:function.")
    # A name of its own, or a random.py would take the place of the library's.
    spec = importlib.util.spec_from_file_location(f"onnxmx_model_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the annotations of a layer that is written there
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except OnnxmxError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise ModelFileError(
            f"{path} expected a Python file that can be imported; it raised {type(error).__name__}: {error}",
            at=raised_at(error),
            mend="Run it with python to see how it came there.",
        ) from error
    found = vars(module).get(name)
    if not callable(found):
        own = [k for k, v in vars(module).items() if callable(v) and _is_own(v, spec.name) and not k.startswith("_")]
        raise unknown_name(f"function in {path}", name, own)
    return found


def _is_own(found: Any, module: str) -> bool:
    """Whether a file makes `found` itself: what it imports is none of the names to offer."""
    return isinstance(found, (Layer, Model)) or getattr(found, "__module__", None) == module
