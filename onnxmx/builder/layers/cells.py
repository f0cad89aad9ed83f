"""Cells: one step of a recurrence, and the layer that unrolls any of them over a known number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.activation import ActivationFunction, activate, sigmoid, tanh
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.layers.container import call_named
from onnxmx.errors import GraphError, UsageError

Init = str | init.Initializer


@dataclass(frozen=True)
class Cell(Layer):
    """One step of a recurrence. A cell of one's own says how large its states are, and what comes next:

        @dataclass(frozen=True)
        class Leaky(L.Cell):
            units: int

            @property
            def state_sizes(self):
                return (self.units,)

            def forward(self, x, h):
                return (h * 0.9 + L.Dense(self.units)(x) * 0.1,)

    forward: takes x (batch, n_in) and each state (batch, size); returns the next states, the first one as its output.
    """

    @property
    def state_sizes(self) -> Sequence[int]:
        """The last dimension of each state."""
        raise GraphError(
            f"{type(self).__name__} expected a property state_sizes; found none",
            at=self._source,
            mend="Return a tuple of sizes, one for each state.",
        )

    def __call__(self, *xs: Value, **named: Value | None) -> Any:
        """One step: returns the next states."""
        return super().__call__(*xs, **named)


@dataclass(frozen=True)
class _GatedCell(Cell):
    """What the cells share: a product of x and one of h, all gates side by side.

    weight: (n_in, gates units)   recurrent_weight: (units, gates units)   bias: (gates units,)
    """

    units: int
    _: KW_ONLY
    bias: bool = True
    weight_init: Init = "xavier"
    recurrent_init: Init = "orthogonal"
    bias_init: Init = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("units")

    @property
    def state_sizes(self) -> Sequence[int]:
        return (self.units,)

    def _product(self, x: Value, gates: int, prefix: str = "", c: Value | None = None) -> Value:
        """x W + b, and + c where there is one."""
        g = x.builder
        n_in = self._static_dim(x, -1, "a number of features", "Give the input's last dimension in build(...).")
        first = self.recurrent_init if prefix else self.weight_init
        w = g.parameter(f"{prefix}weight", (n_in, gates * self.units), first)
        if c is not None or not self.bias:
            return g.gemm(x, w, c)
        return g.gemm(x, w, g.parameter(f"{prefix}bias", (gates * self.units,), self.bias_init))


@dataclass(frozen=True)
class RNNCell(_GatedCell):
    """h' = activation(x W + h R + b).   x: (batch, n_in)   h, h': (batch, units)   Source: Elman 1990."""

    _: KW_ONLY
    activation: str | ActivationFunction = "tanh"

    def forward(self, x: Value, h: Value) -> Any:
        return (activate(self._product(h, 1, "recurrent_", self._product(x, 1)), self.activation),)


@dataclass(frozen=True)
class LSTMCell(_GatedCell):
    """c' = f c + i g, h' = o tanh(c'); i, o, f = sigmoid and g = tanh of x W + h R + b, in that order.

    x: (batch, n_in)   h, c, h', c': (batch, units)   Source: Gers et al. 2000.
    """

    _: KW_ONLY
    bias_init: Init = "forget_bias"

    @property
    def state_sizes(self) -> Sequence[int]:
        return (self.units, self.units)

    def forward(self, x: Value, h: Value, c: Value) -> Any:
        z = self._product(h, 4, "recurrent_", self._product(x, 4))
        i, o, f, g = x.builder.ops("Split", z, outputs=4, axis=1, num_outputs=4)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c


@dataclass(frozen=True)
class GRUCell(_GatedCell):
    """h' = (1 - z) n + z h;   z, r = sigmoid(x W + b + h R + rb);   n = tanh(x W + b + r (h R + rb)); order z, r, n

    x: (batch, n_in)   h, h': (batch, units)   recurrent_bias: (3 units,).   Source: Cho et al. 2014; see GRU.
    """

    def forward(self, x: Value, h: Value) -> Any:
        g = x.builder
        parts = np.array([2 * self.units, self.units])
        x_gates, x_new = g.ops("Split", self._product(x, 3), parts, outputs=2, axis=1)
        h_gates, h_new = g.ops("Split", self._product(h, 3, "recurrent_"), parts, outputs=2, axis=1)
        z, r = g.ops("Split", sigmoid(x_gates + h_gates), outputs=2, axis=1, num_outputs=2)
        n = tanh(x_new + r * h_new)
        return (n + z * (h - n),)


@dataclass(frozen=True)
class Unroll(Layer):
    """A cell over all steps of a sequence, step by step.   x: (batch, time, n_in)   y: (batch, time, size)

    The number of steps must be known; the nodes of the cell stand in the graph once for each. RNN, LSTM and GRU
    take any number of steps in one node. Initial states are zeros unless they are given after x.
    return_sequences=False: the last step's output alone, (batch, size).
    reverse: start with the last step; y stays in the order of x.
    """

    cell: Cell
    _: KW_ONLY
    return_sequences: bool = True
    reverse: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Cell):
            raise UsageError(
                f"Unroll expected a Cell; found {self.cell!r}",
                at=self._source,
                mend="For example Unroll(LSTMCell(64)).",
            )

    def forward(self, x: Value, *initial: Value) -> Value:
        self._expect_rank(x, 3, "(batch, time, features)")
        g = x.builder
        time = self._static_dim(x, 1, "a number of steps", "Give it in build(...), or use RNN, LSTM or GRU.")
        steps = g.ops("Split", x, outputs=time, axis=1, num_outputs=time) if time > 1 else (x,)
        states: Sequence[Value] = initial or [self._zeros(x, size) for size in self.cell.state_sizes]
        ys: list[Value] = []
        for step in reversed(steps) if self.reverse else steps:
            states = self._next(g.squeeze(step, [1]), states)
            ys.append(states[0])
        if not self.return_sequences:
            return ys[-1]
        ordered = [g.unsqueeze(y, [1]) for y in (reversed(ys) if self.reverse else ys)]
        return g.concat(ordered, 1) if time > 1 else ordered[0]

    def _next(self, x: Value, states: Sequence[Value]) -> Sequence[Value]:
        found: Any = call_named(self.cell, "cell", x, *states)
        if not isinstance(found, tuple) or len(found) != len(states):
            raise GraphError(
                f"{type(self.cell).__name__} expected its forward to return {len(states)} states; found {found!r}",
                at=self.cell._source,
                mend="End forward with `return (h,)`, a tuple of the next states.",
            )
        return found

    def _zeros(self, x: Value, size: int) -> Value:
        g = x.builder
        batch = x.shape[0] if x.shape is not None else None
        if isinstance(batch, int):
            return g.constant(np.zeros((batch, size), np.float32))
        shape = g.concat([g.op("Shape", x, start=0, end=1), np.array([size])], 0)
        out = g.op("ConstantOfShape", shape)
        out.shape = ir.Shape([batch, size])
        return out
