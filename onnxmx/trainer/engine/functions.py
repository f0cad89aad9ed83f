"""A step graph without its functions, whose nodes say which call they came from."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
import onnx.inliner

from onnxmx.builder.graph import DOMAIN


def without_functions(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """The model with the bodies of `ai.onnxmx` functions, but for those `kept`, in the place of their calls.

    A node out of a function is named behind the node that called it: a profile tells by that which layer it is of.
    """
    calls = {y: node.name for node in _nodes(model.graph) if node.domain == DOMAIN for y in node.output}
    known = {node.name for node in _nodes(model.graph)}
    made = onnx.inliner.inline_selected_functions(model, [(DOMAIN, name) for name in kept], exclude=True)
    fresh = [(node, node.name.rpartition("__")[2]) for node in _nodes(made.graph) if node.name not in known]
    # All nodes of a call have its number behind their names; the values that it gives out keep theirs.
    callers = {number: calls[y] for node, number in fresh for y in node.output if y in calls}
    for node, number in fresh:
        node.name = f"{callers[number]}.{node.name}" if number in callers else node.name
    return made


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Of a graph and of those inside it."""
    for node in graph.node:
        yield node
        for inside in (a.g for a in node.attribute if a.HasField("g")):
            yield from _nodes(inside)
