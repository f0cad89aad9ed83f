"""LSTM and GRU as a training step computes them: what the gradient reads is kept, not computed a second time.

The operators of ONNX give out their states alone. Forward and backward take a fifth less time so (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.rules.indexing import zeros
from onnxmx.trainer.autodiff.rules.recurrence import part
from onnxmx.trainer.autodiff.rules.recurrent import as_rows, as_steps, flipped, is_rare
from onnxmx.trainer.autodiff.shapes import static
from onnxmx.trainer.functions import GRUSteps, LSTMSteps

MaybeValue = ir.Value | None


def keeps_steps(node: ir.Node) -> bool:
    """Whether `with_steps_kept` covers a node: of the usual cell, its sequences all of one length."""
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    before_product = node.op_type == "GRU" and not node.attributes.get_int("linear_before_reset", 0)
    return lengths is None and not before_product and not is_rare(node)


def with_steps_kept(g: GraphBuilder, node: ir.Node, inputs: Sequence[MaybeValue]) -> list[Value]:
    """The outputs of a time-major LSTM or GRU, Y and the last states, by LSTMSteps or GRUSteps."""
    cell = {"LSTM": _lstm, "GRU": _gru}[node.op_type]
    x, w, r, b, _lengths, *initial = [*inputs, *[None] * 4][: 7 if node.op_type == "LSTM" else 6]
    assert x is not None
    assert w is not None
    assert r is not None
    units, reverse = static(r, 2), node.attributes.get_string("direction", "forward") == "reverse"
    # Only a state that is not given reads it.
    zero = zeros(g, g.concat([g.op("Shape", x, start=1, end=2), np.array([units])], 0), x)
    found: list[list[Value]] = []
    for d in range(static(w, 0)):
        wd, rd, bd, *states = (part(g, v, d) for v in (w, r, b, *initial))
        xd = flipped(g, node, x) if reverse or d == 1 else x
        states = [s or zero for s in states]
        for state in states:  # of one unit, 1 would else be taken for an axis that is broadcast
            state.shape = ir.Shape([None if x.shape is None else x.shape[1], units])
        y, *last = cell(g, xd, wd, rd, bd, states)
        found.append([flipped(g, node, y) if reverse or d == 1 else y, *last])
    ys, *lasts = zip(*found, strict=True)
    side_by_side = g.concat([g.unsqueeze(v, [1]) for v in ys], 1)
    return [side_by_side, *(g.concat([g.unsqueeze(v, [0]) for v in last], 0) for last in lasts)]


def _lstm(
    g: GraphBuilder, x: ir.Value, w: Value, r: Value, b: MaybeValue, states: Sequence[ir.Value]
) -> Sequence[Value]:
    bias = None if b is None else g.add(*g.ops("Split", b, outputs=2, axis=0, num_outputs=2))
    y, h, c, *_ = LSTMSteps(g, *_with_ones(g, x, (w, bias)), r, *states)
    return y, h, c


def _gru(
    g: GraphBuilder, x: ir.Value, w: Value, r: Value, b: MaybeValue, states: Sequence[ir.Value]
) -> Sequence[Value]:
    units = static(r, 1)
    split = g.constant([2 * units, units])
    (w_gates, w_new), (r_gates, r_new) = (g.ops("Split", v, split, outputs=2, axis=0) for v in (w, r))
    biases: tuple[MaybeValue, MaybeValue] = (None, None)
    bias = g.cast_like(np.zeros(units, np.float32), x)
    if b is not None:
        wb, wb_new, rb, bias = g.ops("Split", b, g.constant([2 * units, units] * 2), outputs=4, axis=0)
        biases = g.add(wb, rb), wb_new
    x, *weights = _with_ones(g, x, *zip((w_gates, w_new), biases, strict=True))
    gates, new = (as_steps(g, g.gemm(as_rows(g, x), v, transB=1), x) for v in weights)
    y, h, *_ = GRUSteps(g, gates, new, r_gates, r_new, bias, *states)
    return y, h


def _with_ones(g: GraphBuilder, x: ir.Value, *weights: tuple[ir.Value, MaybeValue]) -> list[ir.Value]:
    """x and each W of (W, b), where W x + b is W x: a bias belongs to a column of ones.

    Added to a product, ONNX Runtime would first copy it to every row.
    """
    if weights[0][1] is None:
        return [x, *(w for w, _ in weights)]
    ones = g.op("Pad", x, np.array([0, 0, 0, 0, 0, 1]), g.cast_like(1.0, x))
    return [ones, *(g.concat([w, g.unsqueeze(b, [1])], 1) for w, b in weights if b is not None)]
