"""One repository and one server for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_helpers import ELEMENT_TYPES, FLOAT, Server, identity, log, lookup, mlp, pair, pixels, reshape, save, slow


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for version, scale in (("1", 1.0), ("9", 3.0), ("10", 2.0)):
        save(mlp(scale), root / "mlp" / version / "model.onnx")
    for name, built in {
        "pair": pair(),
        "lookup": lookup(),
        "log": log(),
        "reshape": reshape(),
        "slow": slow(),
        "pixels": pixels(),
        "anyrank": identity(FLOAT, None),
        **{f"echo_{name}": identity(code, ["n", 2]) for name, code in ELEMENT_TYPES.items()},
    }.items():
        save(built, root / name / "1" / "model.onnx")
    (root / "damaged" / "1").mkdir(parents=True)
    (root / "damaged" / "1" / "model.onnx").write_bytes(b"hello")
    for name, text in (("unprepared", '{"scale": "much"}'), ("unnamed", "[1, 2]")):
        save(pixels(text, text), root / name / "1" / "model.onnx")
    (root / "empty" / "1").mkdir(parents=True)
    (root / "notes").mkdir()
    (root / "mlp" / "latest").mkdir()
    (root / "mlp" / "011").mkdir()
    return root


@pytest.fixture(scope="session")
def client(repository: Path) -> Iterator[httpx.Client]:
    """A client of one server that has every model."""
    with Server(repository) as server, server.client() as client:
        yield client
