"""Recurrent operators on PyTorch's own modules, from ONNX's weights. Imports nothing of onnxmx."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

# Where ONNX's gates stand in PyTorch's order: i o f c -> i f c o;  z r n -> r z n.
ORDER = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}


def run(
    kind: str,
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    states: Any = (),
    *,
    activation: str = "tanh",
    reset_after: bool = True,
    reverse: bool = False,
) -> tuple[Any, Any, Any]:
    """Y (time, directions, batch, units), Y_h and Y_c (directions, batch, units).

    x: (time, batch, n)   w, r, b: as ONNX's operator takes them   states: h and c, or fewer.
    """
    directions, units, batch = r.shape[0], r.shape[2], x.shape[1]
    starts = [s if s is not None else x.new_zeros(directions, batch, units) for s in (*states, None, None)[:2]]
    if b is None:
        b = w.new_zeros(directions, 2 * w.shape[1])
    if kind == "GRU" and not reset_after:
        return gru_reset_before(x, w, r, b, starts[0])
    if reverse:
        y, *last = run(kind, x.flip(0), w, r, b, lengths, states, activation=activation)
        return y.flip(0), *last
    module: Any = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}[kind](
        x.shape[2], units, bidirectional=directions == 2, **({"nonlinearity": activation} if kind == "RNN" else {})
    )
    parameters = {}
    for d in range(directions):
        parts = (("weight_ih", w[d]), ("weight_hh", r[d]), ("bias_ih", b[d].chunk(2)[0]), ("bias_hh", b[d].chunk(2)[1]))
        for name, value in parts:
            gates = value.chunk(len(ORDER[kind]))
            parameters[f"{name}_l0{'_reverse' * d}"] = torch.cat([gates[k] for k in ORDER[kind]])
    start = tuple(starts) if kind == "LSTM" else starts[0]
    given = x
    if lengths is not None:
        given = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu().long(), enforce_sorted=False)
    y, last = functional_call(module, parameters, (given, start))
    if lengths is not None:
        y, _ = nn.utils.rnn.pad_packed_sequence(y, total_length=len(x))
    h, c = last if kind == "LSTM" else (last, last)
    return y.reshape(len(x), batch, directions, units).transpose(1, 2), h, c


def gru_reset_before(x: Any, w: Any, r: Any, b: Any, h: Any) -> tuple[Any, Any, Any]:
    """The GRU of the first paper, n = tanh(W x + R (r h) + b), which no module of PyTorch is."""
    outputs, lasts = [], []
    for d in range(len(w)):
        wz, wr, wn = w[d].chunk(3)
        rz, rr, rn = r[d].chunk(3)
        bz, br, bn, cz, cr, cn = b[d].chunk(6)
        state, ys = h[d], []
        for t in range(len(x))[:: -1 if d else 1]:
            z = torch.sigmoid(x[t] @ wz.T + bz + state @ rz.T + cz)
            reset = torch.sigmoid(x[t] @ wr.T + br + state @ rr.T + cr)
            n = torch.tanh(x[t] @ wn.T + bn + (reset * state) @ rn.T + cn)
            state = (1 - z) * n + z * state
            ys.append(state)
        outputs.append(torch.stack(ys[:: -1 if d else 1]))
        lasts.append(state)
    return torch.stack(outputs, 1), torch.stack(lasts), None
