"""scan: a few nodes for every step, with states, outputs, direction, and values of the graph around it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.scan import scan
from onnxmx.builder.session import open_session
from onnxmx.errors import GraphError

X = np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32)


def decayed(b: GraphBuilder, state: Any, element: Any, rate: Any) -> Any:
    """h <- rate h + x, and what is added to it."""
    h = b.add(b.mul(state[0], rate), element[0])
    return [h], [h, b.mul(element[0], 2.0)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("time", [5, "time"])
def test_scan(reverse: bool, time: Any) -> None:
    g = GraphBuilder()
    x, start, rate = g.input("x", (time, 2, 3)), g.input("start", (2, 3)), g.input("rate", ())
    with g.scope("part"):
        (last,), (hs, doubled) = scan(g, lambda b, s, e: decayed(b, s, e, rate), [start], [x], reverse=reverse)
    for value, name in ((last, "last"), (hs, "hs"), (doubled, "doubled")):
        g.output(value, name)
    assert [str(v.shape) for v in (last, hs)] == [str(start.shape), str(x.shape)]
    proto = ir.to_proto(g.model())
    onnx.checker.check_model(proto, full_check=True)
    feeds = {"x": X, "start": np.ones((2, 3), np.float32), "rate": np.array(0.5, np.float32)}
    found = open_session(proto.SerializeToString()).run(None, feeds)
    h, expected = feeds["start"], np.zeros_like(X)
    for t in reversed(range(5)) if reverse else range(5):
        h = expected[t] = h * 0.5 + X[t]
    np.testing.assert_allclose(found[0], h, rtol=1e-6)
    np.testing.assert_allclose(found[1], expected, rtol=1e-6)
    np.testing.assert_allclose(found[2], 2 * X, rtol=1e-6)


def test_names_inside_are_unlike_those_outside() -> None:
    g = GraphBuilder()
    x, start = g.input("x", ("time", 3)), g.input("start", (3,))
    for _ in range(2):
        (start,), _ = scan(g, lambda b, s, e: ([b.add(s[0], e[0])], []), [start], [x])
    g.output(g.add(start, 1.0), "y")
    names = [v.name for node in g.graph for v in node.outputs]
    for node in list(g.graph)[:2]:
        body = node.attributes["body"].value
        assert body.name
        names += [v.name for v in (*body.inputs, *(y for n in body for y in n.outputs))]
    assert max(Counter(names).values()) == 1
    onnx.checker.check_model(ir.to_proto(g.model()), full_check=True)


def test_a_state_that_does_not_change_and_an_element_as_it_is() -> None:
    g = GraphBuilder()
    x, start = g.input("x", (5, 2, 3)), g.input("start", (2, 3))
    (last,), (same, outer) = scan(g, lambda b, s, e: ([s[0]], [e[0], start]), [start], [x])
    for value, name in ((last, "last"), (same, "same"), (outer, "outer")):
        g.output(value, name)
    proto = ir.to_proto(g.model())
    onnx.checker.check_model(proto, full_check=True)
    found = open_session(proto.SerializeToString()).run(None, {"x": X, "start": X[0]})
    for array, expected in zip(found, (X[0], X, np.stack([X[0]] * 5)), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_body_that_loses_a_state() -> None:
    g = GraphBuilder()
    x = g.input("x", (5, 3))
    with pytest.raises(GraphError, match="expected to return 1 states for a sequence; found 0"):
        scan(g, lambda b, s, e: ([], [e[0]]), [x], [x])
    with pytest.raises(GraphError, match="for 0 sequences"):
        scan(g, lambda b, s, e: (s, []), [x], [])
    with pytest.raises(GraphError, match="expected values of one graph"):
        scan(GraphBuilder(), lambda b, s, e: (s, []), [x], [x])
