"""The second engine: onnxruntime-training, retired in 2024, makes the gradients and runs the step with its own kernels.

Its gradient graph is of `com.microsoft` operators, so such a step is no plain ONNX file and runs on this package
alone. Clipping, schedules and optimizers are those of every step. The package's own Python side would import torch;
only its compiled gradient builder is used.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder.functions import Function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.metadata import CHECKPOINT
from onnxmx.builder.ops import INT64, UINT32, Arg
from onnxmx.builder.session import runtime
from onnxmx.errors import GradientError, GraphError, MissingExtraError, first_line
from onnxmx.trainer.engine.ort import OrtEngine
from onnxmx.trainer.step import Differentiator

NAME = "ort-training"
_DOMAIN = "com.microsoft"
_MEND = "Train with the default engine, which has it: --engine ort, or engine='ort' in mx.fit."

# What the gradient of an operator reads besides its usual outputs: the form that keeps it, and how many outputs.
_KEEPING = {
    "LSTM": (_DOMAIN, "LSTMTraining", 5),  # all cell states, and the gates
    "GRU": (_DOMAIN, "GRUTraining", 3),  # the gates
    "LayerNormalization": ("", "LayerNormalization", 3),  # mean and inverse deviation
}

_STATES = {"LSTM": range(5, 7), "GRU": range(5, 6)}
"""Which inputs of a recurrent operator are its initial states."""


def differentiator() -> Differentiator:
    """onnxruntime-training as who makes a step's gradients. Raises MissingExtraError without the package."""
    _gradient_graph_builder()
    return Differentiator(NAME, FlatBuilder, gradients, plain=False)


class OrtTrainingEngine(OrtEngine):
    """Runs such a step. Raises GradientError where the package has no kernel for an operator of its own."""

    _blocks = _holds = False  # an oracle of the default engine shares nothing with it

    def _open(self, data: bytes, **options: Any) -> Any:
        try:
            return super()._open(data, **options)
        except GraphError as error:
            if missing := re.search(r"implementation for (\w+)\(", str(error)):
                raise _refusal(f"kernel for {missing[1]}") from error
            raise


class FlatBuilder(GraphBuilder):
    """Builds without functions, whose insides the gradient builder does not see, and with every state spelled out."""

    def call(self, function: Function, inputs: Sequence[Arg], attributes: dict[str, Any]) -> tuple[Value, ...]:
        """The body of `function` in place of a node that calls it."""
        with self.scope(function.name):
            outputs = function.trace(self, *inputs, **attributes)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def ops(self, op_type: str, *inputs: Arg, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        """Add a node, with the inputs that ONNX lets it leave out. Raises GradientError for `_unsupported` ones."""
        if what := _unsupported(op_type, inputs, attributes):
            raise _refusal(f"gradient for {what}")
        if op_type in _STATES:
            starts = [inputs[k] if len(inputs) > k else None for k in _STATES[op_type]]
            zeros = [self._zeros(inputs[0], inputs[2]) if s is None else s for s in starts]
            inputs = (*inputs[:4], *(None,) * (5 - len(inputs[:4])), *zeros)
        if op_type == "LayerNormalization" and len(inputs) == 2:
            inputs = (*inputs, np.zeros(_shape(inputs[1]), np.float32))
        if op_type in ("Mul", "Add") and any(isinstance(x, ir.Value) and x.dtype == UINT32 for x in inputs):
            # Random numbers. It has no uint32 kernel; the low words of int64 are the same numbers.
            return (self.cast(self.op(op_type, *(self.cast(x, INT64) for x in inputs)), UINT32),)
        return super().ops(op_type, *inputs, outputs=outputs, **attributes)

    def _zeros(self, x: Arg, r: Arg) -> Value:
        """An initial state (directions, batch, units).   x: (time, batch, n)   r: (directions, gates units, units)"""
        directions, _, units = (np.array([n], np.int64) for n in _shape(r))
        shape = self.concat([directions, self.op("Shape", x, start=1, end=2), units], 0)
        return self.op("Expand", np.zeros((1, 1, 1), np.float32), shape)


def gradients(g: GraphBuilder, of: ir.Value, wrt: Sequence[ir.Value]) -> list[ir.Value | None]:
    """As `autodiff.gradients`, made by onnxruntime-training: it adds its nodes to `g`, in forms that keep what its
    kernels read. Raises GradientError where it has no gradient for an operator on the way.
    """
    for node in g.graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise _refusal(f"gradient for {node.op_type}")
        if CHECKPOINT in node.metadata_props:
            raise _refusal("way to compute activations again, as a layer with checkpoint=True asks")
    needed = _needed(g, of)
    reached = [w for w in wrt if w in needed]
    proto = ir.to_proto(g.model())
    proto.graph.output.append(ir.serde.serialize_value(of))
    for node in proto.graph.node:
        if form := _KEEPING.get(node.op_type):
            node.domain, node.op_type, count = form
            node.output.extend("" for _ in range(len(node.output), min(count, 3)))
            node.output[:] = [name or f"{node.name}.kept{k}" for k, name in enumerate(node.output)]
            node.output.extend(f"{node.name}.kept{k}" for k in range(len(node.output), count))
    proto.opset_import.add(domain=_DOMAIN, version=1)
    builder = _gradient_graph_builder()
    name = of.name or ""
    try:
        made = builder(proto.SerializeToString(), {name}, {w.name for w in reached}, name)
        made.build()
    except RuntimeError as error:
        if missing := re.search(r"has not been registered: ?(\w+)", str(error)):
            raise _refusal(f"gradient for {missing[1]}") from error
        # It starts with where in its own source it stopped, and ends with why.
        why = re.split(r"was false\. | const (?=[A-Z])|Error: ", first_line(error))[-1]
        raise GradientError(f"onnxruntime-training could not differentiate this model: {why}", mend=_MEND) from error
    values = _adopt(g, ir.from_proto(onnx.load_from_string(made.get_model())).graph)
    found = [values[f"{w.name}_grad"] if w in reached else None for w in wrt]
    for w, dw in zip(wrt, found, strict=True):
        if dw is not None:
            dw.type, dw.shape = w.type, w.shape
    return found


def _adopt(g: GraphBuilder, made: ir.Graph) -> dict[str, ir.Value]:
    """Move what is new or changed in `made`, a graph that was made of that of `g`, over to `g`; all values by name."""
    ports = [*g.graph.inputs, *g.graph.initializers.values()]
    values = {v.name or "": v for v in (*ports, *(y for node in g.graph for y in node.outputs))}
    for name, value in list(made.initializers.items()):
        if name not in values:
            del made.initializers[name]
            g.graph.register_initializer(value)
            values[name] = value
    for node in list(made):
        former = values.get(node.outputs[0].name or "")
        replaced = former.producer() if former is not None else None
        if replaced is not None and len(replaced.outputs) == len(node.outputs):
            continue  # as it was
        made.remove(node)
        for k, x in enumerate(node.inputs):
            node.replace_input_with(k, None if x is None else values[x.name or ""])
        for y in node.outputs:
            if y.name and y.name in values:
                ir.convenience.replace_all_uses_with(values[y.name], y)
            values[y.name or ""] = y
        if replaced is not None:
            g.graph.remove(replaced)
        g.graph.append(node)
        g.graph.opset_imports.setdefault(node.domain, 1)
    g.graph.sort()
    return values


def _needed(g: GraphBuilder, of: ir.Value) -> set[ir.Value | None]:
    """Every value that `of` is computed from."""
    needed: set[ir.Value | None] = {of}
    for node in reversed(list(g.graph)):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
    return needed


def _gradient_graph_builder() -> Any:
    ort = runtime()
    try:
        from onnxruntime.capi._pybind_state import GradientGraphBuilder  # type: ignore[attr-defined]
    except ImportError:
        raise MissingExtraError(
            "onnxruntime-training",
            NAME,
            "The engine 'ort-training'",
            note="in an environment of its own, of Python 3.11",
        ) from None
    options = ort.SessionOptions()
    options.log_severity_level = 3  # else it reports each of its passes on stderr
    return functools.partial(GradientGraphBuilder, options=options)


def _unsupported(op_type: str, inputs: Sequence[Arg], attributes: dict[str, Any]) -> str | None:
    """What of an operator the package differentiates wrongly, some of it without a word; `make oracle` found these."""
    if op_type in _STATES:
        others = (*inputs[4:5], *inputs[_STATES[op_type].stop :])  # lengths and peepholes
        if attributes.get("direction", "forward") != "forward" or any(x is not None for x in others):
            return f"{op_type} with lengths, peepholes or two directions"
    if op_type == "AveragePool" and isinstance(x := inputs[0], ir.Value) and (x.shape is None or x.shape.is_dynamic()):
        return "AveragePool where the batch is symbolic"
    if op_type == "Gelu" and attributes.get("approximate") == "tanh":
        return "Gelu with approximate='tanh'"
    return None


def _shape(x: Arg) -> tuple[int, ...]:
    """The shape of a weight."""
    assert isinstance(x, ir.Value)
    assert x.shape is not None
    return x.shape.numpy()


def _refusal(what: str) -> GradientError:
    return GradientError(f"onnxruntime-training has no {what}", mend=_MEND)
