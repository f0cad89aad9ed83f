"""Who makes the gradients of a step, and who runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmx.trainer.engine import ort_training
from onnxmx.trainer.engine.ort import OrtEngine
from onnxmx.trainer.step import Differentiator

__all__ = ["ENGINES", "Engine", "OrtEngine"]


@dataclass(frozen=True)
class Engine:
    """A way to train.

    differentiator: gives who makes the gradients of a step; raises MissingExtraError where its package is missing.
    run: holds a training state and moves it on.
    """

    differentiator: Callable[[], Differentiator]
    run: type[OrtEngine]


ENGINES = {
    "ort": Engine(Differentiator, OrtEngine),
    ort_training.NAME: Engine(ort_training.differentiator, ort_training.OrtTrainingEngine),
}
"""By the name that the command line and `config.toml` use; the first is the default."""
