"""Optimizers: `from onnxmx.optimizers import Adam`."""

from typing import TYPE_CHECKING

from onnxmx.trainer.named import absent
from onnxmx.trainer.optimizers import *  # noqa: F403
from onnxmx.trainer.optimizers import OPTIMIZERS
from onnxmx.trainer.optimizers import __all__ as __all__

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = absent(__name__, OPTIMIZERS)
