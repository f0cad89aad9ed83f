"""The files of a run, written so that a kill at any moment leaves a run that resumes."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.errors import CheckpointError
from onnxmx.files import write_atomic
from onnxmx.trainer import state

Array = np.ndarray[Any, Any]
_KEPT = 2  # checkpoints; the older one is there in case the newer one is damaged
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")


@dataclass
class Position:
    """Where a run stands: all that a checkpoint holds besides arrays.

    epoch, batch: the next batch to train on.   sums, samples: of the measures of this epoch so far.
    best: the measures of the best epoch so far, with its number.   log_bytes: the length of metrics.jsonl.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    best: dict[str, float] | None = None
    log_bytes: int = 0


class RunDirectory:
    """`runs/<name>/`: config.toml, step.onnx and its hand-over, model.onnx, last.onnx, checkpoints/, metrics.jsonl."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.best, self.last = self.path / "model.onnx", self.path / "last.onnx"
        self.config, self.log = self.path / "config.toml", self.path / "metrics.jsonl"
        self._checkpoints = self.path / "checkpoints"

    @property
    def started(self) -> bool:
        """Whether the run got as far as its hand-over, of which step.json is written last."""
        return (self.path / "step.json").is_file()

    def claim(self) -> None:
        """Raises CheckpointError where another run lives here: nothing of a user's is overwritten."""
        if self.config.exists() or self.started:
            raise CheckpointError(
                f"{self.path} holds a run already",
                mend=f"Go on with it: onnxmx train --resume {self.path}; or choose another folder with -o.",
            )

    def checkpoints(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = [p for p in self._checkpoints.glob("step-*.safetensors") if _CHECKPOINT.fullmatch(p.name)]
        return sorted(found, key=lambda p: int(_CHECKPOINT.fullmatch(p.name)[1]), reverse=True)  # type: ignore[index]

    def save_checkpoint(self, arrays: dict[str, Array], position: Position, identity: dict[str, Any]) -> None:
        """Write a checkpoint named after the step. identity: what a resumed run must have in common with this one."""
        path = self._checkpoints / f"step-{int(arrays['step'])}.safetensors"
        state.save(path, arrays, {"position": asdict(position), "identity": identity})
        for old in self.checkpoints()[_KEPT:]:
            old.unlink(missing_ok=True)

    def load_checkpoint(self, identity: dict[str, Any]) -> tuple[dict[str, Array], Position]:
        """The newest checkpoint, or the state that the run started from.

        Raises CheckpointError where it is damaged, or belongs to another run.
        """
        newest = next(iter(self.checkpoints()), None)
        if newest is None:
            return state.load(self.path / "state.safetensors")[0], Position()
        arrays, header = state.load(newest)
        found = header.get("identity", {})
        differ = [f"{k} (expected {v!r}, found {found.get(k)!r})" for k, v in identity.items() if found.get(k) != v]
        if differ:
            raise CheckpointError(
                f"{newest} belongs to a run that differs in {', '.join(differ)}",
                mend="Resume with the data and settings that the run was started with, or start a new run.",
            )
        return arrays, Position(**header["position"])

    def rewind_log(self, length: int) -> None:
        """Cut metrics.jsonl back to what it was at a checkpoint."""
        if self.log.exists() and self.log.stat().st_size != length:
            write_atomic(self.log, self.log.read_bytes()[:length])
