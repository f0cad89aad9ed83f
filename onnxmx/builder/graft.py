"""One graph put onto another: its nodes, parameters, functions, under names that are still free."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxmx.builder.values import agree, describe
from onnxmx.errors import GraphError, ShapeError


def value_names(graph: ir.Graph) -> set[str]:
    """Every name that a value or a node of the graph has."""
    values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    return {v.name for v in values if v.name} | {node.name for node in graph if node.name}


def graft(onto: ir.Model, model: ir.Model, inputs: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Move the graph of `model` to the end of that of `onto`, and return what its outputs became, by their names.

    inputs: for inputs of `model`, the values of `onto` that take their places; inputs left out become inputs of
    `onto`. `model` is used up. A name that `onto` has already gets a number.
    Raises ShapeError where a value does not fit its input, GraphError for two definitions of one function.
    """
    graph = model.graph
    for port in graph.inputs:
        if (name := port.name or "") in inputs:
            _check_fit(port, inputs[name])
    _take_functions(onto, model)
    outputs = {v.name or "": v for v in graph.outputs}
    ports, nodes = list(graph.inputs), list(graph)
    graph.outputs.clear()
    graph.inputs.clear()
    graph.remove(nodes)
    _rename(ports, nodes, graph, value_names(onto.graph))
    for port, name in zip(ports, [p.meta["port"] for p in ports], strict=True):
        if name in inputs:
            port.replace_all_uses_with(inputs[name])
        else:
            onto.graph.inputs.append(port)
    for name, value in list(graph.initializers.items()):
        del graph.initializers[name]
        if (same := _same_constant(onto.graph, value)) is not None:
            value.replace_all_uses_with(same)
        else:
            onto.graph.register_initializer(value)
    onto.graph.extend(nodes)
    return {name: inputs.get(value.meta.get("port", ""), value) for name, value in outputs.items()}


def _rename(ports: list[ir.Value], nodes: list[ir.Node], graph: ir.Graph, taken: set[str]) -> None:
    """Give a new name to what has one that is taken."""
    for port in ports:
        port.meta["port"] = port.name
    for value in (*ports, *list(graph.initializers.values()), *(v for node in nodes for v in node.outputs)):
        if value.name in taken and not _is_constant(value):
            value.name = free(value.name, taken)
        taken.add(value.name or "")
    names = {node.name or "" for node in nodes}
    for node in nodes:
        if node.name in taken and node.name not in {v.name for v in node.outputs}:
            node.name = free(node.name, taken | names)
        taken.add(node.name or "")


def free(name: str, taken: set[str] | frozenset[str]) -> str:
    """`name`, or the first of `name_1`, `name_2` ... that is not taken."""
    count, candidate = 0, name
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and (value.name or "").startswith("const.")


def _same_constant(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """The constant of `graph` that is what `value` is: the builder writes equal constants once."""
    name = value.name or ""
    if not name.startswith("const.") or name not in graph.initializers:
        return None
    there = graph.initializers[name]
    if there.const_value is not None and value.const_value is not None:
        x, y = there.const_value.numpy(), value.const_value.numpy()
        if x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes():
            return there
    value.name = free(name, value_names(graph))
    return None


def _take_functions(onto: ir.Model, model: ir.Model) -> None:
    for key, function in model.functions.items():
        if key in onto.functions:
            if ir.to_proto(onto.functions[key]) != ir.to_proto(function):
                raise GraphError(
                    f"the models expected one definition of {key[0]}.{key[1]}; found two",
                    mend="Build both with one version of the function.",
                )
        else:
            onto.functions[key] = function
    for domain, version in model.graph.opset_imports.items():
        if onto.graph.opset_imports.setdefault(domain, version) != version:
            raise GraphError(
                f"the models expected one version of the operators {domain!r}; found "
                f"{onto.graph.opset_imports[domain]} and {version}",
                mend="Export both with one version.",
            )


def _check_fit(port: ir.Value, value: ir.Value) -> None:
    """A symbolic dimension takes any size; two numbers must be the same."""
    fits = port.dtype == value.dtype or None in (port.dtype, value.dtype)
    if fits and port.shape is not None and value.shape is not None:
        fits = agree(port.shape, value.shape)
    if not fits:
        raise ShapeError(
            f"input {port.name!r} expected {describe(port)}; found {describe(value)} of {value.name!r}",
            mend="Cut at another value, or put a layer between the two.",
        )
