"""The rule of GRU, in both of its forms."""

from __future__ import annotations

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
    one_step_earlier,
    over_steps,
    recurrent,
)
from onnxmx.trainer.autodiff.shapes import static
from onnxmx.trainer.functions import GRUSteps

MaybeValue = ir.Value | None


@gradient("GRU")
def gru(g: GraphBuilder, node: ir.Node, *dys: MaybeValue) -> Any:
    """With z, r = sigmoid(W x + R h[t-1] + b), h[t] = (1 - z) n + z h[t-1] and n one of

    linear_before_reset=1   n = tanh(Wn x + wbn + r (Rn h[t-1] + rbn))   (cuDNN, PyTorch, Keras)
    linear_before_reset=0   n = tanh(Wn x + wbn + Rn (r h[t-1]) + rbn)   (Cho et al. 2014)
    """
    after = node.attributes.get_int("linear_before_reset", 0)
    return recurrent(g, node, dys, 1, _reset_after if after else _reset_before)


@gradient("GRUSteps", domain=DOMAIN)
def gru_steps(g: GraphBuilder, node: ir.Node, dy: MaybeValue, dh: MaybeValue, *dkept: MaybeValue) -> Any:
    """As GRU, from what was kept:   dz = dh (h[t-1] - n) z(1-z);   dn = dh (1-z)(1-n^2);   dr = dn r rn (1-r)"""
    if any(v is not None for v in dkept):  # the gradient of this gradient
        return through(g, node, [dy, dh, *dkept], GRUSteps.trace)
    _gates, _new, r_gates, r_new, _bias, h0 = (v for v in node.inputs if v is not None)
    y, h, z, r, n, rn, zd = node.outputs
    rest = g.sub(1.0, z)
    factors = [g.mul(zd, rest), g.mul(rest, g.sub(1.0, g.mul(n, n))), r, g.mul(rn, g.sub(1.0, r)), z]

    def step(b: GraphBuilder, state: Any, element: Any) -> Any:
        by_z, by_n, r, by_r, z, *dy = element
        dh = b.add(state[0], dy[0]) if dy else state[0]
        dn = b.mul(dh, by_n)
        drn = b.mul(dn, r)
        dgates = b.concat([b.mul(dh, by_z), b.mul(drn, by_r)], 1)
        back = b.gemm(dgates, r_gates, b.gemm(drn, r_new, b.mul(dh, z)))
        return [back], [dgates, dn, drn]

    last = g.op("Sub", h, h) if dh is None else dh
    (dh0,), (dgates, dn, drn) = scan(g, step, [last], [*factors, *([] if dy is None else [dy])], reverse=True)
    before = one_step_earlier(g, h0, y)
    dr = (over_steps(g, dgates, before), over_steps(g, drn, before))
    return dgates, dn, *dr, g.reduce_sum(drn, [0, 1], keepdims=False), dh0


def _reset_after(g: GraphBuilder, node: ir.Node, d: Direction) -> CellGradient:
    """Every pre-activation's gradient is dh times a factor that is known beforehand:

    dz = dh (h[t-1] - n) z(1-z);   dn = dh (1-z)(1-n^2);   dr = dn (Rn h[t-1] + rbn) r(1-r);   d(Rn h[t-1]) = dn r
    """
    x, h = _product(g, d.x, d.w, d.wb), _product(g, d.before, d.r, d.rb)
    units = static(d.r, 1)
    split = g.constant([2 * units, units])
    x_gates, x_new = g.ops("Split", x, split, outputs=2, axis=2)
    h_gates, h_new = g.ops("Split", h, split, outputs=2, axis=2)
    z, r = g.ops("Split", g.op("Sigmoid", g.add(x_gates, h_gates)), outputs=2, axis=2, num_outputs=2)
    n = g.op("Tanh", g.add(x_new, g.mul(r, h_new)))
    by_z, by_n = _update_factors(g, d, z, n)
    by_r = g.mul(g.mul(by_n, h_new), _slope(g, r))
    to_h = g.concat([by_z, by_r, g.mul(by_n, r)], 2)

    def step(b: GraphBuilder, state: Any, element: Any) -> Any:
        dh = b.add(state[0], element[2]) if d.dy is not None else state[0]
        dzh = b.mul(b.concat([dh, dh, dh], 1), element[0])
        return [b.add(b.matmul(dzh, d.r), b.mul(dh, element[1]))], [dh, dzh]

    dstates, (dh, dzh) = scan(
        g, step, d.dstates, [to_h, d.carried(g, z), *([] if d.dy is None else [d.dy])], reverse=True
    )
    gates, _ = g.ops("Split", dzh, split, outputs=2, axis=2)
    return CellGradient(g.concat([gates, g.mul(dh, by_n)], 2), dzh, dstates)


def _reset_before(g: GraphBuilder, node: ir.Node, d: Direction) -> CellGradient:
    """dz and dn as above;   d(r h[t-1]) = Rn^T dn, which gives dr = d(r h) h[t-1] r(1-r) and another r d(r h) to h"""
    units = static(d.r, 1)
    r_gates, r_new = g.ops("Split", d.r, g.constant([2 * units, units]), outputs=2, axis=0)
    bias = None if d.wb is None else g.add(d.wb, d.rb)
    x_gates, x_new = g.ops("Split", _product(g, d.x, d.w, bias), g.constant([2 * units, units]), outputs=2, axis=2)
    gates = g.op("Sigmoid", g.add(x_gates, _product(g, d.before, r_gates, None)))
    z, r = g.ops("Split", gates, outputs=2, axis=2, num_outputs=2)
    reset = g.mul(r, d.before)
    n = g.op("Tanh", g.add(x_new, _product(g, reset, r_new, None)))
    by_z, by_n = _update_factors(g, d, z, n)
    by_r = g.mul(d.before, _slope(g, r))

    def step(b: GraphBuilder, state: Any, element: Any) -> Any:
        dh = b.add(state[0], element[5]) if d.dy is not None else state[0]
        dn = b.mul(dh, element[0])
        dreset = b.matmul(dn, r_new)
        dgates = b.concat([b.mul(dh, element[1]), b.mul(dreset, element[2])], 1)
        through = b.add(b.mul(dh, element[3]), b.mul(dreset, element[4]))
        return [b.add(b.matmul(dgates, r_gates), through)], [dgates, dn]

    sequences = [by_n, by_z, by_r, d.carried(g, z), r, *([] if d.dy is None else [d.dy])]
    dstates, (dgates, dn) = scan(g, step, d.dstates, sequences, reverse=True)
    dr = g.concat([over_steps(g, dgates, d.before), over_steps(g, dn, reset)], 0)
    dz = g.concat([dgates, dn], 2)
    return CellGradient(dz, dz, dstates, dr)


def _update_factors(g: GraphBuilder, d: Direction, z: Value, n: Value) -> tuple[Value, Value]:
    """dz / dh and dn / dh"""
    by_z = g.mul(g.sub(d.before, n), _slope(g, z))
    by_n = g.mul(g.sub(1.0, z), g.sub(1.0, g.mul(n, n)))
    return d.only_within(g, by_z), d.only_within(g, by_n)


def _slope(g: GraphBuilder, gate: Value) -> Value:
    return g.mul(gate, g.sub(1.0, gate))


def _product(g: GraphBuilder, x: ir.Value, w: ir.Value, bias: MaybeValue) -> Value:
    """x W^T + bias"""
    return as_steps(g, g.gemm(as_rows(g, x), w, bias, transB=1), x)
