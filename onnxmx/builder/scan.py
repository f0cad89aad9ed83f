"""Scan: the same few nodes for every step of a sequence, as one ONNX `Scan` node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxmx.builder.body import Body
from onnxmx.builder.control import Track, add_scan
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import GraphError

Values = Sequence[ir.Value]
Step = Callable[[GraphBuilder, Values, Values], tuple[Values, Values]]


def scan(
    g: GraphBuilder, step: Step, state: Values, sequences: Values, *, reverse: bool = False
) -> tuple[list[Value], list[Value]]:
    """Run `step` for each step, and return the last state and the outputs of all steps.

        (total,), (sums,) = scan(g, lambda b, s, x: ([b.add(s[0], x[0])],) * 2, [zero], [xs])

    step(b, state, elements) -> (next state, outputs): adds the nodes of one step to the builder `b`. It may read
    values of `g` as well; what it adds itself stays inside.
    state: what the first step starts from; the next state has the same shapes.
    sequences: (steps, ...) each; a step gets one element (...) of each.   outputs: (steps, ...) each.
    reverse: start with the last step; an output still stands at the place of the elements that it was made from.
    Raises GraphError where `step` returns another number of states, or there is no sequence.
    """
    body = Body(g)
    before = [body.entry("state", v.type, v.shape) for v in state]
    elements = [body.entry("element", v.type, None if v.shape is None else v.shape[1:]) for v in sequences]
    after, outputs = step(body, before, elements)
    if len(after) != len(state) or not sequences:
        raise GraphError(
            f"the body of a scan expected to return {len(state)} states for a sequence; "
            f"found {len(after)} for {len(sequences)} sequences",
            at=g.source(),
        )
    for v in (*after, *outputs):
        body.result(v)
    track = Track(reverse=reverse)
    made = list(add_scan(g, body, state, [(v, track) for v in sequences], [track] * len(outputs)))
    return made[: len(state)], made[len(state) :]
