"""Runs that are stopped at any moment, by a kill, a Ctrl-C or a full disk, and end in the same bytes nevertheless."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from onnxmx.errors import CheckpointError, OnnxmxError
from onnxmx.trainer.run import resume_run
from onnxmx.trainer.run_directory import Log
from tests.trainer.runs import lines, state_of
from tests.trainer.stopped_runs import EPOCHS, begin, change_config, config, newest, wait_until
from tests.trainer.worker import Worker

RESULTS = ("last.onnx", "model.onnx", "metrics.jsonl", "step.onnx", "config.toml")


def files(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def uninterrupted(net_folder: Path, worker: Worker) -> dict[str, bytes]:
    """The files of a run of 2,160 steps that nothing stopped."""
    run = net_folder / "whole"
    worker.start("train", config=config(net_folder), out=str(run), stderr=net_folder / "whole.err")
    assert worker.wait() == 0, (net_folder / "whole.err").read_text()
    return files(run)


def test_two_runs_give_the_same_bytes(net_folder: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    run = net_folder / "again"
    worker.start("train", config=config(net_folder), out=str(run), stderr=net_folder / "again.err")
    assert worker.wait() == 0
    assert files(run) == uninterrupted


KILLS = 50


def test_fifty_kills_at_random_moments(net_folder: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    run, errors = net_folder / "killed", net_folder / "killed.err"
    delays = random.Random(11)
    moments: list[tuple[int, int]] = []
    for k in range(KILLS):
        begun = (run / "config.toml").exists()
        call = {"call": "resume"} if begun else {"call": "train", "config": config(net_folder)}
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


def but_config(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name != "config.toml"}


def test_ctrl_c_stops_after_a_step_and_says_how_to_go_on(
    net_folder: Path, worker: Worker, uninterrupted: dict[str, bytes]
) -> None:
    run = net_folder / "interrupted"
    log = run / "metrics.jsonl"
    settings = config(net_folder, checkpoint_s=1000.0)
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
    assert ended.history == [line for line in lines(run / "metrics.jsonl") if "batch" not in line]
    assert len(ended.history) == EPOCHS


def test_one_process_trains_in_a_folder(net_folder: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    run = net_folder / "shared"
    child = worker.start("train", config=config(net_folder), out=str(run), stderr=net_folder / "shared.err")
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


def test_a_full_disk(stopped_run: Path, worker: Worker, uninterrupted: dict[str, bytes]) -> None:
    """No file may grow beyond what the model needs: checkpoints, with their slots, are larger."""
    before = {p.name: p.read_bytes() for p in (stopped_run / "checkpoints").iterdir()}
    limit = (stopped_run / "state.safetensors").stat().st_size + 100
    assert all(limit < len(data) for data in before.values())
    errors = stopped_run.parent / "full.err"
    worker.start("resume", out=str(stopped_run), stderr=errors, file_bytes=limit)
    assert worker.wait() == 1
    said = errors.read_text()
    assert "cannot write" in said
    assert "step-" in said
    assert "what was there before is unchanged" in said
    assert "Traceback" not in said
    assert {p.name: p.read_bytes() for p in (stopped_run / "checkpoints").iterdir()} == before
    resume_run(stopped_run, progress=False)
    assert files(stopped_run) == uninterrupted


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


def test_after_deleting_it_the_one_before_serves(stopped_run: Path, uninterrupted: dict[str, bytes]) -> None:
    max((stopped_run / "checkpoints").iterdir(), key=lambda p: int(p.stem[5:])).unlink()
    resume_run(stopped_run, progress=False)
    assert files(stopped_run) == uninterrupted


def test_without_any_checkpoint_it_starts_again(stopped_run: Path, uninterrupted: dict[str, bytes]) -> None:
    shutil.rmtree(stopped_run / "checkpoints")
    resume_run(stopped_run, progress=False)
    assert files(stopped_run) == uninterrupted


def test_a_finished_run_stays_as_it_is(stopped_run: Path) -> None:
    first = resume_run(stopped_run, progress=False)
    before = state_of(stopped_run)
    again = resume_run(stopped_run, progress=False)
    assert again.history == first.history
    assert state_of(stopped_run) == before


def test_checkpoints_may_come_at_another_pace(stopped_run: Path, uninterrupted: dict[str, bytes]) -> None:
    change_config(stopped_run, "checkpoint_s = 0.01", "checkpoint_s = 100.0")
    resume_run(stopped_run, progress=False)
    assert but_config(files(stopped_run)) == but_config(uninterrupted)


def test_a_log_that_lost_its_end(stopped_run: Path) -> None:
    """After a power failure the log may be shorter than the checkpoint remembers, and end in half a line."""
    log = stopped_run / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:-7])
    resume_run(stopped_run, progress=False)
    assert lines(log)[-1]["epoch"] == EPOCHS
