"""Files of other makers, brought into the form that onnxmx writes: opset 20, weights as initializers, inference form.

Each step below takes one habit of an exporter: old opsets, weights among the inputs, BatchNormalization and Dropout in
their training form, functions, layout=1, sizes written as 0, -1 or "?", shapes that are stale or missing.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir

from onnxmx.builder import batch_first
from onnxmx.builder.functions import KEPT
from onnxmx.builder.guard import graphs, nodes
from onnxmx.builder.inference import IR_VERSION, OPSET
from onnxmx.builder.metadata import TRAINABLE
from onnxmx.builder.summary import layer_of
from onnxmx.builder.values import initializer
from onnxmx.errors import ModelFileError, first_line

OLDEST = 7
"""The first opset with today's broadcasting; the converter of ONNX knows no way up from the ones before it."""
_OWN = "ai.onnxmx"
_NUMBERED = re.compile(r"onnx::[A-Za-z]+_\d+")
_PARTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), (None, "weight", "bias")),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (None, "weight_ih", "weight_hh", "bias")),
    "MatMul": ("weight", "weight"),
    "PRelu": (None, "weight"),
}
"""What PyTorch calls the inputs of an operator that are weights."""
_DAMAGED = "The file may be damaged: copy or export it again."


def normalize(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """`proto` in the form that onnxmx writes, checked in full; it may be changed. Raises ModelFileError."""
    version = _settle_versions(proto, what)
    read = _read_names(proto)
    for graph in list(graphs(proto)):
        graph.name = graph.name or "main"  # the checker insists on a name
        _leave_training_form(graph, read, version, what)
    _drop_inputs_with_numbers(proto.graph)
    for port in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        _mend_sizes(port)
    names = [(f.domain, f.name) for f in proto.functions]
    # The converter knows no functions, so those of another opset have to go before it.
    kept = [n for n in names if n[0] == _OWN or (version == OPSET and n in KEPT)]
    if len(kept) < len(names):
        proto = onnx.inliner.inline_selected_functions(proto, kept, exclude=True)
    for graph in list(graphs(proto)):
        batch_first.rewrite(graph)
    _check_form(proto, what)
    if version != OPSET:
        proto = _convert(proto, version, what)
    proto = _checked(_with_output_shapes(proto, what), what)
    if not _all_shapes_known(proto.graph):
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    return proto


def tidy(model: ir.Model) -> None:
    """Make initializers of Constant nodes, where paddle2onnx and older exporters keep weights; name every node.

    Running statistics are initializers of their own, which training moves: no Identity between, no other reader.
    """
    graph = model.graph
    _lift_weights(graph)
    for node in list(graph):
        value = node.outputs[0]
        numbers = ir.convenience.get_const_tensor(value) if node.op_type == "Constant" and node.domain == "" else None
        if numbers is None or value.is_graph_output() or not value.name:
            continue
        weight = initializer(value.name, numbers)
        value.replace_all_uses_with(weight)
        graph.remove(node, safe=True)
        graph.register_initializer(weight)
    _read_initializers_directly(graph)
    for node in graph:
        if node.op_type == "BatchNormalization" and node.domain == "":
            _own_statistics(graph, node)
    taken: set[str] = set()
    for node in graph.all_nodes():
        if not node.name or node.name in taken:
            base = next((v.name for v in node.outputs if v.name), None) or node.op_type
            node.name = next(n for n in _numbered(base) if n not in taken)
        taken.add(node.name)
    if TRAINABLE not in model.metadata_props:  # which lists parameters by the names that they have
        _name_by_layer(graph)


def _name_by_layer(graph: ir.Graph) -> None:
    """Call weights that lost their names after the layer that reads them first: `onnx::Conv_37` is `layer1.0.weight`.

    PyTorch's exporter numbers what it makes itself, as where it folds a BatchNormalization or transposes a Linear.
    """
    taken = _names(graph)
    for node in graph.all_nodes():
        layer, parts = layer_of(node.name or ""), _PARTS.get(node.op_type, ())
        for value, part in zip(node.inputs, parts, strict=False):
            lost = value is not None and value.is_initializer() and _NUMBERED.fullmatch(value.name or "")
            if value is not None and lost and layer and part and node.domain == "":
                value.name = next(n for n in _numbered(f"{layer}.{part}") if n not in taken)
                taken[value.name] += 1


def _names(graph: ir.Graph) -> Counter[str | None]:
    """How often a name is that of a value, in the graph and those inside."""
    parts = (graph, *graph.subgraphs())
    ports = [v.name for g in parts for v in (*g.inputs, *g.initializers.values())]
    return Counter([*ports, *(v.name for node in graph.all_nodes() for v in node.outputs)])


def _lift_weights(graph: ir.Graph) -> None:
    """Make what branches and loops hold of float32 arrays initializers of the model, which is where parameters are.

    A graph inside a node may read the initializers around it.
    """
    inner, taken = list(graph.subgraphs()), _names(graph)
    for part in inner:
        constants = [node.outputs[0] for node in part if node.op_type == "Constant" and node.domain == ""]
        for value in (*part.initializers.values(), *constants):
            numbers = ir.convenience.get_const_tensor(value)
            array = numbers is not None and numbers.dtype == ir.DataType.FLOAT and len(numbers.shape) > 0
            if not array or numbers is None or value.is_graph_output() or not value.name or not value.uses():
                continue
            taken[value.name] -= 1  # its own name stays free; both branches of an If may hold a `w`
            lifted = initializer(next(n for n in _numbered(value.name) if not taken[n]), numbers)
            taken[lifted.name] += 1
            graph.register_initializer(lifted)
            value.replace_all_uses_with(lifted)
            if (node := value.producer()) is not None:
                part.remove(node, safe=True)
            else:
                del part.initializers[value.name]


def _read_initializers_directly(graph: ir.Graph) -> None:
    """Leave out each Identity of an initializer; exporters write one where two layers share their numbers."""
    for node in list(graph):
        x, y = (node.inputs[0], node.outputs[0]) if node.op_type == "Identity" and node.domain == "" else (None, None)
        if x is not None and y is not None and x.is_initializer() and not y.is_graph_output():
            y.replace_all_uses_with(x)
            graph.remove(node, safe=True)


def _own_statistics(graph: ir.Graph, node: ir.Node) -> None:
    """Copy running mean and variance where something else reads them too, a scale of the same ones for example.

    A layer that is called twice has one mean and one variance; those stay.
    """
    for place, kind in ((3, "mean"), (4, "var")):
        value = node.inputs[place]
        if value is None or value.const_value is None or not value.is_initializer():
            continue
        if all(use.idx == place and use.node.op_type == node.op_type for use in value.uses()):
            continue
        name = next(n for n in _numbered(f"{value.name}.{kind}") if n not in graph.initializers)
        tensor = ir.Tensor(value.const_value.numpy().copy(), name=name)
        copy = ir.Value(name=name, type=value.type, shape=value.shape, const_value=tensor)
        graph.register_initializer(copy)
        node.replace_input_with(place, copy)


def _numbered(base: str) -> Iterator[str]:
    yield base
    yield from (f"{base}_{k}" for k in itertools.count(1))


def check(proto: onnx.ModelProto, what: str = "the model", *, full: bool = True) -> onnx.ModelProto:
    """`proto`, once the ONNX checker has passed it; in full, with its shapes. Raises ModelFileError."""
    try:
        onnx.checker.check_model(proto, full_check=full)
    except Exception as error:  # ValidationError, InferenceError, ValueError, RuntimeError: by what is wrong
        raise ModelFileError(f"{what} is not valid ONNX: {first_line(error)}", mend=_DAMAGED) from error
    return proto


# --- versions
def _settle_versions(proto: onnx.ModelProto, what: str) -> int:
    """One name for the standard domain, one IR version; returns the opset."""
    for opset in proto.opset_import:
        if opset.domain == "ai.onnx":
            opset.domain = ""
    version = next((o.version for o in proto.opset_import if o.domain == ""), None)
    if version is None:
        proto.opset_import.add(domain="", version=OPSET)
        version = OPSET
    if version < OLDEST:
        raise ModelFileError(
            f"{what} expected opset {OLDEST} or newer; found {version}", mend="Export it anew, with opset_version=13."
        )
    # Later IR versions allow more, never less, than those before; 10 is the last that older runtimes read.
    proto.ir_version = IR_VERSION
    return version


def _convert(proto: onnx.ModelProto, version: int, what: str) -> onnx.ModelProto:
    try:
        converted = onnx.version_converter.convert_version(proto, OPSET)
    except Exception as error:  # RuntimeError, or what the binding makes of a failed assertion
        operator = _named_in(str(error), proto)
        raise ModelFileError(
            f"{what} is of opset {version} and expected operators that can be converted to opset {OPSET}; "
            f"found {operator or 'one'} that cannot: {first_line(error)}",
            mend=f"Export it anew, with opset_version={OPSET}.",
        ) from error
    if not converted.metadata_props:
        converted.metadata_props.extend(proto.metadata_props)
    return converted


def _named_in(message: str, proto: onnx.ModelProto) -> str | None:
    """The operator that a message of the converter is about: `Upsample`, or `adapt_upsample_9_10`."""
    words = re.sub(r"[^a-z0-9]", "", message.lower())
    found = [n.op_type for n in nodes(proto) if n.op_type.lower() in words]
    return max(found, key=len, default=None)  # MaxPool rather than Max


# --- shapes
def _mend_sizes(port: onnx.ValueInfoProto) -> None:
    """Sizes of 0 or less, and names that say only that a size is unknown, become unknown sizes.

    Two dimensions of one name have one size; PaddlePaddle calls all that it does not know '?'.
    """
    for dim in port.type.tensor_type.shape.dim:
        if (dim.HasField("dim_value") and dim.dim_value <= 0) or dim.dim_param in ("?", "-1", "None", "0"):
            dim.Clear()


def _checked(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """`proto` checked in full; shapes that an exporter noted and that are wrong are left out."""
    try:
        return check(proto, what)
    except ModelFileError as error:
        if "InferenceError" not in f"{type(error.__cause__).__name__} {error.problem}":
            raise
    del proto.graph.value_info[:]
    try:
        return check(proto, what)
    except ModelFileError:
        for output in proto.graph.output:
            output.type.tensor_type.ClearField("shape")
    # The checker insists on the shape of an output: inference finds it, or its rank stays unknown and is an error.
    return check(onnx.shape_inference.infer_shapes(proto, data_prop=True), what)


def _check_form(proto: onnx.ModelProto, what: str) -> None:
    """Check all but shapes, so that the converter gets no graph that it would stumble over."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    for output in copy.graph.output:
        if _lacks_shape(output):  # the checker insists on one; which one it cannot tell yet
            output.type.tensor_type.elem_type = output.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
            output.type.tensor_type.shape.SetInParent()
    check(copy, what, full=False)


def _with_output_shapes(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """The checker insists on type and rank of every output; many exporters leave them out."""

    def unknown(proto: onnx.ModelProto) -> list[str]:
        return [v.name for v in proto.graph.output if _lacks_shape(v)]

    if not unknown(proto):
        return proto
    for output in proto.graph.output:
        if not output.type.WhichOneof("value"):
            output.type.tensor_type.SetInParent()
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    if names := unknown(proto):
        raise ModelFileError(
            f"{what} expected outputs of known type and rank; found {names[0]!r}, of which neither the file nor ONNX's "
            "shape inference says them",
            mend="Export it anew with shapes: onnx.shape_inference, or symbolic_shape_infer of ONNX Runtime.",
        )
    return proto


def _lacks_shape(port: onnx.ValueInfoProto) -> bool:
    kind = port.type
    return not kind.WhichOneof("value") or (
        kind.HasField("tensor_type") and not (kind.tensor_type.HasField("shape") and kind.tensor_type.elem_type)
    )


def _all_shapes_known(graph: onnx.GraphProto) -> bool:
    """Whether every value of the main graph has a type and a shape."""
    known = {v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")}
    return all(name in known for node in graph.node if node.op_type != "Constant" for name in node.output if name)


# --- weights among the inputs
def _drop_inputs_with_numbers(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was an input too, so that a caller could give another one."""
    numbers = {t.name for t in graph.initializer}
    kept = [v for v in graph.input if v.name not in numbers]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


# --- operators in their training form
def _leave_training_form(graph: onnx.GraphProto, read: set[str], version: int, what: str) -> None:
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        expanded = None
        if node.domain in ("", "ai.onnx") and node.op_type == "BatchNormalization":
            expanded = _batch_norm(node, graph, read, what)
        elif node.domain in ("", "ai.onnx") and node.op_type == "Dropout" and version >= 12:
            del node.input[2:]  # training_mode
        kept.extend(expanded or [node])
    if len(kept) != len(graph.node):
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _batch_norm(node: onnx.NodeProto, graph: onnx.GraphProto, read: set[str], what: str) -> list[onnx.NodeProto] | None:
    """The inference form of a BatchNormalization: one output. Returns nodes to put in its place, or None."""
    if used := [name for name in node.output[1:] if name in read]:
        raise ModelFileError(
            f"{what}: BatchNormalization {node.name!r} expected its inference form; something reads {used[0]!r}, the "
            "statistics of a batch",
            mend="Export the model for inference: model.eval() in PyTorch, training=False in Keras.",
        )
    del node.output[1:]
    spatial = next((a.i for a in node.attribute if a.name == "spatial"), 1)
    plain = [a for a in node.attribute if a.name not in ("spatial", "training_mode")]
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    del node.attribute[:]
    node.attribute.extend(plain)
    ranks = {t.name: len(t.dims) for t in graph.initializer}
    if spatial == 1 or ranks.get(node.input[1]) == 1:  # of rank 1: a channel each, which is what spatial=1 means
        return None
    return list(_per_element(node, epsilon))


def _per_element(node: onnx.NodeProto, epsilon: float) -> Iterator[onnx.NodeProto]:
    """y = (x - mean) / sqrt(var + epsilon) * scale + bias, each element by its own statistics (spatial=0)."""
    x, scale, bias, mean, var = node.input
    (y,) = node.output
    tensor = onnx.numpy_helper.from_array(np.array(epsilon, np.float32))
    make = onnx.helper.make_node
    yield make("Constant", [], [f"{y}.epsilon"], value=tensor)
    for op_type, inputs, output in (
        ("Add", (var, f"{y}.epsilon"), f"{y}.var"),
        ("Sqrt", (f"{y}.var",), f"{y}.std"),
        ("Sub", (x, mean), f"{y}.centred"),
        ("Div", (f"{y}.centred", f"{y}.std"), f"{y}.normal"),
        ("Mul", (f"{y}.normal", scale), f"{y}.scaled"),
        ("Add", (f"{y}.scaled", bias), y),
    ):
        yield make(op_type, list(inputs), [output], name=f"{node.name or y}.{op_type}")


def _read_names(proto: onnx.ModelProto) -> set[str]:
    """Every name that a node reads or a graph gives out."""
    read = {name for node in nodes(proto) for name in node.input}
    return read | {v.name for graph in graphs(proto) for v in graph.output}
