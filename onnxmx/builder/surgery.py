"""Changing a finished model: freeze, cut, another head, a layer in between, other names and sizes, two models in one.

    body = mx.load("resnet.onnx").cut("features")
    model = body.replace_head("features", L.Dense(10)).freeze("features.*")

Each returns a new, checked model and leaves the old one as it was. A place is named by a value, or by a layer, which
stands for the last value that it computes.
"""

from __future__ import annotations

import fnmatch
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder import weights
from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.foreign import check
from onnxmx.builder.graft import free, graft, value_names
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import beyond
from onnxmx.builder.metadata import CHECKPOINT, TRAINABLE
from onnxmx.builder.resize import infer_anew, with_sizes
from onnxmx.builder.source import user_line
from onnxmx.builder.summary import with_layers
from onnxmx.builder.values import Dim, agree, describe, dims, initializer, show_shape
from onnxmx.errors import GraphError, ModelFileError, OnnxmxWarning, ShapeError, UsageError, unknown_name

Net = Layer | Callable[[Value], Value]


class Surgery:
    """The changes, as methods of Model."""

    def __init__(self, model: ir.Model) -> None:
        self.ir = model

    # --- what training changes
    @property
    def trainable(self) -> list[str]:
        """The names of the parameters that training changes."""
        return weights.trainable(self.ir.graph, self._listed())

    def _listed(self) -> list[str] | None:
        """What the file itself calls trainable, or None where it does not say."""
        text = self.ir.metadata_props.get(TRAINABLE)
        return None if text is None else _names(text)

    @checked_arguments
    def freeze(self, *patterns: str) -> Self:
        """Training leaves the parameters alone that a pattern names: `encoder`, `encoder.0.*`, `*.bias`.

        Batch normalization whose weight and bias are frozen normalizes in training as it infers, and keeps its
        running statistics.
        Raises UsageError where a pattern names no parameter.
        """
        frozen = _matching(patterns, weights.parameters(self.ir.graph, self._listed()))
        copy = self._copy()
        return self._finish(copy, [name for name in self.trainable if name not in frozen])

    @checked_arguments
    def unfreeze(self, *patterns: str) -> Self:
        """Training changes the parameters again that a pattern names; running statistics are none of them."""
        able = weights.trainable_at_all(self.ir.graph, self._listed())
        wanted = _matching(patterns, able) | set(self.trainable)
        return self._finish(self._copy(), [name for name in able if name in wanted])

    @checked_arguments
    def checkpoint(self, *patterns: str) -> Self:
        """Training computes what is inside the layers named again instead of keeping it: `stage1.0`, `layer*.*`.

        A pattern stands for whole layers, part by part of their path; each is a region of its own. It pays for those
        that hold several layers and end where little data flows.   Source: Chen et al. 2016.
        Raises UsageError where a pattern names no layer.
        """
        copy = self._copy()
        layers: dict[str, list[ir.Node]] = {}
        for node, path in with_layers(copy.graph):
            parts = path.split(".") if path else []
            for k in range(len(parts)):
                layers.setdefault(".".join(parts[: k + 1]), []).append(node)
        for pattern in patterns:
            found = [p for p in layers if p.count(".") == pattern.count(".") and fnmatch.fnmatchcase(p, pattern)]
            if not found:
                raise unknown_name("layer", pattern, layers, at=user_line())
            for path in found:
                for node in layers[path]:
                    node.metadata_props[CHECKPOINT] = path
        return self._finish(copy)

    # --- parts
    @checked_arguments
    def cut(self, name: str, *names: str) -> Self:
        """The model up to values, which become its only outputs. What only later parts need is left out."""
        copy = self._copy()
        values = [_computed(copy.graph, n) for n in dict.fromkeys((name, *names))]
        copy.graph.outputs.clear()
        copy.graph.outputs.extend(values)
        return self._finish(_pruned(copy))

    @checked_arguments
    def replace_head(self, name: str, head: Net, *, seed: int = 0) -> Self:
        """The model up to a value, and `head` on it. The output keeps its name where there was one output.

        name: what the head reads, and so what stays. head: a layer or a function of a value. Its parameters are called
        `head.*`, or as the layer is named.   seed: what they are drawn from.
        Warns where `name` is the dense layer that makes the output: other libraries would take that one away.
        """
        _warn_of_logits(self.ir.graph, name)
        output = self.ir.graph.outputs[0].name if len(self.ir.graph.outputs) == 1 else "output"
        body = self.cut(name)
        copy, trained = body._copy(), body.trainable
        value = copy.graph.outputs[0]
        if value.name == output:
            value.name = free(output or "", value_names(copy.graph))
        made, names = _build(head, value, copy.graph, "head", seed)
        copy.graph.outputs.clear()
        (y,) = graft(copy, made, {"x": value}).values()
        y.name = output
        copy.graph.outputs.append(y)
        return self._finish(copy, [*trained, *names])

    @checked_arguments
    def insert(self, name: str, layer: Net, *, seed: int = 0) -> Self:
        """`layer` between a value and everything that reads it. Raises ShapeError where what follows does not fit."""
        copy = self._copy()
        graph = copy.graph
        value = find(graph, name)
        readers = [(use.node, use.idx) for use in value.uses()]
        made, names = _build(layer, value, graph, _kind(layer), seed)
        (y,) = graft(copy, made, {"x": value}).values()
        for node, place in readers:
            node.replace_input_with(place, y)
        if value.is_graph_output():
            public = value.name or ""
            value.name = free(public, value_names(graph))
            y.name = public
            graph.outputs[list(graph.outputs).index(value)] = y
        graph.sort()
        return self._finish(infer_anew(copy), [*self.trainable, *names])

    @checked_arguments
    def merge(self, other: Surgery, connect: dict[str, str], *, prefix: str = "") -> Self:
        """Both models as one: outputs of this one become inputs of the other.

        connect: {output of this model: input of the other}. Inputs of the other that are not named stay inputs;
        outputs that are not named stay outputs.
        prefix: put before the names of the other's parameters and layers. A name that is taken gets a number.
        """
        copy, second = self._copy(), other._copy()
        ours = {v.name or "": v for v in copy.graph.outputs}
        theirs = {v.name or "": v for v in second.graph.inputs}
        for mine, its in connect.items():
            _known("output", mine, ours)
            _known("input", its, theirs)
        parameters = [second.graph.initializers[name] for name in other.trainable]
        if prefix:
            _put_before(second.graph, f"{prefix}.")
        results = graft(copy, second, {its: ours[mine] for mine, its in connect.items()})
        kept = [v for name, v in ours.items() if name not in connect]
        copy.graph.outputs.clear()
        copy.graph.outputs.extend([*kept, *results.values()])
        return self._finish(infer_anew(copy), [*self.trainable, *(v.name or "" for v in parameters)])

    # --- names and sizes
    @checked_arguments
    def rename(self, names: dict[str, str]) -> Self:
        """Inputs, outputs and parameters by other names. names: {old: new}.

        Raises UsageError for a name that is not there, and for a new one that is taken.
        """
        copy = self._copy()
        graph = copy.graph
        known = {v.name or "": v for v in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
        values = {old: known[_known("input, output or parameter", old, known)] for old in names}
        taken = value_names(graph) - set(names)
        for new in names.values():
            if not new or new in taken:
                raise UsageError(
                    f"rename expected names that are free; found {new!r}", at=user_line(), mend="Use another."
                )
            taken = taken | {new}
        trained = [names.get(name, name) for name in self.trainable]
        for value in values.values():
            if value.is_initializer():
                del graph.initializers[value.name or ""]
        for new, value in zip(names.values(), values.values(), strict=True):
            value.name = new
            if value.const_value is not None:
                value.const_value.name = new
                graph.register_initializer(value)
        return self._finish(copy, trained)

    def resize(self, **inputs: Sequence[Dim]) -> Self:
        """Other input sizes; the name of a symbolic dimension makes a size free. All shapes are inferred anew.

            model.resize(image=("batch", 3, 320, 320))

        A constant of a Reshape that holds the old size is mended where the size stays in its place.
        Raises ShapeError where the model cannot have these sizes.
        """
        for name in inputs:
            _known("input", name, {v.name or "": v for v in self.ir.graph.inputs})
        return self._finish(with_sizes(self._copy(), inputs))

    def fix(self, **inputs: Any) -> Self:
        """Inputs that are always the same become constants.

            model.fix(sr=16000)

        inputs: by name, numbers or arrays of the input's element type and shape. Raises UsageError for others.
        """
        copy = self._copy()
        ports = {v.name or "": v for v in copy.graph.inputs}
        for name, given in inputs.items():
            _known("input", name, ports)
            port, array = ports[name], np.asarray(given)
            dtype = array.dtype if port.dtype is None else port.dtype.numpy()
            fits = port.shape is None or agree(dims(port.shape), array.shape)
            if not fits or not np.can_cast(array.dtype, dtype, "same_kind") or beyond(dtype, array).any():
                raise UsageError(
                    f"input {name!r} expected {describe(port)}; found {array.dtype} {show_shape(array.shape)}",
                    at=user_line(),
                    mend="Give a number or an array of that type and shape.",
                )
            number = initializer(free(f"const.{name}", value_names(copy.graph)), ir.Tensor(array.astype(dtype)))
            port.replace_all_uses_with(number, replace_graph_outputs=True)
            copy.graph.register_initializer(number)
            copy.graph.inputs.remove(port)
        return self._finish(copy)

    # --- how each begins and ends
    def _copy(self) -> ir.Model:
        return ir.from_proto(ir.to_proto(self.ir))

    def _finish(self, model: ir.Model, trained: Iterable[str] | None = None) -> Self:
        """A checked Model. trained: what training changes; None: as before, of what is left."""
        names = self.trainable if trained is None else trained
        model.metadata_props[TRAINABLE] = json.dumps([n for n in names if n in model.graph.initializers])
        return type(self)(ir.from_proto(check(ir.to_proto(model), "the changed model")))


def _names(text: str) -> list[str]:
    """A list of names from a file's metadata. Raises ModelFileError."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ModelFileError(
            f"{TRAINABLE} expected a list of names; found {text[:80]!r}",
            mend="The file may be damaged: copy or export it again.",
        )
    return names


def _matching(patterns: tuple[str, ...], names: Iterable[str]) -> set[str]:
    """The names that a pattern matches, by themselves or by the layer that they are in."""
    names, found = list(names), set()
    for pattern in patterns:
        matched = {n for n in names if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n, f"{pattern}.*")}
        if not matched:
            raise unknown_name("parameter", pattern, names, at=user_line())
        found |= matched
    return found


def _known(kind: str, name: str, options: dict[str, Any]) -> str:
    if name not in options:
        raise unknown_name(kind, name, options, at=user_line())
    return name


def find(graph: ir.Graph, name: str, *, parameters: bool = False) -> ir.Value:
    """The value of that name, or the last one that the layer of that name computes. Raises UsageError for no such name.

    parameters: whether it may be an initializer too.
    """
    values = {v.name: v for v in (*graph.inputs, *(v for node in graph for v in node.outputs)) if v.name}
    if parameters:
        values |= {name: v for name, v in graph.initializers.items() if not name.startswith("const.")}
    if name in values:
        return values[name]
    layers: dict[str, ir.Value] = {}
    for node, path in with_layers(graph):
        while path:
            layers[path] = node.outputs[0]
            path = path.rpartition(".")[0]
    if name not in layers:
        raise unknown_name("value or layer", name, {*values, *layers}, at=user_line())
    return layers[name]


def _warn_of_logits(graph: ir.Graph, name: str) -> None:
    """Tells who names the layer that makes the logits that the new head comes on top of it."""
    value = find(graph, name)
    made_by = getattr(value.producer(), "op_type", None)
    if name == value.name or not value.is_graph_output() or made_by not in ("Gemm", "MatMul", "Add"):
        return
    inside = [n for n, path in with_layers(graph) if path == name or path.startswith(f"{name}.")]
    read = [x.name for n in inside for x in n.inputs if x is not None and x.producer() not in (None, *inside)]
    instead = f"to replace it, name what it reads: replace_head({read[0]!r}, ...); " if read else ""
    warnings.warn(
        f"replace_head({name!r}) puts the head on top of {name}, which makes the model's output; {instead}"
        f"if that is meant, name the output: replace_head({value.name!r}, ...)",
        OnnxmxWarning,
        stacklevel=4,  # past the check of the arguments
    )


def _computed(graph: ir.Graph, name: str) -> ir.Value:
    value = find(graph, name)
    if value.producer() is None:
        raise GraphError(
            f"cut expected a value that the model computes; found its input {name!r}",
            at=user_line(),
            mend="Cut at a later value.",
        )
    if value.dtype is None or value.shape is None:
        raise ShapeError(
            f"cut expected a value of known type and rank; found {name!r}, of which ONNX knows neither",
            at=user_line(),
            mend="Cut at another value.",
        )
    return value


def _pruned(model: ir.Model) -> ir.Model:
    """Without the nodes, parameters, functions and inputs that nothing reads."""
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    for port in list(model.graph.inputs):
        if not port.uses() and not port.is_graph_output():
            model.graph.inputs.remove(port)
    return model


def _build(net: Net, value: ir.Value, graph: ir.Graph, path: str, seed: int) -> tuple[ir.Model, list[str]]:
    """`net` as a model of its own from an input `x` like `value`, and the names of what training changes in it."""
    if isinstance(net, Surgery):
        raise UsageError(
            f"expected a layer or a function of a value; found {net!r}",
            at=user_line(),
            mend="Give the layer that it was built of, or put two models together with merge.",
        )
    if not callable(net) or isinstance(net, type):
        raise UsageError(
            f"expected a layer or a function of a value; found {net!r}", at=user_line(), mend="L.Dense(10)"
        )
    if value.shape is None or value.dtype is None:
        raise ShapeError(f"{value.name!r} expected a known type and rank; found {describe(value)}", at=user_line())
    names = value_names(graph)
    prefixes = {name[:k] for name in names for k, c in enumerate(name) if c == "."}
    path = free((net.name if isinstance(net, Layer) else None) or path, prefixes | names)
    g = GraphBuilder()
    g.seed = seed
    x = g.input("x", dims(value.shape), value.dtype)
    if isinstance(net, Layer):
        y = net._call(path, x)
    else:
        with g.scope(path):
            y = net(x)
    if not isinstance(y, Value):
        raise GraphError(f"{_kind(net)} expected to return a graph value; found {y!r}", at=user_line())
    g.output(y, f"{path}.output")
    trained = [name for name, v in g.graph.initializers.items() if v.meta.get("trainable")]
    return ir.from_proto(ir.to_proto(g.model())), trained


def _kind(net: Net) -> str:
    return type(net).__name__.lower() if isinstance(net, Layer) else "inserted"


def _put_before(graph: ir.Graph, prefix: str) -> None:
    """Put `prefix` before all names but those of inputs, outputs and constants."""
    ports = {*graph.inputs, *graph.outputs}
    for name, value in list(graph.initializers.items()):
        if not name.startswith("const."):
            del graph.initializers[name]
            value.name = prefix + name
            if value.const_value is not None:
                value.const_value.name = value.name
            graph.register_initializer(value)
    for node in graph:
        node.name = prefix + (node.name or node.op_type)
        for value in node.outputs:
            if value.name and value not in ports:
                value.name = prefix + value.name
