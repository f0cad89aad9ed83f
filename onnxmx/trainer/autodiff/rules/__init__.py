"""The gradient rules, by kind of operator. Importing this package registers all of them."""

from onnxmx.trainer.autodiff.rules import (
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
)

__all__ = [
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
]
