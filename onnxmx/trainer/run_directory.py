"""The files of a run, written so that a kill at any moment leaves a run that resumes."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.errors import CheckpointError, UsageError
from onnxmx.files import explain, write_atomic
from onnxmx.trainer import state

try:
    import fcntl
except ImportError:  # not a POSIX system: two processes are not told apart there
    fcntl = None  # type: ignore[assignment]

Array = np.ndarray[Any, Any]
_KEPT = 2  # checkpoints; the older one is there in case the newer one is damaged
_CHECKPOINT = re.compile(r"step-(\d+)\.safetensors")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # what write_atomic leaves behind when it is killed
_WRITTEN = (
    *("best/epoch-*.onnx", "metrics.csv", "curves.png", "events.out.tfevents.*"),
    *("profile.*", "profile-discriminator.*", "profile-generator.*"),
)
"""By callbacks."""
_SAME = "Resume with the data and settings that the run was started with, or start a new run."


@dataclass
class Position:
    """Where a run stands: all that a checkpoint holds besides arrays.

    epoch, batch: the next batch to train on.   sums: of the measures of this epoch so far.
    best: the measures of the best epoch so far, with its number.   history: those of every epoch so far.
    log_bytes: the length of metrics.jsonl.
    ended: why the run ended before its last epoch.   callbacks: what they must know again.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    log_bytes: int = 0
    ended: str | None = None
    callbacks: dict[str, Any] = field(default_factory=dict)


class RunDirectory:
    """`runs/<name>/`: config.toml, step.onnx and its hand-over, model.onnx, last.onnx, checkpoints/, metrics.jsonl."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises UsageError for what the system takes for no path."""
        self.path = Path(path)
        wrong = not os.fspath(path)  # of which Path makes the present folder
        try:
            os.stat(self.path)
        except ValueError:  # a zero byte
            wrong = True
        except OSError as error:  # most of all, it is not there yet
            wrong = wrong or error.errno == errno.ENAMETOOLONG
        if wrong:
            raise UsageError(
                f"a run expected the path of a folder; found {reprlib.repr(path)}", mend='Such as "runs/first".'
            )
        self.best, self.last = self.path / "model.onnx", self.path / "last.onnx"
        self.config, self.log = self.path / "config.toml", self.path / "metrics.jsonl"
        self._checkpoints = self.path / "checkpoints"

    @property
    def started(self) -> bool:
        """Whether the run got as far as its hand-over, of which step.json is written last."""
        return (self.path / "step.json").is_file()

    @property
    def resumption(self) -> str:
        """What to type to go on with this run."""
        if self.config.is_file():
            return f"onnxmx train --resume {self.path}"
        try:
            validated = self.identity().get("validation_digest") is not None
        except CheckpointError:
            validated = False
        return f"mx.resume({str(self.path)!r}, data{', validation=...' if validated else ''})"

    def claim(self, *, configured: bool = False, overwrite: bool = False) -> None:
        """Raises CheckpointError where another run lives here: nothing of a user's is overwritten.

        configured: the config.toml that lies here is that of this run.
        overwrite: a run may live here, to be deleted by `clear`; a model or log of no run may not.
        """
        is_run = self.started or self.config.is_file()
        if overwrite and is_run:
            return
        files = [self.path / "step.json", self.best, self.log] + ([] if configured else [self.config])
        if found := [p.name for p in files if p.exists()]:
            other = "choose another folder with -o."
            mend = (
                f"Go on with it: {self.resumption}; start anew in its place: --overwrite (overwrite=True); or {other}"
                if is_run
                else f"It lacks config.toml and step.json, so nothing tells that it may go: {other}"
            )
            raise CheckpointError(f"{self.path} holds a run already: {found[0]}", mend=mend)

    def clear(self) -> None:
        """Delete the files of the run that lives here, and no others. Hold the folder by `locked`.

        Last those by which it is known as a run: after a kill half-way it can be deleted again.
        Raises OnnxmxError where the system does not let it.
        """
        hand_over = (self.path / name for name in ("step.onnx", "state.safetensors", "step.json"))
        of_a_gan = ("step-*.onnx", "step-*.json", "samples/epoch-*.png", "discriminator.onnx")
        try:
            self.sweep()
            for path in (
                *self.checkpoints(),
                *(path for pattern in (*_WRITTEN, *of_a_gan) for path in self.path.glob(pattern)),
                self.log,
                self.best,
                self.last,
                *hand_over,
                self.config,
            ):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, self.path) from error

    def release(self) -> None:
        """Give the folder up for the next attempt, unless the run in it has started."""
        if not self.started:
            self.config.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files live here
                self.path.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this folder for one process. The kernel frees it when that ends, by kill -9 too.

        Raises CheckpointError where another process trains here.
        """
        if fcntl is None:
            yield
            return
        path = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise explain(error, path) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another may have ended, and deleted the file, between its opening and its lock.
                held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
            except (BlockingIOError, FileNotFoundError):
                held = False
            if not held:
                raise CheckpointError(
                    f"another process trains in {self.path}", mend="Wait for its end, or choose another folder with -o."
                )
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

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

    def _newest(self) -> tuple[Path, str]:
        """The newest checkpoint, or the state that the run started from, and what to do where it is damaged."""
        if path := next(iter(self.checkpoints()), None):
            return path, "Delete it, and --resume goes on from the checkpoint before it."
        return self.path / "state.safetensors", "Start the run again, in another folder."

    def identity(self) -> dict[str, Any]:
        """What the run was started with, and a resumed one must be. Raises CheckpointError where that is damaged."""
        _, header = state.load(*self._newest())
        return dict(header.get("identity", {}))

    def load_checkpoint(
        self, identity: dict[str, Any], ports: Mapping[str, dict[str, Any]] | None = None, *, ends: bool = False
    ) -> tuple[dict[str, Array], Position]:
        """The newest checkpoint, or the state that the run started from.

        ports: what the step reads of it, by name, as step.json describes it.
        ends: whether the step was made for the epochs of the run; else there may be more of them now.
        Raises CheckpointError where it is damaged, or belongs to another run; of another model, it names what differs.
        """
        path, mend = self._newest()
        arrays, header = state.load(path, mend)
        made = dict(header.get("identity", {}))
        if identity.get("epochs", 0) > made.get("epochs", math.inf):
            self._check_longer(made["epochs"], header.get("position", {}).get("ended"), ends)
            made["epochs"] = identity["epochs"]
        keys = dict.fromkeys([*identity, *made])
        if ports and (other := state.differences(ports, arrays)):
            raise CheckpointError(f"{path} belongs to another model; {other}", mend=_SAME)
        differ = [
            f"{k} (expected {made.get(k)!r}, found {identity.get(k)!r})" for k in keys if made.get(k) != identity.get(k)
        ]
        if differ:
            # Refused: another version may sum in another order, and the run would end in other bytes without a word.
            version = made.get("onnxruntime")
            another = version and version != identity.get("onnxruntime")
            install = f"Install onnxruntime {version}, which the run was started with, or start a new run."
            forgotten = made.get("validation_digest") and not identity.get("validation_digest")
            raise CheckpointError(
                f"{path} belongs to a run that differs in {', '.join(differ)}",
                mend=install if another else f"Go on with it: {self.resumption}." if forgotten else _SAME,
            )
        try:
            position = dict(header.get("position", {}))
            position.pop("samples", None)  # of former versions: they follow from the number of batches
            return arrays, Position(**position)
        except TypeError as error:
            raise CheckpointError(f"{path} was written by another version of onnxmx: {error}", mend=mend) from error

    def _check_longer(self, epochs: int, ended: str | None, ends: bool) -> None:
        mend = f"Start a new run from {self.last}."
        if ended:
            raise CheckpointError(f"{self.path} expected no more epochs; it has ended for good: {ended}", mend=mend)
        if ends:
            raise CheckpointError(
                f"{self.path} expected its {epochs} epochs, with which its learning rate or average ends; found more",
                mend=mend,
            )

    def sweep(self) -> None:
        """Delete what a kill in the middle of a write left behind."""
        for folder in (self.path, self._checkpoints):
            for path in folder.glob(".*.tmp"):
                if _TEMPORARY.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def rewind_log(self, length: int) -> None:
        """Cut metrics.jsonl back to what it was at a checkpoint, and to whole lines where it is shorter than that."""
        if self.log.exists() and self.log.stat().st_size != length:
            kept = self.log.read_bytes()[:length]
            write_atomic(self.log, kept[: kept.rfind(b"\n") + 1])


class Log:
    """metrics.jsonl, open for more lines: one JSON object each, in the file as soon as it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise explain(error, path) from error

    def write(self, line: dict[str, Any]) -> None:
        """Add a line. A number that JSON cannot say is left out. Raises OnnxmxError when the disk is full."""
        said = {k: v for k, v in line.items() if not isinstance(v, float) or math.isfinite(v)}
        data = json.dumps(said).encode() + b"\n"
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise explain(error, self._path) from error

    def tell(self) -> int:
        """The length of the file in bytes."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
