"""Arrays on disk: safetensors with a digest and whatever else must come back with them in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.builder.values import show_shape
from onnxmx.errors import CheckpointError
from onnxmx.files import sha256, write_atomic

Array = np.ndarray[Any, Any]
_KEY = "onnxmx"  # one key alone: safetensors writes several in any order, and the same state must give the same bytes


def save(path: Path, arrays: dict[str, Array], header: dict[str, Any]) -> None:
    """Write `arrays` and `header` (plain values) to `path` at once; a failure leaves what was there before."""
    from safetensors.numpy import save as serialize

    text = json.dumps(header)  # in its own order: the lines of metrics.jsonl follow it
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}  # ascontiguousarray gives scalars an axis
    write_atomic(path, serialize(arrays, {_KEY: f"{_digest(arrays, text)} {text}"}))


def load(path: Path, mend: str | None = None) -> tuple[dict[str, Array], dict[str, Any]]:
    """What `save` wrote. Raises CheckpointError, which ends in `mend`, where it is missing, cut short or altered."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        digest, _, text = metadata[_KEY].partition(" ")
        header = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"expected a checkpoint at {path}; found none", mend=mend) from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} expected a checkpoint; found a file that is cut short or altered ({error})", mend=mend
        ) from error
    found = _digest(arrays, text)
    if found != digest:
        raise CheckpointError(f"{path} expected the digest {digest}; found {found}: the file was altered", mend=mend)
    return arrays, header


def _digest(arrays: dict[str, Array], header: str) -> str:
    """Over names, shapes, types and numbers, in the order of the names."""
    parts = [header.encode()]
    for name in sorted(arrays):
        a = arrays[name]
        parts += [f"{name} {a.dtype.str} {a.shape}".encode(), np.ascontiguousarray(a).tobytes()]
    return sha256(*parts)


def differences(expected: Mapping[str, dict[str, Any]], found: Mapping[str, Array]) -> str:
    """Which parts of a state are not as its step graph has them, by name and shape; empty where all are.

    expected: the descriptions of step.json by name.
    """
    altered: list[str] = []
    missing: list[str] = []
    for name, port in expected.items():
        array = found.get(name)
        if array is None or list(array.shape) != port["shape"] or array.dtype.name != port["dtype"]:
            said = f"{name} (expected {port['dtype']} {show_shape(port['shape'])}, found {_describe(array)})"
            (missing if array is None else altered).append(said)
    more = [f"{name} (not expected, found {_describe(array)})" for name, array in found.items() if name not in expected]
    kinds = [(kind, kind[:_SHOWN]) for kind in (altered, missing, more)]
    said = "; ".join(part for _, shown in kinds for part in shown)
    left = sum(len(kind) - len(shown) for kind, shown in kinds)
    count = left + sum(len(shown) for _, shown in kinds)
    return f"{count} differ: {said}" + (f"; and {left} others" if left else "") if count else ""


_SHOWN = 4


def _describe(array: Array | None) -> str:
    return "none" if array is None else f"{array.dtype} {show_shape(array.shape)}"
