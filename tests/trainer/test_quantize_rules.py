"""The straight-through estimator: gradients of quantization, against its formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.session import open_session
from onnxmx.trainer.autodiff import gradients

Array = np.ndarray[Any, Any]


def run(make: Any, **arrays: Array) -> list[Array]:
    """The gradients of sum(make(...) * (1, 2, 3 ...)) with respect to every float input."""
    g = GraphBuilder()
    xs = {n: g.input(n, a.shape, ir.DataType.from_numpy(a.dtype)) for n, a in arrays.items()}
    y = make(g, **xs)
    weights = np.arange(1, 1 + np.prod(y.shape.numpy()), dtype=np.float32).reshape(y.shape.numpy())
    wrt = [x for x in xs.values() if x.dtype is ir.DataType.FLOAT]
    for k, dx in enumerate(gradients(g, g.reduce_sum(g.mul(y, weights), keepdims=False), wrt)):
        assert dx is not None
        g.output(g.op("Identity", dx), f"d{k}")
    return open_session(ir.to_proto(g.model()).SerializeToString(), threads=1).run(None, arrays)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_pair_passes_what_is_not_cut(axis: int | None) -> None:
    """dx = dy inside the range, 0 outside; dscale = dy (q - zero) - dy x / scale inside (Esser et al. 2020, eq. 3)."""
    x = np.array([[-9.0, -0.26, 0.0, 0.31], [0.74, 1.0, 50.0, 63.9]], np.float32)
    shape = () if axis is None else (x.shape[axis],)
    scale, zero = np.full(shape, 0.25, np.float32), np.full(shape, 3, np.uint8)

    def make(g: GraphBuilder, x: Any, scale: Any) -> Any:
        how = {"axis": axis} if axis is not None else {}
        return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero, **how), scale, zero, **how)

    dx, dscale = run(make, x=x, scale=scale)
    dy = np.arange(1, 9, dtype=np.float32).reshape(x.shape)
    inside = (x / 0.25 + 3 > -0.5) & (x / 0.25 + 3 < 255.5)
    np.testing.assert_array_equal(inside, [[False, True, True, True], [True, True, True, False]])
    np.testing.assert_allclose(dx, dy * inside)
    q = np.clip(np.round(x / 0.25) + 3, 0, 255)
    expected = dy * (q - 3) - dy * inside * x / 0.25
    others = tuple(k for k in range(2) if k != axis)
    np.testing.assert_allclose(dscale, expected.sum(others), rtol=1e-5)


def test_without_zero_point() -> None:
    """The type is then uint8, whose lower end is 0."""
    x, scale = np.array([-1.0, 0.6, 300.0], np.float32), np.array(1.0, np.float32)
    dx, _ = run(lambda g, x, scale: g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale), scale), x=x, scale=scale)
    np.testing.assert_allclose(dx, [0, 2, 0])


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (1.0, 3.0), (-3.0, -1.0)])
def test_dynamic_scale_depends_on_the_extremes(low: float, high: float) -> None:
    x = np.linspace(low, high, 5, dtype=np.float32)
    (dx,) = run(lambda g, x: g.reshape(g.ops("DynamicQuantizeLinear", x, outputs=3)[1], [1]), x=x)
    expected = np.zeros(5)
    expected[0], expected[-1] = (-1 / 255 if low < 0 else 0), (1 / 255 if high > 0 else 0)
    np.testing.assert_allclose(dx, expected, rtol=1e-5)


def test_dynamic_pair_passes_on() -> None:
    def make(g: GraphBuilder, x: Any) -> Any:
        q, scale, zero = g.ops("DynamicQuantizeLinear", x, outputs=3)
        return g.mul(g.op("DequantizeLinear", q, scale, zero), 1.0)

    x = np.array([-1.0, 0.3, 2.0], np.float32)
    (dx,) = run(make, x=x)
    scale = 3 / 255
    q = np.round(x / scale)  # the zero point taken away
    through_scale = np.array([-1.0, 0, 1.0]) / 255 * (np.array([1, 2, 3]) * q).sum()
    np.testing.assert_allclose(dx, np.array([1, 2, 3]) + through_scale, rtol=1e-4)
