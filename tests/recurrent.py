"""RNN, LSTM and GRU as their equations read, one step and one direction at a time, in numpy.

Arguments and results are laid out as those of the ONNX operators, `sequence_lens` included.
x: (time, batch, n_in)   w: (directions, gates * units, n_in)   r: (directions, gates * units, units)
b: (directions, 2 * gates * units)   h0, c0: (directions, batch, units)
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]
Step = Callable[..., tuple[Array, ...]]
Activation = Callable[..., Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# By name; those of the second kind take alpha, of the third alpha and beta.
ACTIVATIONS: dict[str, tuple[Activation, int]] = {
    "tanh": (np.tanh, 0),
    "sigmoid": (sigmoid, 0),
    "relu": (lambda x: np.maximum(x, 0), 0),
    "softsign": (lambda x: x / (1 + np.abs(x)), 0),
    "softplus": (lambda x: np.log1p(np.exp(x)), 0),
    "elu": (lambda x, a: np.where(x > 0, x, a * np.expm1(x)), 1),
    "leakyrelu": (lambda x, a: np.where(x > 0, x, a * x), 1),
    "thresholdedrelu": (lambda x, a: np.where(x > a, x, 0), 1),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 2),
    "affine": (lambda x, a, b: a * x + b, 2),
    "scaledtanh": (lambda x, a, b: a * np.tanh(b * x), 2),
}


def steps(factory: Callable[..., Step], each: int, names: Any, alphas: Any, betas: Any) -> list[Step]:
    """One step for each direction, from the attributes of a node; `each` activations make a step."""
    if not names:
        return [factory(), factory()]
    numbers = iter(alphas or ()), iter(betas or ())
    found = []
    for name in names:
        function, count = ACTIVATIONS[name.lower()]
        own = [float(next(n)) for n in numbers[:count]]
        found.append(lambda x, function=function, own=own: function(x, *own))
    return [factory(*found[k : k + each]) for k in range(0, len(found), each)]


def clipped(x: Array, clip: float | None) -> Array:
    return x if clip is None else np.clip(x, -clip, clip)


def rnn_step(activation: Activation = np.tanh, clip: float | None = None) -> Step:
    def step(x: Array, w: Array, r: Array, wb: Array, rb: Array, h: Array) -> tuple[Array, ...]:
        return (activation(clipped(x @ w.T + wb + h @ r.T + rb, clip)),)

    return step


def lstm_step(
    clip: float | None = None,
    input_forget: int = 0,
    gate: Activation = sigmoid,
    new: Activation = np.tanh,
    out: Activation = np.tanh,
) -> Step:
    """ONNX Runtime clips what goes into the gates and into `new`, not what goes into `out`."""

    def step(
        x: Array, w: Array, r: Array, wb: Array, rb: Array, h: Array, c: Array, p: Array | None = None
    ) -> tuple[Array, ...]:
        i, o, f, g = np.split(x @ w.T + wb + h @ r.T + rb, 4, -1)
        pi, po, pf = np.zeros((3, 1)) if p is None else np.split(p, 3)
        i, f, g = (clipped(v, clip) for v in (i + pi * c, f + pf * c, g))
        c = (1 - gate(i) if input_forget else gate(f)) * c + gate(i) * new(g)
        return gate(clipped(o + po * c, clip)) * out(c), c

    return step


def gru_step(
    linear_before_reset: int, clip: float | None = None, gate: Activation = sigmoid, new: Activation = np.tanh
) -> Step:
    def step(x: Array, w: Array, r: Array, wb: Array, rb: Array, h: Array) -> tuple[Array, ...]:
        xz, xr, xn = np.split(x @ w.T + wb, 3, -1)
        rz, rr, rn = np.split(r, 3)
        bz, br, bn = np.split(rb, 3)
        z, reset = (gate(clipped(v, clip)) for v in (xz + h @ rz.T + bz, xr + h @ rr.T + br))
        inner = reset * (h @ rn.T + bn) if linear_before_reset else (reset * h) @ rn.T + bn
        return ((1 - z) * new(clipped(xn + inner, clip)) + z * h,)

    return step


def run(
    step: Step | list[Step],
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    lengths: Array | None,
    states: list[Array | None],
    direction: str,
    peepholes: Array | None = None,
    layout: int = 0,
) -> tuple[Array, ...]:
    """Returns y (time, directions, batch, units) and the last value of each state (directions, batch, units).

    layout=1: the batch comes first in x, y and the states.   peepholes: (directions, 3 * units)
    """
    if layout:
        x, *states = (None if v is None else np.swapaxes(v, 0, 1) for v in (x, *states))
        y, *last = run(step, x, w, r, b, lengths, states, direction, peepholes)
        return y.transpose(2, 0, 1, 3), *(np.swapaxes(v, 0, 1) for v in last)
    time, batch, _ = x.shape
    directions, units = r.shape[0], r.shape[2]
    of_way = step if isinstance(step, list) else [step] * directions
    b = np.zeros((directions, 2 * w.shape[1]), x.dtype) if b is None else b
    lengths = np.full(batch, time) if lengths is None else lengths
    last = [np.zeros((directions, batch, units), x.dtype) if s is None else np.array(s) for s in states]
    y = np.zeros((time, directions, batch, units), x.dtype)
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        for n in range(batch):
            now = [s[d, n] for s in last]
            for t in reversed(range(lengths[n])) if backwards else range(lengths[n]):
                extra = () if peepholes is None else (peepholes[d],)
                now = list(of_way[d](x[t, n], w[d], r[d], *np.split(b[d], 2), *now, *extra))
                y[t, d, n] = now[0]
            for s, value in zip(last, now, strict=True):
                s[d, n] = value
    return y, *last


class RNN(OpRun):
    """For onnx.reference, whose own operators know no `sequence_lens`."""

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Any = None,
        lengths: Any = None,
        h0: Any = None,
        clip: float | None = None,
        activations: Any = None,
        activation_alpha: Any = None,
        activation_beta: Any = None,
        direction: str = "forward",
        layout: int = 0,
        **_: Any,
    ) -> tuple[Array, ...]:
        ways = steps(lambda f=np.tanh: rnn_step(f, clip), 1, activations, activation_alpha, activation_beta)
        found = run(ways, x, w, r, b, lengths, [h0], direction, layout=layout)
        return found[: len(self.onnx_node.output)]


class GRU(OpRun):
    """As RNN."""

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Any = None,
        lengths: Any = None,
        h0: Any = None,
        linear_before_reset: int = 0,
        clip: float | None = None,
        activations: Any = None,
        activation_alpha: Any = None,
        activation_beta: Any = None,
        direction: str = "forward",
        layout: int = 0,
        **_: Any,
    ) -> tuple[Array, ...]:
        each = functools.partial(gru_step, linear_before_reset, clip)
        ways = steps(each, 2, activations, activation_alpha, activation_beta)
        found = run(ways, x, w, r, b, lengths, [h0], direction, layout=layout)
        return found[: len(self.onnx_node.output)]


class LSTM(OpRun):
    """As RNN."""

    def _run(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Any = None,
        lengths: Any = None,
        h0: Any = None,
        c0: Any = None,
        p: Any = None,
        clip: float | None = None,
        input_forget: int = 0,
        activations: Any = None,
        activation_alpha: Any = None,
        activation_beta: Any = None,
        direction: str = "forward",
        layout: int = 0,
        **_: Any,
    ) -> tuple[Array, ...]:
        each = functools.partial(lstm_step, clip, input_forget)
        ways = steps(each, 3, activations, activation_alpha, activation_beta)
        found = run(ways, x, w, r, b, lengths, [h0, c0], direction, p, layout)
        return found[: len(self.onnx_node.output)]


class Scan(OpRun):
    """The reference's own Scan knows neither directions nor axes."""

    def need_context(self) -> bool:
        return True

    def _run(
        self,
        *args: Array,
        context: Any = None,
        body: Any = None,
        num_scan_inputs: int = 1,
        scan_input_axes: Any = None,
        scan_input_directions: Any = None,
        scan_output_axes: Any = None,
        scan_output_directions: Any = None,
        **_: Any,
    ) -> tuple[Array, ...]:
        states, sequences = list(args[:-num_scan_inputs]), args[-num_scan_inputs:]
        ways = zip(sequences, _each(scan_input_axes), _each(scan_input_directions), strict=False)
        elements = [_flipped(np.moveaxis(s, axis, 0), back) for s, axis, back in ways]
        outputs = []
        for step in zip(*elements, strict=True):
            feeds = dict(zip(body.input_names, [*states, *step], strict=True))
            results = body.run(None, dict(context or {}) | feeds)
            states = results[: len(states)]
            outputs.append(results[len(states) :])
        ways = zip(zip(*outputs, strict=True), _each(scan_output_axes), _each(scan_output_directions), strict=False)
        return (*states, *(np.moveaxis(_flipped(np.stack(o), back), 0, axis) for o, axis, back in ways))


def _each(values: Any) -> Any:
    """What an attribute says of each sequence; 0 where it is left out."""
    return values if values else itertools.repeat(0)


def _flipped(x: Array, back: int) -> Array:
    return x[::-1] if back else x


class Loop(OpRun):
    """The reference's own Loop stacks scalars and vectors wrongly."""

    def need_context(self) -> bool:
        return True

    def _run(self, trips: Any, going: Any, *states: Any, context: Any = None, body: Any = None, **_: Any) -> Any:
        count, step, going, outputs = len(states), 0, True if going is None else bool(going), []
        while going and (trips is None or step < trips):
            inputs = (np.array(step, np.int64), np.array(going), *states)
            feeds = dict(zip(body.input_names, inputs, strict=True))
            going, *results = body.run(None, dict(context or {}) | feeds)
            states, step = results[:count], step + 1
            outputs.append(results[count:])
        return (*states, *map(np.stack, zip(*outputs, strict=True)))
