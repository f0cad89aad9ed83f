"""Value: what operators take and return while a graph is built, and how errors show its type and shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder.ops import Arg, Ops
from onnxmx.builder.source import called_at, user_line
from onnxmx.errors import GraphError

if TYPE_CHECKING:
    from onnxmx.builder.graph import GraphBuilder

Dim = int | str | None
"""One dimension of a shape: a number, the name of a symbolic dimension, or None for an unknown one."""


class Value(ir.Value):
    """A typed value in a graph under construction. Arithmetic on it adds nodes."""

    builder: GraphBuilder

    # numpy would otherwise take `array * value` apart, element by element, into an array of objects.
    __array_ufunc__ = None

    def __getattr__(self, name: str) -> NoReturn:
        from onnxmx.builder.layers import ACTIVATIONS  # which are functions of Values

        if name in ACTIVATIONS:
            raise AttributeError(f"a value of a graph has no {name!r}: write mx.layers.{name}(x)")
        if name in ("flatten", "dropout"):
            raise AttributeError(f"a value of a graph has no {name!r}: write mx.layers.{name.capitalize()}()(x)")
        method = operator_named(f"reduce_{name}", name) or 'x.builder.op("Name", x), for any operator of ONNX'
        raise AttributeError(f"a value of a graph has no {name!r}: operators are methods of its builder, {method}")

    def __add__(self, other: Arg) -> Value:
        return self.builder.add(self, other)

    def __radd__(self, other: Arg) -> Value:
        return self.builder.add(other, self)

    def __sub__(self, other: Arg) -> Value:
        return self.builder.sub(self, other)

    def __rsub__(self, other: Arg) -> Value:
        return self.builder.sub(other, self)

    def __mul__(self, other: Arg) -> Value:
        return self.builder.mul(self, other)

    def __rmul__(self, other: Arg) -> Value:
        return self.builder.mul(other, self)

    def __truediv__(self, other: Arg) -> Value:
        return self.builder.div(self, other)

    def __rtruediv__(self, other: Arg) -> Value:
        return self.builder.div(other, self)

    def __pow__(self, other: Arg) -> Value:
        return self.builder.pow(self, other)

    def __rpow__(self, other: Arg) -> Value:
        return self.builder.pow(other, self)

    def __abs__(self) -> Value:
        return self.builder.op("Abs", self)

    def __matmul__(self, other: Arg) -> Value:
        return self.builder.matmul(self, other)

    def __rmatmul__(self, other: Arg) -> Value:
        return self.builder.matmul(other, self)

    def __neg__(self) -> Value:
        return self.builder.neg(self)

    # Equality of two Values stays identity, which graphs are kept by: g.equal(x, y) compares elements.
    __hash__ = ir.Value.__hash__

    def __eq__(self, other: object) -> bool:
        """Of a number, which no Value is: `tokens != 0` would be True in silence."""
        if isinstance(other, int | float | np.ndarray | np.generic):
            raise GraphError(
                f"== and != in a graph expected no number; found {other!r} beside {describe(self)}",
                at=user_line(),
                mend='Write x.builder.equal(x, number), and x.builder.op("Not", ...) of it for !=.',
            )
        return self is other

    def __gt__(self, other: Arg) -> Value:
        return self.builder.greater(self, other)

    def __lt__(self, other: Arg) -> Value:
        return self.builder.less(self, other)

    def __ge__(self, other: Arg) -> Value:
        return self.builder.op("GreaterOrEqual", self, other)

    def __le__(self, other: Arg) -> Value:
        return self.builder.op("LessOrEqual", self, other)

    def __bool__(self) -> bool:
        """Of what is computed later nothing can be told now: `if x > 0` and `0 < x < 1` would be wrong in silence."""
        if self.dtype == ir.DataType.BOOL:
            raise GraphError(
                f"a comparison in a graph expected to be used as a value; found its truth asked for ({describe(self)})",
                at=user_line(),
                mend="Choose by g.where(condition, a, b), where g is x.builder.",
            )
        return True

    def __getitem__(self, key: Any) -> Value:
        from onnxmx.builder.indexing import index  # which takes Values apart itself

        return index(self, key)

    def __iter__(self) -> NoReturn:
        """Python would count x[0], x[1] ... for ever."""
        raise TypeError(
            "a value of a graph is not iterable: x[:, 0] is a part of it; a layer gives one value, LSTM(units, "
            "return_state=True) its states too"
        )


_ELSEWHERE = {
    "absolute": "abs",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "astype": "cast",
    "fabs": "abs",
    "float": "cast",
    "int": "cast",
    "long": "cast",
    "maximum": "max",
    "minimum": "min",
    "permute": "transpose",
    "power": "pow",
    "view": "reshape",
}
"""What Python, math, numpy and PyTorch call functions that are operators here."""


def operator_named(*names: str) -> str | None:
    """How the first of these operators that there is is written in a graph: `x.builder.cos(x, ...)`; None for none."""
    for name in (_ELSEWHERE.get(n, n) for n in names):
        if name == "cast":
            return 'x.builder.cast(x, "float32")'
        if hasattr(Ops, name):
            return f"x.builder.{name}(x, ...)"
        if onnx.defs.has(name.capitalize()):
            return f'x.builder.op("{name.capitalize()}", x, ...)'
    return None


def expects_numbers(error: Exception) -> str:
    """How to mend a function of the user's that raised an error over the graph values that it was given."""
    name = called_at(error)
    instead = operator_named(name) if name else None
    if instead:
        return f"It gets graph values, not numbers: write {instead} for {name}."
    return "It gets graph values, not numbers: use their operators, or x.builder.op(...)."


def agree(expected: Iterable[Any], found: Iterable[Any]) -> bool:
    """Whether two shapes are of one rank and the same wherever both have a number; names and unknown sizes fit any."""
    expected, found = tuple(expected), tuple(found)
    return len(expected) == len(found) and all(
        e == f for e, f in zip(expected, found, strict=True) if isinstance(e, int) and isinstance(f, int)
    )


def describe(value: ir.Value) -> str:
    """`float32 (batch, 784)`: type and shape for an error."""
    kind = value.dtype.numpy().name if value.dtype is not None else "?"
    return f"{kind} {show_shape(value.shape)}"


def show_shape(shape: ir.Shape | Sequence[Any] | None) -> str:
    """`(batch, 3, ?)`: a shape as an error shows it."""
    if shape is None:
        return "(unknown rank)"
    dims = [str(d) if isinstance(d, (int, str)) else str(getattr(d, "value", None) or "?") for d in shape]
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"


def dims(shape: ir.Shape) -> tuple[Dim, ...]:
    """A shape as plain numbers and names."""
    return tuple(d if isinstance(d, int) else d.value for d in shape)


def initializer(name: str, numbers: ir.TensorProtocol) -> ir.Value:
    """A value that holds these numbers, to be registered in a graph."""
    value = ir.Value(name=name, type=ir.TensorType(numbers.dtype), shape=ir.Shape(numbers.numpy().shape))
    value.const_value = ir.Tensor(numbers.numpy(), dtype=numbers.dtype, name=name)
    return value
