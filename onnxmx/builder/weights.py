"""Which initializers of a graph are parameters, and which of those training may change."""

from __future__ import annotations

import onnx_ir as ir

from onnxmx.builder.metadata import TRACKED

_SETTINGS: dict[str, range] = {
    "BatchNormalization": range(3, 5),
    "DequantizeLinear": range(1, 3),
    "Dropout": range(1, 3),
    "NonMaxSuppression": range(5),
    "OneHot": range(3),
    "Pad": range(1, 4),
    "Pow": range(1, 2),
    "QLinearConv": range(9),
    "QLinearMatMul": range(9),
    "QuantizeLinear": range(1, 3),
    "Range": range(3),
    "Resize": range(1, 4),
    "Upsample": range(1, 2),
}
"""The inputs of operators that say how to compute and are not what is learned, where these are floats."""
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"})
_MOVES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def parameters(graph: ir.Graph, listed: list[str] | None) -> dict[str, ir.Value]:
    """The parameters of a graph by name: float32, of rank 1 or more, read as weights; running statistics included, and
    among these the scales of quantization that training tracks.

    listed: the names that the file itself calls trainable; a scalar among them is a parameter too.
    """
    named = set(listed or ())
    return {
        name: value
        for name, value in graph.initializers.items()
        if value.dtype == ir.DataType.FLOAT
        and not name.startswith("const.")
        and (name in named or _is_statistic(value) or (len(value.shape or ()) > 0 and _is_weight(value)))
    }


def trainable(graph: ir.Graph, listed: list[str] | None) -> list[str]:
    """The names of the parameters that training changes: those listed, else all but running statistics."""
    found = parameters(graph, listed)
    if listed is not None:
        return [name for name in listed if name in found]
    return [name for name, value in found.items() if not _is_statistic(value)]


def trainable_at_all(graph: ir.Graph, listed: list[str] | None) -> list[str]:
    """The names of the parameters that could be trained: all but running statistics."""
    return [name for name, value in parameters(graph, listed).items() if not _is_statistic(value)]


def _is_statistic(value: ir.Value) -> bool:
    return any(
        (use.node.op_type == "BatchNormalization" and use.idx in (3, 4))
        or (use.node.op_type == "QuantizeLinear" and use.idx == 1 and TRACKED in use.node.metadata_props)
        for use in value.uses()
    )


def _is_weight(value: ir.Value) -> bool:
    """Whether a use of `value`, or of what only moves it, is one that learning could change for the better."""
    waiting, seen = [value], {value}
    single = value.shape is not None and all(d == 1 for d in value.shape)
    while waiting:
        for node, place in waiting.pop().uses():
            if node.op_type in _MOVES and place == 0:
                fresh = [v for v in node.outputs if v not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
            elif node.op_type in _COMPARISONS or place in _SETTINGS.get(node.op_type, ()):
                continue
            # PaddlePaddle writes the 3 and the 6 of a hard swish as vectors of one element.
            elif not (single and node.op_type in _ELEMENTWISE):
                return True
    return False
