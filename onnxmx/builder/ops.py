"""The one vocabulary of operators: layers, gradients, losses, optimizers and schedules all speak it.

Each method adds one `ai.onnx` node and returns its typed output. A Python number beside a value takes the value's
element type. What an operator means is said once, in the ONNX specification; only what differs is said here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import checked_methods
from onnxmx.builder.source import user_line
from onnxmx.errors import UsageError

if TYPE_CHECKING:
    from onnxmx.builder.graph import Value

Arg = ir.Value | float | int | bool | np.ndarray[Any, Any] | np.generic | None
"""What an operator accepts: a value, a number, an array, or None for an optional input left out."""

FLOAT, INT64, INT32, UINT32, BOOL = (
    ir.DataType.FLOAT,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.UINT32,
    ir.DataType.BOOL,
)


@checked_methods
class Ops:
    """The vocabulary. A subclass says what adding a node means by defining `op`, `ops` and `constant`."""

    def op(self, op_type: str, *inputs: Arg, **attributes: Any) -> Value:
        """Add a node with one output."""
        raise NotImplementedError  # pragma: no cover - GraphBuilder defines it

    def ops(self, op_type: str, *inputs: Arg, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        """Add a node with several outputs."""
        raise NotImplementedError  # pragma: no cover - GraphBuilder defines it

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> Value:
        """A constant; equal constants are one value."""
        raise NotImplementedError  # pragma: no cover - GraphBuilder defines it

    # --- arithmetic, with numpy's broadcasting
    def add(self, a: Arg, b: Arg) -> Value:
        return self.op("Add", a, b)

    def sub(self, a: Arg, b: Arg) -> Value:
        return self.op("Sub", a, b)

    def mul(self, a: Arg, b: Arg) -> Value:
        return self.op("Mul", a, b)

    def div(self, a: Arg, b: Arg) -> Value:
        return self.op("Div", a, b)

    def pow(self, a: Arg, b: Arg) -> Value:
        return self.op("Pow", a, b)

    def neg(self, x: Arg) -> Value:
        return self.op("Neg", x)

    def sqrt(self, x: Arg) -> Value:
        return self.op("Sqrt", x)

    def exp(self, x: Arg) -> Value:
        return self.op("Exp", x)

    def log(self, x: Arg) -> Value:
        return self.op("Log", x)

    def sin(self, x: Arg) -> Value:
        return self.op("Sin", x)

    def cos(self, x: Arg) -> Value:
        return self.op("Cos", x)

    def sign(self, x: Arg) -> Value:
        return self.op("Sign", x)

    def sum(self, *xs: Arg) -> Value:
        """The sum of any number of values."""
        return self.op("Sum", *xs) if len(xs) > 2 else self.op("Add", *xs) if len(xs) == 2 else self._only(xs)

    def min(self, *xs: Arg) -> Value:
        return self.op("Min", *xs)

    def max(self, *xs: Arg) -> Value:
        return self.op("Max", *xs)

    # --- comparison and logic
    def equal(self, a: Arg, b: Arg) -> Value:
        return self.op("Equal", a, b)

    def greater(self, a: Arg, b: Arg) -> Value:
        return self.op("Greater", a, b)

    def less(self, a: Arg, b: Arg) -> Value:
        return self.op("Less", a, b)

    def where(self, condition: Arg, a: Arg, b: Arg) -> Value:
        return self.op("Where", condition, a, b)

    def cast(self, x: Arg, to: ir.DataType | str | type | np.dtype[Any]) -> Value:
        """x in another element type, which numpy's names name too: "float32", "int64", "bool"."""
        return self.op("Cast", x, to=int(to if isinstance(to, int) else _element_type(to)))

    def cast_like(self, x: Arg, like: ir.Value) -> Value:
        """`x` in the element type of `like`, which must be known."""
        assert like.dtype is not None
        return self.cast(x, like.dtype)

    # --- linear algebra
    def matmul(self, a: Arg, b: Arg) -> Value:
        return self.op("MatMul", a, b)

    def gemm(self, a: Arg, b: Arg, c: Arg = None, **attributes: Any) -> Value:
        return self.op("Gemm", a, b, c, **attributes)

    def conv(self, x: Arg, w: Arg, b: Arg = None, **attributes: Any) -> Value:
        return self.op("Conv", x, w, b, **attributes)

    # --- reductions; axes None means all
    def reduce_sum(self, x: Arg, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> Value:
        return self.op("ReduceSum", x, self._axes(axes), keepdims=int(keepdims))

    def reduce_mean(self, x: Arg, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> Value:
        return self.op("ReduceMean", x, self._axes(axes), keepdims=int(keepdims))

    def reduce_max(self, x: Arg, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> Value:
        return self.op("ReduceMax", x, self._axes(axes), keepdims=int(keepdims))

    def reduce_prod(self, x: Arg, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> Value:
        return self.op("ReduceProd", x, self._axes(axes), keepdims=int(keepdims))

    def reduce_sum_square(self, x: Arg, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> Value:
        return self.op("ReduceSumSquare", x, self._axes(axes), keepdims=int(keepdims))

    # --- shape and movement
    def reshape(self, x: Arg, dims: Sequence[int] | ir.Value) -> Value:
        """`dims` may hold one -1 (the rest) and zeros (copy that dimension)."""
        return self.op("Reshape", x, self._dims(dims))

    def reshape_like(self, x: Arg, like: ir.Value) -> Value:
        """`x` in the shape of `like`, of which it has as many elements."""
        # Reshape takes a 0 for "copy this size", unless it is told that it is one.
        empty = like.shape is not None and 0 in list(like.shape)
        out = self.op("Reshape", x, self.shape_of(like, rest=True), allowzero=1 if empty else None)
        if like.shape is not None:
            out.shape = ir.Shape(like.shape)
        return out

    def expand_like(self, x: Arg, like: ir.Value) -> Value:
        """`x` broadcast to the shape of `like`."""
        if like.shape is not None and 0 in list(like.shape) and isinstance(x, ir.Value) and x.dtype is not None:
            # ONNX Runtime 1.31 takes an Expand from 1 to 0 for one that leaves the 1.
            nothing = ir.Tensor(np.zeros(1, x.dtype.numpy()))
            return self.op("ConstantOfShape", self.shape_of(like), value=nothing)
        out = self.op("Expand", x, self.shape_of(like))
        if like.shape is not None:
            out.shape = ir.Shape(like.shape)
        return out

    def expand(self, x: Arg, shape: Sequence[int] | ir.Value) -> Value:
        return self.op("Expand", x, self._dims(shape))

    def transpose(self, x: Arg, perm: Sequence[int]) -> Value:
        return self.op("Transpose", x, perm=list(perm))

    def squeeze(self, x: Arg, axes: Sequence[int]) -> Value:
        return self.op("Squeeze", x, self._dims(axes))

    def unsqueeze(self, x: Arg, axes: Sequence[int]) -> Value:
        return self.op("Unsqueeze", x, self._dims(axes))

    def concat(self, xs: Sequence[Arg], axis: int) -> Value:
        return self.op("Concat", *xs, axis=axis)

    def slice(
        self,
        x: Arg,
        starts: Sequence[int],
        ends: Sequence[int],
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> Value:
        return self.op("Slice", x, self._dims(starts), self._dims(ends), self._dims(axes), self._axes(steps))

    def pad(self, x: Arg, pads: Sequence[int]) -> Value:
        """Pad with zeros; `pads` as in ONNX: all starts, then all ends."""
        return self.op("Pad", x, self._dims(pads))

    def gather(self, x: Arg, indices: Arg, axis: int = 0) -> Value:
        return self.op("Gather", x, indices, axis=axis)

    def range(self, start: Arg, limit: Arg, delta: Arg) -> Value:
        return self.op("Range", start, limit, delta)

    # --- what a shape is worth, as a value
    def shape_of(self, x: ir.Value, *, rest: bool = False) -> Value:
        """The int64 shape of `x`: a constant where it is known, else a Shape node.

        rest: a single unknown dimension may be written as -1, as Reshape understands it.
        """
        dims = list(x.shape) if x.shape is not None else None
        if dims is not None:
            unknown = [k for k, d in enumerate(dims) if not isinstance(d, int)]
            if not unknown or (rest and len(unknown) == 1 and 0 not in dims):
                return self._dims([d if isinstance(d, int) else -1 for d in dims])
        return self.op("Shape", x)

    def count(self, x: ir.Value, axes: Sequence[int]) -> Value:
        """How many elements `x` has along `axes`, as a scalar of its own element type."""
        assert x.shape is not None
        dims = [x.shape[a] for a in axes]
        if all(isinstance(d, int) for d in dims):
            return self.constant(math.prod(d for d in dims if isinstance(d, int)), x.dtype)
        sizes = self.gather(self.op("Shape", x), np.array(axes, np.int64))
        return self.cast_like(self.reduce_prod(sizes, keepdims=False), x)

    def _axes(self, axes: Sequence[int] | None) -> Value | None:
        return None if axes is None else self._dims(axes)

    def _dims(self, dims: Sequence[int] | ir.Value) -> Value:
        if isinstance(dims, ir.Value):
            return dims  # type: ignore[return-value]  # a builder's values are Values
        return self.constant(np.array(dims, np.int64))

    def _only(self, xs: tuple[Arg, ...]) -> Value:
        return xs[0]  # type: ignore[return-value]  # the sum of one value is that value


def _element_type(name: str | type | np.dtype[Any]) -> ir.DataType:
    """Of a whole name: what "float" means numpy and ONNX do not agree on."""
    try:
        if name is not float and (not isinstance(name, str) or np.dtype(name).name == name):
            return ir.DataType.from_numpy(np.dtype(name))
    except TypeError:
        pass
    raise UsageError(
        f"cast expected an element type; found {name!r}", at=user_line(), mend='For example "float32" or "int64".'
    )
