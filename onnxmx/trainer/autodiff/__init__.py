"""Reverse-mode differentiation of ONNX graphs.

backward.py   the sweep, which knows no operator
registry.py   @gradient, and what is said of operators that have none
rules/        one small function an operator
"""

from onnxmx.trainer.autodiff import rules
from onnxmx.trainer.autodiff.backward import gradients
from onnxmx.trainer.autodiff.registry import RULES, gradient, refuse_gradient, zero_gradient

__all__ = ["RULES", "gradient", "gradients", "refuse_gradient", "rules", "zero_gradient"]
