"""The rule of LSTM."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.scan import scan
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.recurrent import (
    CellGradient,
    Direction,
    as_rows,
    as_steps,
    carry_past_the_end,
    gradient_of_output,
    one_step_earlier,
    recurrent,
)
from onnxmx.trainer.autodiff.shapes import static


@gradient("LSTM")
def lstm(g: GraphBuilder, node: ir.Node, *dys: ir.Value | None) -> Any:
    """With i, o, f = sigmoid and a = tanh of z = W x + R h[t-1] + b;  c[t] = f c[t-1] + i a;  h[t] = o tanh(c[t]):

    dc[t] = dc + dh[t] o (1 - tanh(c)^2);   dc[t-1] = dc[t] f;   dh[t-1] = dy[t-1] + R^T dz[t]
    dz = (dc a i(1-i),  dh tanh(c) o(1-o),  dc c[t-1] f(1-f),  dc i (1-a^2))
    Source: Gers et al. 2000 (the cell with a forget gate), differentiated.
    """
    return recurrent(g, node, dys, 2, _cell)


def _cell(g: GraphBuilder, node: ir.Node, d: Direction) -> CellGradient:
    through_h, through_z, forget = _local_derivatives(g, d)

    def step(b: GraphBuilder, state: Any, element: Any) -> Any:
        dh, dc = state
        if d.dy is not None:
            dh = b.add(dh, element[3])
        dc = b.add(dc, b.mul(dh, element[0]))
        dz = b.mul(b.concat([dc, dh, dc, dc], 1), element[1])
        return [carry_past_the_end(b, d, b.matmul(dz, d.r), dh, element), b.mul(dc, element[2])], [dz]

    sequences = [through_h, through_z, forget, *gradient_of_output(g, d)]
    dstates, (dz,) = scan(g, step, d.dstates, sequences, reverse=True)
    return CellGradient(dz, dz, dstates)


def _local_derivatives(g: GraphBuilder, d: Direction) -> tuple[Value, Value, Value]:
    """For all steps at once: dc/dh, dz/(dc, dh, dc, dc), and the factor that takes dc one step back."""
    units = static(d.r, 1)
    bias = None if d.wb is None else g.add(d.wb, d.rb)
    through_x = g.gemm(as_rows(g, d.x), d.w, bias, transB=1)
    z = as_steps(g, g.gemm(as_rows(g, d.before), d.r, through_x, transB=1), d.y)
    gates, a = g.ops("Split", z, g.constant([3 * units, units]), outputs=2, axis=2)
    gates, a = g.op("Sigmoid", gates), g.op("Tanh", a)
    i, o, f = g.ops("Split", gates, outputs=3, axis=2, num_outputs=3)
    # The operator keeps no cell state but the last one.
    _, (c,) = scan(g, _next_cell, d.states[1:], [f, g.mul(i, a)])
    t = g.op("Tanh", c)
    slopes = g.mul(gates, g.sub(1.0, gates))
    outer = g.concat([a, t, one_step_earlier(g, d.states[1], c)], 2)
    through_z = g.concat([g.mul(outer, slopes), g.mul(i, g.sub(1.0, g.mul(a, a)))], 2)
    through_h = g.mul(o, g.sub(1.0, g.mul(t, t)))
    return d.only_within(g, through_h), d.only_within(g, through_z), d.carried(g, f)


def _next_cell(b: GraphBuilder, state: Any, element: Any) -> Any:
    """c[t] = f c[t-1] + i a"""
    c = b.add(b.mul(state[0], element[0]), element[1])
    return [c], [c]
