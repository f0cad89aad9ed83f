"""Optimizers: `from onnxmx.optimizers import Adam`."""

from onnxmx.trainer.optimizers import *  # noqa: F403
from onnxmx.trainer.optimizers import __all__ as __all__
