"""What a model is made of: layers, shapes, parameters, floating-point operations, memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from onnxmx.builder.values import show_shape

# What only moves, copies or renames: no floating-point operation.
_MOVES = {"Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Pad", "Gather", "Expand",
          "Identity", "Dropout", "Shape", "Size", "Constant", "Cast"}  # fmt: skip


@dataclass
class Row:
    """One layer. flops counts a multiply-add as two, for one sample; output is the shape of its last value."""

    layer: str
    operators: list[str] = field(default_factory=list)
    output: str = ""
    parameters: int = 0
    flops: int = 0


@dataclass
class Summary:
    """The layers of a model and their totals; sizes in bytes, activations for one sample."""

    rows: list[Row]
    inputs: dict[str, str]
    outputs: dict[str, str]
    parameters: int
    trainable: int
    flops: int
    parameter_bytes: int
    activation_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("layer", "operators", "output", "parameters", "MFLOP")
        body = [
            (r.layer or "(model)", " ".join(r.operators), r.output, f"{r.parameters:,}", f"{r.flops / 1e6:,.2f}")
            for r in self.rows
        ]
        widths = [max(len(row[k]) for row in (head, *body)) for k in range(5)]
        lines = ["  ".join(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True)))
                 for r in (head, *body)]  # fmt: skip
        ports = [f"{kind} {name} {shape}" for kind, shapes in (("input", self.inputs), ("output", self.outputs))
                 for name, shape in shapes.items()]  # fmt: skip
        return "\n".join(
            [
                *lines,
                "",
                *ports,
                f"parameters {self.parameters:,} ({self.trainable:,} trainable), {self.parameter_bytes / 1e6:,.2f} MB",
                f"one sample: {self.flops / 1e6:,.2f} MFLOP, activations {self.activation_bytes / 1e6:,.2f} MB",
            ]
        )


def summarize(model: ir.Model, trainable: set[str]) -> Summary:
    """Group the nodes of a model by the layer that their names follow."""
    rows: dict[str, Row] = {}
    seen: set[str] = set()
    activation_bytes = 0.0
    graph = model.graph
    for node in graph:
        row = rows.setdefault(_layer(node), Row(_layer(node)))
        row.operators.append(node.op_type)
        out = node.outputs[0]
        row.output = show_shape(out.shape)
        row.flops += _flops(node)
        activation_bytes += _elements(out.shape) * (out.dtype.itemsize if out.dtype is not None else 4)
        for value in node.inputs:
            if value is not None and _is_parameter(value) and (value.name or "") not in seen:
                seen.add(value.name or "")
                row.parameters += _elements(value.shape)
    total = sum(_elements(v.shape) for v in graph.initializers.values() if _is_parameter(v))
    return Summary(
        rows=list(rows.values()),
        inputs={v.name or "": show_shape(v.shape) for v in real_inputs(graph)},
        outputs={v.name or "": show_shape(v.shape) for v in graph.outputs},
        parameters=total,
        trainable=sum(_elements(v.shape) for n, v in graph.initializers.items() if n in trainable),
        flops=sum(r.flops for r in rows.values()),
        parameter_bytes=4 * total,
        activation_bytes=int(activation_bytes),
    )


def real_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that a caller must give: old files list their initializers among the inputs too."""
    return [v for v in graph.inputs if v.name not in graph.initializers]


def _layer(node: ir.Node) -> str:
    return (node.name or "").rpartition(".")[0]


def _is_parameter(value: ir.Value) -> bool:
    return value.is_initializer() and value.dtype == ir.DataType.FLOAT and not (value.name or "").startswith("const.")


def _elements(shape: ir.Shape | None) -> int:
    """Elements of one sample: an unknown dimension counts as one."""
    return math.prod(d for d in shape if isinstance(d, int)) if shape is not None else 0


def _flops(node: ir.Node) -> int:
    """Floating-point operations of one sample: two a multiply-add for matrix products, one an element otherwise."""
    out = _elements(node.outputs[0].shape)
    if node.op_type in _MOVES:
        return 0
    weight = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if node.op_type == "Conv" and weight is not None:
        return 2 * out * _elements(ir.Shape(weight[1:]))
    if node.op_type in ("Gemm", "MatMul") and weight:
        across = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        inner = weight[-1] if across or len(weight) == 1 else weight[-2]
        return 2 * out * (inner if isinstance(inner, int) else 1)
    return out
