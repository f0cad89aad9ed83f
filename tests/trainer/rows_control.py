"""Rows of the table of gradient rules: If, Scan, Loop, and one inside the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.body import Body
from onnxmx.builder.control import Track, add_if, add_loop, add_scan
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.ops import BOOL, INT64
from tests.trainer.rule_case import Case, Shape

Make = Callable[[Any], Any]


def if_(g: GraphBuilder, condition: Any, then: Make, otherwise: Make) -> Any:
    bodies = []
    for make in (then, otherwise):
        body = Body(g)
        found = make(body)
        for y in found if isinstance(found, tuple) else (found,):
            body.result(y)
        bodies.append(body)
    outs = add_if(g, condition, *bodies)
    return outs[0] if len(outs) == 1 else outs


def scan(
    g: GraphBuilder, step: Any, states: Sequence[Any], sequences: Sequence[Any],
    reading: Sequence[Track], writing: Sequence[Track],
) -> Any:  # fmt: skip
    """step(body, *states, *elements) -> (states, outputs)."""
    body = Body(g)
    entries = [body.entry("state", v.type, v.shape) for v in states]
    for v, track in zip(sequences, reading, strict=True):
        sizes = list(v.shape)
        del sizes[track.axis]
        entries.append(body.entry("element", v.type, sizes))
    after, outputs = step(body, *entries)
    for y in (*after, *outputs):
        body.result(y)
    return add_scan(g, body, states, list(zip(sequences, reading, strict=True)), writing)


def loop(g: GraphBuilder, step: Any, trips: Any, states: Sequence[Any], *, condition: Any = None) -> Any:
    """step(body, number, going, *states) -> (going, states, outputs)."""
    body = Body(g)
    number, going = (body.entry(n, ir.TensorType(t), ()) for n, t in (("number", INT64), ("going", BOOL)))
    entries = [body.entry("state", v.type, v.shape) for v in states]
    still, after, outputs = step(body, number, going, *entries)
    for y in (still, *after, *outputs):
        body.result(y)
    return add_loop(g, body, None if trips is None else g.constant(np.array(trips)), condition, states)


# --- If
def either(g: Any, x: Any, w: Any, sign: float) -> Any:
    """One branch reads x and w, the other w alone; the condition depends on x."""
    above = g.greater(g.reduce_sum(g.mul(x, x), keepdims=False), g.cast_like(np.array(sign), x))
    return if_(g, above, lambda b: b.sin(b.mul(x, w)), lambda b: b.mul(w, w))


def two_outputs(g: Any, x: Any, taken: bool) -> Any:
    """The same value given out twice, and a value of the graph around as it is."""

    def then(b: Any) -> Any:
        y = b.exp(x)
        return y, y, x

    a, b, c = if_(g, g.equal(g.op("Size", x), 12 if taken else 5), then, lambda b: (x, b.mul(x, 3.0), b.neg(x)))
    return g.sum(a, g.sin(b), c)


def nested_if(g: Any, x: Any, w: Any, outer: bool, inner: bool) -> Any:
    size = g.op("Size", x)

    def then(b: Any) -> Any:
        y = b.mul(x, w)
        return if_(b, b.equal(size, 12 if inner else 1), lambda c: c.mul(y, x), lambda c: c.op("Tanh", c.add(y, w)))

    return if_(g, g.equal(size, 12 if outer else 1), then, lambda b: b.mul(x, x))


def ranks_that_differ(g: Any, x: Any, taken: bool) -> Any:
    """As exporters write Squeeze where a size may be 1."""
    y = if_(g, g.equal(g.op("Size", x), 5 if taken else 1), lambda b: b.squeeze(b.exp(x), [0]), lambda b: b.mul(x, x))
    return g.reshape(y, [-1])


# --- Scan
def rnn(g: Any, x: Any, h: Any, w: Any, reading: Track, writing: Track) -> Any:
    """A state, a captured weight that is read twice, an output."""

    def step(b: Any, h: Any, x: Any) -> Any:
        new = b.op("Tanh", b.add(b.matmul(h, w), b.mul(x, b.reduce_sum(w, keepdims=False))))
        return [new], [b.mul(new, x)]

    last, ys = scan(g, step, [h], [x], [reading], [writing])
    return g.concat([g.reshape(last, [-1]), g.reshape(ys, [-1])], 0)


def two_of_each(g: Any, a: Any, b: Any, x: Any, y: Any, read: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
    """Two states and two sequences, a count of whole numbers, a state that passes through."""

    def step(s: Any, a: Any, b: Any, n: Any, x: Any, y: Any) -> Any:
        more = s.mul(s.sin(a), y)
        return [s.add(s.mul(b, x), more), b, s.add(n, 1)], [s.mul(more, s.cast_like(n, x)), s.add(b, x)]

    start = g.constant(np.array(3, np.int64))
    a1, b1, _, p, q = scan(g, step, [a, b, start], [x, y], [Track(1), Track(0, True)], [Track(-1), Track(1, True)])
    return g.concat([g.reshape((a1, b1, p, q)[k], [-1]) for k in read], 0)


def linear(g: Any, h: Any, x: Any) -> Any:
    """A body of which the way back needs nothing."""
    last, ys = scan(g, lambda b, h, x: ([b.add(b.mul(h, 0.5), x)], [b.mul(h, 2.0)]), [h], [x], [Track()], [Track()])
    return g.concat([g.reshape(last, [-1]), g.reshape(ys, [-1])], 0)


def last_state_of(g: Any, h: Any, w: Any) -> Any:
    """Only the last state is used, and the steps are counted by numbers without a gradient."""
    steps = g.constant(np.arange(4))
    last, _ = scan(g, lambda b, h, n: ([b.sin(b.mul(h, w))], [b.add(n, 1)]), [h], [steps], [Track()], [Track()])
    return last


def scan_in_scan(g: Any, x: Any, h: Any, w: Any) -> Any:
    """Rows of rows: the inner one captures the outer one's state and a weight of the graph around both."""

    def outer(b: Any, h: Any, row: Any) -> Any:
        def inner(c: Any, s: Any, e: Any) -> Any:
            new = c.op("Tanh", c.add(c.mul(s, w), c.mul(e, h)))
            return [new], [c.mul(new, e)]

        last, ys = scan(b, inner, [h], [row], [Track()], [Track(reverse=True)])
        return [b.add(last, b.reduce_sum(ys, [0], keepdims=False))], [last]

    last, all_ = scan(g, outer, [h], [x], [Track(1)], [Track()])
    return g.concat([g.reshape(last, [-1]), g.reshape(all_, [-1])], 0)


def if_in_scan(g: Any, x: Any, h: Any, w: Any) -> Any:
    """Each step takes one way or the other."""

    def step(b: Any, h: Any, n: Any, x: Any) -> Any:
        even = b.equal(b.op("Mod", n, 2), 0)
        new = if_(b, even, lambda c: c.mul(c.sin(h), w), lambda c: c.add(c.mul(h, x), w))
        return [new, b.add(n, 1)], [b.mul(new, x)]

    last, _, ys = scan(g, step, [h, g.constant(np.array(0))], [x], [Track()], [Track()])
    return g.concat([g.reshape(last, [-1]), g.reshape(ys, [-1])], 0)


def scan_in_if(g: Any, x: Any, h: Any, w: Any) -> Any:
    return if_(
        g, g.equal(g.op("Size", h), 3), lambda b: rnn(b, x, h, w, Track(), Track()), lambda b: b.reshape(x, [-1])
    )


# --- Loop
def powers(g: Any, h: Any, w: Any, *, stop: bool) -> Any:
    """h <- sin(h w) + t, four times; or until the state says so."""

    def step(b: Any, number: Any, going: Any, h: Any) -> Any:
        new = b.add(b.sin(b.mul(h, w)), b.mul(b.cast_like(number, h), 0.1))
        still = b.less(number, 2) if stop else b.op("Identity", going)
        return still, [new], [b.mul(new, w), b.reduce_sum(new, keepdims=False)]

    yes = g.constant(np.array(True))
    last, ys, sums = loop(g, step, None if stop else 4, [h], condition=yes)
    return g.concat([g.reshape(v, [-1]) for v in (last, ys, sums)], 0)


def slices(g: Any, x: Any, h: Any, w: Any) -> Any:
    """As exporters write a recurrent cell: the step takes its own row of what is around."""

    def step(b: Any, number: Any, going: Any, h: Any) -> Any:
        new = b.op("Tanh", b.add(b.matmul(h, w), b.gather(x, number)))
        return going, [new], [new]

    last, ys = loop(g, step, 5, [h], condition=g.constant(np.array(True)))
    return g.concat([g.reshape(v, [-1]) for v in (last, ys)], 0)


def loop_in_loop(g: Any, h: Any, w: Any) -> Any:
    def outer(b: Any, number: Any, going: Any, h: Any) -> Any:
        (new,) = loop(b, lambda c, n, go, s: (go, [c.add(c.mul(c.sin(s), w), h)], []), 2, [h], condition=going)
        return going, [new], []

    (last,) = loop(g, outer, 3, [h], condition=g.constant(np.array(True)))
    return last


def case(operator: str, label: str, make: Any, *shapes: Shape) -> Case:
    return Case(operator, shapes, make=make, label=label)


X, H, W = (5, 2, 3), (2, 3), (3, 3)
TRACKS = [
    ((4, 2, 3), Track(), Track()),
    ((4, 2, 3), Track(0, True), Track(2)),
    ((2, 3, 4), Track(2), Track(1, True)),
    ((2, 3, 4), Track(-1, True), Track(0, True)),
]
CASES = [
    *(case("If", f"{n}", lambda g, x, w, n=n: either(g, x, w, n), (3, 4), (3, 4)) for n in (0.0, 1000.0)),
    *(case("If", f"twice{t}", lambda g, x, t=t: two_outputs(g, x, t), (3, 4)) for t in (True, False)),
    *(case("If", f"nested{o}{i}", lambda g, x, w, o=o, i=i: nested_if(g, x, w, o, i), (3, 4), (4,))
      for o, i in ((True, True), (True, False), (False, True))),
    *(case("If", f"ranks{t}", lambda g, x, t=t: ranks_that_differ(g, x, t), (1, 5)) for t in (True, False)),
    *(case("Scan", f"{[*r, *w]}", lambda g, x, h, v, r=r, w=w: rnn(g, x, h, v, r, w), s, H, W) for s, r, w in TRACKS),
    *(case("Scan", f"two{k}", lambda g, a, b, x, y, k=k: two_of_each(g, a, b, x, y, k), H, H, (2, 4, 3), (4, 2, 3))
      for k in ((0, 1, 2, 3), (0,), (1, 3), (2,))),
    case("Scan", "linear", linear, H, X),
    case("Scan", "last", last_state_of, H, H),
    case("Scan", "nested", scan_in_scan, (3, 2, 4), (4,), (4,)),
    case("Scan", "if", if_in_scan, X, H, H),
    case("If", "scan", scan_in_if, (4, 1, 3), (1, 3), W),
    *(case("Loop", f"stop{s}", lambda g, h, w, s=s: powers(g, h, w, stop=s), H, H) for s in (False, True)),
    case("Loop", "slices", slices, X, H, W),
    case("Loop", "nested", loop_in_loop, H, H),
]  # fmt: skip
