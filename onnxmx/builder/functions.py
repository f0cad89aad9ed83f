"""The `ai.onnxmx` operators: functions defined inside the file that uses them, in standard operators.

A function is written once, in Python: positional parameters are its inputs, keyword-only ones its attributes, the
docstring its documentation.

    @function(outputs=("scale",))
    def ClipScale(g, norm, *, max_norm: float):
        '''scale = min(1, max_norm / norm)'''
        return g.min(g.div(max_norm, norm), 1.0)

    scale = ClipScale(g, norm, max_norm=1.0)

A stock ONNX Runtime inlines it before it optimizes; in a viewer it stays one named node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.graph import DOMAIN, GraphBuilder, Value, describe
from onnxmx.builder.ops import Arg
from onnxmx.builder.source import user_line
from onnxmx.errors import GraphError, ShapeError

Kind = tuple[ir.TypeProtocol | None, ir.Shape | None]

KEPT: set[tuple[str, str]] = set()
"""Functions, by domain and name, that are not put in place of their calls when a file is loaded: they have a gradient
rule of their own."""

_REF_TYPES = {
    float: ("value_float", ir.AttributeType.FLOAT),
    int: ("value_int", ir.AttributeType.INT),
}
_ANNOTATIONS: dict[Any, type[float] | type[int]] = {"float": float, "int": int, float: float, int: int}


class Function:
    """One `ai.onnxmx` operator. Call it with a builder, its inputs and its attributes to add a node.

    An attribute is a float or an int: what its annotation says, else what the first call in a graph gives.
    """

    def __init__(self, trace: Callable[..., Value | tuple[Value, ...]], outputs: tuple[str, ...]) -> None:
        parameters = list(inspect.signature(trace).parameters.values())[1:]  # the first is the builder
        self.name = trace.__name__
        self.trace = trace
        self.inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.attributes = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.outputs = outputs
        self.__doc__ = inspect.cleandoc(trace.__doc__ or "")
        self._annotated = {p.name: _ANNOTATIONS.get(p.annotation) for p in parameters}
        self._inferred: dict[tuple[Any, ...], list[Kind]] = {}

    def __call__(self, g: GraphBuilder, *inputs: Arg, **attributes: float | int) -> Any:
        """Add a node. Returns its output, or a tuple of them where it has several.

        Raises GraphError for no builder, the wrong number of inputs or other attributes, ShapeError for inputs that do
        not fit.
        """
        if not isinstance(g, GraphBuilder):
            raise GraphError(
                f"{DOMAIN}.{self.name} expected a builder in the first place; found {type(g).__name__}",
                at=user_line(),
                mend=f"Call it as {self._usage()}, where g is the builder of any value: x.builder.",
            )
        missing = any(x is None for x in inputs)  # a function has no optional inputs
        if missing or len(inputs) != len(self.inputs) or set(attributes) != set(self.attributes):
            raise GraphError(
                f"{DOMAIN}.{self.name} expected inputs {self.inputs} and attributes {self.attributes}; "
                f"found {len(inputs)} inputs{', a None among them,' if missing else ''} "
                f"and attributes {tuple(attributes)}",
                at=g.source(),
                mend=f"Call it as {self._usage()}.",
            )
        outputs = g.call(self, inputs, {name: self._number(g, name, value) for name, value in attributes.items()})
        return outputs[0] if len(outputs) == 1 else outputs

    def _usage(self) -> str:
        return f"{self.name}({', '.join(['g', *self.inputs, *(f'{a}=...' for a in self.attributes)])})"

    def _number(self, g: GraphBuilder, name: str, value: Any) -> float | int:
        """An attribute as the float or int that it is declared to be."""
        if isinstance(value, np.generic):
            value = value.item()
        wanted = self._annotated[name]
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fits or (wanted is int and not isinstance(value, int)):
            raise GraphError(
                f"{DOMAIN}.{self.name} expected {name} as {'an int' if wanted is int else 'a number'}; found {value!r}",
                at=g.source(),
                mend="An attribute is fixed when the graph is built: make what changes an input.",
            )
        return float(value) if wanted is float else value

    def define(self, g: GraphBuilder, node: ir.Node) -> None:
        """Put the definition into `g.functions`, or check that the one there is for the same types."""
        dtypes = [_dtype(v) for v in node.inputs if v is not None]
        kinds = [_REF_TYPES[type(node.attributes[a].value)][1] for a in self.attributes]
        if self.name in g.functions:
            self._check_same(g, dtypes, kinds)
            return
        body = _FunctionBuilder(self.name, g.functions)
        body.device = g.device
        inputs = [body.input(name, (), dtype) for name, dtype in zip(self.inputs, dtypes, strict=True)]
        for value in inputs:
            value.shape = None  # one definition serves every shape
        attributes = {a: body.attribute(a, node.attributes[a].value) for a in self.attributes}
        for value, name in zip(_as_tuple(self.trace(body, *inputs, **attributes)), self.outputs, strict=True):
            body.output(value, name)
        declared = [ir.Attr(a, kind, None) for a, kind in zip(self.attributes, kinds, strict=True)]
        definition = ir.Function(DOMAIN, self.name, graph=body.graph, attributes=declared)
        definition.doc_string = self.__doc__
        g.functions[self.name] = definition

    def _check_same(self, g: GraphBuilder, dtypes: list[ir.DataType], kinds: list[ir.AttributeType]) -> None:
        definition = g.functions[self.name]
        expected = [_dtype(v).name for v in definition.inputs] + [a.type.name for a in definition.attributes.values()]
        found = [d.name for d in dtypes] + [k.name for k in kinds]
        if expected != found:
            raise GraphError(
                f"{DOMAIN}.{self.name} expected {', '.join(expected)} as everywhere in this graph; "
                f"found {', '.join(found)}",
                at=g.source(),
                mend="One definition serves a whole graph: cast the inputs to its types.",
            )

    def infer(self, node: ir.Node, attributes: dict[str, Any]) -> list[Kind]:
        """Types and shapes of the outputs, found by building the function on the shapes of this node's inputs."""
        values = [v for v in node.inputs if v is not None]
        key = (*(describe(v) for v in values), *sorted(attributes.items()))
        if key not in self._inferred:
            scratch = GraphBuilder()
            inputs = [scratch.input(name, (), _dtype(v)) for name, v in zip(self.inputs, values, strict=True)]
            for value, v in zip(inputs, values, strict=True):
                value.shape = v.shape
            with scratch.scope("", what=self.name):
                results = _as_tuple(self.trace(scratch, *inputs, **attributes))
            self._inferred[key] = [(value.type, value.shape) for value in results]
        return self._inferred[key]


@checked_arguments
def function(*, outputs: Sequence[str]) -> Callable[[Callable[..., Value | tuple[Value, ...]]], Function]:
    """Make an `ai.onnxmx` operator of a Python function over a builder; `outputs` names what it returns."""
    return lambda trace: Function(trace, tuple(outputs))


class _FunctionBuilder(GraphBuilder):
    """Builds the body of a function: constants are nodes, since a function has no initializers."""

    def __init__(self, name: str, functions: dict[str, ir.Function]) -> None:
        super().__init__(name)
        self.functions = functions

    def source(self) -> str | None:
        return None  # a function is the product's own; the line that calls it is on the node

    def _new_constant(self, array: np.ndarray[Any, Any]) -> Value:
        return self.op("Constant", value=ir.Tensor(array))

    def attribute(self, name: str, value: float | int) -> Value:
        """The value that a node gives to the attribute `name`, as a scalar."""
        key, kind = _REF_TYPES[type(value)]
        out = self.op("Constant", **{key: value})
        node = out.producer()
        assert node is not None
        node.attributes[key] = ir.RefAttr(key, name, kind)
        return out


def _dtype(value: ir.Value) -> ir.DataType:
    if value.dtype is None:
        raise ShapeError(f"the element type of {value.name!r} is not known")
    return value.dtype


def _as_tuple(x: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return x if isinstance(x, tuple) else (x,)
