"""Whatever a layer emits can be differentiated."""

from __future__ import annotations

import onnx_ir as ir
import pytest

import onnxmx.builder.layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff import gradients
from tests.builder.layer_table import Case
from tests.builder.rows_norm import ACTIVATIONS
from tests.builder.test_layers import CASES

ROWS = [*CASES, *(Case(L.Activation(name), (4, 7), lambda x, p: x) for name in ACTIVATIONS)]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_every_layer_has_a_gradient(case: Case) -> None:
    """For its input and each of its trainable parameters, of the right shape, where the batch is a name."""
    g = GraphBuilder()
    x = g.input("x", ("batch", *case.shape[1:]))
    y = case.layer(x)
    parameters = [v for v in g.graph.initializers.values() if v.meta.get("trainable")]
    loss = g.reduce_sum(y * y, keepdims=False)
    for of, dx in zip([x, *parameters], gradients(g, loss, [x, *parameters]), strict=True):
        assert dx is not None, f"no gradient reached {of.name}"
        assert sizes(dx) == sizes(of)


def sizes(value: ir.Value) -> list[int | None]:
    assert value.shape is not None
    return [d if isinstance(d, int) else None for d in value.shape]
