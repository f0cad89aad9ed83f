"""Rows of the table of gradient rules: elementwise functions, reductions, places, losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.trainer.rule_case import Case, Shape

LABELS = {(4, 3): [0, 2, 1, 2], (2, 3, 2, 2): [[[0, 1], [2, 2]], [[1, 0], [2, 1]]]}


def with_axes(operator: str, shape: Shape, axes: list[int] | None, keepdims: int, **how: Any) -> Case:
    along = None if axes is None else np.array(axes, np.int64)
    return Case(
        operator, (shape,), make=lambda g, x: g.op(operator, x, along, keepdims=keepdims), label=f"{axes}{keepdims}",
        **how,
    )  # fmt: skip


def places(operator: str, shapes: tuple[Shape, ...], index: Any, *, distinct: bool = False, **attributes: Any) -> Case:
    """An operator whose second input is a constant index."""
    return Case(
        operator,
        shapes,
        make=lambda g, x, *rest: g.op(operator, x, np.array(index, np.int64), *rest, **attributes),
        label=f"{index}{attributes}",
        distinct=distinct,
    )


def loss(operator: str, shape: Shape, *, weight: bool = False, dtype: Any = np.int64, **attributes: Any) -> Case:
    def make(g: Any, x: Any, *w: Any) -> Any:
        y = g.op(operator, x, np.array(LABELS[shape], dtype), *w, **attributes)
        return g.reshape(y, [1]) if attributes.get("reduction", "mean") != "none" else y

    # Weights of a mean must not add up to nearly nothing.
    return Case(operator, (shape, (3,)) if weight else (shape,), make=make, low=0.3 if weight else None,
                label=f"{shape}{weight}{dtype.__name__}{attributes}")  # fmt: skip


def beside_zeros(operator: str) -> Case:
    """x where a row holds one zero, another two, another zeros alone, and more rows none."""
    mask = np.ones((5, 3))
    mask[0, 1] = mask[1, :2] = mask[2] = 0.0

    def make(g: Any, x: Any) -> Any:
        return g.op(operator, g.mul(x, g.cast_like(mask, x)), np.array([1]))

    return Case(operator, ((5, 3),), make=make, label="zeros")


def scatter_both(operator: str, shapes: tuple[Shape, Shape], index: Any, **attributes: Any) -> Case:
    return places(operator, shapes, index, distinct=attributes.get("reduction") in ("max", "min"), **attributes)


ELEMENTS = [[0, 2], [1, 1], [0, -1]]
NEGATIVE = [[0, 1], [-1, 2], [2, 0]]
CASES = [
    # A part that is empty, of which nothing is read.
    Case("Squeeze", ((3, 1, 4),), label="empty", make=lambda g, x: g.concat(
        [g.squeeze(x, [1]), g.squeeze(g.slice(x, [0], [0], [2]), [1])], 1)),
    *(Case(o) for o in ("Tan", "Atan", "Sinh", "Cosh", "Asinh")),
    # Defined between -1 and 1, or from 1 on.
    *(Case(o, make=lambda g, x, o=o: g.op(o, g.mul(g.op("Tanh", x), 0.9))) for o in ("Asin", "Acos", "Atanh")),
    Case("Acosh", low=1.2),
    Case("Reciprocal", low=0.4),
    Case("Mod", ((3, 4), (4,)), {"fmod": 1}, low=0.37),
    Case("Mod", ((3, 4),), label="negative", make=lambda g, x: g.op("Mod", g.mul(x, 3.0), -0.77, fmod=1)),
    Case("Mean", ((3, 4), (4,), (3, 1))),
    Case("Mean", ((3, 4),)),
    Case("CastLike", make=lambda g, x: g.op("CastLike", x, g.constant(0.0, x.dtype))),
    Case("ThresholdedRelu", avoid=1.0),
    Case("ThresholdedRelu", attributes={"alpha": 0.2}, avoid=0.2),
    Case("Shrink", ((5, 4),), {"lambd": 0.45, "bias": 0.2}, distinct=True),
    *(with_axes(o, (2, 3, 4), a, k, avoid=0.0) for o in ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceProd")
      for a, k in ((None, 1), ([1], 0), ([0, -1], 1))),
    *(with_axes("ReduceLogSum", (2, 3, 4), a, k, low=0.1) for a, k in ((None, 0), ([1], 0), ([0, -1], 1))),
    with_axes("ReduceProd", (3, 1), [1], 0),
    *(beside_zeros(o) for o in ("ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSumExp")),
    *(Case("CumSum", ((2, 5, 3),), label=f"{a}{e}{r}",
           make=lambda g, x, a=a, e=e, r=r: g.op("CumSum", x, np.array(a), exclusive=e, reverse=r))
      for a in (1, -1) for e in (0, 1) for r in (0, 1)),
    *(Case("Tile", (s,), label=f"{r}", make=lambda g, x, r=r: g.op("Tile", x, np.array(r, np.int64)))
      for s, r in (((2, 3), [3, 2]), ((1, 3, 2), [2, 1, 2]), ((4,), [1]))),
    *(Case("Trilu", ((2, 4, 3),), {"upper": u}, label=f"{u}{k}",
           make=lambda g, x, u=u, k=k: g.op("Trilu", x, k if k is None else np.array(k), upper=u))
      for u in (0, 1) for k in (None, 1, -2)),
    *(Case("ReverseSequence", ((4, 4, 2),), label=f"{b}", make=lambda g, x, b=b: g.op(
        "ReverseSequence", x, np.array([1, 4, 2, 3]), batch_axis=b, time_axis=1 - b)) for b in (0, 1)),
    *(Case("CenterCropPad", (s,), label=f"{n}{a}",
           make=lambda g, x, n=n, a=a: g.op("CenterCropPad", x, np.array(n, np.int64), axes=a))
      for s, n, a in (((7, 4), [4, 7], None), ((7, 4), [2, 5], None), ((3, 6, 5), [3, 8], [-1, 1]))),
    *(Case("Compress", ((3, 4),), label=f"{c}{a}",
           make=lambda g, x, c=c, a=a: g.op("Compress", x, np.array(c, bool), **({} if a is None else {"axis": a})))
      for c, a in (([1, 0, 1], 0), ([0, 1], -1), ([0, 1, 1, 0, 1], None))),
    # onnx.reference numbers them wrongly where they are not sorted.
    *(Case("Unique", ((3, 4),), {"axis": a, "sorted": s}, distinct=True, step=None if s else 0.01)
      for a in (None, 0, -1) for s in (0, 1)),
    Case("Unique", ((3, 4),), label="ties", distinct=True, make=lambda g, x: g.op(
        "Unique", g.concat([x, x], 1), axis=1)),
    Case("Range", ((), ()), make=lambda g, a, d: g.op("Range", a, g.add(a, g.mul(d, 4.5)), d)),
    Case("Range", ((),), make=lambda g, a: g.op("Range", a, g.sub(a, 1.0), g.cast_like(np.array(-0.4), a))),
    Case("Optional", step=0.5, make=lambda g, x: g.op("OptionalGetElement", g.op("Optional", x))),
    Case("OptionalGetElement"),
    *(Case("OneHot", ((2,),), label=f"{a}", make=lambda g, v, a=a: g.op(
        "OneHot", np.array([[1, 3], [0, 7]]), np.array(5), v, axis=a)) for a in (-1, 1)),
    places("GatherElements", ((3, 4),), ELEMENTS, axis=1),
    # onnx.reference takes an index that is smaller than x along other axes for another one.
    places("GatherElements", ((3, 2),), NEGATIVE, axis=0),
    places("GatherND", ((3, 4),), [[0, 1], [2, 3], [0, 1], [-1, -2]]),
    places("GatherND", ((3, 4, 2),), [[[1], [-1]], [[0], [1]]]),
    places("GatherND", ((2, 4, 3),), [[1], [-1]], batch_dims=1),
    places("GatherND", ((2, 3, 4, 2),), [[[1], [2], [0]], [[3], [-4], [3]]], batch_dims=2),
    *(scatter_both("ScatterElements", ((3, 4), (3, 2)), i, axis=1, reduction=r) for i, r in (
        ([[0, 2], [1, 3], [0, -1]], "none"), *((ELEMENTS, r) for r in ("add", "mul", "max", "min")))),
    scatter_both("ScatterElements", ((3, 2), (3, 2)), [[0, 1], [1, 0], [2, 2]]),
    *(scatter_both("ScatterND", ((4, 3, 2), (3, 3, 2)), [[0], [2], [-1]], reduction=r) for r in ("none", "mul", "max")),
    *(scatter_both("ScatterND", ((4, 3, 2), (3, 2)), [[1, 2], [1, 2], [0, -1]], reduction=r)
      for r in ("add", "mul", "max", "min")),
    *(Case("TopK", ((3, 5),), distinct=True, label=f"{a}{big}", make=lambda g, x, a=a, big=big: g.ops(
        "TopK", x, np.array([2]), outputs=2, axis=a, largest=big)[0]) for a in (0, -1) for big in (0, 1)),
    *(loss(o, s, weight=w, reduction=r) for o in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
      for s in LABELS for w in (False, True) for r in ("none", "sum", "mean")),
    *(loss(o, (4, 3), weight=w, dtype=np.int32, ignore_index=2)
      for o in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss") for w in (False, True)),
    *(Case("DequantizeLinear", (s,), step=0.5, label=f"{s}{a}", make=lambda g, v, a=a, s=s: g.op(
        "DequantizeLinear", np.arange(-6, 6, dtype=np.int8).reshape(3, 4), v, np.full(s, 2, np.int8), axis=a))
      for s, a in (((), 0), ((3,), 0), ((4,), -1))),
]  # fmt: skip
