"""Sums of many batches, by name, in one array."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Sums(dict[str, Array]):
    """Arrays by name that are parts of one, `flat`: adding all of them to others is a single operation.

    shapes: of each array, by name.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], dtype: str = "float64") -> None:
        sizes = [math.prod(shape) for shape in shapes.values()]
        self.flat = np.zeros(sum(sizes), dtype)
        parts = np.split(self.flat, np.cumsum(sizes)[:-1]) if sizes else []
        super().__init__((name, part.reshape(shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True))
