"""Losses: `from onnxmx.losses import Huber`."""

from onnxmx.trainer.losses import *  # noqa: F403
from onnxmx.trainer.losses import __all__ as __all__
