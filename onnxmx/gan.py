"""Generative adversarial networks: `from onnxmx.gan import fit_gan`."""

from onnxmx.trainer.gan import *  # noqa: F403
from onnxmx.trainer.gan import __all__ as __all__
