"""Pictures of a graph: Mermaid text, which many pages draw by themselves, and SVG laid out by Graphviz.

Drawn are the nodes and what flows between them; parameters and constants stand in the node that reads them.
"""

from __future__ import annotations

import html
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxmx.builder.source import user_line
from onnxmx.builder.values import show_shape
from onnxmx.errors import MissingExtraError, UsageError
from onnxmx.files import write_atomic

FORMATS = ("svg", "png", "pdf", "dot")
_KINDS = {
    "weights": ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather", "Einsum"),
    "norm": ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "Dropout"),
    "act": ("Relu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Gelu", "Elu", "LeakyRelu", "PRelu", "Clip"),
}  # fmt: skip
_COLOURS = {"port": "#e8e8e8", "weights": "#cfe2ff", "norm": "#e2d9f3", "act": "#ffe5cc", "other": "#ffffff"}
"""A background for each kind of node: what has weights stands out."""


def to_mermaid(graph: ir.Graph) -> str:
    """The graph as the text of a Mermaid flowchart."""
    lines = ["flowchart TD"]
    for key, kind, parts in _boxes(graph):
        text = "<br/>".join(html.escape(part, quote=True).replace("#", "&num;") for part in parts)
        shape = f'(["{text}"])' if kind == "port" else f'["{text}"]'
        lines.append(f"  {key}{shape}:::{kind}")
    for source, target, label in _arrows(graph):
        lines.append(f'  {source} -->|"{html.escape(label, quote=True)}"| {target}')
    lines += [f"  classDef {kind} fill:{colour},stroke:#666,color:#000" for kind, colour in _COLOURS.items()]
    return "\n".join(lines) + "\n"


def plot(graph: ir.Graph, path: str | os.PathLike[str]) -> None:
    """Draw the graph to a file; its ending says how: .svg, .png, .pdf or .dot.

    Raises MissingExtraError where pygraphviz is not installed, UsageError for another ending.
    """
    path = Path(path)
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise UsageError(
            f"plot expected a file that ends in .{', .'.join(FORMATS)}; found {str(path)!r}",
            at=user_line(),
            mend="For example model.svg.",
        )
    try:
        # Its wheels hold Graphviz itself: no `dot` has to be installed.
        import pygraphviz  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("pygraphviz", "plot", "Drawing a model") from None
    drawing = pygraphviz.AGraph(directed=True, strict=False, rankdir="TB", nodesep="0.3", ranksep="0.35")
    drawing.node_attr.update(shape="box", style="filled,rounded", fontname="Helvetica", fontsize="11", color="#666666")
    drawing.edge_attr.update(fontname="Helvetica", fontsize="9", color="#666666", arrowsize="0.7")
    for key, kind, lines in _boxes(graph):
        text = "\n".join(lines).replace("\\", "\\\\")
        drawing.add_node(key, label=text, fillcolor=_COLOURS[kind], tooltip=text)
    for source, target, label in _arrows(graph):
        drawing.add_edge(source, target, label=label.replace("\\", "\\\\"))
    write_atomic(path, _draw(drawing, form))


def _draw(drawing: Any, form: str) -> bytes:
    if form == "dot":
        return str(drawing.to_string()).encode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Graphviz's remarks about fonts arrive as warnings
        data: bytes = drawing.draw(prog="dot", format=form)
    return data


def _boxes(graph: ir.Graph) -> Iterator[tuple[str, str, list[str]]]:
    """(key, kind, lines of text) of every input, node and output."""
    for k, value in enumerate(_inputs(graph)):
        yield f"i{k}", "port", [value.name or "", show_shape(value.shape)]
    for k, node in enumerate(graph):
        kind = next((kind for kind, operators in _KINDS.items() if node.op_type in operators), "other")
        weights = [show_shape(v.shape) for v in node.inputs if v is not None and v.is_initializer() and v.shape]
        yield (
            f"n{k}",
            kind,
            [node.op_type, *([node.name] if node.name else []), *([" ".join(weights)] if weights else [])],
        )
    for k, value in enumerate(graph.outputs):
        yield f"o{k}", "port", [value.name or "", show_shape(value.shape)]


def _arrows(graph: ir.Graph) -> Iterator[tuple[str, str, str]]:
    """(from, to, shape) of every value that flows."""
    keys: dict[ir.Value, str] = {value: f"i{k}" for k, value in enumerate(_inputs(graph))}
    for k, node in enumerate(graph):
        keys |= dict.fromkeys(node.outputs, f"n{k}")
    for k, node in enumerate(graph):
        for value in node.inputs:
            if value is not None and value in keys:
                yield keys[value], f"n{k}", show_shape(value.shape)
    for k, value in enumerate(graph.outputs):
        if value in keys:
            yield keys[value], f"o{k}", show_shape(value.shape)


def _inputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if not value.is_initializer()]
