"""Losses: `from onnxmx.losses import Huber`."""

from typing import TYPE_CHECKING

from onnxmx.trainer.losses import *  # noqa: F403
from onnxmx.trainer.losses import LOSSES
from onnxmx.trainer.losses import __all__ as __all__
from onnxmx.trainer.named import absent

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = absent(__name__, LOSSES)
