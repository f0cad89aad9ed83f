"""The LSTM and the GRU of a training step compute what ONNX Runtime's operators do, and only where they can."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.rules.kept import keeps_steps, with_steps_kept
from tests.trainer.nets import run_graph

TIME, BATCH, INPUTS, UNITS = 4, 3, 2, 5


def operator(g: GraphBuilder, kind: str, direction: str, given: str, **attributes: Any) -> Any:
    """An LSTM or GRU node whose optional inputs are those of `given`."""
    random, d = np.random.default_rng(1), 1 + (direction == "bidirectional")
    gates, states = (4, "hc") if kind == "LSTM" else (3, "h")
    shapes = {"b": (d, 2 * gates * UNITS), "n": (BATCH,)} | dict.fromkeys(states, (d, BATCH, UNITS))
    if kind == "LSTM":
        shapes["p"] = (d, 3 * UNITS)
    x = g.input("x", (TIME, BATCH, INPUTS))
    weights = [random.normal(size=(d, gates * UNITS, k)).astype(np.float32) for k in (INPUTS, UNITS)]
    rest = [random.normal(size=shapes[k]).astype(np.float32) if k in given else None for k in shapes]
    if "n" in given:
        rest[1] = np.array([2, 4, 1], np.int32)
    count = 1 + len(states)
    return g.ops(kind, x, *weights, *rest, outputs=count, direction=direction, hidden_size=UNITS, **attributes)


@pytest.mark.parametrize(
    ("kind", "given"), [("LSTM", k) for k in ("", "b", "h", "c", "bhc")] + [("GRU", k) for k in ("", "b", "bh")]
)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_all_outputs_are_those_of_the_operator(direction: str, kind: str, given: str) -> None:
    def both(g: GraphBuilder) -> Any:
        expected = operator(g, kind, direction, given, **({"linear_before_reset": 1} if kind == "GRU" else {}))
        node = expected[0].producer()
        assert keeps_steps(node)
        return [*expected, *with_steps_kept(g, node, node.inputs)]

    x = np.random.default_rng(0).normal(size=(TIME, BATCH, INPUTS)).astype(np.float32)
    found = run_graph(both, x=x)
    half = len(found) // 2
    for a, b in zip(found[:half], found[half:], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "given", "attributes"),
    [
        ("LSTM", "n", {}),
        ("LSTM", "p", {}),
        ("LSTM", "", {"clip": 0.5}),
        ("LSTM", "", {"input_forget": 1}),
        ("LSTM", "", {"activations": ["Relu"] * 3}),
        ("GRU", "", {}),
        ("GRU", "n", {"linear_before_reset": 1}),
    ],
    ids=str,
)
def test_other_cells_and_lengths_stay_as_they_are(kind: str, given: str, attributes: dict[str, Any]) -> None:
    assert not keeps_steps(operator(GraphBuilder(), kind, "forward", given, **attributes)[0].producer())


@pytest.mark.parametrize(
    ("layer", "kept"),
    [
        (L.LSTM(3), "LSTMSteps"),
        (L.GRU(3), "GRUSteps"),
        (L.GRU(3, reset_after=False), "GRU"),
        (L.LSTM(3, checkpoint=True), "LSTMSteps"),
    ],
    ids=["lstm", "gru", "gru that resets before the product", "lstm with checkpoint=True"],
)
def test_a_step_keeps_the_steps(layer: L.Layer, kept: str) -> None:
    """Without, it computes the same in more time."""
    model = layer.build(x=("batch", 4, 2))
    step = onnx.load_from_string(mx.compile_step(model, loss="mean_squared_error", optimizer=mx.SGD(0.1)).data)
    nodes = [node for graph in (step.graph, *step.functions) for node in graph.node]
    assert {node.op_type for node in nodes} & {"LSTM", "GRU", "LSTMSteps", "GRUSteps"} == {kept}
