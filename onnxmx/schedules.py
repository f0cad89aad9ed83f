"""Learning-rate schedules: `from onnxmx.schedules import Cosine`."""

from typing import TYPE_CHECKING

from onnxmx.trainer.named import absent
from onnxmx.trainer.schedules import *  # noqa: F403
from onnxmx.trainer.schedules import SCHEDULES
from onnxmx.trainer.schedules import __all__ as __all__

if not TYPE_CHECKING:  # a type checker finds what is missing by itself
    __getattr__ = absent(__name__, SCHEDULES)
