"""Datasets and the loader: `from onnxmx.data import Dataset`."""

from onnxmx.trainer.data import *  # noqa: F403
from onnxmx.trainer.data import __all__ as __all__
