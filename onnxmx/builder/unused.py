"""Dropping what nothing reads."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes


def remove_unused(model: ir.Model) -> None:
    """Remove the nodes and initializers whose values nothing reads.

    The nodes of the main graph go all at once: onnx-ir's own pass goes through the graph's outputs for each of them,
    and a step has as many outputs as parts of its state.
    """
    unused: set[ir.Node] = set()
    for node in reversed(model.graph):
        if all(not y.is_graph_output() and all(user in unused for user, _ in y.uses()) for y in node.outputs):
            unused.add(node)
    model.graph.remove(unused, safe=True)
    passes.RemoveUnusedNodesPass()(model)  # initializers, and what is in subgraphs and functions
