"""Callbacks: `from onnxmx.callbacks import EarlyStopping`."""

from typing import TYPE_CHECKING

from onnxmx.builder.elsewhere import without
from onnxmx.trainer.callbacks import *  # noqa: F403
from onnxmx.trainer.callbacks import __all__ as __all__

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = without(__name__, {}, __all__)
