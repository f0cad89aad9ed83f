"""Scan: the same few nodes for every step of a sequence, as one ONNX `Scan` node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GraphError

Values = Sequence[ir.Value]
Body = Callable[[GraphBuilder, Values, Values], tuple[Values, Values]]


def scan(
    g: GraphBuilder, body: Body, state: Values, sequences: Values, *, reverse: bool = False
) -> tuple[list[Value], list[Value]]:
    """Run `body` for each step, and return the last state and the outputs of all steps.

        (total,), (sums,) = scan(g, lambda b, s, x: ([b.add(s[0], x[0])],) * 2, [zero], [xs])

    body(b, state, elements) -> (next state, outputs): adds the nodes of one step to the builder `b`. It may read
    values of `g` as well; what it adds itself stays inside.
    state: what the first step starts from; the next state has the same shapes.
    sequences: (steps, ...) each; a step gets one element (...) of each.   outputs: (steps, ...) each.
    reverse: start with the last step; an output still stands at the place of the elements that it was made from.
    """
    inner = _BodyBuilder(g)
    before = [inner.entry("state", v.type, v.shape) for v in state]
    elements = [inner.entry("element", v.type, None if v.shape is None else v.shape[1:]) for v in sequences]
    after, outputs = body(inner, before, elements)
    if len(after) != len(state) or not sequences:
        raise GraphError(
            f"the body of a scan expected to return {len(state)} states for a sequence; "
            f"found {len(after)} for {len(sequences)} sequences",
            at=g.source(),
        )
    results = [inner.result(v) for v in (*after, *outputs)]
    length = sequences[0].shape[0] if sequences[0].shape is not None else None
    node = g._node(
        "",
        "Scan",
        (*state, *sequences),
        len(results),
        {
            "body": inner.graph,
            "num_scan_inputs": len(sequences),
            "scan_input_directions": [1] * len(sequences) if reverse else None,
            "scan_output_directions": [1] * len(outputs) if reverse and outputs else None,
        },
    )
    for k, (out, v) in enumerate(zip(node.outputs, results, strict=True)):
        out.type = v.type
        if k < len(state):
            out.shape = state[k].shape
        elif v.shape is not None:
            out.shape = ir.Shape([length, *v.shape])
    g.graph.append(node)
    made: list[Any] = list(node.outputs)
    return made[: len(state)], made[len(state) :]


class _BodyBuilder(GraphBuilder):
    """Builds the body. Its names are unlike those of the graph around it, whose values and constants it may read."""

    def __init__(self, outer: GraphBuilder) -> None:
        super().__init__(outer._path("body"))
        self.outer = outer
        self.functions = outer.functions
        self._taken = outer._taken
        self._scopes = list(outer._scopes)

    def entry(self, name: str, kind: ir.TypeProtocol | None, shape: Any) -> Value:
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
