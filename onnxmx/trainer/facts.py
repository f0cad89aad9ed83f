"""What a model file says of its data: how raw values are prepared, and what the classes are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onnxmx.builder.metadata import CLASSES, PREPROCESSING
from onnxmx.errors import DataError, ModelFileError
from onnxmx.trainer.data.dataset import Preprocessing


def preprocessing(metadata: Mapping[str, str]) -> Preprocessing | None:
    """How raw values become what the model reads, or None where the file says nothing. Raises ModelFileError."""
    found = _json(metadata, PREPROCESSING)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ModelFileError(f"{PREPROCESSING} expected an object; found {found!r}")
    try:
        return Preprocessing.from_dict(found)
    except DataError as error:
        raise ModelFileError(f"{PREPROCESSING}: {error.problem}") from error


def classes(metadata: Mapping[str, str]) -> list[str] | None:
    """The names of the classes, or None where the file names none. Raises ModelFileError."""
    found = _json(metadata, CLASSES)
    if found is not None and not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise ModelFileError(f"{CLASSES} expected a list of names; found {found!r}")
    return found


def _json(metadata: Mapping[str, str], key: str) -> Any:
    text = metadata.get(key)
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"the model's metadata {key} expected JSON; found {text!r}") from error
