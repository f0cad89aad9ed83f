"""Small arrays by name that lie in one, so that all of them are read, or added to others, at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Packed(dict[str, Array]):
    """Arrays by name that are parts of one: what changes in `flat`, of shape (n,), changes in them.

    shapes: of each array, by name, () for a single number.   dtype: of all of them.   They begin as zeros.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], dtype: str = "float64") -> None:
        sizes = [math.prod(shape) for shape in shapes.values()]
        self.flat = np.zeros(sum(sizes), dtype)
        parts = np.split(self.flat, np.cumsum(sizes)[:-1]) if sizes else []
        super().__init__((name, part.reshape(shape)) for (name, shape), part in zip(shapes.items(), parts, strict=True))
