"""The ai.onnxmx functions: one definition for many calls, run by a stock ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from onnxmx.builder.functions import function
from onnxmx.builder.graph import DOMAIN, GraphBuilder, Value
from onnxmx.builder.session import open_session
from onnxmx.errors import GraphError, ShapeError


@function(outputs=("y", "scale"))
def Clip(g: GraphBuilder, x: Value, norm: Value, *, most: float) -> tuple[Value, ...]:
    """y = x * scale, scale = min(1, most / norm)"""
    scale = g.min(g.div(most, norm), 1.0)
    return x * scale, scale


@function(outputs=("y",))
def Twice(g: GraphBuilder, x: Value, *, times: int) -> Value:
    """y = Clip(x, 4, most=2) * times"""
    y, _ = Clip(g, x, np.float32(4.0), most=2.0)
    return y * g.cast(times, ir.DataType.FLOAT)


@function(outputs=("y",))
def Power(g: GraphBuilder, x: Value, *, n) -> Value:  # type: ignore[no-untyped-def]  # an attribute of no declared type
    """y = x ** n"""
    return g.pow(x, n)


def run(g: GraphBuilder, *outputs: Value, **feeds: Any) -> list[np.ndarray]:
    for k, value in enumerate(outputs):
        g.output(value, f"out{k}")
    proto = ir.to_proto(g.model())
    onnx.checker.check_model(proto, full_check=True)
    found = open_session(proto.SerializeToString(), threads=1).run(None, feeds)
    for a, b in zip(found, ReferenceEvaluator(proto).run(None, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    return found


def test_one_definition_serves_all_calls_and_attributes() -> None:
    g = GraphBuilder()
    x, v, norm = g.input("x", (3,)), g.input("v", ("n", 2)), g.input("norm", ())
    a, _ = Clip(g, x, norm, most=1.0)
    b, scale = Clip(g, v, norm, most=6)  # an int where a float is declared
    assert list(g.functions) == ["Clip"]
    assert [(n.domain, n.op_type) for n in g.graph] == [(DOMAIN, "Clip")] * 2
    x0, v0, n0 = np.ones(3, np.float32), np.ones((4, 2), np.float32), np.array(4.0, np.float32)
    found = run(g, a, b, scale, x=x0, v=v0, norm=n0)
    np.testing.assert_allclose(found[0], x0 / 4)
    np.testing.assert_allclose(found[1], v0)
    np.testing.assert_allclose(found[2], 1.0)


def test_the_definition_is_documented_and_refers_to_its_attributes() -> None:
    g = GraphBuilder()
    Clip(g, g.input("x", (3,)), 1.0, most=1.0)
    proto = ir.to_proto(g.model()).functions[0]
    assert (proto.domain, proto.name, list(proto.attribute)) == (DOMAIN, "Clip", ["most"])
    assert (list(proto.input), list(proto.output)) == (["x", "norm"], ["y", "scale"])
    assert proto.doc_string == "y = x * scale, scale = min(1, most / norm)"
    references = [a.ref_attr_name for n in proto.node for a in n.attribute if a.ref_attr_name]
    assert references == ["most"]


def test_a_function_may_call_another() -> None:
    g = GraphBuilder()
    x = g.input("x", (3,))
    y = Twice(g, x, times=3)
    assert list(g.functions) == ["Clip", "Twice"]
    np.testing.assert_allclose(run(g, y, x=np.ones(3, np.float32))[0], 1.5)


def test_shapes_are_inferred_at_each_call() -> None:
    g = GraphBuilder()
    for shape in (("batch", 3), (7,), (), (None, 2)):
        y, scale = Clip(g, g.input("x", shape), 1.0, most=1.0)
        assert (y.shape, scale.shape, y.dtype) == (ir.Shape(shape), (), ir.DataType.FLOAT)
    first, second = (Clip(g, g.input("x", (7,)), 1.0, most=1.0)[0] for _ in range(2))
    assert first.shape is not second.shape  # a later change of one must not reach the other


def test_what_does_not_fit_is_an_error_at_the_call() -> None:
    g = GraphBuilder()
    x, i = g.input("x", (3,)), g.input("i", (3,), ir.DataType.INT64)
    with pytest.raises(GraphError, match=r"expected inputs \('x', 'norm'\).*found 1 inputs") as caught:
        Clip(g, x, most=1.0)
    assert caught.value.at is not None
    assert "test_functions.py" in caught.value.at
    assert caught.value.mend == "Call it as Clip(g, x, norm, most=...)."
    with pytest.raises(GraphError, match="expected a builder in the first place; found Value") as caught:
        Clip(x, 1.0, most=1.0)  # type: ignore[arg-type]
    assert "x.builder" in str(caught.value.mend)
    assert "test_functions.py" in str(caught.value.at)
    with pytest.raises(GraphError, match="a None among them"):
        Clip(g, x, None, most=1.0)
    with pytest.raises(GraphError, match=r"attributes \('least',\)"):
        Clip(g, x, 1.0, least=1.0)
    for bad in ("1", True, None, g.constant(1.0)):
        with pytest.raises(GraphError, match="expected most as a number"):
            Clip(g, x, 1.0, most=bad)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"expected times as an int; found 1\.5"):
        Twice(g, x, times=1.5)
    with pytest.raises(ShapeError, match=r"Clip in the graph cannot take float32 \(3,\), float32 \(2,\): Mul in Clip"):
        Clip(g, x, g.input("two", (2,)), most=1.0)
    Clip(g, x, 1.0, most=1.0)
    with pytest.raises(GraphError, match=r"expected FLOAT, FLOAT, FLOAT as everywhere in this graph; found INT64"):
        Clip(g, i, np.int64(1), most=1)


def test_an_attribute_without_annotation_keeps_the_type_of_the_first_call() -> None:
    g = GraphBuilder()
    x = g.input("x", (3,))
    y = Power(g, x, n=2)
    with pytest.raises(GraphError, match="expected FLOAT, INT as everywhere in this graph; found FLOAT, FLOAT"):
        Power(g, x, n=2.0)
    np.testing.assert_allclose(run(g, y, x=np.full(3, 3, np.float32))[0], 9.0)
