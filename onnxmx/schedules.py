"""Learning-rate schedules: `from onnxmx.schedules import Cosine`."""

from onnxmx.trainer.schedules import *  # noqa: F403
from onnxmx.trainer.schedules import __all__ as __all__
