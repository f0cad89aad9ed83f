"""Rows of the table of gradient rules: space, normalization, activations, extremes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from tests.trainer.rule_case import Case, Shape, computed


def transposed(shapes: tuple[Shape, ...], *, wrong: bool = False, **attributes: Any) -> Case:
    """wrong: onnx.reference 1.23 is, for groups and for output_shape. Bilinear: any step is exact."""
    return Case("ConvTranspose", shapes, attributes, step=0.5 if wrong else None)


def somewhere(operator: str, shapes: tuple[Shape, ...], **attributes: Any) -> Case:
    """Of an image whose size is not known while the graph is built."""

    def make(g: Any, x: Any, *weights: Any) -> Any:
        image = g.op("Identity", x)
        image.shape = ir.Shape([x.shape[0], x.shape[1], *([None] * (len(shapes[0]) - 2))])
        return g.op(operator, image, *weights, **attributes)

    # onnx.reference numbers what MaxPool takes wrongly.
    step = 0.01 if operator == "MaxPool" else None
    return Case(operator, shapes, make=make, distinct=operator == "MaxPool", step=step, label=f"somewhere{attributes}")


def pool(operator: str, shape: Shape, kernel: list[int], **attributes: Any) -> Case:
    # A step of 0.01 moves no input past another; onnx.reference 1.23 has no Indices in ceil_mode and of 3-D windows.
    attributes["kernel_shape"] = kernel
    return Case(operator, (shape,), attributes, distinct=True, step=0.01 if operator == "MaxPool" else None)


def pad(
    shape: Shape, pads: list[int], mode: str = "constant", axes: list[int] | None = None, unknown: bool = False
) -> Case:
    def make(g: Any, x: Any) -> Any:
        along = None if axes is None else np.array(axes, np.int64)
        ends = computed(g, x, pads) if unknown else np.array(pads, np.int64)
        y = g.op("Pad", x, ends, None, along, mode=mode)
        if unknown:
            y.shape = ir.Shape([None] * len(shape))
        return y

    # onnx.reference does not cut; padding is linear, so any step is exact.
    step = 0.5 if min(pads) < 0 else None
    return Case("Pad", (shape,), make=make, label=f"{pads}{mode}{axes}{unknown}", step=step)


def resize(
    shape: Shape, *, scales: list[float] | None = None, sizes: list[int] | None = None, step: float | None = None,
    roi: list[float] | None = None, **attributes: Any,
) -> Case:  # fmt: skip
    if roi is not None:
        attributes["coordinate_transformation_mode"] = "tf_crop_and_resize"

    def make(g: Any, x: Any) -> Any:
        part, by_scale = (None if v is None else np.array(v, np.float32) for v in (roi, scales))
        return g.op("Resize", x, part, by_scale, None if sizes is None else np.array(sizes, np.int64), **attributes)

    return Case("Resize", (shape,), make=make, label=f"{scales}{sizes}{roi}{attributes}", step=step)


def clip(low: float | None, high: float | None) -> Case:
    def make(g: Any, x: Any) -> Any:
        return g.op("Clip", x, low, high)

    return Case("Clip", ((5, 4),), make=make, distinct=True, label=f"{low},{high}")


def extreme(operator: str, axes: list[int] | None, keepdims: int) -> Case:
    along = None if axes is None else np.array(axes, np.int64)
    return Case(
        operator,
        ((2, 3, 4),),
        make=lambda g, x: g.op(operator, x, along, keepdims=keepdims),
        distinct=True,
        label=f"{axes}{keepdims}",
    )


IMAGE = (2, 3, 5, 4)
CASES = [
    transposed(((2, 3, 4, 5), (3, 4, 3, 3), (4,))),
    transposed(((2, 3, 4, 5), (3, 4, 4, 4), (4,)), strides=[2, 2], pads=[1, 1, 1, 1]),
    transposed(((2, 3, 4, 5), (3, 4, 3, 2)), strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 2]),
    transposed(((2, 3, 4, 5), (3, 2, 3, 2)), dilations=[2, 3], strides=[3, 2], pads=[1, 2, 0, 1]),
    transposed(((2, 4, 3, 3), (4, 3, 3, 3), (6,)), wrong=True, group=2, strides=[2, 2]),
    transposed(((2, 4, 3, 3), (4, 1, 3, 3), (4,)), wrong=True, group=4),
    transposed(((2, 3, 4, 5), (3, 2, 3, 3)), strides=[2, 2], auto_pad="SAME_UPPER"),
    transposed(((2, 3, 4, 5), (3, 2, 3, 3)), strides=[2, 2], auto_pad="SAME_LOWER"),
    transposed(((2, 3, 4, 5), (3, 2, 3, 3)), wrong=True, strides=[2, 2], output_shape=[8, 10]),
    transposed(((2, 3, 4, 5), (3, 2, 2, 2)), auto_pad="VALID"),
    transposed(((2, 3, 5), (3, 2, 3), (2,)), strides=[2], output_padding=[1]),
    transposed(((2, 3, 2, 3, 2), (3, 2, 2, 3, 2), (2,)), strides=[1, 2, 2], pads=[0, 1, 0, 0, 1, 0]),
    transposed(((2, 3, 3, 3), (3, 2, 3, 3), (2,)), wrong=True, strides=[3, 2], output_shape=[10, 8]),
    replace(transposed(((2, 3, 4), (3, 2, 2)), dilations=[3], output_padding=[2]), runtime=False),
    somewhere("Conv", ((2, 3, 6, 7), (4, 3, 3, 3), (4,)), pads=[1, 1, 1, 1]),
    somewhere("Conv", ((2, 4, 8, 7), (6, 2, 3, 2)), group=2, strides=[2, 3], pads=[1, 0, 2, 1], dilations=[1, 2]),
    somewhere("Conv", ((2, 3, 9), (4, 3, 4)), auto_pad="SAME_LOWER"),
    somewhere("MaxPool", ((2, 3, 6, 7),), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    somewhere("AveragePool", ((2, 3, 5, 7),), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    somewhere("AveragePool", ((2, 3, 9),), kernel_shape=[3], strides=[2], pads=[1, 1], count_include_pad=1),
    somewhere("LpPool", ((2, 3, 5, 7),), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    somewhere("LpPool", ((2, 3, 9),), kernel_shape=[3], strides=[2], p=3),
    somewhere("ConvTranspose", ((2, 3, 4, 5), (3, 2, 3, 3), (2,)), strides=[2, 2], pads=[1, 0, 0, 1]),
    somewhere("ConvTranspose", ((2, 4, 5), (4, 3, 3)), group=2, strides=[2], output_padding=[1]),
    pool("MaxPool", (2, 3, 5, 5), [2, 2], strides=[2, 2], ceil_mode=1),
    pool("MaxPool", (2, 2, 6, 7), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    pool("MaxPool", (2, 3, 9, 8), [3, 2], strides=[2, 1], dilations=[2, 3]),
    pool("MaxPool", (1, 2, 5, 4, 6), [3, 2, 2], strides=[2, 1, 2], pads=[1, 0, 0, 1, 0, 0]),
    pool("AveragePool", (2, 3, 5, 6), [2, 3], strides=[2, 2], ceil_mode=1),
    pool("AveragePool", (2, 3, 6, 6), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    pool("AveragePool", (2, 3, 6, 6), [3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
    pool("AveragePool", (2, 3, 9), [3], strides=[2], dilations=[2]),
    pool("AveragePool", (1, 2, 4, 5, 4), [2, 2, 3], pads=[0, 1, 1, 0, 0, 1]),
    Case("GlobalMaxPool", (IMAGE,), distinct=True),
    *(extreme(o, a, k) for o in ("ReduceMax", "ReduceMin") for a, k in ((None, 0), ([1], 1), ([0, -1], 0))),
    *(Case(o, s, distinct=True) for o in ("Max", "Min") for s in (((3, 4), (3, 4)), ((3, 4), (4,), (3, 1)))),
    clip(-0.75, 0.25),
    clip(None, 0.25),
    clip(-0.75, None),
    Case("Clip", ((5, 4), (), ()), distinct=True, label="computed",
         make=lambda g, x, a, b: g.op("Clip", x, a * 0.1 - 0.65, b * 0.1 + 0.35)),
    pad(IMAGE, [0, 0, 1, 2, 0, 0, 3, 0]),
    pad(IMAGE, [1, 2, 0, 1], axes=[2, -1]),
    pad(IMAGE, [0, 0, -1, 2, 0, 0, 2, -1]),
    pad(IMAGE, [0, 0, 0, -1, 0, 0, 0, 0]),
    *(pad(IMAGE, p, m) for m in ("reflect", "edge", "wrap")
      for p in ([0, 0, 2, 3, 0, 0, 1, 2], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0, 0, 1])),
    # Cut and mirrored at once.
    *(pad(IMAGE, [0, 0, -1, 2, 0, 0, 2, -1], m) for m in ("reflect", "edge", "wrap")),
    *(pad(IMAGE, p, m, [2, -1], unknown=True)
      for p in ([1, 2, 0, 1], [-1, 2, 2, -1]) for m in ("constant", "reflect", "edge", "wrap")),
    Case("Pad", ((3, 4), ()), make=lambda g, x, v: g.op("Pad", x, np.array([1, 0, 0, 2], np.int64), v), label="value"),
    resize(IMAGE, scales=[1, 1, 2, 3], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize(IMAGE, scales=[1, 1, 2, 2]),
    resize((1, 2, 3, 40), scales=[1, 1, 3, 2]),
    resize((2, 3, 4), scales=[1, 1, 3]),
    resize((1, 2, 3, 2, 3), scales=[1, 1, 2, 1, 3]),
    resize((2, 3, 4, 5), scales=[1, 2, 2, 1]),
    resize(IMAGE, scales=[1, 1, 1.6, 0.5], nearest_mode="ceil", coordinate_transformation_mode="asymmetric"),
    resize(IMAGE, sizes=[7, 2], axes=[2, 3], nearest_mode="round_prefer_ceil"),
    # Half-way between two elements, where the two ways to round differ.
    *(resize(IMAGE, scales=[1, 1, 1, 0.5], nearest_mode=m) for m in ("round_prefer_floor", "round_prefer_ceil")),
    resize(IMAGE, scales=[1, 1, 2, 2], mode="linear"),
    resize(IMAGE, scales=[1, 1, 2.5, 1], mode="linear"),
    resize(IMAGE, sizes=[8, 9], axes=[2, 3], mode="linear", coordinate_transformation_mode="align_corners"),
    resize(IMAGE, sizes=[8, 1], axes=[2, 3], mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    resize(IMAGE, scales=[1, 1, 1.3, 1.7], mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
    resize(IMAGE, scales=[1.5, 2], axes=[3, 2], mode="linear", coordinate_transformation_mode="asymmetric"),
    resize(IMAGE, scales=[1, 1, 2, 1.5], mode="cubic"),
    resize(IMAGE, scales=[1, 1, 2, 1.5], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    resize((2, 3, 4), scales=[1, 1, 3], mode="linear"),
    resize((1, 2, 3, 2, 3), scales=[1, 1, 2, 3, 2], mode="linear"),
    # onnx.reference rounds the cubic weights to float32; resizing is linear, so any step is exact.
    *(resize(IMAGE, scales=[1, 1, s, 0.45], mode=m, antialias=1, exclude_outside=e, step=step)
      for m, step in (("linear", None), ("cubic", 0.5)) for e in (0, 1) for s in (0.6, 1.5)),
    resize(IMAGE, sizes=[3, 2], axes=[2, 3], mode="linear", antialias=1, coordinate_transformation_mode="asymmetric"),
    *(resize(IMAGE, sizes=[4, 6], axes=[2, 3], mode=m, roi=[0.2, -0.1, 0.7, 1.2], extrapolation_value=9.0, step=s)
      for m, s in (("nearest", None), ("linear", None), ("cubic", 0.5))),
    # One axis backwards, one of a single element; onnx.reference takes a size of 1.04 for what it is.
    resize(IMAGE, scales=[1, 1, 1.2, 0.26], mode="linear", roi=[0, 0, 0.9, 0.1, 1, 1, 0.1, 0.6], step=0.5),
    *(resize(IMAGE, sizes=[7, 7], axes=[2, 3], mode=m, keep_aspect_ratio_policy=p)
      for m in ("nearest", "linear") for p in ("not_larger", "not_smaller")),
    *(Case("DepthToSpace", ((2, 12, 2, 3),), {"blocksize": 2, "mode": m}) for m in ("DCR", "CRD")),
    Case("SpaceToDepth", ((2, 3, 4, 6),), {"blocksize": 2}),
    Case("LayerNormalization", ((3, 4, 5), (5,), (5,))),
    Case("LayerNormalization", ((3, 4, 5), (4, 5)), {"axis": -2, "epsilon": 0.1}),
    Case("LayerNormalization", ((6, 5), (5,)), {"axis": 1}),
    Case("InstanceNormalization", (IMAGE, (3,), (3,))),
    Case("InstanceNormalization", ((2, 3, 7), (3,), (3,)), {"epsilon": 0.1}),
    # onnx.reference computes as many channels as there are samples.
    *(Case("LRN", ((5, 5, 3, 2),), {"size": n, "alpha": 0.7, "beta": 0.6, "bias": 1.3}) for n in (1, 3, 5)),
    *(Case("PRelu", s, avoid=0.0) for s in (((2, 3, 4), (3, 1)), ((3, 4), (4,)), ((3, 4), (1,)))),
    Case("Selu", avoid=0.0),  # kink
    Case("Selu", attributes={"alpha": 1.2, "gamma": 0.8}, avoid=0.0),
    *(Case("Celu", attributes={"alpha": a}, avoid=0.0, step=0.01) for a in (1.0, 0.6)),  # float32 alone
    *(Case(o) for o in ("Mish", "Softsign")),
    # Kinks at -3 and 3, and at -2.5 and 2.5: a ladder of steps of 0.1 from -1 that is stretched to pass both.
    *(Case(o, ((9, 8),), make=lambda g, x, o=o: g.op(o, g.mul(x, 1.013)), distinct=True) for o in
      ("HardSwish", "HardSigmoid")),
    Case("HardSigmoid", ((5, 4),), {"alpha": 0.9, "beta": 0.47}, distinct=True),
]  # fmt: skip
