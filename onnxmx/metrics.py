"""Metrics: `from onnxmx.metrics import Accuracy`."""

from onnxmx.trainer.metrics import *  # noqa: F403
from onnxmx.trainer.metrics import __all__ as __all__
