"""Layers: `from onnxmx.layers import Dense`."""

from onnxmx.builder.layers import *  # noqa: F403
from onnxmx.builder.layers import __all__ as __all__
from onnxmx.builder.layers import __getattr__ as __getattr__
