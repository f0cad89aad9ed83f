"""Graphs inside a node: the branches of an If, the body of a Scan or a Loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.conditions import fixed
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import INT64

# Inference finds the shape of the output if it sees the numbers of the inputs.
_SHAPED = frozenset({"Expand", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze"})


class Body(GraphBuilder):
    """Builds a graph inside a node of `outer`, whose values and constants it may read.

    Its names are unlike those of the graphs around it. `onnxmx.builder.control` makes a node of it.
    """

    def __init__(self, outer: GraphBuilder, name: str = "body") -> None:
        super().__init__()
        # Which domains are imported is said once for the whole file.
        self.graph = ir.Graph((), (), nodes=(), name=outer._path(name), opset_imports=outer.graph.opset_imports)
        self.outer = outer
        self.functions = outer.functions
        self.device = outer.device
        self._taken = outer._taken
        self._scopes = list(outer._scopes)

    def entry(self, name: str, kind: ir.TypeProtocol | None, shape: Iterable[Any] | None) -> Value:
        """An input of the body."""
        value = self._value(self._claim(self._path(name)), kind, None if shape is None else ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def result(self, value: ir.Value) -> ir.Value:
        """Make `value` an output of the body; one that no node of the body computes passes through an Identity."""
        own = isinstance(value, Value) and value.builder is self
        if not own or value.producer() is None or value.is_graph_output():
            value = self.op("Identity", value)
        self.graph.outputs.append(value)
        return value

    def _own(self, x: ir.Value | None) -> ir.Value | None:
        return x if isinstance(x, Value) and x.builder is self else self.outer._own(x)

    def _new_constant(self, array: np.ndarray[Any, Any]) -> Value:
        return self.outer.constant(array)


def subgraphs(node: ir.Node) -> dict[str, ir.Graph]:
    """The graphs inside a node, by attribute."""
    return {name: a.as_graph() for name, a in node.attributes.items() if a.type is ir.AttributeType.GRAPH}


def captured(node: ir.Node) -> list[ir.Value]:
    """The values of the graphs around that those inside a node read, each once, in the order of their first use."""
    found: dict[ir.Value, None] = {}
    for graph in subgraphs(node).values():
        inside = {*graph.inputs, *graph.initializers.values(), *(y for n in graph for y in n.outputs)}
        used = [x for n in graph for x in reads(n)]
        found |= dict.fromkeys(x for x in (*used, *graph.outputs) if x is not None and x not in inside)
    return list(found)


def reads(node: ir.Node) -> list[ir.Value | None]:
    """All that a node reads: its inputs, and after them what the graphs inside it capture."""
    return [*node.inputs, *captured(node)]


def copy_graph(b: GraphBuilder, graph: ir.Graph, known: MutableMapping[ir.Value, ir.Value]) -> list[ir.Value]:
    """Copy the nodes of a graph into `b` and return what became of its outputs.

    known: what stands for its inputs, and for values around it that are not to be themselves; copies are added to it.
    """
    for value in graph.initializers.values():
        if value not in known and value.const_value is not None:
            known[value] = b.constant(value.const_value.numpy())
    for node in graph:
        known.update(zip(node.outputs, copy_node(b, node, known), strict=True))
    return [known.get(v, v) for v in graph.outputs]


def copy_node(b: GraphBuilder, node: ir.Node, known: Mapping[ir.Value, ir.Value]) -> tuple[ir.Value, ...]:
    """Copy one node of a graph that is built already; a value that is not in `known` stands for itself."""
    inputs = [None if x is None else known.get(x, x) for x in node.inputs]
    if (tensor := constant_tensor(node)) is not None:
        return (b.constant(tensor.numpy()),)
    if (function := node.meta.get("function")) is not None:
        return b.call(function, inputs, {name: a.value for name, a in node.attributes.items()})
    if node.domain not in ("", "ai.onnx"):  # a call of a function of the model
        return tuple(b.again(node, inputs).outputs)
    return b.copy(node, with_numbers(b, node, inputs), known)


def with_numbers(b: GraphBuilder, node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """The inputs of a node; those that say the shape of its output as constants, where they are always the same."""

    def number(x: ir.Value | None) -> ir.Value | None:
        computed = x is not None and x.producer() is not None and x.dtype == INT64
        numbers = fixed(x) if computed and x is not None else None
        return x if numbers is None else b.constant(numbers)

    return [number(x) for x in inputs] if node.op_type in _SHAPED else list(inputs)


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The numbers of a Constant node, else None."""
    constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    return ir.convenience.get_const_tensor(node.outputs[0]) if constant else None


def prune(graph: ir.Graph) -> None:
    """Remove the nodes of a graph that neither a node nor an output reads."""
    for node in reversed(graph):
        if not any(y.uses() or y.is_graph_output() for y in node.outputs):
            forget(node)


def forget(node: ir.Node) -> None:
    """Remove a node that nothing reads; what the graphs inside it read is no longer read by them."""
    for graph in subgraphs(node).values():
        graph.outputs.clear()
        for inner in reversed(graph):
            forget(inner)
    if node.graph is not None:
        node.graph.remove(node, safe=True)
