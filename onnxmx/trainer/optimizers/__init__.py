"""Optimizers: each an update of one parameter as an `ai.onnxmx` function, and a dataclass that names its slots."""

from onnxmx.errors import UsageError
from onnxmx.trainer.named import named
from onnxmx.trainer.optimizers.adam import Adam, AdamW
from onnxmx.trainer.optimizers.adam_variants import AdaBelief, Adamax, NAdam
from onnxmx.trainer.optimizers.adaptive import Adadelta, Adagrad, RMSProp
from onnxmx.trainer.optimizers.base import Group, Optimizer
from onnxmx.trainer.optimizers.by_name import ByName
from onnxmx.trainer.optimizers.ftrl import FTRL
from onnxmx.trainer.optimizers.muon import Muon
from onnxmx.trainer.optimizers.sgd import NAG, SGD, Momentum
from onnxmx.trainer.optimizers.sign import Lion, Signum
from onnxmx.trainer.optimizers.trust import LAMB, LARS

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adabelief": AdaBelief,
    "adadelta": Adadelta,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamax": Adamax,
    "adamw": AdamW,
    "ftrl": FTRL,
    "lamb": LAMB,
    "lars": LARS,
    "lion": Lion,
    "momentum": Momentum,
    "muon": Muon,
    "nadam": NAdam,
    "nag": NAG,
    "rmsprop": RMSProp,
    "sgd": SGD,
    "signum": Signum,
}
"""By the name that the command line and `config.toml` use."""
OptimizerLike = Optimizer | str
"""An optimizer, or its name, with options after a colon: "sgd:lr=0.1,momentum=0.9"."""


def get(optimizer: OptimizerLike) -> Optimizer:
    """The optimizer that a user gives. Raises UsageError for what is none, an unknown name, and an unknown option."""
    if isinstance(optimizer, str):
        made: Optimizer = named("optimizer", optimizer, OPTIMIZERS, {})
        return made
    if isinstance(optimizer, type) or not hasattr(optimizer, "slots"):
        found = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else repr(optimizer)
        raise UsageError(f"expected an optimizer; found {found}", mend="For example mx.Adam(lr=1e-3).")
    return optimizer


__all__ = [
    "FTRL",
    "LAMB",
    "LARS",
    "NAG",
    "OPTIMIZERS",
    "SGD",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "ByName",
    "Group",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Optimizer",
    "OptimizerLike",
    "RMSProp",
    "Signum",
    "get",
]
