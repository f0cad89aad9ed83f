"""The rule of LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import DOMAIN, GraphBuilder, Value
from onnxmx.builder.scan import scan
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.recurrent import (
    CellGradient,
    Direction,
    as_rows,
    as_steps,
    carry_past_the_end,
    gradient_of_output,
    one_step_earlier,
    over_steps,
    recurrent,
)
from onnxmx.trainer.autodiff.shapes import static
from onnxmx.trainer.functions import LSTMSteps

MaybeValue = ir.Value | None


@gradient("LSTM")
def lstm(g: GraphBuilder, node: ir.Node, *dys: ir.Value | None) -> Any:
    """With i, o, f = sigmoid and a = tanh of z = W x + R h[t-1] + b;  c[t] = f c[t-1] + i a;  h[t] = o tanh(c[t]):

    dc[t] = dc + dh[t] o (1 - tanh(c)^2);   dc[t-1] = dc[t] f;   dh[t-1] = dy[t-1] + R^T dz[t]
    dz = (dc a i(1-i),  dh tanh(c) o(1-o),  dc c[t-1] f(1-f),  dc i (1-a^2))
    Source: Gers et al. 2000 (the cell with a forget gate), differentiated.
    """
    return recurrent(g, node, dys, 2, _cell)


@gradient("LSTMSteps", domain=DOMAIN)
def lstm_steps(
    g: GraphBuilder, node: ir.Node, dy: MaybeValue, dh: MaybeValue, dc: MaybeValue, *dkept: MaybeValue
) -> Any:
    """As LSTM, from what was kept; dR = dz^T h[t-1] and dW = dz^T x[t], summed over all steps"""
    if any(v is not None for v in dkept):  # the gradient of this gradient
        return through(g, node, [dy, dh, dc, *dkept], LSTMSteps.trace)
    x, w, r, h0, _c0 = (v for v in node.inputs if v is not None)
    y, h, _c, *kept = node.outputs
    ends = [g.op("Sub", h, h) if v is None else v for v in (dh, dc)]
    (dh0, dc0), dz = _backwards(g, r, ends, [*_slopes(g, y, *kept), kept[3]], [] if dy is None else [dy])
    dr = over_steps(g, dz, one_step_earlier(g, h0, y))
    return g.matmul(dz, w), over_steps(g, dz, x), dr, dh0, dc0


def _cell(g: GraphBuilder, node: ir.Node, d: Direction) -> CellGradient:
    t, i, o, f, *rest = _again(g, d)
    slopes = [d.only_within(g, v) for v in _slopes(g, d.y, t, i, o, f, *rest)]
    dstates, dz = _backwards(g, d.r, d.dstates, [*slopes, d.carried(g, f)], gradient_of_output(g, d), d)
    return CellGradient(dz, dz, dstates)


def _slopes(
    g: GraphBuilder,
    h: ir.Value,
    t: ir.Value,
    i: ir.Value,
    o: ir.Value,
    f: ir.Value,
    a: ir.Value,
    ia: ir.Value,
    fc: ir.Value,
) -> tuple[Value, ...]:
    """For all steps at once: dc/dh, and dz/(dc, dh, dc, dc) of the four gates, each in two operations.

    t = tanh(c).   ia = i a, fc = f c[t-1].   i(1-i) a = ia - ia i, and so on.
    """
    by_i, by_o, by_f = (g.mul(v, g.sub(1.0, gate)) for v, gate in ((ia, i), (h, o), (fc, f)))
    return g.sub(o, g.mul(h, t)), by_i, by_o, by_f, g.sub(i, g.mul(ia, a))


def _backwards(
    g: GraphBuilder,
    r: ir.Value,
    dstates: Sequence[ir.Value],
    factors: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    d: Direction | None = None,
) -> tuple[list[Value], Value]:
    """The gradients of the states before the first step, and dz of all steps.

    factors: dc/dh, the four dz/(dc, dh, dc, dc), and what takes dc one step back.
    outputs: dy, if any, and what `d` counts.
    """

    def step(b: GraphBuilder, state: Any, element: Any) -> Any:
        dh, dc = state
        if d.dy is not None if d else outputs:
            dh = b.add(dh, element[6])
        dc = b.add(dc, b.mul(dh, element[0]))
        dz = b.concat([b.mul(v, by) for v, by in zip((dc, dh, dc, dc), element[1:5], strict=True)], 1)
        back = b.matmul(dz, r)
        return [back if d is None else carry_past_the_end(b, d, back, dh, element), b.mul(dc, element[5])], [dz]

    before, (dz,) = scan(g, step, dstates, [*factors, *outputs], reverse=True)
    return before, dz


def _again(g: GraphBuilder, d: Direction) -> tuple[Value, ...]:
    """What LSTMSteps keeps of all steps, t, i, o, f, a, ia and fc, from the operator's output."""
    units = static(d.r, 1)
    bias = None if d.wb is None else g.add(d.wb, d.rb)
    through_x = g.gemm(as_rows(g, d.x), d.w, bias, transB=1)
    z = as_steps(g, g.gemm(as_rows(g, d.before), d.r, through_x, transB=1), d.y)
    gates, a = g.ops("Split", z, g.constant([3 * units, units]), outputs=2, axis=2)
    a = g.op("Tanh", a)
    i, o, f = g.ops("Split", g.op("Sigmoid", gates), outputs=3, axis=2, num_outputs=3)
    ia = g.mul(i, a)
    _, (fc, c) = scan(g, _next_cell, d.states[1:], [f, ia])
    return g.op("Tanh", c), i, o, f, a, ia, fc


def _next_cell(b: GraphBuilder, state: Any, element: Any) -> Any:
    """c[t] = f c[t-1] + i a"""
    fc = b.mul(state[0], element[0])
    c = b.add(fc, element[1])
    return [c], [fc, c]
