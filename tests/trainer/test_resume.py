"""Runs that are stopped at any moment, by a kill, a Ctrl-C or a full disk, and end in the same bytes nevertheless."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from onnxmx.errors import CheckpointError, DataError, OnnxmxError
from onnxmx.trainer import state
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.run import resume_run, train
from onnxmx.trainer.run_directory import Log
from tests.trainer.worker import Worker

NET = """
from onnxmx import layers as L


def net(input, classes):
    return L.Sequential(
        L.Conv2D(6, 3, padding="same", activation="relu"),
        L.MaxPool2D(2),
        L.BatchNorm(),
        L.Flatten(),
        L.Dropout(0.3),
        L.Dense(32, activation="relu"),
        L.Dropout(0.5),
        L.Dense(classes),
    )
"""
EPOCHS = 12
RESULTS = ("last.onnx", "model.onnx", "metrics.jsonl", "step.onnx", "config.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resume")
    (path / "net.py").write_text(NET)
    return path


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    made = {
        "model": f"{folder / 'net.py'}:net",
        "data": "digits",
        "threads": 2,
        "seed": 5,
        "checkpoint_s": 0.01,
        "logs": [],
    }
    # An average of the weights and a rate that depends on the losses so far: both are state to come back.
    made |= {"average": "ema", "schedule": {"name": "plateau", "every": 20, "patience": 0, "factor": 0.7}}
    return made | {"logs": [], "epochs": EPOCHS, "batch_size": 8} | changes


def files(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


def state_of(run: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, worker: Worker) -> dict[str, bytes]:
    """The files of a run of 2,160 steps that nothing stopped."""
    run = folder / "whole"
    worker.start("train", config=config(folder), out=str(run), stderr=folder / "whole.err")
    assert worker.wait() == 0, (folder / "whole.err").read_text()
    return files(run)


def test_two_runs_give_the_same_bytes(folder: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    run = folder / "again"
    worker.start("train", config=config(folder), out=str(run), stderr=folder / "again.err")
    assert worker.wait() == 0
    assert files(run) == uninterrupted


KILLS = 50


def test_fifty_kills_at_random_moments(folder: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    run, errors = folder / "killed", folder / "killed.err"
    delays = random.Random(11)
    moments: list[tuple[int, int]] = []
    for k in range(KILLS):
        begun = (run / "config.toml").exists()
        call = {"call": "resume"} if begun else {"call": "train", "config": config(folder)}
        child = worker.start(**call, out=str(run), stderr=errors)  # type: ignore[arg-type]
        if k < 4:  # while it starts
            time.sleep(delays.uniform(0.0, 0.2))
        elif k < 25:  # once it has come further, in the middle of an epoch, however fast or slow the machine is
            wait_until(lambda: newest(run) > moments[-1] and newest(run)[1] > 0)
        else:
            wait_until(lambda: newest(run) > moments[-1])
            time.sleep(delays.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        if worker.wait() != -signal.SIGKILL:
            break  # it had ended before
        moments.append(newest(run))
    assert not errors.exists() or errors.read_text() == ""
    assert len(moments) >= KILLS // 2, "too few kills met a run at work"
    assert any(batch > 0 for _, batch in moments), "no kill came in the middle of an epoch"
    worker.start("resume", out=str(run), stderr=errors)
    assert worker.wait() == 0, errors.read_text()
    assert files(run) == uninterrupted
    assert not list(run.rglob("*.tmp"))


def newest(run: Path) -> tuple[int, int]:
    """Epoch and batch of the newest checkpoint, or zeros."""
    found = sorted((run / "checkpoints").glob("step-*"), key=lambda p: int(p.stem[5:]))
    if not found:
        return 0, 0
    position = state.load(found[-1])[1]["position"]  # the newest is never deleted while a run is at work
    return position["epoch"], position["batch"]


def wait_until(ready: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not ready() and time.monotonic() < limit:
        time.sleep(0.002)


def begin(worker: Worker, run: Path, settings: dict[str, Any], ready: Callable[[], bool], number: int) -> int:
    """Start a run and send it a signal once `ready`; returns its exit code."""
    child = worker.start("train", config=settings, out=str(run), stderr=run.with_suffix(".err"))
    wait_until(ready)
    os.kill(child, number)
    return worker.wait()


def but_config(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name != "config.toml"}


def test_ctrl_c_stops_after_a_step_and_says_how_to_go_on(
    folder: Path, worker: Worker, uninterrupted: dict[str, bytes]
) -> None:
    run = folder / "interrupted"
    log = run / "metrics.jsonl"
    settings = config(folder, checkpoint_s=1000.0)
    code = begin(worker, run, settings, lambda: log.exists() and log.stat().st_size > 0, signal.SIGINT)
    said = run.with_suffix(".err").read_text()
    assert code == 130
    assert "stopped after batch" in said
    assert "the run is saved" in said
    assert f"onnxmx train --resume {run}" in said
    assert "Traceback" not in said
    assert newest(run) != (0, 0)
    ended = resume_run(run, progress=False)
    assert but_config(files(run)) == but_config(uninterrupted)
    # The history of the whole run, from before the stop too, as the log has it.
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ended.history == [line for line in lines if "batch" not in line]
    assert len(ended.history) == EPOCHS


def test_one_process_trains_in_a_folder(folder: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    run = folder / "shared"
    child = worker.start("train", config=config(folder), out=str(run), stderr=folder / "shared.err")
    wait_until(lambda: newest(run) > (0, 0))
    os.kill(child, signal.SIGSTOP)
    try:
        (run / ".last.onnx.01234567.tmp").write_bytes(b"what the other is writing")
        before = state_of(run)
        with pytest.raises(CheckpointError, match="another process trains in "):
            resume_run(run, progress=False)
        assert state_of(run) == before
    finally:
        os.kill(child, signal.SIGKILL)
    worker.wait()
    resume_run(run, progress=False)  # the kernel has freed it
    assert but_config(files(run)) == but_config(uninterrupted)
    assert not list(run.glob(".*"))


@pytest.fixture(scope="module")
def stopped(folder: Path, worker: Worker) -> Path:
    """A run that was killed in the middle, with two checkpoints."""
    run = folder / "stopped"
    code = begin(worker, run, config(folder), lambda: len(list(run.glob("checkpoints/step-*"))) > 1, signal.SIGKILL)
    assert code == -signal.SIGKILL
    return run


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    return run


def test_a_full_disk(copy: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    """No file may grow beyond what the model needs: checkpoints, with their slots, are larger."""
    before = {p.name: p.read_bytes() for p in (copy / "checkpoints").iterdir()}
    limit = (copy / "state.safetensors").stat().st_size + 100
    assert all(limit < len(data) for data in before.values())
    errors = copy.parent / "full.err"
    worker.start("resume", out=str(copy), stderr=errors, file_bytes=limit)
    assert worker.wait() == 1
    said = errors.read_text()
    assert "cannot write" in said
    assert "step-" in said
    assert "what was there before is unchanged" in said
    assert "Traceback" not in said
    assert {p.name: p.read_bytes() for p in (copy / "checkpoints").iterdir()} == before
    resume_run(copy, progress=False)
    assert files(copy) == uninterrupted


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_while_logging() -> None:
    log = Log(Path("/dev/full"))
    try:
        with pytest.raises(
            OnnxmxError, match=r"cannot write /dev/full: No space left on device\n"
        ):  # a part of the line may be there
            log.write({"loss": 1.0})
    finally:
        log.close()


# --- damage
def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "cut in the length": lambda b: b[:5],
    "cut in the header": lambda b: b[:200],
    "cut in the data": lambda b: b[:-1000],
    "cut by a byte": lambda b: b[:-1],
    "longer by a byte": lambda b: b + b"0",
    "altered length": lambda b: flipped(b, 2),
    "altered header": lambda b: flipped(b, b.index(b"position") + 3),
    "altered digest": lambda b: flipped(b, b.index(b'"onnxmx":"') + 20),
    "altered first number": lambda b: flipped(b, 8 + int.from_bytes(b[:8], "little")),
    "altered last number": lambda b: flipped(b, len(b) - 1),
    "another file": lambda b: b"not a checkpoint at all" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint(copy: Path, damage: str) -> None:
    path = max((copy / "checkpoints").iterdir(), key=lambda p: int(p.stem[5:]))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = state_of(copy)
    with pytest.raises(CheckpointError) as caught:
        resume_run(copy, progress=False)
    assert path.name in str(caught.value)
    assert "altered" in str(caught.value)
    assert "Delete it, and --resume goes on from the checkpoint before it." in str(caught.value)
    assert state_of(copy) == before


def test_after_deleting_it_the_one_before_serves(copy: Path, uninterrupted: dict[str, bytes]) -> None:
    max((copy / "checkpoints").iterdir(), key=lambda p: int(p.stem[5:])).unlink()
    resume_run(copy, progress=False)
    assert files(copy) == uninterrupted


def test_without_any_checkpoint_it_starts_again(copy: Path, uninterrupted: dict[str, bytes]) -> None:
    shutil.rmtree(copy / "checkpoints")
    resume_run(copy, progress=False)
    assert files(copy) == uninterrupted


def test_a_finished_run_stays_as_it_is(copy: Path) -> None:
    first = resume_run(copy, progress=False)
    before = state_of(copy)
    again = resume_run(copy, progress=False)
    assert again.history == first.history
    assert state_of(copy) == before


def test_no_byte_of_a_checkpoint_can_change_unseen(tmp_path: Path) -> None:
    """Each byte of a small file in turn: an error, or the same content."""
    arrays = {"a": np.arange(3, dtype=np.float32), "step": np.array(7)}
    header = {"position": {"epoch": 1}}
    path = tmp_path / "c.safetensors"
    state.save(path, arrays, header)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(flipped(data, place))
        try:
            found, said = state.load(path)
        except CheckpointError:
            continue
        assert said == header, place
        assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in found.items()} == {
            k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()
        }, place


# --- other settings, other files
def change_config(run: Path, line: str, other: str) -> None:
    path = run / "config.toml"
    text = path.read_text()
    assert line in text
    path.write_text(text.replace(line, other))


SETTINGS = [
    ("seed = 5", "seed = 6", r"differs in seed \(expected 5, found 6\)"),
    ("batch_size = 8", "batch_size = 9", r"batch_size \(expected 8, found 9\)"),
    ("threads = 2", "threads = 1", r"threads \(expected 2, found 1\)"),
    ("epochs = ", "epochs = 1", "epochs"),
    ("clip = 1.0", "clip = 2.0", r"clip \(expected ClipGlobalNorm\(max_norm=1.0\), found .*2.0"),
    ('optimizer = "adam"', 'optimizer = "sgd"', r"optimizer \(expected Adam.*, found SGD"),
    ("patience = 0", "patience = 1", "optimizer"),
    ('average = "ema"', 'average = "swa"', "average"),
    ('loss = "softmax_cross_entropy"', 'loss = "mean_squared_error"', "loss"),
    ('engine = "ort"', 'engine = "ort-training"', r"engine \(expected ort, found ort-training\)"),
]


@pytest.mark.parametrize("begun", [True, False], ids=["from a checkpoint", "from the start"])
@pytest.mark.parametrize(("line", "other", "text"), SETTINGS, ids=[row[1] for row in SETTINGS])
def test_other_settings_are_refused(copy: Path, line: str, other: str, text: str, begun: bool) -> None:
    if not begun:
        shutil.rmtree(copy / "checkpoints")
    change_config(copy, line, other)
    before = state_of(copy)
    with pytest.raises(CheckpointError, match=text) as caught:
        resume_run(copy, progress=False)
    assert "start a new run" in str(caught.value)
    assert state_of(copy) == before


def test_checkpoints_may_come_at_another_pace(copy: Path, uninterrupted: dict[str, bytes]) -> None:
    change_config(copy, "checkpoint_s = 0.01", "checkpoint_s = 100.0")
    resume_run(copy, progress=False)
    assert but_config(files(copy)) == but_config(uninterrupted)


def test_another_onnxruntime_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could end in other bytes without a word."""
    made = onnxruntime.__version__
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    with pytest.raises(CheckpointError, match=rf"onnxruntime \(expected '{made}', found '9.9.9'\)") as caught:
        resume_run(copy, progress=False)
    assert f"Install onnxruntime {made}" in str(caught.value)


def test_other_data_is_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    write = lambda x: np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])  # noqa: E731
    write(x)
    run = tmp_path / "run"
    settings = {"model": "mlp", "data": str(tmp_path / "d.npz"), "epochs": 2, "batch_size": 8}
    train(TrainConfig(**settings), run, progress=False)  # type: ignore[arg-type]
    write(x + 1)
    with pytest.raises(CheckpointError, match="differs in data_digest"):
        resume_run(run, progress=False)
    write(x[:, :2])
    with pytest.raises(DataError, match=r"expected samples of shape \(3,\); found \(2,\)"):
        resume_run(run, progress=False)
    (tmp_path / "d.npz").unlink()
    with pytest.raises(DataError):
        resume_run(run, progress=False)


def test_a_checkpoint_of_another_model_is_named_part_by_part(tmp_path: Path) -> None:
    for name, model in (("a", "mlp"), ("b", "lenet")):
        settings = TrainConfig(model, "digits", epochs=1, batch_size=512, threads=1)
        train(settings, tmp_path / name, progress=False)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    with pytest.raises(
        CheckpointError, match=r"step-\d+\.safetensors belongs to another model; \d+ differ: "
    ) as caught:
        resume_run(tmp_path / "a", progress=False)
    assert re.search(r"0\.weight \(.*float32 \(20, 1, 5, 5\)\)", str(caught.value))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda run: append(run / "step.onnx"), r"step\.onnx expected the digest"),
        (lambda run: (run / "step.onnx").unlink(), r"expected step\.onnx and step\.json"),
        (lambda run: (run / "step.json").write_text("{"), r"expected step\.onnx and step\.json"),
        (lambda run: (run / "last.onnx").write_bytes(b"what"), r"last\.onnx"),
        (lambda run: (run / "last.onnx").unlink(), r"last\.onnx"),
        (lambda run: (run / "config.toml").unlink(), r"found no config\.toml"),
        (lambda run: [shutil.rmtree(run / "checkpoints"), append(run / "state.safetensors")], "Start the run again"),
        (lambda run: [shutil.rmtree(run / "checkpoints"), (run / "state.safetensors").unlink()], "found none"),
    ],
)
def test_files_that_are_missing_or_altered(copy: Path, spoil: Callable[[Path], Any], text: str) -> None:
    spoil(copy)
    before = state_of(copy)
    with pytest.raises(OnnxmxError, match=text):
        resume_run(copy, progress=False)
    assert state_of(copy) == before


def test_a_log_that_lost_its_end(copy: Path) -> None:
    """After a power failure the log may be shorter than the checkpoint remembers, and end in half a line."""
    log = copy / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    resume_run(copy, progress=False)
    assert [json.loads(line) for line in log.read_text().splitlines()][-1]["epoch"] == EPOCHS
