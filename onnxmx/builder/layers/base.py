"""What a layer is: typed fields, and `forward`, the maths over graph values."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments, checked_arguments
from onnxmx.builder.elsewhere import LAYER, KnowsOthers
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.literals import is_size
from onnxmx.builder.source import line_of, user_line
from onnxmx.errors import GraphError, ShapeError, UsageError

if TYPE_CHECKING:
    from onnxmx.builder.model import InputSpec, Model

_Part = TypeVar("_Part", bound="Layer")


@dataclass(frozen=True)
class Layer(KnowsOthers, CheckedArguments):
    """A part of a model. Calling it on graph values adds its nodes; calling it again shares its parameters.

    A layer of one's own is a dataclass with a `forward`:

        @dataclass(frozen=True)
        class Scale(L.Layer):
            def forward(self, x):
                return x * x.builder.parameter("scale", (1,), init.ones())

    name: what its parameters and nodes are named after; by default its place in the container, or its type.
    checkpoint: training keeps what this layer reads, and computes what is inside again in the backward pass: less
    memory for more time. Layers inside that have it are regions of their own.   Source: Chen et al. 2016.
    """

    name: str | None = field(default=None, kw_only=True)
    checkpoint: bool = field(default=False, kw_only=True)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        layer = super().__new__(cls)
        # Kept aside from the fields: where it was written is not part of what it is.
        object.__setattr__(layer, "_source", user_line())
        return layer

    def forward(self, *args: Any, **kwargs: Any) -> Value:
        """The maths: takes graph values, returns one."""
        raise GraphError(
            f"{type(self).__name__} expected a method forward(self, x); found none",
            at=self._source,
            mend="Write one that returns a graph value.",
        )

    def __call__(self, *xs: Value, **named: Value | None) -> Value:
        """Add this layer to the graph that `xs` belong to. named: inputs of its forward by name, such as a mask."""
        return self._call(self.name or type(self).__name__.lower(), *xs, **named)

    def _call(self, name: str, /, *xs: Value, **named: Value | None) -> Value:
        kind = type(self).__name__
        self._check_arguments(xs, named)
        own = type(self).forward.__module__.startswith("onnxmx.builder.")
        # In a layer of the user's own the line inside its forward says more than the line that made the layer.
        source = self._source if own else None
        g = xs[0].builder
        with (
            g.layer_scope(self, name, source=source, kind=kind, given=self.name is not None) as path,
            g.checkpoint(g.new_region(path)) if self.checkpoint else nullcontext(),
        ):
            y = self.forward(*xs, **named)
        if y is None:
            raise GraphError(
                f"{kind} {path!r} expected its forward to return a graph value; found None",
                at=line_of(type(self).forward) or self._source,
                mend="End forward with `return y`.",
            )
        return y

    def _check_arguments(self, xs: tuple[Any, ...], named: dict[str, Any]) -> None:
        kind = type(self).__name__
        given = [*xs, *(x for x in named.values() if x is not None)]
        if wrong := [x for x in given if not isinstance(x, Value)]:
            raise UsageError(
                f"{kind} expected graph values; found {type(wrong[0]).__name__}",
                at=user_line(),
                mend="To run on arrays, build a model first: model = net.build(x=(...)); model(array).",
            )
        try:
            inspect.signature(self.forward).bind(*xs, **named)
        except TypeError as error:
            count = len(xs) + len(named)
            raise UsageError(
                f"{kind} expected the inputs of its forward{inspect.signature(self.forward)}; found {count}: {error}",
                at=user_line(),
                mend="Call it with as many values.",
            ) from None
        if not xs:
            raise UsageError(f"{kind} expected a graph value; found none", at=user_line(), mend="Call it as layer(x).")

    @checked_arguments
    def build(self, *, seed: int = 0, **inputs: InputSpec) -> Model:
        """This layer as a whole model. See `onnxmx.build`."""
        from onnxmx.builder.model import build

        return build(self, seed=seed, **inputs)

    _source: ClassVar[str | None] = None
    _others = LAYER

    # --- what a constructor checks, at the line that wrote the layer
    def _check_sizes(self, *names: str) -> None:
        """The fields must be positive integers; numpy's become Python's."""
        for name in names:
            value = getattr(self, name)
            if not is_size(value):
                raise self._wrong(name, "a positive integer", value)
            object.__setattr__(self, name, int(value))

    def _wrong(self, name: str, expected: str, found: object) -> UsageError:
        return UsageError(
            f"{type(self).__name__} expected {name} as {expected}; found {found!r}",
            at=self._source,
            mend=f"Make the layer, then call it: {type(self).__name__}(...)(x)."
            if isinstance(found, Value)
            else f"Give {name} a number of 1 or more.",
        )

    def _written_here(self, part: _Part) -> _Part:
        """A layer that this one is made of, with this one's line: an error in it shows where the user can mend it."""
        object.__setattr__(part, "_source", self._source)
        return part

    # --- what a forward checks
    def _expect_rank(self, x: ir.Value, rank: int, layout: str) -> None:
        if x.shape is not None and len(x.shape) != rank:
            sizes = ", ".join(map(str, x.shape))
            mend = "Check the layer before it."
            if x.is_graph_input() and len(x.shape) == rank - 1:
                mend = f"The first dimension of an input counts samples: build(x=('batch', {sizes}))."
            raise self._misfit(x, f"an input of rank {rank} {layout}", mend)

    def _static_dim(self, x: ir.Value, axis: int, what: str, mend: str) -> int:
        """The size of `x` along `axis`, which must be a number."""
        rank = len(x.shape) if x.shape is not None else 0
        dim = x.shape[axis] if x.shape is not None and -rank <= axis < rank else None
        if not isinstance(dim, int):
            raise self._misfit(x, f"{what} that is known", mend)
        return dim

    def _misfit(self, x: ir.Value, expected: str, mend: str) -> ShapeError:
        g: GraphBuilder = x.builder  # type: ignore[attr-defined]  # layers only meet Values
        return ShapeError(f"{g.what()} expected {expected}; found {describe(x)}", at=g.source(), mend=mend)
