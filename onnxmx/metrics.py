"""Metrics: `from onnxmx.metrics import Accuracy`."""

from typing import TYPE_CHECKING

from onnxmx.trainer.metrics import *  # noqa: F403
from onnxmx.trainer.metrics import METRICS
from onnxmx.trainer.metrics import __all__ as __all__
from onnxmx.trainer.named import absent

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = absent(__name__, METRICS)
