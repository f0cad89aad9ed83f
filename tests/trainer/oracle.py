"""Oracles for gradient rules: float64 finite differences on onnx.reference, and ONNX Runtime in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.session import open_session
from onnxmx.trainer.autodiff import gradients
from tests.trainer.better_operators import BETTER

Array = np.ndarray[Any, Any]
Make = Callable[..., Value]


def loss_and_gradients(make: Make, arrays: Sequence[Array], symbolic: str | None = None) -> onnx.ModelProto:
    """A graph of weighted-sum(make(*inputs)) and its gradient with respect to every floating-point input.

    The weights differ from element to element, so that a gradient put in the wrong place shows.
    symbolic: a name for the first dimension of every input whose first dimension is that of the first one.
    """
    g, xs = _inputs(arrays, symbolic)
    loss = _weighted_sum(g, make(g, *xs), g.sin)
    floats = _floats(xs)
    g.output(loss, "loss")
    for x, dx in zip(floats, gradients(g, loss, floats), strict=True):
        assert dx is not None, f"no gradient reached {x.name}"
        g.output(dx, f"d{x.name}")
    proto = ir.to_proto(g.model())
    onnx.checker.check_model(proto, full_check=True)
    return proto


def slope_and_gradients(make: Make, arrays: Sequence[Array]) -> onnx.ModelProto:
    """A graph of a weighted sum of the gradients of a loss, and its gradient: a gradient of a gradient.

    The loss is quadratic in y = make(*inputs), so that dy depends on the inputs too.
    """
    g, xs = _inputs(arrays, None)
    y = g.reshape(make(g, *xs), [-1])
    loss = _weighted_sum(g, g.add(y, g.mul(g.mul(y, y), 0.5)), g.sin)
    floats = _floats(xs)
    first = [dx for dx in gradients(g, loss, floats) if dx is not None]
    assert len(first) == len(floats)
    slope = g.sum(*(_weighted_sum(g, dx, g.cos) for dx in first))
    g.output(slope, "loss")
    for x, dx in zip(floats, gradients(g, slope, floats), strict=True):
        g.output(g.mul(x, 0.0) if dx is None else dx, f"d{x.name}")
    for node in reversed(list(g.graph)):  # onnx-ir's own pass unnames unused outputs, and the reference keeps those
        if not any(y.uses() or y.is_graph_output() for y in node.outputs):
            g.graph.remove(node, safe=True)
    proto = ir.to_proto(g.model())
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _inputs(arrays: Sequence[Array], symbolic: str | None) -> tuple[GraphBuilder, list[Value]]:
    g, xs = GraphBuilder(), []
    for k, array in enumerate(arrays):
        dims: list[Any] = list(array.shape)
        if symbolic and dims and dims[0] == arrays[0].shape[0]:
            dims[0] = symbolic
        xs.append(g.input(f"x{k}", dims, ir.DataType.from_numpy(array.dtype)))
    return g, xs


def _floats(xs: Sequence[Value]) -> list[Value]:
    return [x for x in xs if x.dtype is not None and x.dtype.is_floating_point()]


def _weighted_sum(g: GraphBuilder, y: Value, wave: Callable[[Value], Value]) -> Value:
    numbers = g.range(np.float32(1), g.cast(g.op("Size", y), ir.DataType.FLOAT) + 1.0, np.float32(1))
    return g.reduce_sum(g.mul(g.reshape(y, [-1]), wave(g.cast_like(numbers, y))), keepdims=False)


def in_float64(make: Make, arrays: Sequence[Array]) -> onnx.ModelProto:
    """`loss_and_gradients` for ONNX's reference runtime, which shares no code with what is tested."""
    return loss_and_gradients(make, _double(arrays))


def _double(arrays: Sequence[Array]) -> list[Array]:
    return [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]


def finite_difference_error(make: Make, arrays: Sequence[Array], double: onnx.ModelProto | None = None) -> float:
    """The largest relative error of a directional derivative against central differences, all in float64.

    double: `in_float64` of the same, where it has been made already.
    """
    arrays = _double(arrays)
    model = onnx.reference.ReferenceEvaluator(double or in_float64(make, arrays), new_ops=BETTER)
    return _directional_error(lambda values: model.run(None, _feeds(values)), arrays, 1e-6)


def piecewise_linear_error(make: Make, arrays: Sequence[Array], h: float) -> float:
    """The same on ONNX Runtime in float32, for operators where the reference is wrong and a large step is exact."""
    arrays = [a.astype(np.float32) for a in arrays]
    session = open_session(loss_and_gradients(make, arrays).SerializeToString(), threads=1)
    return _directional_error(lambda values: session.run(None, _feeds(values)), arrays, h)


def second_order_error(make: Make, arrays: Sequence[Array], step: float | None) -> float:
    """As the two above for the gradient of a gradient; on ONNX Runtime in float32 where a step is given."""
    arrays = [a.astype(np.float32 if step else np.float64) if a.dtype.kind == "f" else a for a in arrays]
    proto = slope_and_gradients(make, arrays)
    if step:
        session = open_session(proto.SerializeToString(), threads=1)
    else:
        session = onnx.reference.ReferenceEvaluator(proto, new_ops=BETTER)
    return _directional_error(lambda values: session.run(None, _feeds(values)), arrays, step or 1e-5)


def _directional_error(run: Callable[[Sequence[Array]], list[Array]], arrays: Sequence[Array], h: float) -> float:
    exact = run(arrays)[1:]
    random = np.random.default_rng(7)
    worst = 0.0
    for _ in range(3):
        steps = [np.asarray(random.normal(size=a.shape)).astype(a.dtype) for a in arrays]
        up = run([a + a.dtype.type(h) * s for a, s in zip(arrays, steps, strict=True)])[0]
        down = run([a - a.dtype.type(h) * s for a, s in zip(arrays, steps, strict=True)])[0]
        expected = float((up - down) / (2 * h))
        found = sum(float((d * s).sum()) for d, s in zip(exact, steps, strict=True))
        worst = max(worst, abs(found - expected) / (1.0 + abs(expected)))
    return worst


def _feeds(arrays: Sequence[Array]) -> dict[str, Array]:
    return {f"x{k}": np.asarray(a) for k, a in enumerate(arrays)}


def runtime_error(make: Make, arrays: Sequence[Array], double: onnx.ModelProto, symbolic: str | None = None) -> float:
    """The largest difference between the gradients of ONNX Runtime in float32 and of onnx.reference for `double`."""
    single = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]
    # First: ONNX Runtime's BatchNormalization writes its running statistics over those that it is given.
    expected = onnx.reference.ReferenceEvaluator(double, new_ops=BETTER).run(None, _feeds(_double(single)))
    session = open_session(loss_and_gradients(make, single, symbolic).SerializeToString(), threads=1)
    found = session.run(None, _feeds(single))
    worst = 0.0
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        worst = max(worst, float(np.abs(f - e).max(initial=0.0) / (1.0 + np.abs(e).max(initial=0.0))))
    return worst
