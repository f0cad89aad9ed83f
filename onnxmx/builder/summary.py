"""What a model is made of: a tree of layers with shapes, parameters, floating-point operations, memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx_ir as ir

from onnxmx.builder.values import show_shape

# What only moves, copies or renames: no floating-point operation.
_MOVES = {"Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Pad", "Gather", "Expand",
          "Identity", "Dropout", "Shape", "Size", "Constant", "Cast"}  # fmt: skip


@dataclass
class Row:
    """One layer with nodes of its own. flops counts a multiply-add as two, for one sample.

    output: the shape of its last value, which the node at `place` of the graph computes.
    trainable, frozen: how its parameters divide.   statistics: the numbers that batch normalization keeps of its
    inputs; they are no parameters.
    """

    layer: str
    operators: list[str] = field(default_factory=list)
    output: str = ""
    place: int = -1
    parameters: int = 0
    trainable: int = 0
    frozen: int = 0
    statistics: int = 0
    flops: int = 0


@dataclass
class Branch:
    """A layer and those inside it; the numbers are those of all of them together."""

    name: str
    output: str = ""
    place: int = -1
    parameters: int = 0
    trainable: int = 0
    frozen: int = 0
    statistics: int = 0
    flops: int = 0
    operators: list[str] = field(default_factory=list)
    children: list[Branch] = field(default_factory=list)

    def add(self, row: Row, path: list[str]) -> None:
        """Count `row` in, and put it at `path` below this layer."""
        if row.place > self.place:
            self.output, self.place = row.output, row.place
        self.parameters += row.parameters
        self.trainable += row.trainable
        self.frozen += row.frozen
        self.statistics += row.statistics
        self.flops += row.flops
        if not path:
            self.operators += row.operators
            return
        # Names stay in the order in which the graph first meets them.
        child = next((c for c in self.children if c.name == path[0]), None)
        if child is None:
            child = Branch(path[0])
            self.children.append(child)
        child.add(row, path[1:])

    def lines(self, depth: int = 0) -> Iterator[tuple[str, ...]]:
        """A line for this layer and, below it, one for each inside."""
        counts = (f"{self.parameters:,}", f"{self.frozen:,}", f"{self.flops / 1e6:,.2f}")
        yield (f"{'  ' * depth}{self.name}", _counted(self.operators), self.output, *counts)
        for child in self.children:
            yield from child.lines(depth + 1)


@dataclass
class Summary:
    """The layers of a model and their totals; sizes in bytes, activations for one sample.

    parameters: as papers and other libraries count them, without the running statistics of batch normalization, which
    stand beside them. parameter_bytes: of both, as the file holds them.
    """

    rows: list[Row]
    inputs: dict[str, str]
    outputs: dict[str, str]
    parameters: int
    trainable: int
    frozen: int
    statistics: int
    flops: int
    parameter_bytes: int
    activation_bytes: int

    def tree(self) -> Branch:
        """The layers as they contain each other."""
        root = Branch("")
        for row in self.rows:
            root.add(row, row.layer.split(".") if row.layer else [])
        return root

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain values, for JSON."""
        return asdict(self) | {"tree": asdict(self.tree())["children"]}

    def __str__(self) -> str:
        head = ("layer", "operators", "output", "parameters", "frozen", "MFLOP")
        root = self.tree()
        body = [line for child in root.children for line in child.lines()]
        if root.operators:
            own = next(r for r in self.rows if not r.layer)
            whole = Branch("(model)")
            whole.add(own, [])
            body.append(next(whole.lines()))
        widths = [max(len(row[k]) for row in (head, *body)) for k in range(len(head))]
        lines = ["  ".join(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(r, widths, strict=True)))
                 for r in (head, *body)]  # fmt: skip
        ports = [f"{kind} {name} {shape}" for kind, shapes in (("input", self.inputs), ("output", self.outputs))
                 for name, shape in shapes.items()]  # fmt: skip
        kept = f" and running statistics {self.statistics:,}" if self.statistics else ""
        return "\n".join(
            [
                *lines,
                "",
                *ports,
                f"parameters {self.parameters:,} ({self.trainable:,} trainable){kept}, "
                f"{self.parameter_bytes / 1e6:,.2f} MB",
                f"one sample: {self.flops / 1e6:,.2f} MFLOP, activations {self.activation_bytes / 1e6:,.2f} MB",
            ]
        )


def summarize(
    model: ir.Model, parameters: Collection[str], trainable: Collection[str], statistics: Collection[str] = ()
) -> Summary:
    """Group the nodes of a model by the layer that their names follow.

    parameters, trainable, statistics: the names of initializers that are parameters, of those of them that training
    changes, and of running statistics.
    """
    rows: dict[str, Row] = {}
    seen: set[str] = set()
    activation_bytes = 0.0
    graph = model.graph
    for place, (node, layer) in enumerate(with_layers(graph)):
        row = rows.setdefault(layer, Row(layer))
        row.operators.append(node.op_type)
        out = node.outputs[0]
        row.output, row.place = show_shape(out.shape), place
        row.flops += _flops(node)
        activation_bytes += _elements(out.shape) * (out.dtype.itemsize if out.dtype is not None else 4)
        for value in node.inputs:
            if value is None or value.name in seen:
                continue
            seen.add(value.name or "")
            if value.name in parameters:
                row.parameters += _elements(value.shape)
                row.trainable += _elements(value.shape) if value.name in trainable else 0
            elif value.name in statistics:
                row.statistics += _elements(value.shape)
    for row in rows.values():
        row.frozen = row.parameters - row.trainable
    total, trained, kept = (
        sum(_elements(graph.initializers[name].shape) for name in names)
        for names in (parameters, trainable, statistics)
    )
    return Summary(
        rows=list(rows.values()),
        inputs={v.name or "": show_shape(v.shape) for v in real_inputs(graph)},
        outputs={v.name or "": show_shape(v.shape) for v in graph.outputs},
        parameters=total,
        trainable=trained,
        frozen=total - trained,
        statistics=kept,
        flops=sum(r.flops for r in rows.values()),
        parameter_bytes=4 * (total + kept),
        activation_bytes=int(activation_bytes),
    )


def real_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that a caller must give: old files list their initializers among the inputs too."""
    return [v for v in graph.inputs if v.name not in graph.initializers]


def with_layers(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    """Each node with the layer that it belongs to, such as `encoder.0`.

    Where no node of a file says so by its name, as older exporters leave it, the names of parameters do; and a node
    without any follows the one before it.
    """
    if any(layer_of(node.name or "") for node in graph):
        yield from ((node, layer_of(node.name or "")) for node in graph)
        return
    layer = ""
    for node in graph:
        names = [v.name or "" for v in node.inputs if v is not None and v.is_initializer()]
        layer = next((n.rpartition(".")[0] for n in names if "." in n), layer)
        yield node, layer


def layer_of(name: str) -> str:
    """The layer in the name of a node: `encoder.0` of `encoder.0.Gemm`, and of PyTorch's `/encoder/encoder.0/Gemm`."""
    if "/" not in name:
        return name.rpartition(".")[0]
    path = ""
    for part in name.strip("/").split("/")[:-1]:
        path = part if not path or part.startswith(f"{path}.") else f"{path}.{part}"
    return path


def _counted(operators: list[str]) -> str:
    """`Conv Relu`, and `Add x3` for three in a row or apart."""
    counts = Counter(operators)
    return " ".join(op if n == 1 else f"{op} x{n}" for op, n in counts.items())


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
    if node.op_type == "ConvTranspose" and weight is not None and node.inputs[0] is not None:
        return 2 * _elements(node.inputs[0].shape) * _elements(ir.Shape(weight[1:]))
    if node.op_type in ("RNN", "GRU", "LSTM") and weight is not None and node.inputs[0] is not None:
        steps = node.inputs[0].shape[0] if node.inputs[0].shape else 1
        both = _elements(weight) + _elements(node.inputs[2].shape if node.inputs[2] is not None else None)
        return 2 * both * (steps if isinstance(steps, int) else 1)
    if node.op_type in ("Gemm", "MatMul") and weight:
        across = "transB" in node.attributes and node.attributes["transB"].as_int() == 1
        inner = weight[-1] if across or len(weight) == 1 else weight[-2]
        return 2 * out * (inner if isinstance(inner, int) else 1)
    return out
