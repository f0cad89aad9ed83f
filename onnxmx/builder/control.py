"""Control flow: If, Scan and Loop, made of the bodies that say what happens in a branch or in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import onnx_ir as ir

from onnxmx.builder.body import Body, forget, subgraphs
from onnxmx.builder.conditions import decided
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.metadata import SOURCE
from onnxmx.builder.ops import BOOL, INT64
from onnxmx.errors import GraphError

Build = Callable[[GraphBuilder, ir.Graph, Sequence[Value]], Sequence[ir.Value]]
"""Builds the counterpart of a graph from its inputs and returns its outputs."""
Dims = list[Any] | None


class Track(NamedTuple):
    """How a Scan reads or writes a sequence: along an axis, from the first step or from the last."""

    axis: int = 0
    reverse: bool = False


def add_if(g: GraphBuilder, condition: ir.Value, then: Body, otherwise: Body) -> tuple[Value, ...]:
    """Add an If of two bodies with as many results each."""
    pairs = list(zip(then.graph.outputs, otherwise.graph.outputs, strict=True))
    branches = {"then_branch": then.graph, "else_branch": otherwise.graph}
    return _add(g, "If", [condition], branches, [(a.type or b.type, _common(a.shape, b.shape)) for a, b in pairs])


def add_scan(
    g: GraphBuilder,
    body: Body,
    states: Sequence[ir.Value],
    sequences: Sequence[tuple[ir.Value, Track]],
    outputs: Sequence[Track],
) -> tuple[Value, ...]:
    """Add a Scan. The body's inputs are the states and an element of each sequence, its results the next states and
    an element of each output."""
    (first, track), results = sequences[0], list(body.graph.outputs)
    length = None if first.shape is None else first.shape[track.axis]
    kinds: list[Any] = [(v.type, v.shape) for v in states]
    for v, where in zip(results[len(states) :], outputs, strict=True):
        shape = _dims(v.shape)
        if shape is not None:
            shape.insert(where.axis % (len(shape) + 1), length)
        kinds.append((v.type, shape))
    tracks = [t for _, t in sequences]
    attributes = {
        "body": body.graph,
        "num_scan_inputs": len(sequences),
        "scan_input_axes": _unless_zero([t.axis for t in tracks]),
        "scan_input_directions": _unless_zero([int(t.reverse) for t in tracks]),
        "scan_output_axes": _unless_zero([t.axis for t in outputs]),
        "scan_output_directions": _unless_zero([int(t.reverse) for t in outputs]),
    }
    return _add(g, "Scan", [*states, *(v for v, _ in sequences)], attributes, kinds)


def add_loop(
    g: GraphBuilder, body: Body, trips: ir.Value | None, condition: ir.Value | None, states: Sequence[ir.Value]
) -> tuple[Value, ...]:
    """Add a Loop. The body's inputs are the iteration, the condition and the states, its results the next condition,
    the next states and an element of each output."""
    entries, results = list(body.graph.inputs)[2:], list(body.graph.outputs)[1:]
    kinds: list[Any] = [(v.type, v.shape) for v in entries]
    kinds += [(v.type, None if v.shape is None else [None, *v.shape]) for v in results[len(states) :]]
    return _add(g, "Loop", [trips, condition, *states], {"body": body.graph}, kinds)


def scan_tracks(node: ir.Node) -> tuple[list[Track], list[Track]]:
    """How a Scan reads its sequences and writes its outputs."""
    count = node.attributes.get_int("num_scan_inputs", 0)
    outputs = len(node.outputs) - (len(node.inputs) - count)

    def tracks(kind: str, count: int) -> list[Track]:
        axes = node.attributes.get_ints(f"scan_{kind}_axes", ()) or (0,) * count
        directions = node.attributes.get_ints(f"scan_{kind}_directions", ()) or (0,) * count
        return [Track(axis, bool(back)) for axis, back in zip(axes, directions, strict=True)]

    return tracks("input", count), tracks("output", outputs)


def rebuild(g: GraphBuilder, node: ir.Node, inputs: Sequence[ir.Value | None], build: Build) -> tuple[ir.Value, ...]:
    """Add a node as `node` on `inputs`, with bodies that `build` makes of the graphs inside it.

    Of an If that goes the same way in every run the nodes of that branch are added to `g` itself.
    Raises GraphError for another operator than If, Scan and Loop.
    """
    graphs = subgraphs(node)
    if node.op_type == "If" and inputs[0] is not None:
        if (taken := decided(inputs[0])) is not None:
            return tuple(build(g, graphs["then_branch" if taken else "else_branch"], ()))
        then, otherwise = (_built(g, graphs[name], (), build) for name in ("then_branch", "else_branch"))
        return add_if(g, inputs[0], then, otherwise)
    if node.op_type == "Scan":
        tracks, outputs = scan_tracks(node)
        given = [v for v in inputs if v is not None]
        states = given[: len(given) - len(tracks)]
        sequences = list(zip(given[len(states) :], tracks, strict=True))
        elements = [(v.type, _without(v.shape, track.axis)) for v, track in sequences]
        body = _built(g, graphs["body"], [*((v.type, _dims(v.shape)) for v in states), *elements], build)
        return add_scan(g, body, states, sequences, outputs)
    if node.op_type == "Loop":
        states = [v for v in inputs[2:] if v is not None]
        body = _loop_body(g, graphs["body"], states, build)
        return add_loop(g, body, inputs[0], inputs[1] if len(inputs) > 1 else None, states)
    raise GraphError(
        f"expected If, Scan or Loop around a graph; found {node.op_type} in {node.name!r}",
        at=node.metadata_props.get(SOURCE),
        mend="Write the model without it.",
    )


def _loop_body(g: GraphBuilder, graph: ir.Graph, states: Sequence[ir.Value], build: Build) -> Body:
    """The body of a Loop. A state whose size changes from step to step has none that is known."""
    shapes = [_dims(v.shape) for v in states]
    while True:
        kinds: list[tuple[Any, Dims]] = [(ir.TensorType(INT64), []), (ir.TensorType(BOOL), [])]
        kinds += [(v.type, shape) for v, shape in zip(states, shapes, strict=True)]
        body = _built(g, graph, kinds, build)
        after = list(body.graph.outputs)[1 : 1 + len(states)]
        wider = [_common(a, v.shape) for a, v in zip(shapes, after, strict=True)]
        if wider == shapes:
            return body
        shapes = wider
        body.graph.outputs.clear()
        for node in reversed(body.graph):
            forget(node)


def _built(g: GraphBuilder, graph: ir.Graph, kinds: Sequence[tuple[Any, Dims]], build: Build) -> Body:
    body = Body(g)
    entries = [body.entry("entry", kind, shape) for kind, shape in kinds]
    for value in build(body, graph, entries):
        body.result(value)
    return body


def _add(
    g: GraphBuilder,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any],
    kinds: Sequence[tuple[Any, Any]],
) -> tuple[Value, ...]:
    node = g._node("", op_type, inputs, len(kinds), attributes)
    for out, (kind, shape) in zip(node.outputs, kinds, strict=True):
        out.type, out.shape = kind, None if shape is None else ir.Shape(shape)
    g.graph.append(node)
    return tuple(node.outputs)  # type: ignore[arg-type]  # _node made them Values


def _common(a: Sequence[Any] | ir.Shape | None, b: Sequence[Any] | ir.Shape | None) -> Dims:
    """The sizes that two shapes have in common."""
    if a is None or b is None or len(a) != len(b):
        return None
    return [x if x == y else None for x, y in zip(_dims(a) or [], _dims(b) or [], strict=True)]


def _dims(shape: Sequence[Any] | ir.Shape | None) -> Dims:
    """A shape as a list of numbers and names."""
    return None if shape is None else [d.value if isinstance(d, ir.SymbolicDim) else d for d in shape]


def _without(shape: ir.Shape | None, axis: int) -> Dims:
    dims = _dims(shape)
    if dims is not None:
        del dims[axis]
    return dims


def _unless_zero(values: list[int]) -> list[int] | None:
    """An attribute that says nothing is left out."""
    return values if any(values) else None
