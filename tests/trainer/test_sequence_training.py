"""Models over sequences train: their loss falls within a few steps of a task that needs the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmx as mx
import onnxmx.builder.layers as L
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.step import initial_state
from tests.trainer.nets import feeds

Array = np.ndarray[Any, Any]
TOKENS = mx.Input(("batch", "time"), "int64")
STEPS = 60


def batch(random: np.random.Generator, size: int = 32, time: int = 7) -> dict[str, Array]:
    """The label is the first token; what follows, at least two, is noise, and 0 past the end."""
    tokens = random.integers(1, 6, (size, time))
    lengths = random.integers(3, time + 1, size)
    mask = np.arange(time) < lengths[:, None]
    return {"tokens": tokens * mask, "mask": mask, "label": tokens[:, 0] - 1}


def recurrent(layer: Callable[..., Any]) -> Model:
    def net(tokens: Value, mask: Value) -> Value:
        x = L.Embedding(6, 12, padding=0, weight_init=mx.init.normal(1.0))(tokens)
        return L.Dense(5)(layer(x, mask=mask))

    return mx.build(net, tokens=TOKENS, mask=mx.Input(("batch", "time"), "bool"))


def unrolled() -> Model:
    def net(tokens: Value) -> Value:
        x = L.Embedding(6, 12, weight_init=mx.init.normal(1.0))(tokens)
        return L.Dense(5)(L.Unroll(L.GRUCell(24), return_sequences=False)(x))

    return mx.build(net, tokens=mx.Input(("batch", 7), "int64"))


def encoder(position: Any, **options: Any) -> Model:
    def net(tokens: Value, mask: Value) -> Value:
        x = L.Embedding(6, 16, weight_init=mx.init.normal(1.0))(tokens)
        x = position(x) if position else x
        for _ in range(2):
            x = L.TransformerEncoderLayer(2, 32, **options)(x, mask=mask)
        return L.Dense(5)(x.builder.gather(x, -1, axis=1))

    return mx.build(net, tokens=TOKENS, mask=mx.Input(("batch", "time"), "bool"))


def decoder() -> Model:
    def net(tokens: Value, mask: Value) -> Value:
        x = L.SinusoidalPosition()(L.Embedding(6, 16, weight_init=mx.init.normal(1.0))(tokens))
        queries = L.LearnedPosition(9)(x * 0.0)
        y = L.TransformerDecoderLayer(2, 32, dropout=0.0)(queries, x, memory_mask=mask)
        return L.Dense(5)(y.builder.gather(y, 0, axis=1))

    return mx.build(net, tokens=TOKENS, mask=mx.Input(("batch", "time"), "bool"))


MODELS: dict[str, Callable[[], Model]] = {
    "rnn": lambda: recurrent(L.RNN(24, return_sequences=False)),
    "lstm": lambda: recurrent(L.LSTM(24, layers=2, dropout=0.2, return_sequences=False)),
    "gru": lambda: recurrent(L.GRU(24, return_sequences=False)),
    "bidirectional gru": lambda: recurrent(L.GRU(16, bidirectional=True, reset_after=False, return_sequences=False)),
    "bidirectional lstm": lambda: recurrent(L.LSTM(16, bidirectional=True, return_sequences=False)),
    "cell": unrolled,
    "post-norm": lambda: encoder(L.LearnedPosition(9), dropout=0.1),
    "pre-norm": lambda: encoder(L.SinusoidalPosition(), dropout=0.1, norm_first=True, activation="gelu"),
    "causal rotary": lambda: encoder(None, dropout=0.0, norm_first=True, causal=True, rotary=True),
    "decoder": decoder,
}


def engine(model: Model, seed: int = 0) -> tuple[OrtEngine, list[str]]:
    optimizer = mx.Adam(lr=0.02)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    return OrtEngine(step, initial_state(model, optimizer, seed), threads=1), list(model.inputs)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls(name: str) -> None:
    runner, inputs = engine(MODELS[name]())
    random = np.random.default_rng(1)
    losses = []
    for _ in range(STEPS):
        data = batch(random)
        losses.append(runner.step({k: data[k] for k in (*inputs, "label")})["loss"])
    assert losses[0] > 1.2  # log 5 is 1.6
    assert np.mean(losses[-5:]) < 0.35


@pytest.mark.parametrize("name", MODELS)
def test_no_gradient_asks_what_was_broadcast(name: str) -> None:
    """With the sizes that the layers know, all sums over broadcast axes are settled while the step is compiled."""
    step = mx.compile_step(MODELS[name](), loss="softmax_cross_entropy", optimizer=mx.SGD(lr=0.1))
    assert "NonZero" not in [node.op_type for node in onnx.load_from_string(step.data).graph.node]


def test_dropout_between_layers_is_active_in_training() -> None:
    data = batch(np.random.default_rng(1))

    def first_loss(ratio: float, seed: int) -> float:
        model = recurrent(L.LSTM(24, layers=2, dropout=ratio, return_sequences=False))
        return engine(model, seed)[0].step(data)["loss"]

    assert first_loss(0.5, 1) != first_loss(0.5, 2)
    assert first_loss(0.0, 1) == first_loss(0.0, 2)


def test_a_step_takes_sequences_of_any_length() -> None:
    runner, _ = engine(MODELS["lstm"]())
    random = np.random.default_rng(1)
    for size, time in ((4, 3), (2, 9), (1, 3)):
        assert np.isfinite(runner.step(batch(random, size, time))["loss"])


@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state of unknown sizes"])
@pytest.mark.parametrize("kind", [L.GRU, L.LSTM])
def test_one_unit_trains(kind: Any, given: bool) -> None:
    """Its size is not taken for an axis that is broadcast."""

    def net(x: Value) -> Value:
        zero = x.builder.transpose(x.builder.reduce_sum(x, [1]), [1, 0, 2]) * 0.0
        zero.shape = None
        return kind(1, return_sequences=False)(x, **({"initial_h": zero} if given else {}))

    model, optimizer = mx.build(net, x=("batch", "time", 1)), mx.Adam(lr=0.05)
    step = mx.compile_step(model, loss="mean_squared_error", optimizer=optimizer)
    runner = OrtEngine(step, initial_state(model, optimizer, 0), threads=1)
    data = {"x": np.ones((2, 3, 1), np.float32), "label": np.full((2, 1), 0.5, np.float32)}
    losses = [runner.step(data)["loss"] for _ in range(30)]
    assert losses[-1] < losses[0] / 5


def test_padding_is_not_trained() -> None:
    model = recurrent(L.GRU(8, return_sequences=False))
    runner, _ = engine(model)
    for k in range(3):
        runner.step(batch(np.random.default_rng(k)))
    before, after = model.parameters()["embedding.weight"], runner.state()["embedding.weight"]
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1:] != before[1:]).all()


def test_many_equal_tokens_on_two_threads() -> None:
    """ScatterND on two threads loses additions to one row; the embedding's gradient must have all of them."""
    g = GraphBuilder()
    weight, tokens = g.input("weight", (7, 64)), g.input("tokens", ("n",), ir.DataType.INT64)
    y = g.gather(weight, tokens)
    (dweight,) = gradients(g, g.reduce_sum(g.mul(y, y), keepdims=False), [weight])
    assert dweight is not None
    g.output(dweight, "dweight")
    session = open_session(ir.to_proto(g.model()).SerializeToString(), threads=2)
    random = np.random.default_rng(1)
    w, index = random.normal(size=(7, 64)).astype(np.float32), random.integers(0, 7, 4096)
    expected = 2 * w * np.bincount(index)[:, None]
    for _ in range(5):
        (found,) = session.run(None, {"weight": w, "tokens": index})
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_gradient_of_rows_of_an_unknown_size() -> None:
    g = GraphBuilder()
    x = g.input("x", (4, "n", "m"))
    y = g.gather(x, np.array([[0, 1], [1, 3]]))
    (dx,) = gradients(g, g.reduce_sum(g.mul(y, y), keepdims=False), [x])
    assert dx is not None
    g.output(dx, "dx")
    array = np.random.default_rng(1).normal(size=(4, 2, 3)).astype(np.float32)
    (found,) = open_session(ir.to_proto(g.model()).SerializeToString()).run(None, {"x": array})
    np.testing.assert_allclose(found, 2 * array * np.array([1, 2, 0, 1])[:, None, None], rtol=1e-6)


@pytest.mark.parametrize(("operator", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_a_batch_that_comes_first(operator: str, gates: int) -> None:
    """layout=1, which ONNX Runtime's CPU kernels refuse, gives and learns what layout=0 does between transpositions."""

    def net(layout: int) -> Model:
        def forward(x: Value) -> Value:
            g = x.builder
            w, r = (g.parameter(n, (1, gates * 4, k), "uniform") for n, k in (("w", 3), ("r", 4)))
            given = x if layout else g.transpose(x, [1, 0, 2])
            h = g.ops(operator, given, w, r, outputs=2, hidden_size=4, layout=layout)[1]
            return L.Dense(2)(g.squeeze(h, [1 if layout else 0]))

        return mx.build(forward, x=mx.Input(("batch", 5, 3)))

    results = []
    for layout in (0, 1):
        step = mx.compile_step(net(layout), loss="softmax_cross_entropy", optimizer=mx.SGD(lr=1.0))
        x = np.random.default_rng(1).normal(size=(6, 5, 3)).astype(np.float32)
        values = feeds({"x": x, "label": np.arange(6) % 2}, initial_state(net(layout), mx.SGD(lr=1.0), 0))
        session = open_session(step.data)
        found = session.run(None, {i.name: values[i.name] for i in session.get_inputs()})
        results.append(dict(zip([o.name for o in session.get_outputs()], found, strict=True)))
    for name, expected in results[0].items():
        np.testing.assert_allclose(results[1][name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(net(1)(x), net(0)(x))
