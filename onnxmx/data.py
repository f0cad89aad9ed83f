"""Datasets and the loader: `from onnxmx.data import Dataset`."""

from typing import TYPE_CHECKING

from onnxmx.builder.elsewhere import DATA, without
from onnxmx.trainer.data import *  # noqa: F403
from onnxmx.trainer.data import __all__ as __all__

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = without(__name__, DATA, __all__)
