"""One tensor on the wire: JSON data to numpy and back, with every mistake located.

JSON has no NaN or infinity. Floating-point tensors carry them as the strings "NaN", "Infinity" and "-Infinity",
in requests and in responses: nothing is lost, the body stays valid JSON, and `numpy.array(data, "float32")`,
`float(x)` and JavaScript's `Number(x)` all read them.  Source: the proto3 JSON mapping.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from onnxmx.errors import OnnxmxError

Array = npt.NDArray[Any]

MAX_RANK = 32
"""The most dimensions of a tensor whose rank the model leaves open (numpy 1 allows no more)."""

MAX_EMPTY = 1 << 20
"""The largest product of the other dimensions of an empty tensor. No data bounds it, but a model may allocate by it."""

SPECIALS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class RequestError(OnnxmxError):
    """A request that cannot be answered.  `status` is the HTTP status; `at` is a path into the body, such as `$.id`."""

    def __init__(self, problem: str, *, at: str | None = None, status: int = 400) -> None:
        super().__init__(f"at {at}: {problem}" if at else problem)
        self.at, self.status = at, status


@dataclass(frozen=True)
class Datatype:
    """An element type: its protocol name, its numpy type, and the JSON types its elements may have."""

    name: str
    dtype: np.dtype[Any]
    json: frozenset[type]
    element: str
    """What an element is, for messages."""


def _datatypes() -> dict[str, Datatype]:
    """ONNX Runtime's type name -> Datatype, for every type that the protocol can name and JSON can hold."""
    table = {
        "tensor(bool)": Datatype("BOOL", np.dtype(np.bool_), frozenset({bool}), "true or false"),
        "tensor(string)": Datatype("BYTES", np.dtype(object), frozenset({str}), "a string"),
    }
    for bits in (8, 16, 32, 64):
        for prefix in ("int", "uint"):
            name = f"{prefix}{bits}"
            low, high = _integer_range(np.dtype(name))
            table[f"tensor({name})"] = Datatype(
                name.upper(), np.dtype(name), frozenset({int}), f"an integer from {low} to {high}"
            )
    for onnx_name, bits in (("float16", 16), ("float", 32), ("double", 64)):
        dtype = np.dtype(f"float{bits}")
        element = f'a number within ±{np.finfo(dtype).max:.7g}, "NaN", "Infinity" or "-Infinity"'
        table[f"tensor({onnx_name})"] = Datatype(f"FP{bits}", dtype, frozenset({int, float}), element)
    return table


def _integer_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


DATATYPES = _datatypes()


@dataclass(frozen=True)
class TensorSpec:
    """What a model says of one input or output.

    shape: an int for a fixed dimension, a str for a named one (equal wherever the name appears), None for any;
    None instead of the tuple when the rank is open.
    """

    name: str
    datatype: Datatype
    shape: tuple[int | str | None, ...] | None
    wire: dict[str, Any] = field(init=False, compare=False)
    """Name, datatype and shape as model metadata gives them: -1 for an open dimension, [-1] for an open rank."""

    def __post_init__(self) -> None:
        shape = [-1] if self.shape is None else [d if isinstance(d, int) else -1 for d in self.shape]
        object.__setattr__(self, "wire", {"name": self.name, "datatype": self.datatype.name, "shape": shape})


def show(value: object) -> str:
    """A value from a request as it stands in a message: JSON, at most 60 characters."""
    if isinstance(value, list | dict):
        return f"{'an array' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = orjson.dumps(value[:60] if isinstance(value, str) else value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def decode(data: object, shape: list[int], datatype: Datatype, at: str) -> Array:
    """The array that JSON `data` stands for, flat in row-major order or nested as `shape` says.

    shape: non-negative sizes.  Returns a C-contiguous array of that shape and of datatype.dtype.
    Raises RequestError for a wrong count, a ragged nest, an element of another type or out of range.
    """
    if not shape and type(data) is not list:
        data = [data]  # a scalar may stand alone
    if type(data) is not list:
        raise RequestError(f"expected an array, found {show(data)}", at=at)
    nested = bool(shape) and bool(data) and type(data[0]) is list
    flat = _flatten(data, shape, at) if nested else data
    count = prod(shape)
    if len(flat) != count:
        raise RequestError(f"expected {count} elements for shape {shape}, found {len(flat)}", at=at)
    # One pass in C tells the types of all elements; bool is not int here.
    types = set(map(type, flat))
    specials = datatype.dtype.kind == "f" and str in types
    if specials:
        flat = [SPECIALS.get(x, x) if type(x) is str else x for x in flat]
        types = set(map(type, flat))
    array = _pack(flat, datatype) if types <= datatype.json else None
    # Without "Infinity" in the data, an infinity is a number too large for the type.
    overflow = array is not None and array.dtype.kind == "f" and not specials and not np.isfinite(array).all()
    if array is None or overflow or (specials and _overflowed(flat, array)):
        raise _bad_element(flat, shape if nested else None, datatype, at)
    if not count and prod(d for d in shape if d) > MAX_EMPTY:
        raise RequestError(f"expected at most {MAX_EMPTY} beside the 0 of an empty tensor, found {shape}", at=at)
    return array.reshape(shape)


def _pack(flat: list[Any], datatype: Datatype) -> Array | None:
    """A 1-D array of scalars whose JSON types were checked; None when an integer is out of range."""
    dtype, count = datatype.dtype, len(flat)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # the caller looks for infinities
            return np.fromiter(flat, dtype, count)
    if dtype.kind not in "iu":
        return np.fromiter(flat, dtype, count)
    # numpy 1 wraps integers around where numpy 2 raises, so narrow types go by way of int64 and are compared there.
    wide = np.dtype(np.uint64 if dtype == np.uint64 else np.int64)
    if wide.kind == "u" and flat and min(flat) < 0:
        return None
    try:
        array = np.fromiter(flat, wide, count)
    except OverflowError:
        return None
    low, high = _integer_range(dtype)
    if wide != dtype and count and (int(array.min()) < low or int(array.max()) > high):
        return None
    return array.astype(dtype, copy=False)


def _overflowed(flat: list[Any], array: Array) -> bool:
    """Whether a finite number became infinite in the tensor's type."""
    return bool((np.isinf(array) & np.isfinite(np.fromiter(flat, np.float64, len(flat)))).any())


def _flatten(data: list[Any], shape: list[int], at: str) -> list[Any]:
    """The scalars of a nested list, in row-major order; each level is checked as a whole, in C."""
    level: list[Any] = [data]
    for depth, size in enumerate(shape):
        if set(map(type, level)) - {list} or set(map(len, level)) - {size}:
            index, row = next((i, r) for i, r in enumerate(level) if type(r) is not list or len(r) != size)
            found = f"{len(row)} elements" if type(row) is list else show(row)
            raise RequestError(
                f"expected an array of {size} for shape {shape}, found {found}", at=_locate(at, index, shape[:depth])
            )
        level = list(chain.from_iterable(level))
    return level


def _bad_element(flat: list[Any], shape: list[int] | None, datatype: Datatype, at: str) -> RequestError:
    """The error for the first element that does not fit; `shape` is None for flat data."""
    index = next(i for i, x in enumerate(flat) if not _fits(x, datatype))
    found = show(flat[index])
    return RequestError(
        f"expected {datatype.element} ({datatype.name}), found {found}",
        at=_locate(at, index, [len(flat)] if shape is None else shape),
    )


def _fits(value: Any, datatype: Datatype) -> bool:
    if type(value) not in datatype.json:
        return False
    array = _pack([value], datatype)
    return array is not None and not (array.dtype.kind == "f" and _overflowed([value], array))


def _locate(at: str, index: int, shape: Iterable[int]) -> str:
    """The path of the element at row-major `index` within `shape`."""
    steps: list[str] = []
    for size in reversed(list(shape)):
        index, step = divmod(index, size)
        steps.append(f"[{step}]")
    return at + "".join(reversed(steps))


def encode(array: Array) -> Any:
    """An output's elements, flat in row-major order, in a form that orjson writes in the tensor's own precision.

    orjson refuses arrays that are not contiguous, and turns NaN and infinities into null without a word.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        # Elements stay numpy scalars, so that float32 keeps its own shortest form.
        return [x if np.isfinite(x) else _special(float(x)) for x in flat]
    return flat.tolist() if flat.dtype == object else flat


def _special(x: float) -> str:
    return "NaN" if x != x else "Infinity" if x > 0 else "-Infinity"
