"""Layers: `from onnxmx.layers import Dense`."""

from typing import TYPE_CHECKING

from onnxmx.builder.layers import *  # noqa: F403
from onnxmx.builder.layers import __all__ as __all__

if not TYPE_CHECKING:
    from onnxmx.builder.layers import __getattr__ as __getattr__
