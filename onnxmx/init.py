"""Initializers: `from onnxmx.init import he`."""

from typing import TYPE_CHECKING

from onnxmx.builder.elsewhere import INIT, without
from onnxmx.builder.init import *  # noqa: F403
from onnxmx.builder.init import __all__ as __all__

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = without(__name__, INIT, __all__)
