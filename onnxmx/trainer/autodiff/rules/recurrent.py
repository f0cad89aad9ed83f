"""What the rules of RNN, LSTM and GRU share: directions, lengths, the previous states, and the weights' gradients.

The operators keep only their outputs Y. Everything else is computed again from it, for all steps at once:

    1. h[t-1] of every step is Y, one step later, so the gates of all steps are one matrix product;
    2. so are their local derivatives, which makes what must go step by step, backwards, short: one Scan;
    3. the gradients of W and R are one matrix product each over all steps and samples.

Source: Appleyard et al. 2016 (batching over time), applied to the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT, INT32, INT64
from onnxmx.builder.scan import scan
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.indexing import zeros
from onnxmx.trainer.autodiff.rules.recurrence import DEFAULTS, stepwise
from onnxmx.trainer.autodiff.shapes import static

MaybeValue = ir.Value | None


@dataclass(frozen=True)
class Direction:
    """One direction of a recurrent node. Sequences are in the order of its steps; G gates share the weights' rows.

    x: (time, batch, n_in)   w: (G units, n_in)   r: (G units, units)   wb, rb: (G units,), or None without a bias
    y: (time, batch, units)   before: y one step earlier, the initial state first
    dy: (time, batch, units), or None where only the last state was used
    dstates: the gradients of the last states, (batch, units) each.   states: the initial ones
    counts: (time, batch, 1), 1 where a step is within its sequence, else 0; None where all are
    """

    x: ir.Value
    w: ir.Value
    r: ir.Value
    wb: MaybeValue
    rb: MaybeValue
    y: ir.Value
    before: Value
    dy: MaybeValue
    states: Sequence[ir.Value]
    dstates: Sequence[ir.Value]
    counts: Value | None

    def only_within(self, g: GraphBuilder, derivative: Value) -> Value:
        """A local derivative, 0 past the end of a sequence."""
        return derivative if self.counts is None else g.mul(derivative, self.counts)

    def carried(self, g: GraphBuilder, factor: Value) -> Value:
        """What a state is multiplied by on its way to the next step: 1 past the end of a sequence."""
        return factor if self.counts is None else g.add(g.mul(factor, self.counts), g.sub(1.0, self.counts))


@dataclass(frozen=True)
class CellGradient:
    """What a cell's own backward pass gives.

    dzx, dzh: (time, batch, G units), the gradients of x W^T + wb and of h R^T + rb; one value where both are equal.
    dstates: the gradients of the initial states, (batch, units) each.
    dr: the gradient of R where it is not that of a product with `before`.
    """

    dzx: Value
    dzh: Value
    dstates: list[Value]
    dr: Value | None = None


CellRule = Callable[[GraphBuilder, ir.Node, Direction], CellGradient]


def recurrent(g: GraphBuilder, node: ir.Node, dys: Sequence[MaybeValue], states: int, cell: CellRule) -> Any:
    """The gradients of a recurrent node's inputs, from those of one cell in each direction."""
    if is_rare(node):
        return through(g, node, dys, functools.partial(stepwise, node=node))
    directions = _directions(g, node, dys, states)
    found = [cell(g, node, d) for _, d in directions]
    dxs = [g.matmul(c.dzx, d.w) for c, (_, d) in zip(found, directions, strict=True)]
    dx = g.sum(*(flipped(g, node, v) if back else v for v, (back, _) in zip(dxs, directions, strict=True)))
    if (x := node.inputs[0]) is not None and x.shape is not None:
        dx.shape = ir.Shape(x.shape)
    dw = _stacked(g, [over_steps(g, c.dzx, d.x) for c, (_, d) in zip(found, directions, strict=True)])
    dr = _stacked(g, [c.dr or over_steps(g, c.dzh, d.before) for c, (_, d) in zip(found, directions, strict=True)])
    db = None if directions[0][1].wb is None else _stacked(g, [_bias(g, c) for c in found])
    dstates = [_stacked(g, [c.dstates[k] for c in found]) for k in range(states)]
    return (dx, dw, dr, db, None, *dstates)[: len(node.inputs)]  # the initial states may be left out


def over_steps(g: GraphBuilder, dz: Value, x: ir.Value) -> Value:
    """The sum of dz^T x over all steps and samples, as one product.   (t, n, a), (t, n, b) -> (a, b)"""
    return g.gemm(as_rows(g, dz), as_rows(g, x), transA=1)


def as_rows(g: GraphBuilder, x: ir.Value) -> Value:
    """All steps and samples as the rows of one matrix, for Gemm, which adds a bias or a second product for nothing."""
    return g.reshape(x, [-1, static(x, 2)])


def as_steps(g: GraphBuilder, rows: Value, like: ir.Value) -> Value:
    """The rows of all steps and samples as a sequence again.   (t n, units) -> (t, n, units)"""
    units = static(rows, 1)
    out = g.reshape(rows, g.concat([g.op("Shape", like, start=0, end=2), np.array([units])], 0))
    out.shape = None if like.shape is None else ir.Shape([like.shape[0], like.shape[1], units])
    return out


def _bias(g: GraphBuilder, cell: CellGradient) -> Value:
    sums = [g.reduce_sum(dz, [0, 1], keepdims=False) for dz in dict.fromkeys((cell.dzx, cell.dzh))]
    return g.concat([sums[0], sums[-1]], 0)


def _directions(g: GraphBuilder, node: ir.Node, dys: Sequence[MaybeValue], states: int) -> list[tuple[bool, Direction]]:
    """The directions of a node, and whether each reads its sequence backwards."""
    x, w, r = (v for v in node.inputs[:3] if v is not None)
    b, lengths, *initial = [*node.inputs[3:], *[None] * 7][: 2 + states]
    y, (dy, *dlast) = node.outputs[0], [*dys, *[None] * 3][: 1 + states]
    count, reverse = static(w, 0), node.attributes.get_string("direction", "forward") == "reverse"
    counts = None if lengths is None else _counts(g, x, lengths)
    starts = [_parts(g, _or_zeros(g, s, y), 0, count) for s in initial]
    ends = [_parts(g, _or_zeros(g, s, y), 0, count) for s in dlast]
    ws, rs, ys = _parts(g, w, 0, count), _parts(g, r, 0, count), _parts(g, y, 1, count)
    bs: Sequence[MaybeValue] = [None] * count if b is None else _parts(g, b, 0, count)
    dy_parts: Sequence[MaybeValue] = [None] * count if dy is None else _parts(g, dy, 1, count)
    found = []
    for d in range(count):
        back = reverse or d == 1
        xd, yd, dyd = (flipped(g, node, v) if back and v is not None else v for v in (x, ys[d], dy_parts[d]))
        assert xd is not None
        assert yd is not None
        if dyd is not None and counts is not None:
            dyd = g.mul(dyd, counts)
        wb, rb = (None, None) if bs[d] is None else g.ops("Split", bs[d], outputs=2, axis=0, num_outputs=2)
        first = [s[d] for s in starts]
        before = one_step_earlier(g, first[0], yd)
        last = [s[d] for s in ends]
        found.append((back, Direction(xd, ws[d], rs[d], wb, rb, yd, before, dyd, first, last, counts)))
    return found


def _or_zeros(g: GraphBuilder, state: MaybeValue, y: ir.Value) -> ir.Value:
    """A state (directions, batch, units), zero where there is none.   y: (time, directions, batch, units)"""
    if state is not None:
        return state
    out = zeros(g, g.gather(g.op("Shape", y), np.array([1, 2, 3])), y)
    out.shape = None if y.shape is None else ir.Shape(y.shape[1:])
    return out


def one_step_earlier(g: GraphBuilder, first: ir.Value, sequence: ir.Value) -> Value:
    """`sequence` shifted by one step, `first` at its start.   (n, units), (t, n, units) -> (t, n, units)"""
    out = g.concat([g.unsqueeze(first, [0]), g.slice(sequence, [0], [-1], [0])], 0)
    out.shape = ir.Shape(sequence.shape) if sequence.shape is not None else None
    return out


def _counts(g: GraphBuilder, x: ir.Value, lengths: ir.Value) -> Value:
    steps = g.range(np.int32(0), g.cast(g.squeeze(g.op("Shape", x, start=0, end=1), [0]), INT32), np.int32(1))
    within = g.less(g.unsqueeze(steps, [1]), g.unsqueeze(lengths, [0]))
    return g.unsqueeze(g.cast(within, x.dtype or FLOAT), [2])


def flipped(g: GraphBuilder, node: ir.Node, x: ir.Value) -> Value:
    """`x` (time, batch, ...) with its steps in the opposite order, each sequence within its own length."""
    lengths = node.inputs[4] if len(node.inputs) > 4 else None
    if lengths is None:
        return g.slice(x, [-1], [np.iinfo(np.int64).min], [0], [-1])
    return g.op("ReverseSequence", x, g.cast(lengths, INT64), time_axis=0, batch_axis=1)


def _parts(g: GraphBuilder, x: ir.Value, axis: int, count: int) -> list[Value]:
    """The directions of `x`, each without the axis that counts them."""
    parts = [x] if count == 1 else g.ops("Split", x, outputs=count, axis=axis, num_outputs=count)
    return [g.squeeze(p, [axis]) for p in parts]


def _stacked(g: GraphBuilder, parts: Sequence[Value]) -> Value:
    stacked = [g.unsqueeze(p, [0]) for p in parts]
    return stacked[0] if len(stacked) == 1 else g.concat(stacked, 0)


_SLOPES: dict[str, Callable[[GraphBuilder, ir.Value], Value]] = {
    "tanh": lambda g, y: g.sub(1.0, g.mul(y, y)),
    "sigmoid": lambda g, y: g.mul(y, g.sub(1.0, y)),
    "relu": lambda g, y: g.cast_like(g.greater(y, 0.0), y),
}


def is_rare(node: ir.Node) -> bool:
    """Whether a node has what the quick rules do not cover."""
    default = [a.lower() for a in DEFAULTS[node.op_type]]
    given = [a.lower() for a in node.attributes.get_strings("activations", ())]
    if node.op_type == "RNN":
        usual = not given or (len(set(given)) == 1 and given[0] in _SLOPES)
    else:  # a bidirectional node names those of each direction
        usual = given == default * (len(given) // len(default))
    peepholes = len(node.inputs) > 7 and node.inputs[7] is not None
    clips = node.attributes.get_float("clip", 0.0) > 0
    return not usual or peepholes or clips or bool(node.attributes.get_int("input_forget", 0))


@gradient("RNN")
def rnn(g: GraphBuilder, node: ir.Node, *dys: MaybeValue) -> Any:
    """h[t] = f(z[t]), z[t] = W x[t] + R h[t-1] + b:  dz[t] = dh[t] * f'(z[t]);  dh[t-1] = dy[t-1] + R^T dz[t]"""
    activation = node.attributes.get_strings("activations", ("Tanh",))[0].lower()

    def cell(g: GraphBuilder, node: ir.Node, d: Direction) -> CellGradient:
        slope = d.only_within(g, _SLOPES[activation](g, d.y))

        def step(b: GraphBuilder, state: Any, element: Any) -> Any:
            dh = b.add(state[0], element[1]) if d.dy is not None else state[0]
            dz = b.mul(dh, element[0])
            return [carry_past_the_end(b, d, b.matmul(dz, d.r), dh, element)], [dz]

        dstates, (dz,) = scan(g, step, d.dstates, [slope, *gradient_of_output(g, d)], reverse=True)
        return CellGradient(dz, dz, dstates)

    return recurrent(g, node, dys, 1, cell)


def gradient_of_output(g: GraphBuilder, d: Direction) -> list[ir.Value]:
    """The last sequences of a scan: dy where there is one, and 1 - counts where sequences end early."""
    return [v for v in (d.dy, None if d.counts is None else g.sub(1.0, d.counts)) if v is not None]


def carry_past_the_end(b: GraphBuilder, d: Direction, new: Value, dh: ir.Value, element: Sequence[ir.Value]) -> Value:
    """The gradient that goes on to the step before: past the end of a sequence, the one that came."""
    return new if d.counts is None else b.add(new, b.mul(dh, element[-1]))
