"""Rows of the table of gradient rules: empty and single elements, and every argument broadcast.

And gradients by hand where there are no differences: on kinks, at ties, at infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tests.trainer.rule_case import Case, Shape

INF = float("inf")
# Each argument is once the smaller one; one is a scalar; both are stretched; neither is, and they have one element.
PAIRS: list[tuple[Shape, Shape]] = [
    ((2, 3, 4), (4,)), ((4,), (2, 3, 4)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 3), ()), ((1, 1), (1,)),
]  # fmt: skip
BROADCASTING: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("Add", "Sub", "Mul", "Sum")},
    **{name: {"low": 0.5} for name in ("Div", "Pow")},
    **{name: {"distinct": True} for name in ("Max", "Min")},
    "Mean": {"step": 0.5},  # onnx.reference adds to the first one, whatever its shape
    "Mod": {"attributes": {"fmod": 1}, "low": 0.37},
}


def where(shapes: tuple[Shape, Shape, Shape]) -> Case:
    """A constant condition of the first shape."""
    holds = np.arange(int(np.prod(shapes[0]))).reshape(shapes[0]) % 3 == 0
    return Case("Where", shapes[1:], make=lambda g, a, b: g.where(holds, a, b), label=f"{shapes}")


def no_elements(operator: str, make: Callable[..., Any], shape: Shape = (2, 3, 4), axis: int = 1) -> Case:
    """An operator on none of the elements along an axis of x, beside x itself."""

    def with_x(g: Any, x: Any) -> Any:
        parts = [g.reshape(v, [-1]) for v in (make(g, g.slice(x, [0], [0], [axis])), x)]
        return g.concat(parts, 0)

    return Case(operator, (shape,), make=with_x, label=f"none{axis}")


def itself(operator: str, **attributes: Any) -> Callable[..., Any]:
    return lambda g, x: g.op(operator, x, **attributes)


def along(operator: str, axes: list[int], keepdims: int = 1) -> Callable[..., Any]:
    return lambda g, x: g.op(operator, x, np.array(axes, np.int64), keepdims=keepdims)


REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceProd",
              "ReduceMax", "ReduceMin")  # fmt: skip
CASES = [
    *(Case(o, pair, **how) for o, how in BROADCASTING.items() for pair in PAIRS),
    Case("Sum", ((), (3, 1), (1, 4))),
    *(where(s) for s in (((3, 4), (4,), ()), ((), (3, 1), (1, 4)), ((3, 1), (3, 4), (4,)), ((2, 1, 1), (3, 1), (4,)),
                         ((4,), (4,), (2, 1)))),
    *(Case("PRelu", s, avoid=0.0) for s in (((2, 3), ()), ((2, 3), (2, 3)), ((1, 1), (1,)))),
    *(Case("MatMul", s) for s in (((2, 1, 3, 4), (5, 4, 2)), ((5, 3, 4), (2, 1, 4, 2)), ((1, 1), (1, 1)))),
    *(Case("Gemm", ((3, 4), (4, 5), c)) for c in ((), (1, 5), (1, 1), (5,))),
    *(Case("Expand", (s,), make=lambda g, x: g.expand(x, [2, 3, 4])) for s in ((), (1,), (4,), (2, 1, 1))),
    # One element along the axis.
    *(Case(o, ((3, 1, 2),), {"axis": 1}) for o in ("Softmax", "LogSoftmax")),
    *(Case(o, ((3, 1, 2),), make=along(o, [1], k), avoid=0.0, label=f"one{k}") for o in REDUCTIONS for k in (0, 1)),
    Case("LayerNormalization", ((3, 1), (1,), (1,)), {"epsilon": 0.1}),
    Case("InstanceNormalization", ((2, 3, 1), (3,), (3,)), {"epsilon": 0.1}),
    Case("CumSum", ((3, 1),), make=lambda g, x: g.op("CumSum", x, np.array(1)), label="one"),
    Case("Concat", ((1,), (1,)), {"axis": 0}),
    *(Case(o, ((1, 1, 1, 1),), {"kernel_shape": [1, 1]}, avoid=0.0) for o in ("AveragePool", "LpPool")),
    Case("GlobalMaxPool", ((2, 3, 1, 1),)),
    Case("GlobalAveragePool", ((2, 3, 1, 1),)),
    Case("Transpose", ((1, 1),)),
    Case("Det", ((1, 1),)),
    # None.
    *(no_elements(o, itself(o)) for o in ("Relu", "Sigmoid", "Exp", "Erf", "Abs", "Softplus", "Identity", "Elu")),
    *(no_elements(o, itself(o, axis=1), axis=0) for o in ("Softmax", "LogSoftmax")),
    *(no_elements(o, along(o, [2])) for o in REDUCTIONS),
    *(no_elements(o, along(o, [1], k)) for k in (0, 1) for o in (
        "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceProd")),
    no_elements("Transpose", itself("Transpose", perm=[2, 0, 1])),
    no_elements("Reshape", lambda g, x: g.reshape(x, [0, 12]), axis=0),
    no_elements("Concat", lambda g, x: g.concat([x, x], 2)),
    no_elements("Split", lambda g, x: g.ops("Split", x, outputs=2, axis=2, num_outputs=2)[1]),
    no_elements("Expand", lambda g, x: g.expand(g.unsqueeze(x, [0]), [2, 1, 1, 1])),
    no_elements("MatMul", lambda g, x: g.matmul(x, g.cast_like(np.ones((4, 5), np.float32), x))),
    # The sum over no products is 0; ONNX Runtime 1.31 leaves what was in memory.
    replace(no_elements("MatMul", lambda g, x: g.matmul(g.transpose(x, [0, 2, 1]), x)), runtime=False),
    no_elements("Gather", lambda g, x: g.gather(x, np.array([1, 3]), axis=2)),
    Case("Gather", label="none", make=lambda g, x: g.concat([x, g.gather(x, np.zeros(0, np.int64))], 0)),
    no_elements("Slice", lambda g, x: g.slice(x, [1], [3], [2])),
    no_elements("Where", lambda g, x: g.where(g.greater(x, 0.0), x, 1.0)),
    no_elements("CumSum", lambda g, x: g.op("CumSum", x, np.array(1))),
    no_elements("Tile", lambda g, x: g.op("Tile", x, np.array([1, 2, 3]))),
    no_elements("Add", lambda g, x: g.add(x, g.slice(x, [0], [1], [0]))),
    no_elements("Mul", lambda g, x: g.mul(x, g.slice(x, [0], [1], [0]))),
]  # fmt: skip


@dataclass
class ByHand:
    """The gradient dx of the sum of y at x; dx holds those of all inputs where there are several."""

    operator: str
    x: list[Any]
    dx: list[Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    axes: list[int] | None = None

    def __str__(self) -> str:
        return f"{self.operator}{self.attributes or ''}{self.axes or ''}"


BY_HAND = [
    ByHand("Relu", [-INF, -0.0, 0.0, INF], [0, 0, 0, 1]),
    ByHand("LeakyRelu", [-INF, -0.0, 0.0, INF], [0.1, 0.1, 0.1, 1], {"alpha": 0.1}),
    ByHand("ThresholdedRelu", [-INF, 1.0, INF], [0, 0, 1]),
    ByHand("Elu", [-INF, -0.0, 0.0, INF], [0, 1, 1, 1]),
    ByHand("Celu", [-0.0, 0.0, INF], [1, 1, 1]),
    ByHand("HardSigmoid", [-INF, -2.5, 2.5, INF], [0, 0, 0, 0]),
    ByHand("HardSwish", [-INF, -3.0, 3.0, INF], [0, 0, 1, 1]),
    ByHand("Shrink", [-INF, -0.5, -0.0, 0.5, INF], [1, 0, 0, 0, 1]),
    ByHand("Abs", [-INF, -0.0, 0.0, INF], [-1, 0, 0, 1]),
    ByHand("Sigmoid", [-INF, 0.0, INF], [0, 0.25, 0]),
    ByHand("Tanh", [-INF, -0.0, INF], [0, 1, 0]),
    ByHand("Softplus", [-INF, INF], [0, 1]),
    ByHand("Exp", [-INF, -0.0], [0, 1]),
    ByHand("Erf", [-INF, INF], [0, 0]),
    ByHand("Atan", [-INF, INF], [0, 0]),
    ByHand("Asinh", [-INF, INF], [0, 0]),
    ByHand("Sqrt", [0.0, INF], [INF, 0]),
    ByHand("Log", [0.0, INF], [INF, 0]),
    ByHand("Reciprocal", [-INF, INF], [0, 0]),
    ByHand("Clip", [-2.0, -0.0, 0.0, 2.0], [1, 1, 1, 1]),
    ByHand("Max", [[1.0, -INF, 0.0, INF], [1.0, 0.0, -0.0, INF]], [[0.5, 0, 0.5, 0.5], [0.5, 1, 0.5, 0.5]]),
    ByHand("Min", [[1.0, -INF, 0.0, INF], [1.0, 0.0, -0.0, INF]], [[0.5, 1, 0.5, 0.5], [0.5, 0, 0.5, 0.5]]),
    ByHand("ReduceMax", [[1.0, 1.0, 0.0], [-INF, -INF, -INF], [INF, 0.0, INF]],
           [[0.5, 0.5, 0], [1 / 3] * 3, [0.5, 0, 0.5]], axes=[1]),
    ByHand("ReduceMin", [[0.0, -0.0, 1.0], [INF, INF, INF]], [[0.5, 0.5, 0], [1 / 3] * 3], axes=[1]),
    ByHand("ReduceL1", [[0.0, -0.0, -2.0], [0.0, 0.0, -0.0]], [[0, 0, -1], [0, 0, 0]], axes=[1]),
    ByHand("ReduceL2", [[0.0, -0.0, -2.0], [0.0, 0.0, -0.0]], [[0, 0, -1], [0, 0, 0]], axes=[1]),
    ByHand("ReduceProd", [[0.0, -0.0, 2.0], [0.0, 3.0, 2.0]], [[0, 0, 0], [6, 0, 0]], axes=[1]),
    ByHand("ReduceLogSumExp", [[-INF, 0.0, 0.0], [-INF, -INF, -INF]], [[0, 0.5, 0.5], [0, 0, 0]], axes=[1]),
    ByHand("Softmax", [[-INF, 0.0, 0.0]], [[0, 0, 0]]),
    ByHand("LpNormalization", [[0.0, -0.0], [3.0, 4.0]], [[0, 0], [0.032, -0.024]]),
    ByHand("LpPool", [[[[0.0, -0.0], [0.0, 0.0]]]], [[[[0, 0], [0, 0]]]], {"kernel_shape": [2, 2]}),
    ByHand("GlobalLpPool", [[[[0.0, -0.0], [0.0, 2.0]]]], [[[[0, 0], [0, 1]]]]),
    ByHand("MaxPool", [[[[2.0, 2.0, 2.0]]]], [[[[1, 1, 0]]]], {"kernel_shape": [1, 2]}),  # the first of each window
    ByHand("GlobalMaxPool", [[[[0.0, -0.0], [-1.0, 0.0]]]], [[[[1 / 3, 1 / 3], [0, 1 / 3]]]]),
]  # fmt: skip
