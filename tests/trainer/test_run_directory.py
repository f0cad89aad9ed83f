"""The folder of a run when something goes wrong half-way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import onnxmx as mx
from onnxmx.errors import CheckpointError, DivergedError, OnnxmxError
from onnxmx.trainer import run_directory
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.run import resume_run, train
from onnxmx.trainer.run_directory import RunDirectory
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN, state_of

CONFIG = {"model": "mlp", "data": "digits", "epochs": 1, "batch_size": 300, "threads": 1, "logs": []}


def test_what_to_type_to_go_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "a")
    assert run.resumption == f"mx.resume({str(run.path)!r}, data)"
    for name, given, more in (("b", None, ""), ("c", TEST, ", validation=...")):
        mx.fit(blob_net(), TRAIN, validation=given, out=tmp_path / name, **QUICK)
        assert RunDirectory(tmp_path / name).resumption == f"mx.resume({str(tmp_path / name)!r}, data{more})"
    run.path.mkdir(parents=True)
    run.config.touch()
    assert run.resumption == f"onnxmx train --resume {tmp_path / 'runs' / 'a'}"


def test_a_run_that_cannot_be_deleted_whole_is_still_known_as_one(tmp_path: Path) -> None:
    train(TrainConfig.of_settings(CONFIG), tmp_path / "run", progress=False)
    run = RunDirectory(tmp_path / "run")
    run.last.unlink()
    (run.last / "folder").mkdir(parents=True)  # where a file was
    with pytest.raises(OnnxmxError, match=r"last\.onnx|run"):
        run.clear()
    assert run.config.is_file()
    (run.last / "folder").rmdir()
    run.last.rmdir()
    assert train(TrainConfig.of_settings(CONFIG), run.path, overwrite=True, progress=False).best["epoch"] == 1


def test_what_fails_after_its_start_can_go_on(tmp_path: Path) -> None:
    settings = CONFIG | {"lr": 1e30, "clip": 0.0, "optimizer": "sgd", "schedule": "constant"}
    with pytest.raises(DivergedError):
        train(TrainConfig.of_settings(settings | {"epochs": 9}), tmp_path / "run", progress=False)
    before = state_of(tmp_path / "run")
    assert "config.toml" in before
    with pytest.raises(DivergedError):  # the same again
        resume_run(tmp_path / "run", progress=False)


def test_a_lock_whose_file_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process before ended, and deleted it, between its opening here and its lock."""
    fcntl: Any = run_directory.fcntl
    lock = fcntl.flock

    def late(file: Any, how: int) -> None:
        (tmp_path / ".lock").unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(CheckpointError, match="another process trains in"), RunDirectory(tmp_path).locked():
        pytest.fail("two processes would hold it")
