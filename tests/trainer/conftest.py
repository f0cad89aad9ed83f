"""What the tests of the trainer share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.trainer.worker import Worker


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """A process that trains in forks of itself."""
    process = Worker()
    yield process
    process.close()
