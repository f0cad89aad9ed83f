"""What a file claims, held against what it holds, before anything heavy reads it.

A hostile file declares a tensor of a terabyte, names itself as its own function, or lets ten functions call each other
twice so that inlining them doubles ten times. Each is found here in time and memory linear in the bytes of the file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from onnxmx.errors import ModelFileError

MAX_BYTES = 2**31 - 1
"""What protobuf can write into one file, and so the most that a model may hold with all of its weights."""
MAX_NODES = 1_000_000
"""After its functions are put in place. The largest language models have some ten thousand."""
MAX_ELEMENTS = 2**40
"""Of one declared input or output: a terabyte of bytes."""

MISTRUST = "Do not trust this file; one of your own can be exported anew."

_Key = tuple[str, str, str]


def inspect(proto: onnx.ModelProto, what: str) -> None:
    """Raise ModelFileError where the file cannot be what it claims. what: names it in the error."""
    for tensor in tensors(proto):
        _check_tensor(tensor, what)
    for port in (*proto.graph.input, *proto.graph.output):
        _check_port(port, what)
    for kind, names in (
        ("input", [v.name for v in proto.graph.input]),
        ("initializer", [t.name for t in proto.graph.initializer]),
    ):
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ModelFileError(f"{what} expected one {kind} of a name; found two named {twice[0]!r}", mend=MISTRUST)
    _check_calls(proto, what)


def tensor_bytes(tensor: onnx.TensorProto, what: str) -> int:
    """The bytes that the numbers of `tensor` take, by its declared shape and type. Raises ModelFileError."""
    try:
        width: float = ir.DataType(tensor.data_type).itemsize
    except (ValueError, TypeError):  # a type that is not known, or has no width (strings)
        width = 1
    if any(d < 0 for d in tensor.dims):
        raise ModelFileError(
            f"{what}: tensor {tensor.name!r} expected sizes of 0 or more; found {list(tensor.dims)}", mend=MISTRUST
        )
    size: int = math.ceil(math.prod(tensor.dims) * width)
    return size


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a file: initializers and attributes, in subgraphs and functions too."""
    for graph in graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(proto):
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a file, in subgraphs and functions too."""
    for body in (proto.graph, *proto.functions):
        yield from _below(body.node)


def graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a file and every subgraph."""
    yield proto.graph
    for node in nodes(proto):
        for attribute in node.attribute:
            yield from _subgraphs(attribute)


def _below(these: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of their subgraphs. protobuf has bounded the depth already: it reads 100 levels."""
    for node in these:
        yield node
        for attribute in node.attribute:
            for graph in _subgraphs(attribute):
                yield from _below(graph.node)


def _subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    yield from attribute.graphs
    if attribute.HasField("g"):
        yield attribute.g


def _check_tensor(tensor: onnx.TensorProto, what: str) -> None:
    expected = tensor_bytes(tensor, what)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    if tensor.HasField("raw_data"):
        held, fits = len(tensor.raw_data), len(tensor.raw_data) == expected
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        held = sum(map(len, fields)) + len(tensor.string_data)
        fits = expected <= 16 * held  # the widest element, complex128, has 16 bytes
    if not fits:
        raise ModelFileError(
            f"{what}: tensor {tensor.name!r} expected numbers for its shape {list(tensor.dims)}, {expected} bytes; "
            f"found {held}",
            mend="The file may be damaged: copy or export it again.",
        )


def _check_port(port: onnx.ValueInfoProto, what: str) -> None:
    sizes = [d.dim_value for d in port.type.tensor_type.shape.dim if d.dim_value > 0]
    if math.prod(sizes) > MAX_ELEMENTS:
        raise ModelFileError(
            f"{what}: {port.name!r} expected at most {MAX_ELEMENTS} elements; found the shape {sizes}", mend=MISTRUST
        )


def _check_calls(proto: onnx.ModelProto, what: str) -> None:
    """Count the nodes that are left when every function is put in place of its calls."""
    bodies = {(f.domain, f.name, f.overload): f for f in proto.functions}
    calls = {key: [_key(n) for n in _below(f.node)] for key, f in bodies.items()}
    sizes: dict[_Key, int] = {}
    for start in bodies:  # depth first without recursion: a chain of a million functions is no deeper than one
        path: list[tuple[_Key, Iterator[_Key]]] = [(start, iter(calls[start]))] if start not in sizes else []
        open_keys = {start}
        while path:
            key, rest = path[-1]
            called = next((k for k in rest if k in bodies and k not in sizes), None)
            if called is None:
                sizes[key] = sum(sizes.get(k, 1) for k in calls[key])
                open_keys.discard(path.pop()[0])
            elif called in open_keys:
                raise ModelFileError(f"{what}: function {called[1]!r} calls itself", mend=MISTRUST)
            else:
                open_keys.add(called)
                path.append((called, iter(calls[called])))
    total = sum(sizes.get(_key(n), 1) for n in _below(proto.graph.node))
    if total > MAX_NODES:
        raise ModelFileError(
            f"{what} expected at most {MAX_NODES} nodes; found {total} once its functions are in place", mend=MISTRUST
        )


def _key(node: onnx.NodeProto) -> _Key:
    return (node.domain, node.op_type, node.overload)
