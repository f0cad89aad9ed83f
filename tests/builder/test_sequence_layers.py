"""Embeddings, recurrent layers, cells and attention against their equations in numpy, with symbolic batch and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx.builder.layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Input, Model, build
from onnxmx.errors import DataError, GraphError, UsageError
from tests import recurrent
from tests.builder.layer_table import Array, assert_clean
from tests.builder.sequence_equations import attend, embed, inner, rotary, sinusoidal, stack, transformer, unrolled

RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(3, 5, 6)).astype(np.float32)
MEMORY = RANDOM.normal(size=(3, 4, 8)).astype(np.float32)
TOKENS = RANDOM.integers(0, 7, (3, 5))
LENGTHS = np.array([5, 2, 4])
MASK = np.arange(5) < LENGTHS[:, None]
MEMORY_MASK = np.arange(4) < np.array([[4], [1], [3]])
TIMES = ("batch", "time", 6)
DIMS: dict[str, tuple[Any, ...]] = {
    "x": TIMES, "lengths": ("batch",), "mask": ("batch", "time"), "key": ("batch", "time'", 8),
    "value": ("batch", "time'", 8), "memory": ("batch", "time'", 8), "memory_mask": ("batch", "time'"),
}  # fmt: skip


@dataclass
class Row:
    """A layer on named inputs. numpy: the same, from the parameters by name and the inputs.

    dims: where they are not those of DIMS.   key_mask: the name of a mask over keys that are not the queries.
    """

    layer: Any
    numpy: Callable[..., Array]
    inputs: dict[str, Array] = field(default_factory=lambda: {"x": X})
    dims: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.layer!r}{list(self.inputs)}"[:110]

    def build(self) -> Model:
        names = list(self.inputs)

        def net(*xs: Value) -> Any:
            return self.layer(xs[0], **dict(zip(names[1:], xs[1:], strict=True)))

        dims = DIMS | self.dims
        return randomized(build(net, **{n: Input(dims[n], a.dtype.name) for n, a in self.inputs.items()}))


def randomized(model: Model) -> Model:
    random = np.random.default_rng(5)
    return model.with_parameters(
        {name: random.normal(0, 0.4, a.shape).astype(np.float32) for name, a in model.parameters().items()}
    )


RELU = recurrent.rnn_step(lambda x: np.maximum(x, 0))
TANH = recurrent.rnn_step(np.tanh)
LSTM = recurrent.lstm_step()
H0 = RANDOM.normal(size=(4, 3, 5)).astype(np.float32)
STATIC = {"x": ("batch", 5, 6)}


ROWS = [
    Row(L.Embedding(7, 4), embed, {"x": TOKENS}, {"x": ("batch", "time")}),
    Row(L.Embedding(7, 4), embed, {"x": TOKENS[:, 0].astype(np.int32)}, {"x": ("batch",)}),
    Row(L.Embedding(7, 4, padding=2), lambda p, x: embed(p, x) * (x != 2)[..., None], {"x": TOKENS},
        {"x": ("batch", "time")}),
    Row(L.SinusoidalPosition(), lambda p, x: sinusoidal(x)),
    Row(L.SinusoidalPosition(), lambda p, x: sinusoidal(x), dims=STATIC),
    Row(L.LearnedPosition(9), lambda p, x: x + p["weight"][:5]),
    Row(L.LearnedPosition(9), lambda p, x: x + p["weight"][:5], dims=STATIC),
    Row(L.LearnedPosition(5), lambda p, x: x + p["weight"], dims=STATIC),
    Row(L.RotaryPosition(), lambda p, x: rotary(x)),
    Row(L.RotaryPosition(), lambda p, x: rotary(x), {"x": X[0]}, {"x": (5, 6)}),
    Row(L.RNN(5), stack(TANH)),
    Row(L.RNN(5, activation="relu", bidirectional=True, layers=2), stack(RELU, 2, 2)),
    Row(L.RNN(5, return_sequences=False), stack(TANH, last=True)),
    Row(L.LSTM(5), stack(LSTM, states=2)),
    Row(L.LSTM(5, bias=False), stack(LSTM, states=2)),
    Row(L.LSTM(5, return_sequences=False), stack(LSTM, states=2, last=True)),
    Row(L.LSTM(5, bidirectional=True), stack(LSTM, 1, 2, 2)),
    Row(L.LSTM(5, layers=2, bidirectional=True, dropout=0.3, return_sequences=False), stack(LSTM, 2, 2, 2, last=True)),
    Row(L.LSTM(5, layers=3), stack(LSTM, 3, 1, 2), dims=STATIC),
    Row(L.LSTM(5, layers=2, bidirectional=True), stack(LSTM, 2, 2, 2),
        {"x": X, "lengths": LENGTHS, "initial_h": H0, "initial_c": -H0},
        {"initial_h": (4, "batch", 5), "initial_c": (4, "batch", 5)}),
    Row(L.LSTM(5), lambda p, x, initial_h: stack(LSTM, states=2)(p, x, initial_h=initial_h),
        {"x": X, "initial_h": H0[0]}, {"initial_h": ("batch", 5)}),
    Row(L.LSTM(5, bidirectional=True, return_sequences=False), stack(LSTM, 1, 2, 2, last=True), {"x": X, "mask": MASK}),
    Row(L.LSTM(5), stack(LSTM, states=2), {"x": X, "mask": MASK.astype(np.float32)}),
    Row(L.GRU(5), stack(recurrent.gru_step(1))),
    Row(L.GRU(5, reset_after=False, bidirectional=True), stack(recurrent.gru_step(0), 1, 2)),
    Row(L.GRU(5, layers=2, return_sequences=False), stack(recurrent.gru_step(1), 2, last=True),
        {"x": X, "lengths": LENGTHS.astype(np.int32), "initial_h": H0[:2]}, {"initial_h": (2, "batch", 5)}),
    Row(L.Unroll(L.RNNCell(5)), unrolled(TANH), dims=STATIC),
    Row(L.Unroll(L.RNNCell(5, activation="relu"), reverse=True), unrolled(RELU, reverse=True), dims=STATIC),
    Row(L.Unroll(L.LSTMCell(5)), unrolled(LSTM, 2), dims=STATIC),
    Row(L.Unroll(L.LSTMCell(5, bias=False), return_sequences=False), unrolled(LSTM, 2, last=True), dims=STATIC),
    Row(L.Unroll(L.GRUCell(5)), unrolled(recurrent.gru_step(1)), dims={"x": (3, 5, 6)}),
    Row(L.Unroll(L.GRUCell(5)), unrolled(recurrent.gru_step(1)), {"x": X[:, :1]}, {"x": ("batch", 1, 6)}),
    Row(L.MultiHeadAttention(2), lambda p, x: attend(p, x, x, x, 2)),
    Row(L.MultiHeadAttention(3, causal=True, dropout=0.5), lambda p, x: attend(p, x, x, x, 3, causal=True)),
    Row(L.MultiHeadAttention(2, causal=True), lambda p, x: attend(p, x, x, x, 2, causal=True), dims=STATIC),
    Row(L.MultiHeadAttention(2, key_dim=4, units=9, bias=False, rotary=True),
        lambda p, x: attend(p, x, x, x, 2, rotate=True)),
    Row(L.MultiHeadAttention(2), lambda p, x, key: attend(p, x, key, key, 2), {"x": X, "key": MEMORY}),
    Row(L.MultiHeadAttention(2, key_dim=4), lambda p, x, key, value, mask: attend(p, x, key, value, 2, mask),
        {"x": X, "key": MEMORY, "value": -MEMORY, "mask": MEMORY_MASK}, {"mask": ("batch", "time'")}),
    Row(L.MultiHeadAttention(2, causal=True), lambda p, x, mask: attend(p, x, x, x, 2, mask, True),
        {"x": X, "mask": MASK.astype(np.int64)}),
    Row(L.MultiHeadAttention(2), lambda p, x, mask: attend(p, x, x, x, 2, mask),
        {"x": X, "mask": RANDOM.integers(0, 2, (3, 5, 5)).astype(np.float32)}, {"mask": ("batch", "time", "time")}),
    Row(L.MultiHeadAttention(2), lambda p, x, mask: attend(p, x, x, x, 2, mask),
        {"x": X, "mask": RANDOM.integers(0, 2, (3, 2, 5, 5)) > 0}, {"mask": ("batch", 2, "time", "time")}),
    Row(L.TransformerEncoderLayer(2, 7), transformer(2, False)),
    Row(L.TransformerEncoderLayer(2, 7, norm_first=True, activation="tanh", dropout=0.0, causal=True),
        transformer(2, True, True, np.tanh), {"x": X, "mask": MASK}),
    Row(L.TransformerEncoderLayer(3, 7, rotary=True), transformer(3, False, rotate=True)),
    Row(L.TransformerDecoderLayer(3, 7, rotary=True), transformer(3, False, True, rotate=True),
        {"x": X, "memory": MEMORY}),
    Row(L.TransformerDecoderLayer(2, 7), transformer(2, False, True), {"x": X, "memory": MEMORY}),
    Row(L.TransformerDecoderLayer(3, 7, norm_first=True), transformer(3, True, True),
        {"x": X, "memory": MEMORY, "mask": MASK, "memory_mask": MEMORY_MASK}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_layer(row: Row) -> None:
    model = row.build()
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert_clean(proto.graph)
    prefix = type(row.layer).__name__.lower()
    p = {name.removeprefix(f"{prefix}."): a.astype(np.float64) for name, a in model.parameters().items()}
    wide = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in row.inputs.items()}
    expected = row.numpy(p, **wide)
    np.testing.assert_allclose(model(**row.inputs), expected, rtol=1e-5, atol=1e-5)
    shape = model.outputs["output"].shape
    assert shape is not None
    assert len(shape) == expected.ndim
    sizes = {d: n for name, a in row.inputs.items() for d, n in zip((DIMS | row.dims)[name], a.shape, strict=True)}
    assert tuple(sizes.get(d, d) for d in shape) == expected.shape


def test_a_sequence_of_no_steps_gives_zeros() -> None:
    model = randomized(
        build(lambda x, n: L.LSTM(5, return_sequences=False)(x, lengths=n), x=TIMES, n=Input(("b",), "int64"))
    )
    found = model(x=X, n=np.array([0, 3, 5]))
    assert not found[0].any()
    assert found[1].any()


def test_the_last_states_start_another_layer() -> None:
    """An encoder and a decoder: several named inputs and outputs, and states as they come and go."""

    def net(source: Value, target: Value) -> dict[str, Value]:
        _, h, c = L.LSTM(5, layers=2, return_state=True, name="encoder")(source)
        y, last = L.GRU(5, return_state=True, name="decoder")(target, initial_h=h.builder.slice(h, [1], [2], [0]))
        return {"y": y, "last": last, "cells": c}

    model = randomized(build(net, source=TIMES, target=("batch", "later", 6)))
    p = model.parameters()
    found = model(source=X, target=X[:, :2])
    assert {name: a.shape for name, a in found.items()} == {"y": (3, 2, 5), "last": (1, 3, 5), "cells": (2, 3, 5)}
    encoder = inner(p, "encoder")
    y, *_ = recurrent.run(
        LSTM, X.transpose(1, 0, 2), encoder["0.weight"], encoder["0.recurrent_weight"], encoder["0.bias"], None,
        [None, None], "forward",
    )  # fmt: skip
    _, h, c = recurrent.run(
        LSTM, y[:, 0], encoder["1.weight"], encoder["1.recurrent_weight"], encoder["1.bias"], None, [None, None],
        "forward",
    )  # fmt: skip
    np.testing.assert_allclose(found["cells"][1:], c, rtol=1e-5, atol=1e-5)
    expected = stack(recurrent.gru_step(1))(inner(p, "decoder"), X[:, :2], initial_h=h)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["last"][0], found["y"][:, -1])


def test_names_are_stable() -> None:
    lstm = L.Sequential(L.LSTM(4, layers=2, bidirectional=True)).build(x=TIMES)
    assert {name: a.shape for name, a in lstm.parameters().items()} == {
        "0.0.weight": (2, 16, 6),
        "0.0.recurrent_weight": (2, 16, 4),
        "0.0.bias": (2, 32),
        "0.1.weight": (2, 16, 8),
        "0.1.recurrent_weight": (2, 16, 4),
        "0.1.bias": (2, 32),
    }
    block = L.Sequential(L.TransformerEncoderLayer(2, 7)).build(x=TIMES)
    attention = [f"attention.{n}" for n in ("query", "key", "value", "output")]
    parts = [*attention, "norm1", "linear1", "linear2", "norm2"]
    assert list(block.parameters()) == [f"0.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
    cell = L.Sequential(L.Unroll(L.GRUCell(4))).build(x=("batch", 3, 6))
    names = ("weight", "bias", "recurrent_weight", "recurrent_bias")
    assert list(cell.parameters()) == [f"0.cell.{n}" for n in names]


def test_what_the_parameters_start_from() -> None:
    p = L.LSTM(32, bidirectional=True).build(x=("batch", "time", 96)).parameters()
    bias = np.zeros((2, 2, 4, 32))
    bias[:, 0, 2] = 1  # the input's bias of the forget gates
    np.testing.assert_array_equal(p["0.bias"], bias.reshape(2, 256))
    for gate in p["0.recurrent_weight"].reshape(8, 32, 32):
        np.testing.assert_allclose(gate @ gate.T, np.eye(32), atol=1e-5)
    assert len({gate.tobytes() for gate in p["0.recurrent_weight"].reshape(8, 32, 32)}) == 8
    # Xavier over one gate: uniform with variance 2 / (96 + 32).
    assert abs(p["0.weight"].var() * 64 - 1) < 0.05
    cell = L.Unroll(L.LSTMCell(3)).build(x=("batch", 2, 6)).parameters()
    np.testing.assert_array_equal(cell["cell.bias"], [0] * 6 + [1] * 3 + [0] * 3)


def test_where_dropout_stands() -> None:
    def dropouts(layer: L.Layer) -> list[str]:
        nodes = layer.build(x=TIMES).ir.graph
        return [str(node.name).removesuffix(".Dropout") for node in nodes if node.op_type == "Dropout"]

    assert dropouts(L.MultiHeadAttention(2, dropout=0.1)) == ["dropout"]
    assert dropouts(L.TransformerEncoderLayer(2, 7)) == ["attention.dropout", "dropout1", "dropout", "dropout2"]
    assert dropouts(L.TransformerEncoderLayer(2, 7, dropout=0.0)) == []
    assert dropouts(L.LSTM(4, layers=3, dropout=0.1)) == ["1.dropout", "2.dropout"]


def test_a_layer_used_twice_shares_its_parameters() -> None:
    lstm, attention = L.LSTM(6, layers=2), L.MultiHeadAttention(2)

    def net(x: Value) -> Value:
        y: Value = attention(attention(lstm(lstm(x))))
        return y

    names = build(net, x=TIMES).parameters()
    assert len(names) == 6 + 8


def test_a_cell_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Leaky(L.Cell):
        units: int

        @property
        def state_sizes(self) -> tuple[int, ...]:
            return (self.units,)

        def forward(self, x: Value, h: Value) -> Any:
            return (h * 0.9 + L.Dense(self.units)(x) * 0.1,)

    def net(x: Value, h: Value) -> Value:
        return L.Unroll(Leaky(4))(x, h)

    model = randomized(build(net, x=STATIC["x"], h=("batch", 4)))
    h, p = H0[0, :, :4], {name.rpartition(".")[2]: a for name, a in model.parameters().items()}
    assert len(p) == 2  # one Dense for all five steps
    found = model(x=X, h=h)
    for t in range(5):
        h = h * 0.9 + (X[:, t] @ p["weight"] + p["bias"]) * 0.1
        np.testing.assert_allclose(found[:, t], h, rtol=1e-5, atol=1e-5)


def test_places_far_out_keep_their_angles() -> None:
    """float32 angles would be off by 0.002 at place 30,000."""
    model = L.SinusoidalPosition().build(x=("batch", "time", 2))
    found = model(np.zeros((1, 30001, 2), np.float32))[0, -1]
    np.testing.assert_allclose(found, [np.sin(30000.0), np.cos(30000.0)], atol=1e-6)


def test_a_learned_place_ends_where_it_ends() -> None:
    model = L.LearnedPosition(4).build(x=TIMES)
    with pytest.raises(DataError, match="index may be out of range"):
        model(X)


def test_attention_sees_nothing_after_a_query() -> None:
    model = randomized(L.TransformerEncoderLayer(3, 7, causal=True, rotary=True).build(x=TIMES))
    changed = X.copy()
    changed[:, 3:] += 1
    before, after = model(X), model(changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 0.1


def test_every_sequence_layer_has_a_row() -> None:
    modules = ("attention", "cells", "embedding", "recurrent")
    layers = {
        x for x in vars(L).values() if isinstance(x, type) and x.__module__.rpartition(".")[2] in modules
    } - {L.Cell}  # fmt: skip
    cells = {type(row.layer.cell) for row in ROWS if isinstance(row.layer, L.Unroll)}
    assert layers == {type(row.layer) for row in ROWS} | cells


def test_a_cell_that_loses_a_state() -> None:
    @dataclass(frozen=True)
    class Forgetful(L.LSTMCell):
        def forward(self, x: Value, h: Value, c: Value) -> Any:
            return h

    with pytest.raises(GraphError, match=r"Forgetful expected its forward to return 2 states(?s:.)*\(h,\)"):
        L.Unroll(Forgetful(4)).build(x=STATIC["x"])


def test_forget_bias_of_another_shape() -> None:
    with pytest.raises(UsageError, match=r"forget_bias expected a bias of four gates.*found \(6,\)"):
        L.Dense(6, bias_init="forget_bias").build(x=("batch", 2)).parameters()
