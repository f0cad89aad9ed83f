"""The gradient rules, by kind of operator. Importing this package registers all of them."""

from onnxmx.trainer.autodiff.rules import (
    activation,
    conv,
    elementwise,
    gru,
    indexing,
    linear,
    lstm,
    movement,
    norm,
    pool,
    recurrent,
    reduce,
    resize,
)

__all__ = [
    "activation",
    "conv",
    "elementwise",
    "gru",
    "indexing",
    "linear",
    "lstm",
    "movement",
    "norm",
    "pool",
    "recurrent",
    "reduce",
    "resize",
]
