"""RNN, LSTM and GRU over (batch, time, features), on the ONNX operators of those names."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

from onnxmx.builder import init
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.layers.norm import Dropout
from onnxmx.builder.ops import INT32
from onnxmx.errors import UsageError

Init = str | init.Initializer
_LAYOUT = "(batch, time, features)"


@dataclass(frozen=True)
class _Recurrent(Layer):
    """What the three share. Layers are named `0`, `1`, ...; their parameters are those of the ONNX operator:

    weight: (directions, gates units, n_in)   recurrent_weight: (directions, gates units, units)
    bias: (directions, 2 gates units), the input's, then the recurrent one's
    """

    units: int
    _: KW_ONLY
    layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    return_sequences: bool = True
    return_state: bool = False
    bias: bool = True
    weight_init: Init = "xavier"
    recurrent_init: Init = "orthogonal"
    bias_init: Init = "zeros"

    _operator: ClassVar[str]
    _gates: ClassVar[int]

    def __post_init__(self) -> None:
        self._check_sizes("units", "layers")
        Dropout(self.dropout)  # it says what is wrong with a ratio

    def __call__(self, *xs: Value, **named: Value | None) -> Any:
        """Add this layer to the graph that `xs` belong to. Returns a value, or several with `return_state`."""
        return super().__call__(*xs, **named)

    def _run(self, x: Value, lengths: Value | None, mask: Value | None, initial: list[Value | None]) -> Any:
        """All layers, one above the other, in the operators' own layout (time, batch, features)."""
        self._expect_rank(x, 3, _LAYOUT)
        g, lens = x.builder, self._lengths(x, lengths, mask)
        starts = [self._by_layer(x, state) for state in initial]
        # ONNX Runtime has no CPU kernel for layout=1, batch first.
        below, y, lasts = g.transpose(x, [1, 0, 2]), x, []
        for k in range(self.layers):
            if k:
                below = self._side_by_side(y, [0, 2, 1, 3])
                if self.dropout:
                    below = self._written_here(Dropout(self.dropout))._call(f"{k}.dropout", below)
            with g.scope(str(k), source=g.source(), what=g.what()):
                y, *last = self._layer(g, below, lens, [s[k] for s in starts])
            lasts.append(last)
        y = self._side_by_side(y, [2, 0, 1, 3]) if self.return_sequences else self._last(lasts[-1][0])
        if not self.return_state:
            return y
        return y, *(s[0] if len(s) == 1 else g.concat(s, 0) for s in zip(*lasts, strict=True))

    def _layer(self, g: GraphBuilder, x: Value, lens: Value | None, starts: list[Value | None]) -> tuple[Value, ...]:
        """One operator: y (time, directions, batch, units), and the last states where they are needed."""
        n_in = self._static_dim(x, 2, "a number of features", "Give the input's last dimension in build(...).")
        rows, d = self._gates * self.units, 1 + self.bidirectional
        at = g.source()
        w = g.parameter("weight", (d, rows, n_in), _gatewise(self.weight_init, self._gates, at))
        r = g.parameter("recurrent_weight", (d, rows, self.units), _gatewise(self.recurrent_init, self._gates, at))
        b = g.parameter("bias", (d, 2 * rows), self.bias_init) if self.bias else None
        outputs = 1 + len(starts) if self.return_state else 1 if self.return_sequences else 2
        attributes = {"direction": "bidirectional"} if self.bidirectional else {}
        attributes |= self._attributes() | {"hidden_size": self.units}
        return g.ops(self._operator, x, w, r, b, lens, *starts, outputs=outputs, **attributes)

    def _attributes(self) -> dict[str, Any]:
        return {}

    def _side_by_side(self, y: Value, perm: list[int]) -> Value:
        """Both directions as features of one sequence.   y: (time, directions, batch, units)"""
        g = y.builder
        if self.bidirectional:
            return g.reshape(g.transpose(y, perm), [0, 0, 2 * self.units])
        return g.squeeze(y, [1]) if perm[0] == 0 else g.transpose(g.squeeze(y, [1]), [1, 0, 2])

    def _last(self, h: Value) -> Value:
        """The last state of both directions as features.   h: (directions, batch, units)"""
        g = h.builder
        if self.bidirectional:
            return g.reshape(g.transpose(h, [1, 0, 2]), [0, 2 * self.units])
        return g.squeeze(h, [0])

    def _by_layer(self, x: Value, state: Value | None) -> list[Value | None]:
        """An initial state for each layer."""
        if state is None:
            return [None] * self.layers
        g, d = state.builder, 1 + self.bidirectional
        if d * self.layers == 1 and state.shape is not None and len(state.shape) == 2:
            return [g.unsqueeze(state, [0])]
        shape = None if state.shape is None else (len(state.shape), state.shape[0], state.shape[-1])
        if shape is not None and shape != (3, d * self.layers, self.units):
            expected = (
                f"an initial state ({d * self.layers}, batch, {self.units}), a state for each layer and direction"
            )
            raise self._misfit(state, expected, "It is what another such layer with return_state=True returns.")
        return [state] if self.layers == 1 else [*g.ops("Split", state, outputs=self.layers, num_outputs=self.layers)]

    def _lengths(self, x: Value, lengths: Value | None, mask: Value | None) -> Value | None:
        """How many steps of each sample count, int32 (batch,)."""
        g = x.builder
        if lengths is not None and mask is not None:
            raise UsageError(
                f"{g.what()} expected lengths or a mask; found both", at=g.source(), mend="Leave one of them out."
            )
        if mask is not None:
            self._expect_rank(mask, 2, "(batch, time)")
            return g.reduce_sum(g.cast(mask, INT32), [1], keepdims=False)
        if lengths is None:
            return None
        self._expect_rank(lengths, 1, "(batch,)")
        if lengths.dtype is None or not lengths.dtype.is_integer():
            raise self._misfit(lengths, "lengths of an integer type", "For example Input(('batch',), 'int64').")
        return lengths if lengths.dtype == INT32 else g.cast(lengths, INT32)


@dataclass(frozen=True)
class RNN(_Recurrent):
    """h[t] = activation(W x[t] + R h[t-1] + b).   x: (batch, time, n_in)   y: (batch, time, directions units)

    lengths: (batch,) integers, or mask: (batch, time) with the ones first: steps past the end give 0 and leave the
    state as it is.   initial_h: (layers directions, batch, units); with one layer and direction, (batch, units) too.
    return_sequences=False: the last state instead, (batch, directions units).
    return_state=True: the last states of all layers as well, as an initial_h takes them.
    dropout: of what goes from one layer to the next.   Source: Elman 1990.
    """

    _: KW_ONLY
    activation: str = "tanh"
    _operator = "RNN"
    _gates = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ("tanh", "relu"):
            raise UsageError(
                f"RNN expected activation 'tanh' or 'relu'; found {self.activation!r}",
                at=self._source,
                mend="Write a Cell and Unroll it for any other.",
            )

    def _attributes(self) -> dict[str, Any]:
        return {} if self.activation == "tanh" else {"activations": ["Relu"] * (1 + self.bidirectional)}

    def forward(
        self, x: Value, lengths: Value | None = None, mask: Value | None = None, initial_h: Value | None = None
    ) -> Any:
        return self._run(x, lengths, mask, [initial_h])


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """h[t] = o tanh(c[t]), c[t] = f c[t-1] + i g; i, o, f = sigmoid, g = tanh of W x[t] + R h[t-1] + b, in this order

    Inputs and outputs as those of RNN, with initial_c beside initial_h; return_state=True returns y, h and c.
    Its forget gates start open: bias_init="forget_bias".
    Source: Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000, its bias: Jozefowicz et al. 2015.
    """

    _: KW_ONLY
    bias_init: Init = "forget_bias"
    _operator = "LSTM"
    _gates = 4

    def forward(
        self,
        x: Value,
        lengths: Value | None = None,
        mask: Value | None = None,
        initial_h: Value | None = None,
        initial_c: Value | None = None,
    ) -> Any:
        return self._run(x, lengths, mask, [initial_h, initial_c])


@dataclass(frozen=True)
class GRU(_Recurrent):
    """h[t] = (1 - z) n + z h[t-1];   z, r = sigmoid of W x[t] + R h[t-1] + b;   n = tanh(W x[t] + b + r (R h[t-1] + b))

    The gates' order is z, r, n. Inputs and outputs as those of RNN.
    reset_after=False: the first paper's n = tanh(W x[t] + R (r h[t-1]) + b).
    Source: Cho et al. 2014; reset after the product: cuDNN, PyTorch and Keras.
    """

    _: KW_ONLY
    reset_after: bool = True
    _operator = "GRU"
    _gates = 3

    def _attributes(self) -> dict[str, Any]:
        return {"linear_before_reset": int(self.reset_after)}

    def forward(
        self, x: Value, lengths: Value | None = None, mask: Value | None = None, initial_h: Value | None = None
    ) -> Any:
        return self._run(x, lengths, mask, [initial_h])


def _gatewise(initializer: Init, gates: int, at: str | None) -> init.Initializer:
    """Each gate of each direction drawn as a weight of its own, (n_in, units): its fans are a gate's."""
    draw = init.get(initializer, at=at)

    def whole(shape: tuple[int, ...], random: np.random.Generator) -> init.Array:
        directions, rows, n_in = shape
        parts = [np.asarray(draw((n_in, rows // gates), random)).T for _ in range(directions * gates)]
        return np.concatenate(parts).reshape(shape)

    return whole
