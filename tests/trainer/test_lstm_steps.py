"""The LSTM of a training step computes what ONNX Runtime's operator does, and only where it can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.rules.kept import keeps_steps, with_steps_kept
from tests.trainer.nets import run_graph

TIME, BATCH, INPUTS, UNITS = 4, 3, 2, 5


def operator(g: GraphBuilder, direction: str, given: str, **attributes: Any) -> Any:
    """An LSTM node whose optional inputs are those of `given`."""
    random, d = np.random.default_rng(1), 1 + (direction == "bidirectional")
    shapes = {"b": (d, 8 * UNITS), "n": (BATCH,), "h": (d, BATCH, UNITS), "c": (d, BATCH, UNITS), "p": (d, 3 * UNITS)}
    x = g.input("x", (TIME, BATCH, INPUTS))
    weights = [random.normal(size=(d, 4 * UNITS, k)).astype(np.float32) for k in (INPUTS, UNITS)]
    rest = [random.normal(size=shapes[k]).astype(np.float32) if k in given else None for k in shapes]
    if "n" in given:
        rest[1] = np.array([2, 4, 1], np.int32)
    return g.ops("LSTM", x, *weights, *rest, outputs=3, direction=direction, hidden_size=UNITS, **attributes)


@pytest.mark.parametrize("given", ["", "b", "h", "c", "bhc"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_all_outputs_are_those_of_the_operator(direction: str, given: str) -> None:
    def both(g: GraphBuilder) -> Any:
        expected = operator(g, direction, given)
        node = expected[0].producer()
        assert keeps_steps(node)
        return [*expected, *with_steps_kept(g, node, node.inputs)]

    x = np.random.default_rng(0).normal(size=(TIME, BATCH, INPUTS)).astype(np.float32)
    found = run_graph(both, x=x)
    for a, b in zip(found[:3], found[3:], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "attributes"),
    [("n", {}), ("p", {}), ("", {"clip": 0.5}), ("", {"input_forget": 1}), ("", {"activations": ["Relu"] * 3})],
    ids=str,
)
def test_other_cells_and_lengths_stay_as_they_are(given: str, attributes: dict[str, Any]) -> None:
    assert not keeps_steps(operator(GraphBuilder(), "forward", given, **attributes)[0].producer())
