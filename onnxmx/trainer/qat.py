"""Quantization-aware training: the model that is trained is the 8-bit one.

Every activation goes through QuantizeLinear and DequantizeLinear, as in the file that `onnxmx quantize` writes, and so
does every weight, which here is still a float: the float that training moves. Rounding counts as no change on the way
back (autodiff/rules/quantize.py). A zero point stays as it was calibrated, so that where it is the least integer the
conversion cuts at 0 as the Relu did whose place it took; ranges move with their scale alone:

    tracked   scale <- m scale + (1 - m) scale of this batch, part of the state like a running mean; m = 0 for weights
    learned   scale = calibrated scale * exp(range), and `range` is a parameter.   Source: Esser et al. 2020 (LSQ);
              Jain et al. 2020 (TQT) for the logarithm: one rate suits all scales, and none can reach 0

`deployed` puts the integers in place of the floats; that is what a run saves as its model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.graft import free, value_names
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.metadata import AWARE, QUANTIZATION, TRACKED, TRAINABLE
from onnxmx.builder.model import Model, check
from onnxmx.builder.values import initializer
from onnxmx.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from onnxmx.trainer.forward import Training

Array = np.ndarray[Any, Any]

RANGES = ("tracked", "learned")
"""How ranges follow the run."""
MOMENTUM = 0.99
"""What a step keeps of the scale of an activation."""
_SMALLEST = np.float32(1e-7)
"""No scale falls below it: those of a channel of zeros would be 0, and its bias beyond int32."""
_SUFFIX = "_quantized"


def trainable_form(model: ir.Model, floats: Mapping[str, Array], trainable: Collection[str], ranges: str) -> Model:
    """The 8-bit `model` with float weights behind QuantizeLinear, ready to be trained.

    model: in QDQ form, as `exporter.qdq.finish` leaves it, with its QUANTIZATION metadata; used up.
    floats: its weights and biases before that.
    trainable: the names of those that are to be; other weights stay integers.   ranges: one of RANGES.
    Raises UsageError for others.
    """
    if ranges not in RANGES:
        raise unknown_name("kind of ranges", ranges, RANGES)
    graph = model.graph
    masters = [name for node in list(graph) if (name := _to_float(graph, node, floats, trainable))]
    learned = _track(graph) if ranges == "tracked" else _learn(graph)
    passes.RemoveUnusedNodesPass()(model)
    model.metadata_props[AWARE] = model.metadata_props.pop(QUANTIZATION)
    model.metadata_props[TRAINABLE] = json.dumps([n for n in [*masters, *learned] if n in {*trainable, *learned}])
    return Model(ir.from_proto(check(ir.to_proto(model), "the quantization-aware model")))


def deployed(model: Model) -> Model:
    """The model as it is to be used: integers for the floats of quantization-aware training; any other as it is.

    A bias is rounded to int32 in steps of the input's scale times the weight's, as ONNX Runtime's kernels take it; one
    that this cannot hold stays a float, and its operator computes in float.
    """
    if AWARE not in model.metadata:
        return model
    copy = ir.from_proto(ir.to_proto(model.ir))
    graph = copy.graph
    for node in list(graph):
        if node.op_type == "QuantizeLinear":
            _settle_scale(graph, node)
    for node in list(graph):
        if node.op_type in ("Conv", "Gemm"):
            _quantize_bias(graph, node)
    for node in list(graph):
        node.metadata_props.pop(TRACKED, None)
        if node.op_type == "QuantizeLinear" and _array(node.inputs[0]) is not None:
            _to_integers(graph, node)
    passes.RemoveUnusedNodesPass()(copy)
    graph.sort()
    for value in (v for node in graph for v in node.outputs if not v.is_graph_output()):
        value.type = value.shape = None  # can be inferred again: 1 KB of a small file
    metadata = copy.metadata_props
    metadata[QUANTIZATION] = metadata.pop(AWARE)
    metadata[TRAINABLE] = "[]"
    return Model(ir.from_proto(check(ir.to_proto(copy), "the quantized model")))


def observe(
    g: GraphBuilder, training: Training, node: ir.Node, inputs: Sequence[ir.Value | None]
) -> Sequence[ir.Value]:
    """QuantizeLinear in training: a tracked scale moves towards that of this batch, for the next step."""
    momentum, x = node.metadata_props.get(TRACKED), inputs[0]
    source, zero = node.inputs[1], _array([*node.inputs, None][2])
    if momentum is not None and g is training.home and source is not None and x is not None and zero is not None:
        scale = training.running.get(source.name or "", inputs[1])
        found = _scale_of(g, x, node, zero)
        keep = float(momentum)
        moved = g.add(g.mul(scale, keep), g.mul(found, 1.0 - keep)) if keep else found
        training.running[source.name or ""] = moved
    return g.copy(node, inputs)


def _scale_of(g: GraphBuilder, x: ir.Value, node: ir.Node, zero: Array) -> ir.Value:
    """The least scale that cuts nothing of `x` off."""
    axes: Array | None = None
    if zero.ndim:
        assert x.shape is not None
        axis = node.attributes.get_int("axis", 1) % len(x.shape)
        axes = np.array([k for k in range(len(x.shape)) if k != axis], np.int64)
    info, offset = np.iinfo(zero.dtype), int(zero.flat[0])
    ends = [("ReduceMax", info.max - offset), ("ReduceMin", info.min - offset)]
    if _array(node.inputs[0]) is not None:  # a weight: its integers lie even about 0
        ends = [(op, int(np.sign(steps)) * info.max) for op, steps in ends]
    needed = [g.div(g.op(op, x, axes, keepdims=0), float(steps)) for op, steps in ends if steps]
    return g.max(*needed, _SMALLEST)


def _to_float(graph: ir.Graph, node: ir.Node, floats: Mapping[str, Array], trainable: Collection[str]) -> str | None:
    """Put the float weight or bias in the place of the integers that `node` reads. Returns its name, or None."""
    q = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    if q is None or not q.is_initializer():
        return None
    name = (q.name or "").removesuffix(_SUFFIX)
    bias = q.dtype == ir.DataType.INT32
    # All biases: their steps are those of a range that moves.
    if name not in floats or not (bias or name in trainable):
        return None
    del graph.initializers[q.name or ""]
    y = node.outputs[0]
    if y.name == name:
        y.name = free(f"{name}.dequantized", value_names(graph))
    value = _register(graph, name, floats[name])
    if bias:
        y.replace_all_uses_with(value)
        graph.remove(node, safe=True)
    else:
        attributes = [a for a in node.attributes.values() if a.name == "axis"]
        quantize = ir.Node("", "QuantizeLinear", [value, *node.inputs[1:]], attributes, name=f"{name}_QuantizeLinear")
        quantize.outputs[0].name = f"{name}{_SUFFIX}"
        quantize.outputs[0].type, quantize.outputs[0].shape = ir.TensorType(q.dtype or ir.DataType.INT8), q.shape
        graph.insert_before(node, quantize)
        node.replace_input_with(0, quantize.outputs[0])
    return name


def _track(graph: ir.Graph) -> list[str]:
    """Mark the first reader of each scale. A pooling or a reshaping shares that of its input."""
    for node in _first_readers(graph):
        node.metadata_props[TRACKED] = "0" if _array(node.inputs[0]) is not None else str(MOMENTUM)
    return []


def _learn(graph: ir.Graph) -> list[str]:
    """Make each scale the calibrated one times exp(range), ranges of 0 at first. Returns their names."""
    learned = []
    for node in _first_readers(graph):
        scale = node.inputs[1]
        base = _array(scale)
        assert scale is not None
        assert base is not None
        stem = (scale.name or "").removesuffix("_scale")
        del graph.initializers[scale.name or ""]
        scale.name = f"{stem}.calibrated"
        fixed = _register(graph, f"const.{stem}_scale", base)
        move = _register(graph, f"{stem}.range", np.zeros(base.shape, np.float32))
        factor = ir.Node("", "Exp", [move], name=f"{stem}.Exp")
        product = ir.Node("", "Mul", [fixed, factor.outputs[0]], name=f"{stem}.Mul")
        factor.outputs[0].name, product.outputs[0].name = f"{stem}.factor", f"{stem}_scale"
        for made in (factor, product):
            made.outputs[0].type, made.outputs[0].shape = fixed.type, fixed.shape
        scale.replace_all_uses_with(product.outputs[0])
        graph.insert_before(node, [factor, product])
        learned.append(f"{stem}.range")
    return learned


def _first_readers(graph: ir.Graph) -> list[ir.Node]:
    """Of each scale that is an initializer, the first QuantizeLinear that reads it."""
    found: dict[str, ir.Node] = {}
    for node in graph:
        if node.op_type == "QuantizeLinear" and _array(node.inputs[1]) is not None:
            found.setdefault(node.inputs[1].name or "", node)  # type: ignore[union-attr]  # _array looked at it
    return list(found.values())


def _settle_scale(graph: ir.Graph, node: ir.Node) -> None:
    """Make the learned scale that `node` reads a number."""
    scale = node.inputs[1]
    product = scale.producer() if scale is not None else None
    if scale is None or product is None:
        return
    factor = product.inputs[1].producer() if product.op_type == "Mul" and product.inputs[1] is not None else None
    fixed, move = _array(product.inputs[0]), _array(factor.inputs[0]) if factor is not None else None
    if fixed is None or move is None:
        raise UsageError(f"{node.name!r} expected a scale that quantize_aware made; found {product.op_type}")
    name, scale.name = scale.name or "", f"{scale.name}.computed"
    scale.replace_all_uses_with(_register(graph, name, fixed * np.exp(move)))


def _quantize_bias(graph: ir.Graph, node: ir.Node) -> None:
    x, w, bias = [*node.inputs, None][:3]
    b, scales = _array(bias), [_scale_read(v) for v in (x, w)]
    if bias is None or b is None or b.ndim != 1 or node.attributes.get_float("beta", 1.0) != 1.0:
        return
    if scales[0] is None or scales[1] is None:
        return
    scale = (scales[0] * scales[1]).astype(np.float32)
    q = np.round(b.astype(np.float64) / scale)
    if np.abs(q).max(initial=0) > np.iinfo(np.int32).max:
        return
    taken = value_names(graph)
    name = free(f"{bias.name}{_SUFFIX}", taken)
    integers = _register(graph, name, q.astype(np.int32))
    steps = _register(graph, f"{name}_scale", scale)
    axis = [ir.AttrInt64("axis", 0)] if scale.ndim else []
    dequantize = ir.Node("", "DequantizeLinear", [integers, steps], axis, name=free(f"{name}_DequantizeLinear", taken))
    dequantize.outputs[0].name = f"{name}_DequantizeLinear_Output"
    graph.insert_before(node, dequantize)
    node.replace_input_with(2, dequantize.outputs[0])


def _to_integers(graph: ir.Graph, node: ir.Node) -> None:
    """Put the integers that `node` computes from a weight in its place."""
    w, scale, zero = (_array(v) for v in node.inputs)
    assert w is not None
    assert scale is not None
    assert zero is not None
    if scale.ndim:
        axis = node.attributes.get_int("axis", 1) % w.ndim
        scale, zero = (v.reshape([-1 if k == axis else 1 for k in range(w.ndim)]) for v in (scale, zero))
    info, q = np.iinfo(zero.dtype), node.outputs[0]
    name, q.name = q.name or "", f"{q.name}.computed"
    integers = np.clip(np.round(w / scale) + zero, info.min, info.max).astype(zero.dtype)
    q.replace_all_uses_with(_register(graph, name, integers))


def _scale_read(value: ir.Value | None) -> Array | None:
    """The scale by which DequantizeLinear gives `value`."""
    node = value.producer() if value is not None else None
    return _array(node.inputs[1]) if node is not None and node.op_type == "DequantizeLinear" else None


def _array(value: ir.Value | None) -> Array | None:
    """The numbers of an initializer."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    found: Array = value.const_value.numpy()
    return found


def _register(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    value = initializer(name, ir.Tensor(np.asarray(array)))
    graph.register_initializer(value)
    return value
