"""The gradient rules, by kind of operator. Importing this package registers all of them."""

from onnxmx.trainer.autodiff.rules import conv, elementwise, linear, movement, norm, pool, reduce

__all__ = ["conv", "elementwise", "linear", "movement", "norm", "pool", "reduce"]
