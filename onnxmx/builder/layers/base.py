"""What a layer is: typed fields, and `forward`, the maths over graph values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.source import user_line
from onnxmx.errors import ShapeError

if TYPE_CHECKING:
    from onnxmx.builder.model import InputSpec, Model


@dataclass(frozen=True)
class Layer:
    """A part of a model. Calling it on graph values adds its nodes; calling it again shares its parameters.

    A layer of one's own is a dataclass with a `forward`:

        @dataclass(frozen=True)
        class Scale(L.Layer):
            def forward(self, x):
                return x * x.builder.parameter("scale", (1,), init.ones())

    name: what its parameters and nodes are named after; by default its place in the container, or its type.
    """

    name: str | None = field(default=None, kw_only=True)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        layer = super().__new__(cls)
        # Kept aside from the fields: where it was written is not part of what it is.
        object.__setattr__(layer, "_source", user_line())
        return layer

    def forward(self, *xs: Value) -> Value:
        raise NotImplementedError(f"{type(self).__name__} needs a forward(self, x)")

    def __call__(self, *xs: Value) -> Value:
        """Add this layer to the graph that `xs` belong to."""
        return self._call(self.name or type(self).__name__.lower(), *xs)

    def _call(self, name: str, *xs: Value) -> Value:
        kind = type(self).__name__
        own = type(self).__module__.startswith("onnxmx.builder.")
        # In a layer of the user's own the line inside its forward says more than the line that made the layer.
        source = self._source if own else None
        with xs[0].builder.layer_scope(self, name, source=source, kind=kind):
            return self.forward(*xs)

    def build(self, *, seed: int = 0, **inputs: InputSpec) -> Model:
        """This layer as a whole model. See `onnxmx.build`."""
        from onnxmx.builder.model import build

        return build(self, seed=seed, **inputs)

    _source: ClassVar[str | None] = None

    # --- what a forward checks
    def _expect_rank(self, x: ir.Value, rank: int, layout: str) -> None:
        if x.shape is not None and len(x.shape) != rank:
            raise self._misfit(x, f"an input of rank {rank} {layout}", "Check the layer before it.")

    def _static_dim(self, x: ir.Value, axis: int, what: str, mend: str) -> int:
        """The size of `x` along `axis`, which must be a number."""
        dim = x.shape[axis] if x.shape is not None and len(x.shape) >= abs(axis) else None
        if not isinstance(dim, int):
            raise self._misfit(x, f"{what} that is known", mend)
        return dim

    def _misfit(self, x: ir.Value, expected: str, mend: str) -> ShapeError:
        g: GraphBuilder = x.builder  # type: ignore[attr-defined]  # layers only meet Values
        return ShapeError(f"{g.what()} expected {expected}; found {describe(x)}", at=g.source(), mend=mend)
