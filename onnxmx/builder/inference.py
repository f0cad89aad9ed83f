"""Types and shapes of one node's outputs, by ONNX's own inference, at the moment the node is added."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from onnxmx.errors import GraphError, nearest

OPSET = 20
IR_VERSION = 10

InputTypes = tuple[tuple[str, frozenset[str]], ...]
"""For each input of an operator: the name of its type variable (`T`), and the types allowed (`tensor(float)`)."""

# Constants up to this many elements are shown to inference: shapes, axes, pads and the like.
_SMALL = 64


@functools.cache
def schema(op_type: str) -> onnx.defs.OpSchema:
    """What ONNX says of an operator. Raises GraphError for an unknown one; it offers the nearest."""
    try:
        return onnx.defs.get_schema(op_type, OPSET, "")
    except onnx.defs.SchemaError:
        names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
        near = nearest(op_type, names)
        raise GraphError(
            f"ai.onnx has no operator {op_type!r} at opset {OPSET}",
            mend=f"Did you mean {near!r}?" if near else "See https://onnx.ai/onnx/operators for all of them.",
        ) from None


@functools.cache
def input_types(op_type: str) -> InputTypes:
    """What the schema of an operator says of the types of its inputs."""
    return tuple((p.type_str, frozenset(p.types)) for p in schema(op_type).inputs)


def infer(node: ir.Node) -> None:
    """Set the types and shapes of the outputs of `node`. Raises what onnx raises when the inputs do not fit."""
    inputs = [v for v in node.inputs if v is not None]
    if any(v.type is None for v in inputs):
        return  # nothing can be said of the outputs
    if node.op_type == "STFT" and "onesided" not in node.attributes:
        node.attributes["onesided"] = ir.AttrInt64("onesided", 1)  # the default, for which onnx infers that of 0
    inferred = onnx.shape_inference.infer_node_outputs(
        schema(node.op_type),
        ir.serde.serialize_node(node),
        {v.name or "": _type_proto(v) for v in inputs},
        {v.name or "": ir.serde.serialize_tensor(v.const_value) for v in inputs if v.const_value and _says_shape(v)},
        opset_imports=_opset_imports(),
        ir_version=IR_VERSION,
    )
    for out in node.outputs:
        if (proto := inferred.get(out.name or "")) is not None:
            out.type = ir.serde.deserialize_type_proto_for_type(proto)
            out.shape = ir.serde.deserialize_type_proto_for_shape(proto)


def _says_shape(value: ir.Value) -> bool:
    """Whether a shape may depend on the numbers of a constant. A parameter's are not even drawn yet."""
    return value.const_value is not None and value.const_value.size <= _SMALL and "trainable" not in value.meta


@functools.cache
def _opset_imports() -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid("", OPSET)]


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    """The type of a value as onnx wants it; kept on the value, since a value is read by several nodes."""
    key = (value.type, str(value.shape))
    if value.meta.get("type_proto_of") != key:
        value.meta["type_proto"], value.meta["type_proto_of"] = ir.serde.serialize_value(value).type, key
    proto: onnx.TypeProto = value.meta["type_proto"]
    return proto
