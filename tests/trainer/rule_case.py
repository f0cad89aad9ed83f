"""One row of the table of gradient rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

Shape = tuple[int, ...]


@dataclass(eq=False)
class Case:
    """One row: an operator, its input shapes and what it is built with.

    low: the smallest input.   avoid: a kink that inputs keep 0.05 away from.   distinct: no two inputs are near.
    step: where onnx.reference is wrong, the step of finite differences on ONNX Runtime instead.
    runtime: whether ONNX Runtime has the operator in this form.
    make: how to build it where inputs and attributes alone do not say.
    """

    operator: str
    shapes: tuple[Shape, ...] = ((3, 4),)
    attributes: dict[str, Any] = field(default_factory=dict)
    make: Callable[..., Any] | None = None
    low: float | None = None
    avoid: float | None = None
    distinct: bool = False
    label: str = ""
    step: float | None = None
    runtime: bool = True

    def arrays(self) -> list[np.ndarray[Any, Any]]:
        random = np.random.default_rng(len(self.operator))
        arrays = [random.normal(size=s) for s in self.shapes]
        if self.distinct:  # a shuffled ladder: the nearest two are 0.1 apart
            arrays = [0.1 * random.permutation(a.size).reshape(a.shape).astype(np.float64) - 1.0 for a in arrays]
        if self.low is not None:
            arrays = [self.low + np.abs(a) for a in arrays]
        if self.avoid is not None:
            arrays = [np.where(np.abs(a - self.avoid) < 0.05, self.avoid + 0.05 * (1 + np.abs(a)), a) for a in arrays]
        return arrays

    def build(self, g: Any, *xs: Any) -> Any:
        if self.make is not None:
            return self.make(g, *xs)
        return g.op(self.operator, *xs, **self.attributes)

    def __str__(self) -> str:
        return " ".join([self.operator, *map(str, self.shapes), self.label or str(self.attributes or "")]).replace(
            " ", ""
        )


def computed(g: Any, x: Any, numbers: list[int]) -> Any:
    """Integers that are not known while the graph is built."""
    zero = g.cast(g.mul(g.reduce_sum(x, keepdims=False), 0.0), ir.DataType.INT64)
    return g.add(zero, np.array(numbers, np.int64))
