"""Making a model ready for the quantizer: standard operators only, a name for every node, constants folded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx.inliner

from onnxmx.builder.model import Model
from onnxmx.errors import GraphError
from onnxmx.exporter.quiet import quiet

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators whose second input is a weight that 8 bits make smaller and faster."""


def prepare(model: Model, folder: Path) -> onnx.ModelProto:
    """The model as the quantizer wants it: functions inlined, BatchNormalization folded into Conv, every node named.

    folder: for files that others leave behind there.
    Raises GraphError for operators outside the ONNX standard, a model that is quantized already, or one without a
    weight that could be.
    """
    proto = onnx.inliner.inline_local_functions(model.to_proto())
    _check(proto)
    optimized = _preprocess(proto, folder / "source.onnx", folder / "prepared.onnx")
    # ONNX Runtime may put operators of its own in the place of several standard ones; then its help is not wanted.
    result = proto if _foreign(optimized.graph.node) else optimized
    _name_nodes(result)
    return result


def weighted(graph: onnx.GraphProto) -> list[str]:
    """The names of the nodes that multiply by a constant weight, in the order of the graph."""
    constants = {t.name for t in graph.initializer}
    return [n.name for n in graph.node if n.op_type in WEIGHTED and n.input[1] in constants]


def _preprocess(proto: onnx.ModelProto, source: Path, target: Path) -> onnx.ModelProto:
    with quiet() as ort:
        onnx.save(proto, source)
        # By way of a file: given a ModelProto, it takes the numbers out of the caller's own (onnxruntime 1.31).
        ort.quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
        return onnx.load(target)


def _check(proto: onnx.ModelProto) -> None:
    nodes = proto.graph.node
    if quantized := [n for n in nodes if _is_quantized(n.op_type)]:
        raise GraphError(
            f"quantize expected a model in float; found {len(quantized)} quantized nodes, "
            f"the first {_show(quantized[0])}",
            mend="It is quantized already: use it as it is, or quantize the model that it was made from.",
        )
    if foreign := _foreign(nodes):
        raise GraphError(
            f"quantize expected standard ONNX operators; found {_show(foreign[0])}, an operator of {foreign[0].domain}",
            mend="Export the model with standard operators only.",
        )
    if not weighted(proto.graph):
        found = ", ".join(sorted({n.op_type for n in nodes}))
        raise GraphError(
            f"quantize expected at least one {', '.join(WEIGHTED[:-1])} or {WEIGHTED[-1]} with a constant weight; "
            f"found only {found}",
            mend="There is nothing to quantize in it: use it as it is.",
        )


def _is_quantized(op: str) -> bool:
    return op.startswith(("QLinear", "QGemm", "QAttention")) or op in (
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
    )


def _foreign(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [n for n in nodes if n.domain not in ("", "ai.onnx")]


def _name_nodes(proto: onnx.ModelProto) -> None:
    """The quantizer knows nodes by name alone, and ONNX lets them go without, or share one."""
    taken: set[str] = set()
    for index, node in enumerate(proto.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.output[0] or node.op_type}#{index}" if node.output else f"{node.op_type}#{index}"
        taken.add(node.name)


def _show(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"
