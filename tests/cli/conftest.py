"""One short run, shared by all tests that need a trained model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import process
from PIL import Image

from onnxmx.trainer.data import digits


@dataclass(frozen=True)
class Trained:
    """A run of the command, with what it answered."""

    folder: Path
    answer: dict[str, object]

    @property
    def model(self) -> Path:
        return self.folder / "model.onnx"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    cwd = tmp_path_factory.mktemp("trained")
    words = ("train", "lenet", "--data", "digits", "--epochs", "3", "--seed", "1", "-o", "run", "--format", "json")
    done = process(*words, cwd=cwd)
    assert done.code == 0, done.err
    return Trained(cwd / "run", json.loads(done.out))


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A digit as a person would have it, white on black and larger than the model's input, and what it is."""
    data = digits("test")
    pixels = (data.inputs["image"][0, 0] * np.float32(255 / 16)).astype(np.uint8)
    path = tmp_path_factory.mktemp("sample") / "digit.png"
    Image.fromarray(np.kron(pixels, np.ones((4, 4), np.uint8))).save(path)
    return path, str(data.labels["label"][0])
