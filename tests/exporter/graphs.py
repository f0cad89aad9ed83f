"""Small graphs written with onnx.helper: what the layers do not make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper as h
import onnx_ir as ir
from onnx import numpy_helper

from onnxmx.builder.model import Model
from onnxmx.trainer.data import Dataset

Array = np.ndarray[Any, Any]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.3)


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Array],
    x: Sequence[int | str] = ("batch", 8),
    y: Sequence[int | str] = ("batch", 4),
    dtype: int = onnx.TensorProto.FLOAT,
    domains: dict[str, int] | None = None,
) -> Model:
    """A model from input x to output y. dtype: of the input."""
    proto = h.make_model(
        h.make_graph(
            list(nodes),
            "small",
            [h.make_tensor_value_info("x", dtype, list(x))],
            [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(y))],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[h.make_opsetid("", 20), *(h.make_opsetid(d, v) for d, v in (domains or {}).items())],
        ir_version=10,
    )
    return Model(ir.from_proto(proto))


def data(*sample: int, n: int = 64, classes: int = 4) -> Dataset:
    """Random samples of this shape with random class numbers as labels."""
    labels = np.random.default_rng(1).integers(0, classes, n)
    return Dataset.from_arrays({"x": numbers(n, *sample, seed=2)}, labels, name="random")


def labelled(model: Model, x: Array) -> Dataset:
    """Samples with the classes that `model` itself finds: it is right on all of them."""
    return Dataset.from_arrays({"x": x}, model(x).argmax(-1), name="its own")
