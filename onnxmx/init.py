"""Initializers: `from onnxmx.init import he`."""

from onnxmx.builder.init import *  # noqa: F403
from onnxmx.builder.init import __all__ as __all__
