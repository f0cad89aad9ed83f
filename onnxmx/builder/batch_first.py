"""RNN, LSTM and GRU with layout=1, the batch first, as time-major ones between transpositions.

ONNX Runtime's CPU kernels refuse layout=1. So neither a builder nor a file that is loaded keeps such a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from onnxmx.builder.graph import GraphBuilder, Value

RECURRENT = frozenset({"RNN", "LSTM", "GRU"})
_SWAPPED = {0: "x", 5: "initial_h", 6: "initial_c"}
"""The inputs that hold a batch: (batch, time, size) and (batch, directions, units)."""
_SWAP = [1, 0, 2]
_SWAP_Y = [2, 0, 1, 3]
"""Y: (time, directions, batch, units) to (batch, time, directions, units)."""


def time_major(
    g: GraphBuilder, op_type: str, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int
) -> tuple[Value, ...]:
    """What a node with layout=1 computes, added to a graph that is being built."""
    given = [g.op("Transpose", v, perm=_SWAP) if k in _SWAPPED and v is not None else v for k, v in enumerate(inputs)]
    rest = {name: value for name, value in attributes.items() if name != "layout"}
    y, *last = g.ops(op_type, *given, outputs=outputs, **rest)
    return g.op("Transpose", y, perm=_SWAP_Y), *(g.op("Transpose", v, perm=_SWAP) for v in last)


def rewrite(graph: onnx.GraphProto) -> None:
    """Put the same in the place of such nodes of a file; subgraphs are for another call."""
    if any(_is_batch_first(node) for node in graph.node):
        nodes = [made for node in graph.node for made in (_expanded(node) if _is_batch_first(node) else [node])]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


def _is_batch_first(node: onnx.NodeProto) -> bool:
    standard = node.domain in ("", "ai.onnx") and node.op_type in RECURRENT and any(node.output)
    return standard and any(a.name == "layout" and a.i == 1 for a in node.attribute)


def _expanded(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    base = next(name for name in node.output if name)
    core = onnx.NodeProto.FromString(node.SerializeToString())
    del core.attribute[:]
    core.attribute.extend(a for a in node.attribute if a.name != "layout")
    for k, what in _SWAPPED.items():
        if k < len(node.input) and node.input[k]:
            core.input[k] = f"{base}.{what}"
            yield onnx.helper.make_node("Transpose", [node.input[k]], [core.input[k]], perm=_SWAP)
    for k, name in enumerate(node.output):
        core.output[k] = name and f"{name}.time_major"
    yield core
    for k, name in enumerate(node.output):
        if name:
            yield onnx.helper.make_node("Transpose", [core.output[k]], [name], perm=_SWAP if k else _SWAP_Y)
