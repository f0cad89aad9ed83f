"""Every gradient rule against finite differences in float64 and against ONNX Runtime in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx.defs
import onnx.reference
import onnx_ir as ir
import pytest

from onnxmx.builder.graph import DOMAIN, OPSET, GraphBuilder
from onnxmx.builder.session import open_session
from onnxmx.trainer.autodiff import RULES, gradients
from onnxmx.trainer.autodiff.registry import Refusal
from onnxmx.trainer.functions import BatchNorm, BatchNorm2D, Dropout, GRUSteps, LSTMSteps
from onnxmx.trainer.losses.classes import SoftmaxCrossEntropyImages, SoftmaxCrossEntropyRows
from onnxmx.trainer.losses.ctc import CTCLoss
from tests.trainer import (
    rows_control,
    rows_operators,
    rows_recurrent,
    rows_regions,
    rows_space,
    rows_special,
    rule_rows,
)
from tests.trainer.oracle import (
    finite_difference_error,
    in_float64,
    loss_and_gradients,
    piecewise_linear_error,
    runtime_error,
)
from tests.trainer.rule_case import Case, Shape, computed


def conv(shapes: tuple[Shape, ...], **attributes: Any) -> Case:
    return Case("Conv", shapes, attributes)


def axes(operator: str, shape: Shape, along: list[int] | None, **attributes: Any) -> Case:
    dims = None if along is None else np.array(along, np.int64)
    return Case(
        operator, (shape,), make=lambda g, x: g.op(operator, x, dims, **attributes), label=f"{along}{attributes}"
    )


def pool(operator: str, shape: Shape, kernel: list[int], **attributes: Any) -> Case:
    # onnx.reference 1.23 counts the Indices of 1-D MaxPool from the start of each channel. A step of 0.01 moves no
    # input past another.
    step = 0.01 if operator == "MaxPool" and len(kernel) == 1 else None
    return Case(operator, (shape,), {"kernel_shape": kernel, **attributes}, distinct=operator == "MaxPool", step=step)


def gemm(shapes: tuple[Shape, ...], **attributes: Any) -> Case:
    return Case("Gemm", shapes, attributes)


def integers(operator: str, index: Any, shape: Shape, **attributes: Any) -> Case:
    """An operator whose second input is made of constant integers."""
    return Case(
        operator, (shape,), make=lambda g, x: g.op(operator, x, np.array(index, np.int64), **attributes),
        label=f"{index}{attributes}",
    )  # fmt: skip


def cut(shape: Shape, *bounds: list[int], unknown: bool = False) -> Case:
    """A Slice; bounds are starts, ends, axes, steps. unknown: the starts are no constant."""

    def make(g: Any, x: Any) -> Any:
        starts, *others = (np.array(b, np.int64) for b in bounds)
        return g.op("Slice", x, computed(g, x, bounds[0]) if unknown else starts, *others)

    return Case("Slice", (shape,), make=make, label=f"{bounds}{unknown}")


def split(shape: Shape, sizes: list[int], axis: int, use: list[int]) -> Case:
    """A Split of which only the parts `use` are read."""

    def make(g: Any, x: Any) -> Any:
        parts = g.ops("Split", x, np.array(sizes), outputs=len(sizes), axis=axis)
        return g.concat([parts[k] for k in use], axis)

    return Case("Split", (shape,), make=make, label=f"{sizes}{axis}{use}")


CASES = [
    *(Case(o, s) for o in ("Add", "Sub", "Mul")
      for s in (((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)))),
    *(Case("Div", s, low=0.5) for s in (((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 1)))),  # undefined at 0
    Case("Sum", ((3, 4), (4,), (3, 1))),
    Case("Sum", ((3, 4),)),
    Case("Pow", ((3, 4), (4,)), low=0.5),  # log(a)
    Case("Pow", ((3, 4),), make=lambda g, x: g.pow(x, 3.0), low=0.5, label="cube"),
    *(Case(o) for o in ("Neg", "Exp", "Sin", "Cos", "Identity", "Sigmoid", "Tanh", "Softplus", "Erf", "Gelu")),
    Case("Gelu", attributes={"approximate": "tanh"}),
    *(Case(o, low=0.2) for o in ("Sqrt", "Log")),  # undefined at 0
    *(Case(o, avoid=0.0) for o in ("Abs", "Relu", "LeakyRelu", "Elu")),  # kink
    Case("LeakyRelu", attributes={"alpha": 0.3}, avoid=0.0),
    Case("Elu", attributes={"alpha": 1.7}, avoid=0.0),
    *(Case(o, ((2, 3, 4),), {"axis": a}) for o in ("Softmax", "LogSoftmax") for a in (-1, 1)),
    Case("Cast", make=lambda g, x: g.cast(x, x.dtype)),
    Case("Where", ((3, 4), (4,)), make=lambda g, a, b: g.where(g.greater(a, 0.1), a, b), avoid=0.1),
    *(axes(o, (2, 3, 4), a, keepdims=k) for o in ("ReduceSum", "ReduceMean", "ReduceSumSquare")
      for a in (None, [1], [0, -1]) for k in (0, 1)),
    axes("ReduceSum", (2, 3), [], noop_with_empty_axes=1, keepdims=1),
    Case("GlobalAveragePool", ((2, 3, 4, 5),)),
    Case("Reshape", make=lambda g, x: g.reshape(x, [2, 6])),
    Case("Flatten", ((2, 3, 4),), {"axis": 1}),
    Case("Squeeze", ((3, 1, 4, 1),), make=lambda g, x: g.squeeze(x, [1, 3])),
    Case("Unsqueeze", make=lambda g, x: g.unsqueeze(x, [0, -1])),
    Case("Transpose", ((2, 3, 4),), {"perm": [2, 0, 1]}),
    Case("Transpose", ((2, 3, 4),)),
    Case("Expand", ((3, 1),), make=lambda g, x: g.expand(x, [2, 3, 4])),
    *(Case("Concat", ((2, 3), (2, 4), (2, 1)), {"axis": a}) for a in (1, -1)),
    Case("Concat", ((2, 3),), {"axis": 0}),
    *(Case("MatMul", s) for s in (
        ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5)), ((1, 3, 4), (2, 4, 5)),
        ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)))),
    *(gemm(s, transA=ta, transB=tb, alpha=0.5, beta=2.0)
      for ta, tb, s in (
          (0, 0, ((3, 4), (4, 5), (5,))), (1, 0, ((4, 3), (4, 5), (3, 1))),
          (0, 1, ((3, 4), (5, 4), (3, 5))), (1, 1, ((4, 3), (5, 4), (1,))))),
    gemm(((3, 4), (4, 5))),
    conv(((2, 3, 6, 7), (4, 3, 3, 3), (4,))),
    conv(((2, 3, 6, 7), (4, 3, 3, 3)), pads=[1, 1, 1, 1]),
    conv(((2, 3, 8, 7), (4, 3, 3, 2), (4,)), strides=[2, 3], pads=[1, 0, 2, 1]),
    conv(((2, 2, 9, 8), (3, 2, 3, 2), (3,)), dilations=[2, 3], pads=[1, 2, 0, 1]),
    conv(((2, 2, 12, 11), (3, 2, 3, 2), (3,)), dilations=[2, 3], strides=[3, 2], pads=[1, 2, 0, 1]),
    conv(((2, 4, 6, 6), (6, 2, 3, 3), (6,)), group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
    conv(((2, 4, 5, 5), (4, 1, 3, 3)), group=4, pads=[1, 1, 1, 1]),
    conv(((2, 3, 6, 7), (4, 3, 3, 3)), auto_pad="SAME_UPPER", strides=[2, 2]),
    conv(((2, 3, 6, 7), (4, 3, 2, 2)), auto_pad="SAME_LOWER"),
    conv(((2, 3, 6, 7), (4, 3, 2, 2)), auto_pad="VALID"),
    conv(((2, 3, 9), (4, 3, 3), (4,)), strides=[2], pads=[1, 1]),
    conv(((2, 2, 4, 5, 4), (3, 2, 2, 3, 2), (3,)), pads=[1, 1, 0, 0, 1, 1]),
    conv(((1, 1, 1, 1), (1, 1, 1, 1), (1,))),
    conv(((2, 3, 4, 3), (4, 3, 1, 1)), pads=[1, 0, 1, 2]),
    conv(((2, 3, 4, 3), (4, 3, 1, 1)), strides=[2, 2], pads=[0, 0, 2, 2]),
    pool("MaxPool", (2, 3, 4, 6), [2, 2], strides=[2, 2]),
    pool("MaxPool", (2, 3, 6, 6), [3, 2], strides=[3, 2]),
    pool("MaxPool", (1, 2, 4, 80), [2, 2], strides=[2, 2]),  # too wide for the product form
    pool("MaxPool", (1, 2, 4, 4, 6), [2, 2, 3], strides=[2, 2, 3]),
    pool("MaxPool", (2, 3, 5, 5), [2, 2], strides=[2, 2]),
    pool("MaxPool", (2, 3, 6, 7), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    pool("MaxPool", (2, 3, 8), [3], strides=[1]),
    pool("AveragePool", (2, 3, 4, 6), [2, 2], strides=[2, 2]),
    pool("AveragePool", (2, 3, 5, 7), [3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    pool("AveragePool", (2, 3, 5, 7), [3, 2], strides=[2, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    Case("Dropout", ((3, 4),)),
    *(Case("BatchNormalization", (s, (3,), (3,)),
           make=lambda g, x, w, b: g.op("BatchNormalization", x, w, b, np.full(3, 0.3, x.dtype.numpy()),
                                        np.full(3, 1.7, x.dtype.numpy())))
      for s in ((4, 3, 5, 5), (4, 3))),
    *(
        Case(f"{DOMAIN}.LSTMSteps", ((4, 2, 5), (12, 5), (12, 3), (2, 3), (2, 3)),
             make=lambda g, *v, k=k: LSTMSteps(g, *v)[k])
        for k in range(10)  # what it keeps is read by the gradient's own gradient
    ),
    Case(f"{DOMAIN}.SoftmaxCrossEntropyRows", ((4, 3), (4, 3)), make=lambda g, x, t: SoftmaxCrossEntropyRows(g, x, t)),
    Case(
        f"{DOMAIN}.SoftmaxCrossEntropyImages",
        ((2, 3, 2, 2), (2, 3, 2, 2)),
        make=lambda g, x, t: SoftmaxCrossEntropyImages(g, x, t),
    ),
    *(
        Case(f"{DOMAIN}.GRUSteps", ((4, 2, 6), (4, 2, 3), (6, 3), (3, 3), (3,), (2, 3)),
             make=lambda g, *v, k=k: GRUSteps(g, *v)[k])
        for k in range(7)
    ),
    Case(
        f"{DOMAIN}.LSTMSteps",
        ((4, 2, 5), (12, 5), (12, 3), (2, 3), (2, 3)),
        make=lambda g, *v: g.concat([g.reshape(y, [-1]) for y in LSTMSteps(g, *v)[:3]], 0),
        label="all that an LSTM gives out",
    ),
    Case(
        f"{DOMAIN}.BatchNorm2D",
        ((4, 3, 2, 5), (3,), (3,)),
        make=lambda g, x, w, b: BatchNorm2D(g, x, w, b, epsilon=1e-5)[0],
    ),
    *(Case(f"{DOMAIN}.BatchNorm", (s, (3,), (3,)), make=lambda g, x, w, b: BatchNorm(g, x, w, b, epsilon=1e-5)[0])
      for s in ((4, 3, 2, 5), (4, 3))),
    # A gradient that is a product by channel: the factor goes to the weights.
    *(Case("Conv", ((2, 3, 5, 5), (4, 3, 3, 3), f), make=lambda g, x, w, f: g.mul(g.conv(x, w, strides=[2, 2]), f))
      for f in ((1, 4, 1, 1), (4, 1, 1), (1, 4, 2, 2), (1, 1, 1, 1))),
    Case(f"{DOMAIN}.CTCLoss", ((3, 6, 4),), step=1e-2, make=lambda g, x: CTCLoss(
        g, g.op("LogSoftmax", x, axis=-1), np.array([[1, 1], [3, -1], [-1, -1]]), np.array([6, 4, 5]), blank=0)[0]),
    Case(f"{DOMAIN}.Dropout", ((6, 8),),
         make=lambda g, x: Dropout(g, x, np.array(3), np.array(5), ratio=0.5, stream=1)[0]),
    *(integers("Gather", i, (4, 3, 2), axis=a)
      for i, a in (([3, 1, 3], 0), ([[0, 1], [1, 1], [2, 0]], 1), (2, 0), (-1, 1), ([-1, 0], 2), ([[1, 0]], -1))),
    cut((4, 5), [1], [3], [0]),
    cut((4, 5), [-3], [100], [0]),
    cut((4, 5), [-9], [-1], [0]),
    cut((4, 5), [-3, 1], [100, -1], [1, 0]),
    cut((4, 5, 3), [0, 2, 1], [2, 5, 3]),
    cut((4, 5), [-1], [np.iinfo(np.int64).min], [1], [-1]),
    cut((4, 7), [6, 0], [0, 4], [1, 0], [-2, 3]),
    cut((4, 7), [1, -5], [3, 6], [0, 1], unknown=True),
    split((4, 6), [2, 3, 1], 1, [0, 1, 2]),
    split((4, 6), [2, 3, 1], -1, [2]),
]  # fmt: skip

_TABLES = (rule_rows, rows_control, rows_operators, rows_recurrent, rows_regions, rows_space, rows_special)
CASES.extend(case for table in _TABLES for case in table.CASES)


@functools.cache
def double(case: Case) -> onnx.ModelProto:
    """Built once for the tests of a row, which differ in what they compare it with."""
    return in_float64(case.build, case.arrays())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finite_differences(case: Case) -> None:
    if case.step is None:
        assert finite_difference_error(case.build, case.arrays(), double(case)) < 1e-6
    else:
        assert piecewise_linear_error(case.build, case.arrays(), case.step) < 2e-3


@pytest.mark.parametrize("case", [c for c in CASES if c.step is None and c.runtime], ids=str)
def test_runtime_agrees(case: Case) -> None:
    assert runtime_error(case.build, case.arrays(), double(case)) < 1e-5


# A batch of unknown size: what most step graphs are written with. A weight's first dimension is no batch.
SYMBOLIC = [
    c
    for c in CASES
    if len(c.shapes[0]) > 1
    and c.step is None
    and c.runtime
    and c.operator not in ("Reshape", "Expand", "MatMul", "Gemm")
    if not (c.operator in ("Conv", *rows_recurrent.GATES) and c.shapes[0][0] == c.shapes[1][0])
]


@pytest.mark.parametrize("case", SYMBOLIC, ids=str)
def test_symbolic_batch(case: Case) -> None:
    assert runtime_error(case.build, case.arrays(), double(case), symbolic="batch") < 1e-5


def test_every_rule_has_a_case() -> None:
    zero = {name for name, rule in RULES.items() if getattr(rule, "__name__", "") == "_zero"}
    refused = {name for name, rule in RULES.items() if isinstance(rule, Refusal)}
    # Rounding is no change to the straight-through estimator: no difference shows that (test_quantize_rules.py).
    # The checker refuses MeanVarianceNormalization, whose function it cannot read; a node test covers it.
    elsewhere = {"QuantizeLinear", "DynamicQuantizeLinear", "MeanVarianceNormalization"}
    assert set(RULES) - zero - refused - elsewhere == {c.operator for c in CASES}


@pytest.mark.parametrize("case", rows_special.BY_HAND, ids=str)
def test_gradients_by_hand(case: rows_special.ByHand) -> None:
    """Ties, zeros of both signs and infinities, on ONNX Runtime."""
    arrays = [np.array(x, np.float32) for x in (case.x if case.operator in ("Max", "Min") else [case.x])]
    g = GraphBuilder()
    xs = [g.input(f"x{k}", a.shape) for k, a in enumerate(arrays)]
    y = g.op(case.operator, *xs, None if case.axes is None else np.array(case.axes), **case.attributes)
    for dx in gradients(g, g.reduce_sum(y, keepdims=False), xs):
        assert dx is not None
        g.output(dx, dx.name or "")
    found = open_session(ir.to_proto(g.model()).SerializeToString()).run(
        None, {f"x{k}": a for k, a in enumerate(arrays)}
    )
    np.testing.assert_allclose(np.stack(found), np.reshape(case.dx, np.shape(found)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", rows_special.BROADCASTING)
def test_every_argument_is_broadcast(operator: str) -> None:
    """One argument is stretched, then the other, then both; a scalar on either side."""
    pairs = [c.shapes for c in CASES if c.operator == operator and len(c.shapes) == 2]
    for k in (0, 1):
        assert any(np.broadcast_shapes(*p) != p[k] for p in pairs)
        assert any(p[k] == () and p[1 - k] != () for p in pairs)
    assert any(all(np.broadcast_shapes(*p) != s for s in p) for p in pairs)


def test_every_operator_is_registered() -> None:
    """With a rule, as of zero gradient, or as one that must not be asked, and why."""
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.since_version <= OPSET}
    assert not known - set(RULES)
    assert {name for name in RULES if "." not in name} <= known


def test_ties_share_the_gradient() -> None:
    """Equal largest elements of a tile split its gradient; none is counted twice."""
    proto = loss_and_gradients(
        lambda g, x: g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), [np.ones((1, 1, 2, 2))]
    )
    _, dx = onnx.reference.ReferenceEvaluator(proto).run(None, {"x0": np.ones((1, 1, 2, 2))})
    np.testing.assert_allclose(dx, np.full((1, 1, 2, 2), np.sin(1.0) / 4), rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda g, x: g.op("GlobalMaxPool", x),
        lambda g, x: g.op("ReduceMax", x, np.array([2, 3], np.int64)),
        lambda g, x: g.op("ReduceMin", x, np.array([2, 3], np.int64)),
    ],
)
def test_tied_extremes_share_the_gradient(make: Callable[..., Any]) -> None:
    proto = loss_and_gradients(make, [np.ones((1, 1, 2, 2))])
    _, dx = onnx.reference.ReferenceEvaluator(proto).run(None, {"x0": np.ones((1, 1, 2, 2))})
    np.testing.assert_allclose(dx, np.full((1, 1, 2, 2), np.sin(1.0) / 4), rtol=1e-6)


def test_a_value_on_its_bound_is_its_own() -> None:
    """Where x is the bound of a Clip, x gets the gradient and the bound none: it is not counted twice."""
    arrays = [np.array([0.0, 1.0, 2.0]), np.array(0.0), np.array(1.0)]
    proto = loss_and_gradients(lambda g, *xs: g.op("Clip", *xs), arrays)
    feeds = {f"x{k}": a for k, a in enumerate(arrays)}
    _, dx, low, high = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(dx, np.sin([1.0, 2.0, 3.0]) * [1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose([low, high], [0, np.sin(3.0)], rtol=1e-6)


def test_powers_at_zero() -> None:
    """0^b and 0^0 have the gradients that their neighbours tend to; none is NaN."""
    arrays = [np.array([0.0, 0.0, 0.0, 2.0, -2.0]), np.array([2.0, 1.0, 0.0, 0.0, 2.0])]
    proto = loss_and_gradients(lambda g, *xs: g.op("Pow", *xs), arrays)
    _, da, db = open_session(proto.SerializeToString()).run(None, {f"x{k}": a for k, a in enumerate(arrays)})
    weights = np.sin(np.arange(1.0, 6.0))
    np.testing.assert_allclose(da, weights * [0, 1, 0, 0, -4], rtol=1e-5)
    np.testing.assert_allclose(db, weights * [0, 0, 0, np.log(2.0), 0], rtol=1e-5)


def test_a_convolution_before_a_slice_with_steps() -> None:
    """The gradient of a Slice has sizes, which that of a Conv asks for."""
    case = Case(
        "Slice",
        ((2, 3, 6, 6), (4, 3, 3, 3)),
        make=lambda g, x, w: g.op(
            "Slice", g.op("Conv", x, w, pads=[1, 1, 1, 1]), *(np.array(v) for v in ([0, 0], [6, 6], [2, 3], [2, 2]))
        ),
    )
    assert runtime_error(case.build, case.arrays(), double(case), symbolic="batch") < 1e-5
