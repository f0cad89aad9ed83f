"""Which models there are: one file, or `repo/<model>/<version>/model.onnx`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmx.builder.model import Model
from onnxmx.builder.source import user_line
from onnxmx.errors import ModelFileError, UsageError
from onnxmx.serve.protocol import unknown
from onnxmx.serve.runner import Runner
from onnxmx.serve.tensors import RequestError


@dataclass(frozen=True)
class Entry:
    """One version of a model: a runner, or the reason why it has none."""

    name: str
    version: str
    runner: Runner | None
    reason: str = ""

    @property
    def ready(self) -> bool:
        """Whether it answers infer requests."""
        return self.runner is not None

    def index(self) -> dict[str, str]:
        """Its line in the repository index."""
        state = "READY" if self.ready else "UNAVAILABLE"
        return {"name": self.name, "version": self.version, "state": state, "reason": self.reason}


class Repository:
    """Models by name, each with its versions in ascending order; the highest is the default."""

    def __init__(self, models: dict[str, dict[str, Entry]]) -> None:
        self._models = models

    @classmethod
    def open(cls, path: Path, *, threads: int = 1) -> Repository:
        """Loads what is at `path`.  threads: intra-op threads of each session.

        A directory: a damaged file makes its own version not ready, with the reason, and no other.
        Raises UsageError when there is nothing to serve; ModelFileError when `path` itself is a damaged file, or a
        directory cannot be read.
        """
        if path.is_dir():
            try:
                models = {d.name: _versions(d, threads) for d in sorted(path.iterdir()) if _is_model(d)}
            except OSError as error:
                raise ModelFileError(f"cannot read {error.filename}: {error.strerror}") from None
            if not models:
                raise _nothing_to_serve(path)
            return cls(models)
        if not path.exists():
            raise ModelFileError(f"no file or directory at {path}", mend="Give an .onnx file or a model repository.")
        return cls({path.stem: {"1": Entry(path.stem, "1", Runner(path, path.stem, "1", threads=threads))}})

    @classmethod
    def of(cls, model: Model, *, threads: int = 1) -> Repository:
        """A model that is no file yet, as version 1 of "model".  Raises UsageError for what is none."""
        if not isinstance(model, Model):
            raise UsageError(
                f"serve expected an ONNX file, a model repository or a Model; found {type(model).__name__}",
                at=user_line(),
                mend="For example mx.serve('lenet.onnx').",
            )
        return cls({"model": {"1": Entry("model", "1", Runner(model.to_bytes(), "model", "1", threads=threads))}})

    def __iter__(self) -> Iterator[Entry]:
        return (entry for versions in self._models.values() for entry in versions.values())

    def find(self, name: str, version: str | None = None) -> Entry:
        """The entry asked for, ready or not.  Raises RequestError (404) when there is none."""
        versions = self._models.get(name)
        if versions is None:
            raise RequestError(unknown("model", name, self._models), status=404)
        if version is None:
            return list(versions.values())[-1]
        if version not in versions:
            raise RequestError(unknown(f"version of model {name!r}", version, versions), status=404)
        return versions[version]

    def runner(self, name: str, version: str | None = None) -> Runner:
        """The runner asked for.  Raises RequestError: 404 when there is none, 503 when it is not ready."""
        entry = self.find(name, version)
        if entry.runner is None:
            raise RequestError(f"model {name!r} is not ready: {entry.reason}", status=503)
        return entry.runner

    def metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Model metadata.  Raises RequestError: 404 when there is no such model, 503 when it is not ready."""
        signature = self.runner(name, version).signature
        parameters = signature.parameters()
        return {
            "name": name,
            "versions": list(self._models[name]),
            "platform": "onnxruntime_onnx",
            "inputs": [spec.wire for spec in signature.inputs.values()],
            "outputs": [spec.wire for spec in signature.outputs.values()],
            **({"parameters": parameters} if parameters else {}),
        }

    def stop(self) -> None:
        """Ends the runs in flight."""
        for entry in self:
            if entry.runner is not None:
                entry.runner.stop()


def _is_model(directory: Path) -> bool:
    return directory.is_dir() and not directory.name.startswith(".") and any(map(_is_version, directory.iterdir()))


def _is_version(directory: Path) -> bool:
    """A version is a directory named by a positive number as it is usually written: 7, not 07."""
    name = directory.name
    return name.isascii() and name.isdigit() and name[0] != "0" and directory.is_dir()


def _versions(directory: Path, threads: int) -> dict[str, Entry]:
    found = sorted(filter(_is_version, directory.iterdir()), key=lambda d: int(d.name))
    return {d.name: _load(directory.name, d, threads) for d in found}


def _load(name: str, directory: Path, threads: int) -> Entry:
    path = directory / "model.onnx"
    if not path.is_file():
        return Entry(name, directory.name, None, "there is no model.onnx in it")
    try:
        return Entry(name, directory.name, Runner(path, name, directory.name, threads=threads))
    except ModelFileError as error:
        # Clients see the reason: where the repository lies on the server's disk is not theirs to know.
        return Entry(name, directory.name, None, error.problem.replace(str(path), path.name))


def _nothing_to_serve(path: Path) -> UsageError:
    files = sorted(path.glob("*.onnx"), key=lambda file: (file.name != "model.onnx", file))  # the best of a run first
    mend = f"Give the file itself: {files[0]}" if files else "Lay it out as <model>/<version>/model.onnx."
    return UsageError(
        f"expected a model repository with <model>/<version>/model.onnx in it, found none in {path}", mend=mend
    )
