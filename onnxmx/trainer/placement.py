"""Which nodes of a graph ONNX Runtime would run on the CPU where it runs the graph on CUDA.

It gives a node to CUDA if that has a kernel for the operator, its version and its element types; `kernels.json` is the
list, which `benchmarks/kernels.py` reads from ONNX Runtime itself. Some nodes it leaves on the CPU although CUDA could
run them: those that compute from shapes, which the CPU knows before any kernel runs. That is as it should be, as long
as they compute a few numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, NodeProto, TypeProto

SMALL = 100
"""Elements up to which ONNX Runtime counts a tensor as small."""

_ON_CPU = {"Shape", "Size", "SequenceLength"}  # their CUDA kernels write to the memory of the CPU
_FROM_CPU: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Squeeze", "Unsqueeze", "TopK", "CumSum", "Split", "Trilu"), (1,)),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), (1,)),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "OneHot"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "Range": (0, 1, 2),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "If": (0,),
    "Loop": (0, 1),
    "Dropout": (1, 2),
}
"""The inputs that a CUDA kernel reads from the memory of the CPU; read off the kernels' registrations."""

_HALVES = {"float16", "bfloat16"}
_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


@dataclass(frozen=True)
class Fallback:
    """A node that runs on the CPU.

    why: what CUDA lacks for it.   harmless: it computes a few numbers from a shape, where it belongs.
    """

    name: str
    op_type: str
    why: str
    harmless: bool

    def __str__(self) -> str:
        return f"{self.op_type} {self.name!r}: {self.why}"


def fallbacks(data: bytes, provider: str = "cuda") -> list[Fallback]:
    """The nodes of a serialized model of opset 20 that would run on the CPU and work on data.

    provider: as in `open_session`; on "cpu" there are none.   Not counted: what is computed once from constants, and
    computations on shapes, which ONNX Runtime keeps on the CPU on purpose, of up to SMALL elements.
    """
    return [] if provider == "cpu" else [f for f in on_cpu(data) if not f.harmless]


def on_cpu(data: bytes) -> list[Fallback]:
    """All nodes of a serialized model of opset 20 that would run on the CPU beside CUDA."""
    model = onnx.inliner.inline_local_functions(onnx.load_from_string(data))
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return _Graph(model.graph, {}).nodes()


@dataclass
class _Graph:
    """One graph, and what is known of the values of those around it."""

    graph: GraphProto
    outer: Mapping[str, TypeProto]
    constants: set[str] = field(default_factory=set)
    small: set[str] = field(default_factory=set)  # constants of up to SMALL elements

    def nodes(self) -> list[Fallback]:
        """Those that run on the CPU."""
        graph = self.graph
        self.types = {**self.outer, **{v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}}
        for tensor in graph.initializer:
            self.types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            self._constant(tensor.name)
        there: set[str] = set()  # values that are known to be in the memory of the CPU
        inputs = {v.name for v in graph.input}
        found: list[Fallback] = []
        for node in graph.node:
            if node.op_type == "Constant" or self._folded(node):
                for name in node.output:
                    self._constant(name)
                continue
            for inner in _graphs(node):
                found += _Graph(inner, self.types, set(self.constants), set(self.small)).nodes()
            why = lacks(node, self.types)
            shaping = self._shaping(node, there, inputs)
            if shaping or (why and not there.isdisjoint(node.input)):
                there.update(node.output)
            elif node.op_type in _ON_CPU and not why:
                there.add(node.output[0])
            if why or shaping:
                harmless = shaping and (self._is_small(node.output) or self._counts(node, inputs))
                found.append(Fallback(node.name, node.op_type, why or "it is computed from a shape", harmless))
        return found

    def _shaping(self, node: NodeProto, there: set[str], inputs: set[str]) -> bool:
        """Whether ONNX Runtime prefers the CPU: everything is there already, and the kernel does not take it there."""
        read = {k: name for k, name in enumerate(node.input) if name}
        if there.isdisjoint(read.values()) or _graphs(node):
            return False
        if any(_element(self.types.get(name)) in _HALVES for name in read.values()):
            return False
        from_cpu = _FROM_CPU.get(node.op_type, ())
        return all(
            name in self.small or name in inputs or (name in there and k not in from_cpu) for k, name in read.items()
        )

    def _counts(self, node: NodeProto, inputs: set[str]) -> bool:
        """Whether it makes sizes and axes of sizes and axes: how many is not known, but they are few."""
        whole = all(_element(self.types.get(name)) in ("int64", "bool") for name in node.output)
        return whole and inputs.isdisjoint(node.input)

    def _folded(self, node: NodeProto) -> bool:
        """Whether ONNX Runtime computes it when it opens the graph."""
        return node.op_type not in _RANDOM and not _graphs(node) and all(x in self.constants for x in node.input if x)

    def _constant(self, name: str) -> None:
        self.constants.add(name)
        if self._is_small([name]):
            self.small.add(name)

    def _is_small(self, names: Iterable[str]) -> bool:
        return all((size := _size(self.types.get(name))) is not None and size <= SMALL for name in names if name)


def lacks(node: NodeProto, types: Mapping[str, TypeProto]) -> str | None:
    """What CUDA lacks to run a node, or None.   types: of the values around it, by name."""
    if node.op_type in _table()["inlined"]:
        return None
    rows = _table()["cuda"].get(node.op_type)
    if rows is None or node.domain not in ("", "ai.onnx"):
        return "no kernel"
    bound = _bound(node, types)
    if not any(all(bound.get(p) is None or bound[p] in taken for p, taken in row.items()) for row in rows):
        return f"no kernel for {', '.join(sorted(t for t in set(bound.values()) if t))}"
    return _refused(node)


def _bound(node: NodeProto, types: Mapping[str, TypeProto]) -> dict[str, str | None]:
    """The element type of each type parameter, and of each input and output by name."""
    schema = onnx.defs.get_schema(node.op_type, _table()["opset"], "")
    found: dict[str, str | None] = {}
    for formal, names in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for parameter, name in zip(formal, names, strict=False):
            if name:
                for key in (parameter.type_str, parameter.name):
                    found.setdefault(key, _element(types.get(name)) or "an unknown type")
    return found


def _refused(node: NodeProto) -> str | None:
    """What of a node's attributes ONNX Runtime's CUDA provider refuses though it has a kernel."""
    given: dict[str, Any] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "ConvTranspose":
        pads = given.get("pads", [])
        if list(pads[: len(pads) // 2]) != list(pads[len(pads) // 2 :]):
            return "pads that differ at the two ends"
        if given.get("auto_pad", b"NOTSET").startswith(b"SAME"):
            return "auto_pad"
    if node.op_type in _ACTIVATIONS:
        usual = _ACTIVATIONS[node.op_type]
        if any(a.decode().lower() != usual[k % len(usual)] for k, a in enumerate(given.get("activations", []))):
            return "activations other than the usual ones"
        if {"activation_alpha", "activation_beta", "clip"} & given.keys() or given.get("input_forget"):
            return "activation_alpha, activation_beta, clip or input_forget"
        # Without the attribute ONNX Runtime lets it pass, and cuDNN resets after the product.
        if node.op_type == "GRU" and given.get("linear_before_reset", 0) != 1:
            return "a reset before the product (linear_before_reset=0)"
        if node.op_type == "LSTM" and len(node.input) == 8 and node.input[7]:
            return "peepholes"
    return None


def _graphs(node: NodeProto) -> list[GraphProto]:
    return [g for a in node.attribute if a.type in _GRAPHS for g in ([a.g] if a.HasField("g") else a.graphs)]


def _element(kind: TypeProto | None) -> str | None:
    """ONNX Runtime's name of an element type, which is C++'s."""
    if kind is None or not kind.HasField("tensor_type"):
        return None
    name: str = onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type)
    return name.lower()


def _size(kind: TypeProto | None) -> int | None:
    """Elements of a tensor; None where that is not known."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return prod(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("kernels.json").read_bytes())
    return table
