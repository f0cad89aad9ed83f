"""Which nodes of a quantized model still compute in float, and why."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.shape_inference

from onnxmx.exporter.prepare import WEIGHTED
from onnxmx.exporter.qdq import FREE_OUTPUT, OPERATORS
from onnxmx.exporter.report import FloatNode

_FUSED = (*OPERATORS, "GatherElements", "Slice", "Softmax", "Split", "Where")
"""What ONNX Runtime computes in 8 bits where conversions stand on all sides, if only for the sake of its neighbours."""
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
_RECURRENT = ("LSTM", "GRU", "RNN")
_NO_KERNEL = frozenset(
    (
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization"),
        *("ConvTranspose", "GlobalMaxPool", "ReduceMean", "CumSum", "SpaceToDepth"),
        *("Div", "Erf", "Exp", "Gelu", "HardSigmoid", "Max", "PRelu", "Sub", "Tanh"),
    )
)
"""Seen to stay in float in ONNX Runtime 1.31 although 8-bit conversions stood around them."""


def split(proto: onnx.ModelProto, kept: Collection[str]) -> tuple[list[str], list[FloatNode]]:
    """The names of the nodes that compute in 8 bits, and those that stayed in float with the reason.

    Nodes that touch no float value (the arithmetic of shapes) are in neither list; they were never float.
    proto: a finished model. kept: names of the nodes left in float on purpose.
    """
    view = _View(proto)
    eight, floats = [], []
    for node in proto.graph.node:
        if node.op_type in _CONVERSIONS or not any(map(view.is_float, (*node.input, *node.output))):
            continue
        if view.is_eight(node):
            eight.append(node.name)
        else:
            floats.append(FloatNode(node.name, node.op_type, _reason(node, view, kept)))
    return eight, floats


class _View:
    def __init__(self, proto: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(proto).graph
        ports = (*inferred.value_info, *inferred.input, *inferred.output)
        self.constants = {t.name for t in inferred.initializer}
        self._types = {port.name: port.type.tensor_type.elem_type for port in ports} | {
            t.name: t.data_type for t in inferred.initializer
        }
        self.producer = {name: node for node in proto.graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._outputs = {o.name for o in proto.graph.output}

    def is_float(self, name: str) -> bool:
        return self._types.get(name) in _FLOATS

    def from_eight(self, name: str) -> bool:
        return name in self.producer and self.producer[name].op_type == "DequantizeLinear"

    def float_inputs(self, node: onnx.NodeProto) -> list[str]:
        """The float values that arrive unconverted. Constants beside the data, such as Clip's limits, do not count."""
        last = 2 if node.op_type in WEIGHTED else 1
        data = [n for i, n in enumerate(node.input) if n and (i < last or n not in self.constants)]
        return [n for n in data if self.is_float(n) and not self.from_eight(n)]

    def is_eight(self, node: onnx.NodeProto) -> bool:
        """Whether conversions stand on all sides of it: that is the pattern ONNX Runtime puts an 8-bit kernel for."""
        if node.op_type not in _FUSED or self.float_inputs(node):
            return False
        free = node.op_type in FREE_OUTPUT
        return all(free or self._only_to_eight(name) for name in node.output if name)

    def _only_to_eight(self, name: str) -> bool:
        readers = self.readers.get(name, [])
        return name not in self._outputs and all(r.op_type == "QuantizeLinear" for r in readers)


def _reason(node: onnx.NodeProto, view: _View, kept: Collection[str]) -> str:
    op = node.op_type
    if node.name in kept:
        return "kept in float because it cost the most accuracy in 8 bits, as measured"
    if op in _RECURRENT:
        return "static quantization has no 8-bit form of a recurrent layer"
    if op in ("Shape", "Size"):
        return "reads only the shape"
    if op in _NO_KERNEL:
        return "ONNX Runtime has no 8-bit kernel for it on a CPU"
    if op not in _FUSED:
        return f"{op} is not among the operators that are put into 8 bits"
    if floats := view.float_inputs(node):
        name = floats[0]
        source = view.producer.get(name)
        if name in view.constants:
            return f"its constant {name!r} stayed in float"
        if source is None:
            return f"reads the model's input {name!r} as it comes, in float"
        return f"reads the float result of {source.op_type} {source.name!r}"
    return "its result is read in float"
