"""Numbers that a graph computes from its constants and from sizes alone.

Exporters write axes, pads and sizes that way: Shape, Gather, Mul, Concat. Where the sizes are known, so are they.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder.inference import IR_VERSION, OPSET

Array = np.ndarray[Any, Any]

# The first size that is not known, and how much larger the next one is. What comes out the same for each of these
# does not depend on sizes.
_SIZES = ((1, 0), (2, 1), (1_000_003, 7_919))
_MANY = 100
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def numbers(x: ir.Value) -> Array | None:
    """The numbers of `x` where they are the same in every run, else None."""
    if (constant := ir.convenience.get_const_tensor(x)) is not None:
        return constant.numpy()
    nodes = _made_of_sizes(x)
    if nodes is None:
        return None
    values = [_run(x, nodes, *sizes) for sizes in _SIZES]
    first = values[0]
    same = first is not None and all(v is not None and np.array_equal(v, first) for v in values)
    return first if same else None


def _made_of_sizes(x: ir.Value) -> list[ir.Node] | None:
    """The nodes that compute `x`, in their order, if all they read is constants and shapes."""
    nodes: dict[ir.Node, None] = {}

    def visit(value: ir.Value | None) -> bool:
        if value is None or ir.convenience.get_const_tensor(value) is not None:
            return True
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or len(nodes) > _MANY:
            return False
        if node in nodes:
            return True
        plain = all(a.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        of = node.inputs[0] if node.op_type in ("Shape", "Size") else None
        read = of is not None and of.shape is not None
        if not plain or node.op_type in _RANDOM or not (read or all(visit(v) for v in node.inputs)):
            return False
        nodes[node] = None
        return True

    return list(nodes) if visit(x) else None


def _run(x: ir.Value, nodes: list[ir.Node], first: int, apart: int) -> Array | None:
    """`x` where sizes that are not known are `first`, `first + apart` ...; None where the nodes refuse them."""
    import onnx.reference  # takes a while

    unknown: dict[object, int] = {}

    def sizes(value: ir.Value) -> list[int]:
        found = []
        for axis, d in enumerate(value.shape or ()):
            key = (value, axis) if isinstance(d, int) or d.value is None else d.value  # of one name, of one size
            found.append(d if isinstance(d, int) else first + apart * unknown.setdefault(key, len(unknown)))
        return found

    constants: dict[str, onnx.TensorProto] = {}
    protos = []
    for node in nodes:
        if node.op_type in ("Shape", "Size"):
            constants[node.outputs[0].name or ""] = onnx.numpy_helper.from_array(_said(node, sizes))
            continue
        protos.append(ir.serde.serialize_node(node))
        for v in node.inputs:
            if v is not None and (tensor := ir.convenience.get_const_tensor(v)) is not None:
                constants[v.name or ""] = onnx.numpy_helper.from_array(tensor.numpy())
    for name, proto in constants.items():
        proto.name = name
    output = onnx.ValueInfoProto(name=x.name)
    graph = onnx.helper.make_graph(protos, "sizes", [], [output], list(constants.values()))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    try:
        (found,) = list(onnx.reference.ReferenceEvaluator(model).run(None, {}))
    except Exception:  # whatever an operator raises that gets sizes it does not take
        return None
    return np.asarray(found)


def _said(node: ir.Node, sizes_of: Callable[[ir.Value], list[int]]) -> Array:
    """What a Shape or Size node gives out."""
    (x,) = node.inputs
    assert x is not None
    sizes = sizes_of(x)
    if node.op_type == "Size":
        return np.array(np.prod(sizes), np.int64)
    end = node.attributes.get_int("end", len(sizes))
    return np.array(sizes[node.attributes.get_int("start", 0) : end], np.int64)
