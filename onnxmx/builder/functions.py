"""The `ai.onnxmx` operators: functions defined inside the file that uses them, in standard operators.

A function is written once, in Python: positional parameters are its inputs, keyword-only ones its attributes, the
docstring its documentation.

    @function(outputs=("scale",))
    def ClipScale(g, norm, *, max_norm):
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

from onnxmx.builder.graph import DOMAIN, OPSET, GraphBuilder, Value, describe
from onnxmx.builder.ops import Arg
from onnxmx.errors import GraphError

Kind = tuple[ir.TypeProtocol | None, ir.Shape | None]

_REF_TYPES = {
    float: ("value_float", ir.AttributeType.FLOAT),
    int: ("value_int", ir.AttributeType.INT),
}


class Function:
    """One `ai.onnxmx` operator. Call it with a builder, its inputs and its attributes to add a node."""

    def __init__(self, trace: Callable[..., Value | tuple[Value, ...]], outputs: tuple[str, ...]) -> None:
        parameters = list(inspect.signature(trace).parameters.values())[1:]  # the first is the builder
        self.name = trace.__name__
        self.trace = trace
        self.inputs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        self.attributes = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.outputs = outputs
        self.__doc__ = inspect.cleandoc(trace.__doc__ or "")
        self._inferred: dict[tuple[Any, ...], list[Kind]] = {}

    def __call__(self, g: GraphBuilder, *inputs: Arg, **attributes: float | int) -> Any:
        """Add a node. Returns its output, or a tuple of them where it has several."""
        if len(inputs) != len(self.inputs) or set(attributes) != set(self.attributes):
            raise GraphError(
                f"{DOMAIN}.{self.name} expected inputs {self.inputs} and attributes {self.attributes}; "
                f"found {len(inputs)} inputs and attributes {tuple(attributes)}"
            )
        outputs = g.call(self, inputs, attributes)
        return outputs[0] if len(outputs) == 1 else outputs

    def define(self, g: GraphBuilder, node: ir.Node) -> None:
        """Put the definition into `g.functions`, or check that the one there is for the same element types."""
        dtypes = [v.dtype for v in node.inputs if v is not None]
        if self.name in g.functions:
            expected = [v.dtype for v in g.functions[self.name].inputs]
            if expected != dtypes:
                raise GraphError(f"{DOMAIN}.{self.name} is defined for {expected} in this graph; found {dtypes}")
            return
        body = _FunctionBuilder(self.name, g.functions)
        inputs = [body.input(name, (), dtype) for name, dtype in zip(self.inputs, dtypes, strict=True) if dtype]
        for value in inputs:
            value.shape = None  # one definition serves every shape
        attributes = {a: body.attribute(a, node.attributes[a].value) for a in self.attributes}
        for value, name in zip(_as_tuple(self.trace(body, *inputs, **attributes)), self.outputs, strict=True):
            body.output(value, name)
        g.functions[self.name] = ir.Function(
            DOMAIN,
            self.name,
            graph=body.graph,
            attributes=[ir.Attr(a, _attribute_type(node.attributes[a].value), None) for a in self.attributes],
        )
        g.functions[self.name].doc_string = self.__doc__

    def infer(self, node: ir.Node, attributes: dict[str, Any]) -> list[Kind]:
        """Types and shapes of the outputs, found by building the function on the shapes of this node's inputs."""
        values = [v for v in node.inputs if v is not None]
        key = (*(describe(v) for v in values), *sorted(attributes.items()))
        if key not in self._inferred:
            scratch = GraphBuilder()
            inputs = [
                scratch.input(name, list(v.shape) if v.shape is not None else [], v.dtype or ir.DataType.FLOAT)
                for name, v in zip(self.inputs, values, strict=True)
            ]
            for value, v in zip(inputs, values, strict=True):
                value.shape = v.shape
            results = _as_tuple(self.trace(scratch, *inputs, **attributes))
            self._inferred[key] = [(value.type, value.shape) for value in results]
        return self._inferred[key]


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


def _attribute_type(value: float | int) -> ir.AttributeType:
    return _REF_TYPES[type(value)][1]


def _as_tuple(x: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return x if isinstance(x, tuple) else (x,)
