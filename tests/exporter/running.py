"""What ONNX Runtime makes of a quantized file: the truth that a report is held against."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime

MOVERS = (
    *("Flatten", "Gather", "GatherElements", "MaxPool", "Reshape", "Resize"),
    *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators without an 8-bit kernel of their own: they move 8-bit values as they are."""


def what_runs(path: Path, target: Path) -> tuple[set[str], set[str]]:
    """The names of the nodes that ONNX Runtime runs in 8 bits, and of the others, conversions aside.

    target: where the optimized graph is put.
    """
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    eight, other, values = set(), set(), set()
    for node in onnx.load(target).graph.node:  # ONNX Runtime writes it in an order that can run
        name = node.name.removeprefix("fused ")  # a Gemm with its Relu
        kernel = node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "MatMulIntegerToFloat")
        if kernel or (node.op_type in MOVERS and node.input[0] in values):
            eight.add(name)
            values.update(node.output)
        elif node.op_type == "QuantizeLinear":
            values.update(node.output)
        elif node.op_type != "DequantizeLinear":
            other.add(name)
    return eight, other


def all_eight_bit(path: Path, target: Path) -> bool:
    """Whether no node of the file runs in float."""
    eight, other = what_runs(path, target)
    return bool(eight) and not other
