"""Other sizes for the inputs of a finished graph: all shapes inferred anew, constants that hold an old size mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder.body import copy_graph
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.literals import is_size
from onnxmx.builder.source import user_line
from onnxmx.builder.values import Dim, dims, show_shape
from onnxmx.errors import OnnxmxError, ShapeError, UsageError, first_line


def with_sizes(model: ir.Model, inputs: Mapping[str, Sequence[Dim]]) -> ir.Model:
    """`model` with other shapes of the inputs named. Raises UsageError or ShapeError where it cannot have them."""
    freed: dict[str, int] = {}  # by the name of a symbolic dimension, the size that it had
    for port in model.graph.inputs:
        if (name := port.name or "") in inputs:
            freed |= _set_shape(port, inputs[name])
    model = infer_anew(model)
    for symbol, size in freed.items():
        # A mended Reshape lets the symbol through to those that follow it: as many rounds as there are in a row.
        while _mend(model.graph, symbol, size):
            model = infer_anew(model)
        _check_free(model.graph, symbol, size)
    return model


def infer_anew(model: ir.Model) -> ir.Model:
    """`model` with the shapes of all its values inferred from its inputs. Raises ShapeError where they do not fit."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    ranks = {output.name: len(output.type.tensor_type.shape.dim) for output in proto.graph.output}
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # InferenceError, or RuntimeError by what is wrong
        raise ShapeError(
            f"the model expected shapes that fit each other; found {first_line(error)}",
            at=user_line(),
            mend="Choose sizes that every layer takes, or replace the layers that do not.",
        ) from error
    inferred = ir.from_proto(proto)
    if any(v.shape is None for v in inferred.graph.outputs):
        _shape_behind_branches(inferred, ranks)
    return inferred


def _shape_behind_branches(model: ir.Model, ranks: Mapping[str, int]) -> None:
    """Give outputs the shapes that ONNX's inference does not find: those behind an If that sizes decide."""
    g, graph = GraphBuilder(), model.graph
    known: dict[ir.Value, ir.Value] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.const_value is not None and value.dtype != ir.DataType.FLOAT:
            known[value] = g.constant(value.const_value.numpy())
        else:  # of weights the shape is enough
            known[value] = ir.Value(name=g._claim("given"), type=value.type, shape=value.shape)
    try:
        found = [v.shape for v in copy_graph(g, graph, known)]
    except OnnxmxError:  # an operator of another domain, say
        found = [None] * len(graph.outputs)
    for value, shape in zip(graph.outputs, found, strict=True):
        if value.shape is None:
            value.shape = ir.Shape(shape if shape is not None else [None] * ranks[value.name or ""])


def _set_shape(port: ir.Value, shape: Sequence[Dim]) -> dict[str, int]:
    former = None if port.shape is None else dims(port.shape)
    sizes = list(shape) if isinstance(shape, (tuple, list)) else []
    named = all(d is None or (isinstance(d, str) and d) or is_size(d) for d in sizes)
    if not named or (former is not None and len(sizes) != len(former)) or not isinstance(shape, (tuple, list)):
        raise UsageError(
            f"input {port.name!r} expected as many positive integers or names as {show_shape(former)} has; "
            f"found {shape!r}",
            at=user_line(),
            mend=f"For example {port.name}=('batch', 3, 224, 224).",
        )
    port.shape = ir.Shape(sizes)
    pairs = zip(sizes, former or (), strict=False)
    return {new: old for new, old in pairs if isinstance(new, str) and isinstance(old, int)}


def _mend(graph: ir.Graph, symbol: str, size: int) -> int:
    """Let the dimension `symbol` through Reshapes that keep it in its place; returns how many were mended.

    A Reshape to (1, 512) of (batch, 512) becomes one to (0, 512), where 0 copies the dimension. PyTorch's exporter
    writes allowzero=1, which is taken off where no 0 was meant as a size.
    """
    count = 0
    for node, target in _reshapes(graph, symbol):
        place, before = _place(node, symbol)
        shape = [*before, symbol]
        literal = "allowzero" in node.attributes and 0 in target
        same = len(target) > place and target[place] == size and not literal
        if same and all(t in (0, b) for t, b in zip(target[:place], shape, strict=False)):
            target[place] = 0
            node.attributes.pop("allowzero", None)
            name = f"{node.outputs[0].name}.shape"
            fresh = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(target)]))
            fresh.const_value = ir.Tensor(np.array(target, np.int64), name=name)
            graph.register_initializer(fresh)  # of its own: another Reshape may read the former one
            node.replace_input_with(1, fresh)
            count += 1
    return count


def _check_free(graph: ir.Graph, symbol: str, size: int) -> None:
    """Raise ShapeError where the old size is still part of the graph."""
    for node, target in _reshapes(graph, symbol):
        place, _ = _place(node, symbol)
        kept = target[place : place + 1] == [0]
        # A -1 takes what is left: the symbol, unless the old size is written beside it and -1 stands elsewhere.
        if not kept and (-1 not in target or (size in target and target[0] != -1)):
            raise _stuck(f"Reshape {node.name!r} to {tuple(target)}", symbol, size)
    for output in graph.outputs:
        if output.shape is not None and not any(not isinstance(d, int) for d in output.shape):
            raise _stuck(f"output {output.name!r} of {show_shape(output.shape)}", symbol, size)


def _stuck(what: str, symbol: str, size: int) -> ShapeError:
    return ShapeError(
        f"{what} expected to follow the dimension {symbol!r}; found the old size {size} written into the graph",
        at=user_line(),
        mend="Export the model with this dimension dynamic, or keep its size.",
    )


def _reshapes(graph: ir.Graph, symbol: str) -> list[tuple[ir.Node, list[int]]]:
    """The Reshapes to a constant shape of values that have the dimension `symbol`, and that shape."""
    found = []
    for node in graph:
        if node.op_type == "Reshape" and node.domain == "" and node.inputs[1] is not None:
            target = node.inputs[1].const_value
            shape = node.inputs[0].shape if node.inputs[0] is not None else None
            if target is not None and shape is not None and symbol in dims(shape):
                found.append((node, [int(t) for t in target.numpy()]))
    return found


def _place(node: ir.Node, symbol: str) -> tuple[int, tuple[Dim, ...]]:
    """Where the input of a Reshape has the dimension `symbol`, and the sizes before it."""
    x = node.inputs[0]
    assert x is not None
    assert x.shape is not None
    shape = dims(x.shape)
    place = shape.index(symbol)
    return place, shape[:place]
