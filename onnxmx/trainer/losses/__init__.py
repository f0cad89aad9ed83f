"""Losses: what a step makes small, as functions of graph values.

base.py        what a loss is
classes.py     a choice between classes         binary.py   yes or no, and the scores of a GAN
regression.py  numbers                          pairs.py    distances
ctc.py         labels of a sequence             own.py      a function of the user's
A loss is a dataclass whose fields are its options, and an `ai.onnxmx` operator with its equation; a line in LOSSES
gives it a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxmx.builder.metadata import LOSS
from onnxmx.builder.source import user_line
from onnxmx.builder.values import agree
from onnxmx.errors import OnnxmxError, UsageError
from onnxmx.trainer.losses.base import Decisions, Loss, Scores, Spec, Specs, Values
from onnxmx.trainer.losses.binary import (
    Adversarial,
    Focal,
    Hinge,
    Logistic,
    NonSaturatingGAN,
    SigmoidBCE,
    SquaredHinge,
    WassersteinGAN,
)
from onnxmx.trainer.losses.classes import KL, Dice, SoftmaxCrossEntropy, SoftmaxFocal, class_axis
from onnxmx.trainer.losses.ctc import CTC
from onnxmx.trainer.losses.own import Custom
from onnxmx.trainer.losses.pairs import Contrastive, CosineEmbedding, Triplet
from onnxmx.trainer.losses.regression import Huber, LogCosh, MeanAbsoluteError, MeanSquaredError, Poisson
from onnxmx.trainer.named import named
from onnxmx.trainer.user_code import load_function

if TYPE_CHECKING:
    from onnxmx.builder.model import Model
    from onnxmx.trainer.data import Dataset

LOSSES: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        SoftmaxCrossEntropy,
        SigmoidBCE,
        MeanSquaredError,
        MeanAbsoluteError,
        Huber,
        LogCosh,
        Hinge,
        SquaredHinge,
        Logistic,
        Focal,
        SoftmaxFocal,
        Dice,
        KL,
        Poisson,
        CTC,
        Triplet,
        Contrastive,
        CosineEmbedding,
        WassersteinGAN,
        NonSaturatingGAN,
    )
}
SHORT = {"l1": MeanAbsoluteError, "l2": MeanSquaredError, "mae": MeanAbsoluteError, "mse": MeanSquaredError}


@dataclass(frozen=True)
class MultiTask:
    """A sum of losses, each of an output: by the output's name, or several names with commas between them."""

    tasks: tuple[tuple[str, Loss], ...]

    def __str__(self) -> str:
        return " ".join(f"{output}={loss}" for output, loss in self.tasks)


LossLike = str | Loss | MultiTask | Callable[..., Any] | Mapping[str, Any]
"""A loss, its name, a function of graph values, or losses by the output that they read."""


def get(loss: LossLike) -> Loss | MultiTask:
    """A loss from what a user gives.

    "huber", "huber:delta=0.5", "digit=softmax_cross_entropy odd=sigmoid_bce:weight=0.3", "path.py:function",
    a Loss, a function, or a mapping of those by the names of outputs.
    Raises UsageError for an unknown name or option, ModelFileError for a file that cannot be used.
    """
    if isinstance(loss, (Loss, MultiTask)):
        return loss
    if isinstance(loss, Mapping):
        if not loss:
            raise UsageError("loss expected a loss for each output; found none", mend="For example {'digit': 'l2'}.")
        return MultiTask(tuple((str(output), _one(part)) for output, part in loss.items()))
    if isinstance(loss, str):
        parts = loss.split()
        if parts and all("=" in part.partition(":")[0] for part in parts):
            return get({output: text for output, _, text in (part.partition("=") for part in parts)})
    return _one(loss)


def _one(loss: Any) -> Loss:
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type):
        raise UsageError(
            f"loss expected a loss; found the class {loss.__name__}",
            at=user_line(),
            mend=f"Call it: {loss.__name__}()." if issubclass(loss, Loss) else "For example 'softmax_cross_entropy'.",
        )
    if callable(loss):
        return Custom(function=loss)
    if not isinstance(loss, str):
        raise UsageError(
            f"loss expected a name, a loss of mx.losses, or a function of graph values; found {loss!r}",
            mend="For example 'softmax_cross_entropy'.",
        )
    path, _, name = loss.rpartition(":")
    if path.endswith(".py"):
        return Custom(function=load_function(Path(path), name))
    made: Loss = named("loss", loss, LOSSES, SHORT)
    return made


def of(model: Model, data: Dataset, loss: LossLike | None = None) -> Loss | MultiTask:
    """The loss to measure `model` by: the one given, else that of its training, else what suits the labels.

    That is softmax_cross_entropy where they are integers, else mean_squared_error.
    Raises UsageError where the model was trained with a function of one's own, which no file holds.
    """
    if loss is not None:
        return get(loss)
    text = model.metadata.get(LOSS)
    if text is None:
        whole = all(array.dtype.kind in "iu" for array in data.labels.values())
        return SoftmaxCrossEntropy() if whole else MeanSquaredError()
    return kept(text)


def that_take(name: str, labels: np.ndarray[Any, Any], found: Spec, outputs: Values) -> list[str]:
    """The names of the losses that take these labels of a column beside these outputs; those of a GAN are no choice."""
    fitting = []
    for rule in (kind() for kind in LOSSES.values() if not issubclass(kind, Adversarial)):
        try:
            asked = rule.labels(outputs, {name: found}).get(name) if len(outputs) == rule.reads else None
            if asked is not None and asked.dtype == found.dtype and agree(asked.shape[1:], found.shape[1:]):
                rule.check(name, labels, outputs)
                fitting.append(rule.name)
        except OnnxmxError:
            continue
    return fitting


def kept(text: str) -> Loss | MultiTask:
    """The loss that a model's file names. Raises UsageError for a function of one's own, which no file holds."""
    if ".py:" in text or f"{Custom.name}:" in text:  # never run what a file names
        raise UsageError(
            f"the model was trained with a loss that its file does not hold: {text}",
            mend="Give it: loss=..., or --loss.",
        )
    return get(text)


__all__ = [
    "CTC",
    "KL",
    "LOSSES",
    "Contrastive",
    "CosineEmbedding",
    "Custom",
    "Decisions",
    "Dice",
    "Focal",
    "Hinge",
    "Huber",
    "LogCosh",
    "Logistic",
    "Loss",
    "LossLike",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MultiTask",
    "NonSaturatingGAN",
    "Poisson",
    "Scores",
    "SigmoidBCE",
    "SoftmaxCrossEntropy",
    "SoftmaxFocal",
    "Spec",
    "Specs",
    "SquaredHinge",
    "Triplet",
    "WassersteinGAN",
    "class_axis",
    "get",
    "kept",
    "of",
]
