"""Rematerialization: regions of a graph whose activations are computed again in the backward pass, not kept.

A layer with `checkpoint=True` marks its nodes. Where the sweep meets the last node of such a region it copies all of
them, and the rules of the region read the copies. What the copies compute and no rule reads is dropped like any unused
node.   Source: Chen et al. 2016, section 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.metadata import CHECKPOINT
from onnxmx.builder.ops import INT64


class Recomputation:
    """Copies of the regions that are marked among `nodes`, each made when it is first asked for."""

    def __init__(self, g: GraphBuilder, nodes: Sequence[ir.Node]) -> None:
        self._g = g
        self._copies: dict[ir.Node, ir.Node] = {}
        self._regions: defaultdict[str, list[ir.Node]] = defaultdict(list)
        for node in nodes:
            # What a graph inside a node reads from around it cannot be put in another's place: such a node is kept.
            inner = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
            if CHECKPOINT in node.metadata_props and not inner:
                self._regions[node.metadata_props[CHECKPOINT]].append(node)

    def of(self, node: ir.Node, dys: Sequence[ir.Value | None]) -> ir.Node:
        """What the rule of `node` reads: its copy where it is marked, else the node itself.

        dys: the gradients of its outputs, one of them at least.
        """
        if region := self._regions.pop(node.metadata_props.get(CHECKPOINT, ""), None):
            self._copy(region, next(dy for dy in dys if dy is not None))
        return self._copies.get(node, node)

    def _copy(self, region: list[ir.Node], dy: ir.Value) -> None:
        inside = {y for node in region for y in node.outputs}
        known: dict[ir.Value | None, ir.Value | None] = {None: None}
        later = _Later(self._g, dy)
        with self._g.scope("again", absolute=True):
            for node in region:
                for x in node.inputs:
                    if x not in known and x is not None and x not in inside:
                        known[x] = later(x)
                self._copies[node] = self._g.again(node, [known[x] for x in node.inputs])
                known.update(zip(node.outputs, self._copies[node].outputs, strict=True))


class _Later:
    """Values as they are, but not before `dy` is known.

    A runtime may run a copy before it is needed, and a search for common subexpressions would take it for its original.
    So what the copies read goes through a Reshape to the sizes that it has, (0, 0, ...), which moves no element.
    These zeros are computed from an element of dy, though they are always the same.
    """

    def __init__(self, g: GraphBuilder, dy: ir.Value) -> None:
        self._g = g
        with g.scope("again", absolute=True):
            self._first = g.slice(g.reshape(dy, [-1]), [0], [1], [0])
        self._zeros: dict[int, Value] = {}

    def __call__(self, x: ir.Value) -> ir.Value:
        if x.is_initializer() or x.dtype is None or not x.dtype.is_floating_point() or not x.shape:
            return x
        n = len(x.shape)
        if n not in self._zeros:
            infinity = self._g.constant(np.full(n, np.inf), self._first.dtype)
            self._zeros[n] = self._g.cast(self._g.greater(self._first, infinity), INT64)  # not even where it is NaN
        out = self._g.reshape(x, self._zeros[n])
        out.shape = ir.Shape(x.shape)
        return out
