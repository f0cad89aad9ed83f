"""An official ONNX node test as a model with its gradient, of this product's opset, in float32 and in float64."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
import onnx_ir as ir

from onnxmx.builder import guard
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.inference import OPSET
from onnxmx.errors import GradientError, OnnxmxError
from onnxmx.trainer.autodiff import gradients

Array = np.ndarray[Any, Any]

# Float inputs that say how and not what: they are constants of a model, like axes.
SETTINGS = {"Resize": (1, 2), "Upsample": (1,), "Range": (1,), "Dropout": (1,), "OneHot": (0, 1)}
EIGHTS = {ir.DataType[f"FLOAT8{form}"] for form in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ")}
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}


def data_of(case: Any) -> tuple[list[Any], list[Any]]:
    """The inputs and outputs of a test; some are given as protos."""
    inputs, outputs = (
        [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in side]
        for side in case.data_sets[0]
    )
    return inputs, outputs


class Unfit(Exception):
    """A test that cannot be run as a model of opset 20 in float32."""


class Differentiated:
    """One node test with its gradient, in float64 and in float32.

    Inputs of whole numbers, and floats that are settings, stay inputs where the rule allows it and are constants where
    it wants them constant.
    """

    def __init__(self, case: Any) -> None:
        self.inputs, self.outputs = ([np.asarray(v) for v in side] for side in data_of(case))
        self.rtol = max(case.rtol, 1e-3) if all(v.dtype.itemsize >= 4 for v in self.outputs) else 2e-2
        self.model = ir.from_proto(_at_opset(case.model))
        found = self._intermediate(case.model)
        self.shapes = {name: v.shape for name, v in found.items()}
        self.passes_nan = any(is_float(v) and np.isnan(v.astype(np.float64)).any() for v in found.values())
        try:
            self.single, self.double = self._both(constant=False)
        except GradientError:
            self.single, self.double = self._both(constant=True)

    def _both(self, *, constant: bool) -> tuple[onnx.ModelProto, onnx.ModelProto | None]:
        """In float32, and in float64 where the operators take it."""
        single = self._build(ir.DataType.FLOAT, constant=constant)
        try:
            return single, self._build(ir.DataType.DOUBLE, constant=constant)
        except Unfit:
            return single, None

    @functools.cached_property
    def varied(self) -> list[int]:
        """The places of the inputs that the gradient is taken of."""
        fixed = {n.inputs[k] for n in self.model.graph for k in SETTINGS.get(n.op_type, ()) if k < len(n.inputs)}
        return [k for k, x in enumerate(self.model.graph.inputs) if is_float(self.inputs[k]) and x not in fixed]

    def _build(self, dtype: ir.DataType, *, constant: bool) -> onnx.ModelProto:
        g = GraphBuilder()
        values: dict[ir.Value | None, ir.Value | None] = {None: None}
        wrt: dict[int, ir.Value] = {}
        for k, (x, array) in enumerate(zip(self.model.graph.inputs, self.inputs, strict=True)):
            array = self.typed(array, k, dtype)
            # ONNX Runtime's Python takes no numbers of 8 bits as inputs.
            if (constant or ir.DataType.from_numpy(array.dtype) in EIGHTS) and k not in self.varied:
                values[x] = g.constant(array)
            else:  # an input may not be empty; one of unknown size may
                values[x] = g.input(f"x{k}", [d or None for d in array.shape], ir.DataType.from_numpy(array.dtype))
            if k in self.varied:
                wrt[k] = values[x]
        for x in self.model.graph.initializers.values():
            values.setdefault(x, g.constant(as_typed(x.const_value.numpy(), dtype)))
        try:
            for node in self.model.graph.all_nodes():
                _retype(node, dtype)
            for node in self.model.graph:
                copies = g.copy(node, [values[x] for x in node.inputs], values)
                values.update(zip(node.outputs, copies, strict=True))
                for y, copy in zip(node.outputs, copies, strict=True):
                    if node.op_type != "Unique":  # whose shape changes when its inputs are moved apart
                        _note_shape(copy, self.shapes.get(y.name))
        except OnnxmxError as error:
            raise Unfit(f"not of opset 20: {error.problem}") from error
        ys = [values[y] for y in self.model.graph.outputs]
        floats = [y for y in ys if y.dtype in FLOATS]
        if not floats or any(y.dtype != dtype for y in floats):
            raise Unfit(f"its outputs are no {dtype.name.lower()}")
        loss = g.sum(*(_weighted(g, y, finite=self.finite) for y in floats))
        for k, y in enumerate(ys):
            g.output(g.op("Identity", y), f"y{k}")
        g.output(g.op("Identity", loss), "loss")
        for k, dx in zip(wrt, gradients(g, loss, list(wrt.values())), strict=True):
            if dx is not None:
                g.output(g.op("Identity", dx), f"d{k}")
        return ir.to_proto(g.model())

    @functools.cached_property
    def finite(self) -> bool:
        """Whether all outputs are finite; of others a loss takes those elements that are."""
        return all(np.isfinite(np.asarray(v, np.float64)).all() for v in self.outputs if is_float(v))

    def _intermediate(self, model: onnx.ModelProto) -> dict[str, Array]:
        """The values of the model. A file may note their shapes, which a Reshape hides."""
        feeds = {x.name: v for x, v in zip(model.graph.input, self.inputs, strict=True)}
        try:
            found = onnx.reference.ReferenceEvaluator(model).run(None, feeds, intermediate=True)
        except Exception:  # whatever an operator of the reference raises
            return {}
        return {name: v for name, v in found.items() if isinstance(v, np.ndarray)}

    def typed(self, array: Array, k: int, dtype: ir.DataType) -> Array:
        """The k-th input in the type of a graph. Scales of a Resize are float32 in all."""
        scales = k not in self.varied and any(n.op_type == "Resize" for n in self.model.graph)
        return as_typed(array, ir.DataType.FLOAT if scales else dtype)

    def feeds(self, arrays: Sequence[Array], model: onnx.ModelProto, dtype: ir.DataType) -> dict[str, Array]:
        named = {f"x{k}": self.typed(a, k, dtype) for k, a in enumerate(arrays)}
        return {v.name: named[v.name] for v in model.graph.input}


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its operators as they are at this product's opset."""
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    names = {node.op_type for node in guard.nodes(model)}
    if version >= OPSET or all(
        onnx.defs.get_schema(n, version, "").since_version == onnx.defs.get_schema(n, OPSET, "").since_version
        for n in names
    ):
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception:  # RuntimeError, or what the binding makes of a failed assertion
        return model


def _note_shape(value: ir.Value, shape: tuple[int, ...] | None) -> None:
    """What inference did not find of the shape of a value."""
    if shape is not None and (value.shape is None or len(value.shape) == len(shape)):
        value.shape = ir.Shape(
            [a if isinstance(a, int) else b for a, b in zip(value.shape or shape, shape, strict=True)]
        )


def _weighted(g: GraphBuilder, y: ir.Value, *, finite: bool) -> ir.Value:
    """The sum of y times weights that differ from element to element."""
    if not finite:
        y = g.where(g.op("Or", g.op("IsInf", y), g.op("IsNaN", y)), 0.0, y)
    size = g.cast(g.op("Size", y), ir.DataType.FLOAT)
    weights = g.cast_like(g.sin(g.range(np.float32(1), size + 1.0, np.float32(1))), y)
    return g.reduce_sum(g.mul(g.reshape(y, [-1]), weights), keepdims=False)


def _retype(node: ir.Node, dtype: ir.DataType) -> None:
    """Make a node that names a floating-point type name `dtype`."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in FLOATS:
            array = as_typed(attribute.as_tensor().numpy(), dtype)
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(array))
        elif name in ("to", "dtype") and ir.DataType(attribute.as_int()) in FLOATS:
            node.attributes[name] = ir.AttrInt64(name, int(dtype))
    if "value_float" in node.attributes or "value_floats" in node.attributes:
        name = "value_float" if "value_float" in node.attributes else "value_floats"
        array = np.array(node.attributes.pop(name).value, dtype.numpy())
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))


def is_float(array: Any) -> bool:
    return ir.DataType.from_numpy(np.asarray(array).dtype) in FLOATS


def as_typed(array: Array, dtype: ir.DataType) -> Array:
    return np.asarray(array, dtype.numpy()) if is_float(array) else array
