"""Numbers written in Python, in a graph: which element type they take, whether it holds them, how they are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir

from onnxmx.builder.inference import InputTypes
from onnxmx.builder.ops import Arg

_LARGEST = float(np.finfo(np.float32).max)


def is_size(x: object) -> TypeGuard[int]:
    """Whether `x` is a positive integer, Python's or numpy's."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(x > 0)


def is_number(x: object) -> TypeGuard[float]:
    """Whether `x` is a real number, Python's or numpy's; True and False are none."""
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def is_finite(x: object) -> TypeGuard[float]:
    """Whether `x` is a number that float32 holds, which a graph computes in: 1e39 would be infinity there."""
    return is_number(x) and -_LARGEST <= (x if isinstance(x, int) else float(x)) <= _LARGEST


def dtype_beside(x: float, place: int, inputs: Sequence[Arg], types: InputTypes) -> ir.DataType | None:
    """The element type of the number `x` as input `place` of an operator; None for the number's own.

    types: what the operator's schema says of its inputs. The number takes the type of the first value that the
    schema binds to the same type variable, else that of the first value, where it is allowed there and holds `x`.
    """
    kinds = [(k, v.dtype) for k, v in enumerate(inputs) if isinstance(v, ir.Value) and v.dtype is not None]
    if not kinds:
        return None
    if not types:
        return kinds[0][1]
    variable, allowed = _at(types, place)
    same = [dtype for k, dtype in kinds if _at(types, k)[0] == variable]
    if same:
        return same[0]
    first = kinds[0][1]
    return first if f"tensor({first.name.lower()})" in allowed and holds(first, np.asarray(x)) else None


def holds(dtype: ir.DataType, array: np.ndarray[Any, Any]) -> bool:
    """Whether the numbers stay what they are in `dtype`; rounding to a float type is not counted as a change."""
    target = dtype.numpy()
    if target.kind == "b":
        return bool(np.all((array == 0) | (array == 1)))
    if target.kind not in "iu":
        return True
    limits = np.iinfo(target)
    return bool(np.all((array >= limits.min) & (array <= limits.max) & (array == np.trunc(array))))


def beyond(dtype: np.dtype[Any], array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which integers another integer type does not hold, bool of the array's shape; none for other types."""
    if dtype.kind not in "iu" or array.dtype.kind not in "iu" or np.can_cast(array.dtype, dtype):
        return np.zeros(array.shape, bool)
    cast = array.astype(dtype)
    found: np.ndarray[Any, Any] = (cast.astype(array.dtype) != array) | ((cast < 0) != (array < 0))
    return found


def spell(array: np.ndarray[Any, Any]) -> str:
    """A readable name for a constant: its type and, when short, its numbers."""
    if array.size <= 4:
        return f"{array.dtype.name}.{'x'.join(str(v) for v in array.ravel().tolist()) or 'empty'}"
    return str(array.dtype.name)


def _at(types: InputTypes, place: int) -> tuple[str, frozenset[str]]:
    return types[min(place, len(types) - 1)]  # the last one of a variadic operator stands for all that follow
