"""Arrays on disk: safetensors with a digest and whatever else must come back with them in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
