"""What the tests of the trainer share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.stopped_runs import NET, begin, config
from tests.trainer.worker import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """A process that trains in forks of itself."""
    process = Worker()
    yield process
    process.close()


@pytest.fixture(scope="session")
def net_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the net that runs to be stopped train."""
    path = tmp_path_factory.mktemp("stopped")
    (path / "net.py").write_text(NET)
    return path


@pytest.fixture(scope="session")
def _killed_run(net_folder: Path, worker: Worker) -> Path:
    run, settings = net_folder / "stopped", config(net_folder)
    code = begin(worker, run, settings, lambda: len(list(run.glob("checkpoints/step-*"))) > 1, signal.SIGKILL)
    assert code == -signal.SIGKILL
    return run


@pytest.fixture
def stopped_run(_killed_run: Path, tmp_path: Path) -> Path:
    """A run that was killed in the middle, with two checkpoints: a copy of its own for each test."""
    run = tmp_path / "run"
    shutil.copytree(_killed_run, run, ignore=shutil.ignore_patterns(".lock"))  # a kill leaves that, freed
    return run
