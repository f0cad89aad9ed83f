"""Callbacks: `from onnxmx.callbacks import EarlyStopping`."""

from onnxmx.trainer.callbacks import *  # noqa: F403
from onnxmx.trainer.callbacks import __all__ as __all__
