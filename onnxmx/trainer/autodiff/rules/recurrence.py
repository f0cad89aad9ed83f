"""RNN, LSTM and GRU as a Scan of their equations.

The rules in recurrent.py, lstm.py and gru.py are quicker, and cover what models use; this covers all of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import INT32
from onnxmx.builder.scan import scan
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.rules.indexing import zeros
from onnxmx.trainer.autodiff.shapes import static

MaybeValue = ir.Value | None
Activation = Callable[[GraphBuilder, ir.Value], Value]
Cell = Callable[..., Sequence[ir.Value]]

DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
# By name, what an activation is and its alpha and beta where none are given; None where it has none.
_ACTIVATIONS: dict[str, tuple[Callable[..., Any], float | None, float | None]] = {
    "tanh": (lambda g, x: g.op("Tanh", x), None, None),
    "sigmoid": (lambda g, x: g.op("Sigmoid", x), None, None),
    "relu": (lambda g, x: g.op("Relu", x), None, None),
    "softsign": (lambda g, x: g.op("Softsign", x), None, None),
    "softplus": (lambda g, x: g.op("Softplus", x), None, None),
    "elu": (lambda g, x, a: g.op("Elu", x, alpha=a), 1.0, None),
    "leakyrelu": (lambda g, x, a: g.op("LeakyRelu", x, alpha=a), 0.01, None),
    "thresholdedrelu": (lambda g, x, a: g.op("ThresholdedRelu", x, alpha=a), 1.0, None),
    "hardsigmoid": (lambda g, x, a, b: g.op("HardSigmoid", x, alpha=a, beta=b), 0.2, 0.5),
    "affine": (lambda g, x, a, b: g.add(g.mul(x, a), b), 1.0, 0.0),
    "scaledtanh": (lambda g, x, a, b: g.mul(g.op("Tanh", g.mul(x, b)), a), 1.0, 1.0),
}


def stepwise(g: GraphBuilder, *inputs: MaybeValue, node: ir.Node) -> tuple[Value, ...]:
    """Y, Y_h and of an LSTM Y_c of a time-major node with any activations, clip, peepholes and input_forget."""
    x, w, r, b, lengths, h0, c0, p = [*inputs, *[None] * 5][:8]
    assert x is not None
    assert w is not None
    assert r is not None
    count, units = static(r, 0), static(r, 2)
    way = node.attributes.get_string("direction", "forward")
    names = _activations(node, count)
    within = None if lengths is None else _within(g, x, lengths)
    zero = zeros(g, g.concat([g.op("Shape", x, start=1, end=2), np.array([units])], 0), x)
    parts: list[list[Value]] = []
    for d in range(count):
        wd, rd, bd, pd, *states = (part(g, v, d) for v in (w, r, b, p, h0, c0))
        wb, rb = (None, None) if bd is None else g.ops("Split", bd, outputs=2, axis=0, num_outputs=2)
        product = g.matmul(x, g.transpose(wd, [1, 0]))
        sequences: list[ir.Value] = [product if wb is None else g.add(product, wb)]
        cell = _CELLS[node.op_type](node, rd, rb, pd, names[d])
        first = [s or zero for s in states[: 2 if node.op_type == "LSTM" else 1]]

        def step(b: GraphBuilder, before: Any, element: Any, cell: Cell = cell) -> Any:
            after = cell(b, element[0], *before)
            if within is None:
                return after, [after[0]]
            kept = [b.where(element[1], new, old) for new, old in zip(after, before, strict=True)]
            return kept, [b.where(element[1], after[0], 0.0)]

        back = way == "reverse" or d == 1
        last, outputs = scan(g, step, first, sequences + ([] if within is None else [within]), reverse=back)
        parts.append([*outputs, *last])
    ys, *lasts = zip(*parts, strict=True)
    y = g.concat([g.unsqueeze(v, [1]) for v in ys], 1)
    return y, *(g.concat([g.unsqueeze(v, [0]) for v in states], 0) for states in lasts)


def part(g: GraphBuilder, v: MaybeValue, d: int) -> Any:
    """Direction `d` of a weight, a bias or a state."""
    if v is None:
        return None
    one = v.shape is not None and v.shape[0] == 1
    return g.squeeze(v if one else g.slice(v, [d], [d + 1], [0]), [0])


def _within(g: GraphBuilder, x: ir.Value, lengths: ir.Value) -> Value:
    """Whether each step is within its sequence, (time, batch, 1)."""
    steps = g.range(np.int32(0), g.cast(g.squeeze(g.op("Shape", x, start=0, end=1), [0]), INT32), np.int32(1))
    return g.unsqueeze(g.less(g.unsqueeze(steps, [1]), g.unsqueeze(lengths, [0])), [2])


def _activations(node: ir.Node, directions: int) -> list[list[Activation]]:
    """Those of each direction, which clip what they get."""
    default = DEFAULTS[node.op_type]
    names = [n.lower() for n in node.attributes.get_strings("activations", default * directions)]
    names *= directions if len(names) < len(default) * directions else 1
    given = {k: iter(node.attributes.get_floats(f"activation_{k}", ())) for k in ("alpha", "beta")}
    clip = node.attributes.get_float("clip", 0.0)
    # ONNX Runtime clips what goes into each but the last of an LSTM, whose input is the cell.
    clips = ([clip, clip, 0.0] if node.op_type == "LSTM" else [clip] * len(default)) * directions
    found = [_activation(node, n, c, given["alpha"], given["beta"]) for n, c in zip(names, clips, strict=True)]
    return [found[d * len(default) :][: len(default)] for d in range(directions)]


def _activation(node: ir.Node, name: str, clip: float, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name not in _ACTIVATIONS:
        raise GradientError(f"{node.op_type} in {node.name!r} expected activations of ONNX; found {name!r}")
    function, alpha, beta = _ACTIVATIONS[name]
    numbers = [next(of, d) for of, d in ((alphas, alpha), (betas, beta)) if d is not None]

    def apply(g: GraphBuilder, x: ir.Value) -> Value:
        y: Value = function(g, g.op("Clip", x, -clip, clip) if clip > 0 else x, *numbers)
        return y

    return apply


def _recurrent_part(b: GraphBuilder, h: ir.Value, r: ir.Value, rb: MaybeValue) -> Value:
    product = b.matmul(h, b.transpose(r, [1, 0]))
    return product if rb is None else b.add(product, rb)


def _rnn(node: ir.Node, r: Value, rb: MaybeValue, p: MaybeValue, of: list[Activation]) -> Cell:
    return lambda b, z, h: [of[0](b, b.add(z, _recurrent_part(b, h, r, rb)))]


def _lstm(node: ir.Node, r: Value, rb: MaybeValue, p: MaybeValue, of: list[Activation]) -> Cell:
    coupled = node.attributes.get_int("input_forget", 0)

    def cell(b: GraphBuilder, z: ir.Value, h: ir.Value, c: ir.Value) -> list[Value]:
        i, o, f, a = b.ops("Split", b.add(z, _recurrent_part(b, h, r, rb)), outputs=4, axis=1, num_outputs=4)
        pi, po, pf = (None,) * 3 if p is None else b.ops("Split", p, outputs=3, axis=0, num_outputs=3)
        i = of[0](b, i if pi is None else b.add(i, b.mul(pi, c)))
        f = b.sub(1.0, i) if coupled else of[0](b, f if pf is None else b.add(f, b.mul(pf, c)))
        new = b.add(b.mul(f, c), b.mul(i, of[1](b, a)))
        o = of[0](b, o if po is None else b.add(o, b.mul(po, new)))
        return [b.mul(o, of[2](b, new)), new]

    return cell


def _gru(node: ir.Node, r: Value, rb: MaybeValue, p: MaybeValue, of: list[Activation]) -> Cell:
    after, units = node.attributes.get_int("linear_before_reset", 0), static(r, 1)
    sizes = np.array([2 * units, units], np.int64)

    def cell(b: GraphBuilder, x: ir.Value, h: ir.Value) -> list[ir.Value]:
        r_gates, r_new = b.ops("Split", r, sizes, outputs=2, axis=0)
        b_gates, b_new = (None, None) if rb is None else b.ops("Split", rb, sizes, outputs=2, axis=0)
        x_gates, x_new = b.ops("Split", x, sizes, outputs=2, axis=1)
        gates = of[0](b, b.add(x_gates, _recurrent_part(b, h, r_gates, b_gates)))
        z, reset = b.ops("Split", gates, outputs=2, axis=1, num_outputs=2)
        if after:
            inner = b.mul(reset, _recurrent_part(b, h, r_new, b_new))
        else:
            inner = _recurrent_part(b, b.mul(reset, h), r_new, b_new)
        n = of[1](b, b.add(x_new, inner))
        return [b.add(b.mul(b.sub(1.0, z), n), b.mul(z, h))]

    return cell


_CELLS: dict[str, Callable[..., Cell]] = {"RNN": _rnn, "LSTM": _lstm, "GRU": _gru}
