"""Optimizers: each an update of one parameter as an `ai.onnxmx` function, and a dataclass that names its slots."""

from onnxmx.trainer.optimizers.adam import Adam, AdamW
from onnxmx.trainer.optimizers.base import Group, Optimizer
from onnxmx.trainer.optimizers.sgd import NAG, SGD, Momentum

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": SGD,
    "momentum": Momentum,
    "nag": NAG,
}
"""By the name that the command line and `config.toml` use."""

__all__ = ["NAG", "OPTIMIZERS", "SGD", "Adam", "AdamW", "Group", "Momentum", "Optimizer"]
