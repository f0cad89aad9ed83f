"""RNN, LSTM and GRU as their equations read, one step and one direction at a time, in numpy.

Arguments and results are laid out as those of the ONNX operators, `sequence_lens` included.
x: (time, batch, n_in)   w: (directions, gates * units, n_in)   r: (directions, gates * units, units)
b: (directions, 2 * gates * units)   h0, c0: (directions, batch, units)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]
Step = Callable[..., tuple[Array, ...]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def rnn_step(activation: Callable[[Array], Array]) -> Step:
    def step(x: Array, w: Array, r: Array, wb: Array, rb: Array, h: Array) -> tuple[Array, ...]:
        return (activation(x @ w.T + wb + h @ r.T + rb),)

    return step


def lstm_step(x: Array, w: Array, r: Array, wb: Array, rb: Array, h: Array, c: Array) -> tuple[Array, ...]:
    i, o, f, g = np.split(x @ w.T + wb + h @ r.T + rb, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(linear_before_reset: int) -> Step:
    def step(x: Array, w: Array, r: Array, wb: Array, rb: Array, h: Array) -> tuple[Array, ...]:
        xz, xr, xn = np.split(x @ w.T + wb, 3, -1)
        rz, rr, rn = np.split(r, 3)
        bz, br, bn = np.split(rb, 3)
        z, reset = sigmoid(xz + h @ rz.T + bz), sigmoid(xr + h @ rr.T + br)
        inner = reset * (h @ rn.T + bn) if linear_before_reset else (reset * h) @ rn.T + bn
        return ((1 - z) * np.tanh(xn + inner) + z * h,)

    return step


def run(
    step: Step,
    x: Array,
    w: Array,
    r: Array,
    b: Array | None,
    lengths: Array | None,
    states: list[Array | None],
    direction: str,
) -> tuple[Array, ...]:
    """Returns y (time, directions, batch, units) and the last value of each state (directions, batch, units)."""
    time, batch, _ = x.shape
    directions, units = r.shape[0], r.shape[2]
    b = np.zeros((directions, 2 * w.shape[1]), x.dtype) if b is None else b
    lengths = np.full(batch, time) if lengths is None else lengths
    last = [np.zeros((directions, batch, units), x.dtype) if s is None else np.array(s) for s in states]
    y = np.zeros((time, directions, batch, units), x.dtype)
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        for n in range(batch):
            now = [s[d, n] for s in last]
            for t in reversed(range(lengths[n])) if backwards else range(lengths[n]):
                now = list(step(x[t, n], w[d], r[d], *np.split(b[d], 2), *now))
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
        activations: Any = None,
        direction: str = "forward",
        **_: Any,
    ) -> tuple[Array, ...]:
        activation = {"tanh": np.tanh, "relu": lambda v: np.maximum(v, 0), "sigmoid": sigmoid}[
            activations[0].lower() if activations else "tanh"
        ]
        return run(rnn_step(activation), x, w, r, b, lengths, [h0], direction)[: len(self.onnx_node.output)]


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
        direction: str = "forward",
        **_: Any,
    ) -> tuple[Array, ...]:
        return run(gru_step(linear_before_reset), x, w, r, b, lengths, [h0], direction)[: len(self.onnx_node.output)]


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
        direction: str = "forward",
        **_: Any,
    ) -> tuple[Array, ...]:
        return run(lstm_step, x, w, r, b, lengths, [h0, c0], direction)[: len(self.onnx_node.output)]


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
