"""The 8-bit file itself: ONNX Runtime's quantizer, then the parts of its result that nobody needs taken off.

Weights are int8, one scale a channel; activations are int8 too, one scale a tensor, where that runs as fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from onnxmx.builder.inference import IR_VERSION, OPSET
from onnxmx.builder.model import check
from onnxmx.exporter.calibrate import Ranges
from onnxmx.exporter.quiet import quiet

OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Gather", "Resize"),
    *("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"),
)
"""What goes into 8 bits: operators that ONNX Runtime computes, or moves, in 8 bits on a CPU. Around others the
quantizer would put conversions that never fuse; they cost time and accuracy and give nothing."""

FREE_OUTPUT = ("Gemm", "MatMul")
"""Operators whose 8-bit kernel can give float."""


SIGNED = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that ONNX Runtime 1.31 runs on signed activations as well as on unsigned ones."""


def activation_type(proto: onnx.ModelProto) -> str:
    """`int8` for a chain of `SIGNED` operators; `uint8` for others, and where a tensor has two readers.

    There ONNX Runtime 1.31 on x86 leaves nodes in float that it would fuse on unsigned activations: a small ResNet
    runs at 0.8 times the speed of float with int8, and at 2.3 times with uint8. On a chain the two are equal.
    """
    weights = {t.name for t in proto.graph.initializer}
    readers = Counter(name for node in proto.graph.node for name in node.input if name and name not in weights)
    chain = max(readers.values(), default=0) <= 1
    mixed = any(node.op_type in OPERATORS and node.op_type not in SIGNED for node in proto.graph.node)
    return "int8" if chain and not mixed else "uint8"


def quantized(
    proto: onnx.ModelProto, ranges: Ranges, *, keep_float: Sequence[str] = (), only: Sequence[str] = ()
) -> onnx.ModelProto:
    """`proto` (from `prepare`) in QDQ form, weights in int8 and activations as `activation_type` says; a new one.

    ranges: what `Extremes` gives. keep_float: names of nodes to leave in float. only: those that
    are to be quantized, by default all that can be.
    """
    with quiet() as ort:
        quantizer = ort.QDQQuantizer(
            proto,  # stays as it is: it works on a copy, with shapes inferred
            True,  # a scale for each channel of a weight
            False,  # all 8 bits, not 7
            ort.QuantType.QInt8,
            {"int8": ort.QuantType.QInt8, "uint8": ort.QuantType.QUInt8}[activation_type(proto)],
            ort.TensorsData(ort.CalibrationMethod.MinMax, dict(ranges)),
            list(only),
            list(keep_float),
            list(OPERATORS),
            {},
        )
        quantizer.quantize_model()
        result: onnx.ModelProto = quantizer.model.model
    return result


def finish(result: onnx.ModelProto, original: onnx.ModelProto, metadata: dict[str, str]) -> onnx.ModelProto:
    """The quantizer's `result` as a file of ours, checked in full: in order, lean, and to the outside as `original`.

    metadata: the file's metadata_props.
    """
    _free_outputs(result.graph)
    _drop_bias_zero_points(result.graph)
    model = ir.from_proto(result)
    model.graph.sort()
    proto = ir.to_proto(model)
    graph = proto.graph
    used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    # Shapes inside can be inferred again, and notes on nodes were for errors while building: 2 KB of a small file.
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    inputs = {t.name for t in original.graph.initializer}
    del graph.input[:]
    graph.input.extend(port for port in original.graph.input if port.name not in inputs)
    del graph.output[:]
    graph.output.extend(original.graph.output)
    graph.name = original.graph.name
    del graph.metadata_props[:]
    del proto.metadata_props[:]
    # Sorted: a model just built and the same one read from its file list theirs in another order.
    onnx.helper.set_model_props(proto, dict(sorted(metadata.items())))
    proto.producer_name, proto.producer_version = original.producer_name, original.producer_version
    proto.ir_version = IR_VERSION
    del proto.opset_import[:]
    proto.opset_import.extend([onnx.helper.make_opsetid("", OPSET)])
    return check(proto, "the quantized model")


def _drop_bias_zero_points(graph: onnx.GraphProto) -> None:
    """A bias is int32 around 0, and no zero point says the same as a row of zeros: 4 bytes less a channel.

    Weights keep theirs: without one, ONNX Runtime 1.31 leaves a Gemm in float.
    """
    biases = {t.name for t in graph.initializer if t.data_type == onnx.TensorProto.INT32}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in biases:
            del node.input[2:]


def _free_outputs(graph: onnx.GraphProto) -> None:
    """Let the last Gemm or MatMul give its float result as it is, and not rounded to one of 256 values."""
    producer = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for output in graph.output:
        dequantize = producer.get(output.name)
        quantize = (
            producer.get(dequantize.input[0]) if dequantize and dequantize.op_type == "DequantizeLinear" else None
        )
        last = producer.get(quantize.input[0]) if quantize and quantize.op_type == "QuantizeLinear" else None
        if dequantize is None or quantize is None or last is None or last.op_type not in FREE_OUTPUT:
            continue
        inside = (quantize.input[0], quantize.output[0], output.name)
        if [readers[name] for name in inside] == [1, 1, 0]:
            last.output[0] = output.name
            graph.node.remove(quantize)
            graph.node.remove(dequantize)
