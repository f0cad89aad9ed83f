"""The folder of a run when something goes wrong half-way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx.builder.session import cores
from onnxmx.errors import CheckpointError, DivergedError, OnnxmxError, UsageError
from onnxmx.trainer import run_directory
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.launch import identity_of
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.run import resolve_model, resolve_pair, resume_run, train
from onnxmx.trainer.run_directory import Position, RunDirectory
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


@pytest.mark.parametrize("path", ["", "\0", "a" * 300, Path("b" * 300)])
def test_what_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for run in (lambda: mx.fit(blob_net(), TRAIN, out=path, **QUICK), lambda: mx.resume(path, TRAIN)):
        with pytest.raises(UsageError, match=r"a run expected the path of a folder; found (Posix|'[^']{0,40}')"):
            run()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [SystemExit, OSError, TypeError])
def test_whatever_a_model_of_ones_own_raises_the_folder_stays_free(tmp_path: Path, error: type[Exception]) -> None:
    (tmp_path / "mine.py").write_text(f"def net(): raise {error.__name__}('so')\n")
    config = TrainConfig.of_settings(CONFIG | {"model": f"{tmp_path / 'mine.py'}:net"})
    with pytest.raises((OnnxmxError, SystemExit), match="so"):
        train(config, tmp_path / "run", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


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


def test_nothing_of_a_deleted_run_is_taken_for_the_next_one_s(tmp_path: Path) -> None:
    """What callbacks wrote goes too, or TensorBoard would draw both; what is a user's own stays."""
    options: dict[str, Any] = {"validation": TEST, **QUICK, "out": tmp_path / "run"}
    mx.fit(blob_net(), TRAIN, logs=["csv"], profile=True, keep_best=2, **options)
    of_the_run = {"metrics.csv", "profile.txt", "profile.json", "curves.png", "events.out.tfevents.1.host.0"}
    for name in ("curves.png", "events.out.tfevents.1.host.0", "notes.txt", "profiles.txt"):
        (tmp_path / "run" / name).touch()
    assert of_the_run <= {path.name for path in (tmp_path / "run").iterdir()}
    mx.fit(blob_net(), TRAIN, overwrite=True, **options)
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not left & of_the_run
    assert not [name for name in left if name.startswith("epoch-")]
    assert {"notes.txt", "profiles.txt", "last.onnx"} <= left


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


MADE = {"epochs": 3, "seed": 5, "data_digest": "a", "validation_digest": None}


@pytest.mark.parametrize(
    ("identity", "text"),
    [
        (
            MADE | {"patience": 2},
            r"differs in patience \(expected None, found 2\)\n  Resume with the data and settings",
        ),
        ({"epochs": 3, "data_digest": "a"}, r"differs in seed \(expected 5, found None\)\n  Resume with"),
        (MADE | {"epochs": 2, "seed": 6}, r"differs in epochs \(expected 3, found 2\), seed \(expected 5, found 6\)"),
        (MADE | {"validation_digest": "b"}, r"validation_digest \(expected None, found 'b'\)\n  Resume with"),
    ],
)
def test_what_differs_is_named_whoever_lacks_it(tmp_path: Path, identity: dict[str, Any], text: str) -> None:
    run = RunDirectory(tmp_path)
    run.save_checkpoint({"step": np.array(7)}, Position(epoch=1), MADE)
    assert run.load_checkpoint(MADE)[1] == Position(epoch=1)
    with pytest.raises(CheckpointError, match=text):
        run.load_checkpoint(identity)


def test_a_checkpoint_that_knows_no_epochs_is_no_shorter_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.save_checkpoint({"step": np.array(7)}, Position(), {})
    with pytest.raises(CheckpointError, match=r"differs in epochs \(expected None, found 3\)"):
        run.load_checkpoint({"epochs": 3})


def test_a_folder_that_is_locked_is_neither_begun_in_nor_gone_on_with(tmp_path: Path) -> None:
    mx.fit(blob_net(), TRAIN, out=tmp_path / "a", **QUICK)
    (tmp_path / "b").mkdir()
    runs: dict[str, Any] = {
        "a": lambda: mx.resume(tmp_path / "a", TRAIN, progress=False),
        "b": lambda: mx.fit(blob_net(), TRAIN, out=tmp_path / "b", **QUICK),
    }
    for name, run in runs.items():
        before = state_of(tmp_path / name)
        with RunDirectory(tmp_path / name).locked(), pytest.raises(CheckpointError, match="another process trains in"):
            run()
        assert state_of(tmp_path / name) == before


def test_what_a_kill_left_behind_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TrainConfig.of_settings(CONFIG), run, progress=False)
    before = state_of(run)
    for name in (".last.onnx.01234567.tmp", "checkpoints/.step-6.safetensors.89abcdef.tmp", "checkpoints/.mine.tmp"):
        (run / name).write_bytes(b"half")
    resume_run(run, progress=False)
    assert state_of(run) == before | {"checkpoints/.mine.tmp": b"half"}


def test_a_configuration_keeps_the_threads_that_it_did_not_say(tmp_path: Path) -> None:
    """A machine with more cores would sum in another order."""
    train(TrainConfig.of_settings({k: v for k, v in CONFIG.items() if k != "threads"}), tmp_path / "r", progress=False)
    assert TrainConfig.load(tmp_path / "r" / "config.toml").threads == cores()


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 2), ("seed", 1), ("batch_size", 9), ("threads", 3), ("provider", "cuda"), ("engine", "ort-training"),
     ("patience", 2), ("keep_best", 1)],
)  # fmt: skip
def test_a_run_is_known_by(option: str, value: Any) -> None:
    plan = Plan(threads=1)
    usual, other = (identity_of("d", TRAIN, TEST, p) for p in (plan, dataclasses.replace(plan, **{option: value})))
    assert {name for name in other if usual.get(name) != other[name]} == {option}
    assert usual != identity_of("e", TRAIN, TEST, plan)
    for data, validation in ((TEST, TEST), (TRAIN, TRAIN), (TRAIN, None)):
        assert usual != identity_of("d", data, validation, plan)


def test_the_seed_and_the_teacher_of_a_configuration_are_the_run_s(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import onnxmx as mx\n\ndef net(input):\n    return mx.models.get_model('mlp')(input)\n"
    )
    data = mx.data.digits("train")
    file = tmp_path / "mine.py"

    def parts(seed: int) -> list[bytes]:
        pair = resolve_pair("mlp_gan", data, seed)
        return [resolve_model(f"{file}:net", data, seed).to_bytes(), *(model.to_bytes() for model in pair)]

    assert parts(1) == parts(1)
    assert not any(one == other for one, other in zip(parts(1), parts(2), strict=True))
    resolve_model(f"{file}:net", data).save(tmp_path / "teacher.onnx")
    teacher = {"model": str(tmp_path / "teacher.onnx"), "alpha": 0.25}
    train(TrainConfig.of_settings(CONFIG | {"teacher": teacher}), tmp_path / "run", progress=False)
    assert '"alpha": 0.25' in json.loads((tmp_path / "run" / "step.json").read_text())["settings"]["teach"]
    (tmp_path / "teacher.onnx").unlink()
    assert resume_run(tmp_path / "run", progress=False).best["epoch"] == 1
