"""Control flow in training: what rows of the table of rules do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmx.builder.body import Body, captured
from onnxmx.builder.control import Track, add_loop, add_scan
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.ops import BOOL, INT64
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff import gradients


def test_a_state_that_grows_is_an_error() -> None:
    """What goes into the steps cannot be stacked; the error says how to mend it."""
    g = GraphBuilder()
    x, body = g.input("x", (3,)), Body(g)
    _, going = (body.entry(n, ir.TensorType(t), ()) for n, t in (("number", INT64), ("going", BOOL)))
    state = body.entry("state", x.type, (None,))
    for y in (going, body.concat([state, body.sin(body.mul(state, state))], 0)):
        body.result(y)
    (last,) = add_loop(g, body, g.constant(np.array(3)), None, [x])
    with pytest.raises(GradientError, match="Loop in 'Loop' expected states of one size in all steps") as caught:
        gradients(g, g.reduce_sum(last, keepdims=False), [x])
    assert caught.value.mend is not None
    assert "as an output of the loop" in caught.value.mend
    assert caught.value.at is not None


def test_the_way_back_computes_only_what_is_asked_for() -> None:
    """No gradient of a sequence of data, none of what only data reads; and one output more for each state, not two."""
    g = GraphBuilder()
    x, h, w, v = g.input("x", (5, 3)), g.input("h", (3,)), g.input("w", (3,)), g.input("v", (3,))
    body = Body(g)
    state, element = body.entry("state", h.type, (3,)), body.entry("element", x.type, (3,))
    new = body.op("Tanh", body.add(body.mul(state, w), body.mul(element, v)))
    body.result(new)
    (last,) = add_scan(g, body, [h], [(x, Track())], [])
    node = last.producer()
    assert node is not None
    assert captured(node) == [w, v]
    loss = g.reduce_sum(last, keepdims=False)
    for _ in range(2):
        (dw,) = gradients(g, loss, [w])
        assert dw is not None
        back: Any = dw.producer()
        assert len(node.outputs) == 2
        # States: dh and the sum of dw. Sequences: what h was, and x.
        assert (len(back.inputs), len(back.outputs)) == (4, 2)
