"""Gradient clipping, inside the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import UsageError


@function(outputs=("scale",))
def ClipScale(g: GraphBuilder, norm: ir.Value, *, max_norm: ir.Value) -> Value:
    """scale = max_norm / max(norm, max_norm), by which all gradients are multiplied; 1 where norm <= max_norm.

    norm, scale: float32 scalars.   Source: Pascanu et al. 2013, alg. 1.
    """
    return g.div(max_norm, g.max(norm, max_norm))


@dataclass(frozen=True)
class ClipGlobalNorm:
    """Scale all gradients together so that their common L2 norm is at most `max_norm`."""

    max_norm: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_norm) and self.max_norm > 0):
            raise UsageError(f"clip_global_norm expected a finite number above 0; found {self.max_norm}")

    def __call__(self, g: GraphBuilder, gradients: Sequence[ir.Value], norm: ir.Value) -> list[ir.Value]:
        """norm: the float32 scalar `global_norm(g, gradients)`."""
        scale = ClipScale(g, norm, max_norm=float(self.max_norm))
        return [g.mul(dp, scale) for dp in gradients]


clip_global_norm = ClipGlobalNorm


def global_norm(g: GraphBuilder, gradients: Sequence[ir.Value]) -> Value:
    """The L2 norm over all elements of all gradients, a float32 scalar."""
    return g.sqrt(g.sum(*(g.reduce_sum_square(dp, keepdims=False) for dp in gradients)))
