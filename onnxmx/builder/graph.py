"""GraphBuilder: a graph under construction, typed node by node.

Every call adds one node and infers its output's type and shape at once, so a mistake is reported at the user's line
and not when the finished file is loaded. Names follow the scope (`encoder.0.weight`), and each node keeps the line
of the user's code that asked for it in its metadata (`onnxmx.source`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnx_ir as ir

from onnxmx.builder import batch_first, inference
from onnxmx.builder import init as initializers
from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.graft import value_names
from onnxmx.builder.inference import IR_VERSION, OPSET, InputTypes
from onnxmx.builder.init import Initializer
from onnxmx.builder.literals import dtype_beside, holds, is_size, spell
from onnxmx.builder.metadata import CHECKPOINT, SOURCE
from onnxmx.builder.ops import Arg, Ops
from onnxmx.builder.scopes import Scopes
from onnxmx.builder.substitutes import SUBSTITUTES
from onnxmx.builder.values import Dim, Value, describe, show_shape
from onnxmx.errors import GraphError, ShapeError, UsageError

if TYPE_CHECKING:
    from onnxmx.builder.functions import Function

__all__ = ["DOMAIN", "IR_VERSION", "OPSET", "Dim", "GraphBuilder", "Value", "describe", "show_shape"]

DOMAIN = "ai.onnxmx"
"""The domain of the functions that this product defines inside its files."""


class GraphBuilder(Scopes, Ops):
    """Builds one ONNX graph.

    graph: the graph so far, an `onnx_ir.Graph`.
    functions: the `ai.onnxmx` functions that its nodes use, by name.
    seed: what the parameters are drawn from.
    device: where the graph is to run, "cpu" or "cuda"; what computes the same there takes the place of missing kernels.
    """

    def __init__(self, name: str = "main") -> None:
        super().__init__()
        self.graph = ir.Graph((), (), nodes=(), name=name, opset_imports={"": OPSET})
        self.functions: dict[str, ir.Function] = {}
        self.seed = 0
        self.device = "cpu"
        self._constants: dict[tuple[Any, ...], Value] = {}
        self._parameters: dict[str, Value] = {}

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f'the builder has no method {name!r}: any operator of ONNX is builder.op("Name", x), such as '
            f'builder.op("Sigmoid", x)'
        )

    @classmethod
    def on(cls, model: ir.Model) -> GraphBuilder:
        """What adds to the end of the graph of a finished model."""
        g = cls()
        g.graph = model.graph
        g._taken.update(value_names(g.graph))
        return g

    # --- what a graph is made of
    def input(self, name: str, shape: Sequence[Dim], dtype: ir.DataType = ir.DataType.FLOAT) -> Value:
        """A graph input. shape: integers, names of symbolic dimensions, or None for unknown ones."""
        value = self._value(self._claim(name), ir.TensorType(dtype), ir.Shape(self._check_input(name, shape)))
        self.graph.inputs.append(value)
        return value

    def _check_input(self, name: str, shape: Sequence[Dim]) -> list[Dim]:
        sizes = list(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else None
        if not name or sizes is None or not all(d is None or (isinstance(d, str) and d) or is_size(d) for d in sizes):
            raise UsageError(
                f"input {name!r} expected a name and a shape of positive integers, names or None; found {shape!r}",
                at=self.source(),
                mend=f"For example {name or 'image'}=('batch', 784).",
            )
        return [int(d) if is_size(d) else d for d in sizes]

    @checked_arguments
    def parameter(
        self,
        name: str,
        shape: Sequence[int],
        init: str | Initializer,
        *,
        trainable: bool = True,
    ) -> Value:
        """A float32 initializer named after the scope. Its numbers are drawn when first looked at.

        init: an initializer or the name of one.
        trainable: False for running statistics, which a step updates without a gradient.
        Raises ShapeError for sizes that are not known, and where one of that name has another shape; UsageError for an
        unknown initializer.
        """
        if not all(is_size(d) for d in shape):
            raise ShapeError(
                f"parameter {name!r} of {self.what()} expected a shape of positive integers; found {show_shape(shape)}",
                at=self.source(),
                mend="Give the sizes as numbers in build(...).",
            )
        sizes = tuple(int(d) for d in shape)
        met = self._meet(self._path(name))
        if met in self._parameters:
            return self._shared(self._parameters[met], sizes)
        path, source = self._claim(met), self.source()
        initializer = initializers.get(init, at=source)
        value = self._value(path, ir.TensorType(ir.DataType.FLOAT), ir.Shape(sizes))

        def draw() -> ir.TensorProtocol:
            array = np.asarray(initializer(sizes, self.random(path)), np.float32)
            if array.shape != sizes:
                raise ShapeError(
                    f"the initializer of {path!r} expected to return shape {show_shape(sizes)}; "
                    f"found {show_shape(array.shape)}",
                    at=source,
                    mend="It is called with (shape, random) and returns an array of that shape.",
                )
            return ir.Tensor(array, name=path)

        value.const_value = ir.LazyTensor(draw, dtype=ir.DataType.FLOAT, shape=ir.Shape(sizes), name=path, cache=True)
        value.meta["trainable"] = trainable
        self.graph.register_initializer(value)
        self._parameters[met] = value
        return value

    def _shared(self, value: Value, sizes: tuple[int, ...]) -> Value:
        if value.shape != sizes:
            raise ShapeError(
                f"{self.what()} is used twice and its {value.name!r} expected shape {show_shape(value.shape)} both "
                f"times; found {show_shape(sizes)}",
                at=self.source(),
                mend="Use a second layer, or give both uses inputs of one size.",
            )
        return value

    def random(self, name: str) -> np.random.Generator:
        """The generator of one parameter: a function of the seed and the name alone, not of the order of building."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *name.encode()])))

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> Value:
        """A constant; equal ones are one value.

        value: an array, which keeps its type, or Python numbers: int64, float32 or bool.
        dtype: the element type. Raises ShapeError where it is an integer type that cannot hold the numbers.
        """
        array = np.asarray(value)
        if dtype is not None:
            if not holds(dtype, array):
                raise ShapeError(
                    f"{value} cannot be {dtype.name.lower()} in {self.what()}",
                    at=self.source(),
                    mend="Cast the value beside it first: x.builder.cast(x, to).",
                )
            array = array.astype(dtype.numpy())
        elif array.dtype == np.float64 and not isinstance(value, (np.ndarray, np.generic)):
            array = array.astype(np.float32)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._new_constant(array)
        return self._constants[key]

    def _new_constant(self, array: np.ndarray[Any, Any]) -> Value:
        name = self._claim(f"const.{spell(array)}")
        value = self._value(name, ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape))
        value.const_value = ir.Tensor(array, name=name)
        self.graph.register_initializer(value)
        return value

    def output(self, value: ir.Value, name: str) -> None:
        """Make `value` an output called `name`; a value that has a fixed name already passes through an Identity.

        Raises GraphError where an input or another value has the name.
        """
        if value.producer() is None or value.is_graph_output():
            value = self.op("Identity", value)
        if value.name != name and self._taken[name]:
            raise GraphError(
                f"output {name!r} expected a name of its own; found an input or another value of that name",
                at=self.source(),
                mend="Name the input or the output otherwise.",
            )
        self._taken[name] += 1
        value.name = name
        self.graph.outputs.append(value)

    # --- adding nodes
    def op(self, op_type: str, *inputs: Arg, **attributes: Any) -> Value:
        """Add an `ai.onnx` node with one output. A None among the inputs is one left out; a None attribute too.

        Raises ShapeError where the inputs do not fit, GraphError for an unknown operator, both at the user's line.
        """
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: Arg, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        """Add an `ai.onnx` node with several outputs, or what takes its place on the device. Raises what `op` does."""
        if other := SUBSTITUTES[self.device].get(op_type):
            made = other(self, inputs, attributes)
            if made is not None:
                return (made,)
        if attributes.get("layout") and op_type in batch_first.RECURRENT:
            return batch_first.time_major(self, op_type, inputs, attributes, outputs)
        try:
            inference.schema(op_type)
        except GraphError as error:
            raise GraphError(error.problem, at=self.source(), mend=error.mend) from None
        node = self._node("", op_type, inputs, outputs, attributes)
        try:
            inference.infer(node)
        except Exception as error:  # onnx raises InferenceError, RuntimeError and ValidationError here
            raise self.misfit(node, str(error)) from error
        self.graph.append(node)
        return tuple(node.outputs)  # type: ignore[arg-type]  # _node made them Values

    def call(self, function: Function, inputs: Sequence[Arg], attributes: dict[str, Any]) -> tuple[Value, ...]:
        """Add a node that calls an `ai.onnxmx` function, and the function's definition where it is new.

        Raises ShapeError where the inputs do not fit.
        """
        node = self._node(DOMAIN, function.name, inputs, len(function.outputs), attributes)
        try:
            kinds = function.infer(node, attributes)
            function.define(self, node)
        except ShapeError as error:
            raise self.misfit(node, error.problem) from error
        for out, (kind, shape) in zip(node.outputs, kinds, strict=True):
            out.type, out.shape = kind, None if shape is None else ir.Shape(shape)
        node.meta["function"] = function
        self.graph.opset_imports.setdefault(DOMAIN, 1)
        self.graph.append(node)
        return tuple(node.outputs)  # type: ignore[arg-type]  # _node made them Values

    def copy(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], known: Mapping[ir.Value, ir.Value] | None = None
    ) -> tuple[ir.Value, ...]:
        """Add a copy of a node on `inputs`, its types inferred anew.

        known: for a node with graphs inside, what stands for the values that those read; others stay as they are.
        Raises GraphError for a call of an `ai.onnxmx` function.
        """
        if node.domain == DOMAIN:
            raise GraphError(f"cannot copy the function node {node.name!r}")
        parent = (node.name or "").rpartition(".")[0]
        with self.scope(parent, source=node.metadata_props.get(SOURCE), absolute=True):
            if any(a.type is ir.AttributeType.GRAPH for a in node.attributes.values()):
                return self._copy_control(node, inputs, known or {})
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            return self.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)

    def _copy_control(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], known: Mapping[ir.Value, ir.Value]
    ) -> tuple[ir.Value, ...]:
        from onnxmx.builder.body import copy_graph  # a body is itself a GraphBuilder
        from onnxmx.builder.control import rebuild

        def build(body: GraphBuilder, graph: ir.Graph, entries: Sequence[Value]) -> Sequence[ir.Value]:
            return copy_graph(body, graph, {**known, **dict(zip(graph.inputs, entries, strict=True))})

        return rebuild(self, node, inputs, build)

    def again(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """Add a copy of a node of this graph, a call of a function too, on other inputs of the same types."""
        name, n = self._claim(self._path(node.name or node.op_type)), len(node.outputs)
        outputs = [self._value(name if n == 1 else f"{name}.{k}", y.type, y.shape) for k, y in enumerate(node.outputs)]
        attributes = node.attributes.values()
        copy = ir.Node(
            node.domain, node.op_type, inputs, attributes, overload=node.overload, outputs=outputs, name=name
        )
        copy.meta.update(node.meta)
        if source := node.metadata_props.get(SOURCE):
            copy.metadata_props[SOURCE] = source
        if self._region:
            copy.metadata_props[CHECKPOINT] = self._region
        self.graph.append(copy)
        return copy

    def _node(
        self, domain: str, op_type: str, inputs: Sequence[Arg], outputs: int, attributes: dict[str, Any]
    ) -> ir.Node:
        values = self._as_values(inputs, () if domain else inference.input_types(op_type))
        name = self._claim(self._path(op_type))
        outs = [self._value(name if outputs == 1 else f"{name}.{k}", None, None) for k in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        node = ir.Node(domain, op_type, values, ir.convenience.convert_attributes(kept), outputs=outs, name=name)
        if source := self.source():
            node.metadata_props[SOURCE] = source
        if self._region:
            node.metadata_props[CHECKPOINT] = self._region
        return node

    def _as_values(self, inputs: Sequence[Arg], types: InputTypes) -> list[ir.Value | None]:
        """Inputs as values. Arrays keep their type; a Python number takes the type of the values beside it."""
        values: list[ir.Value | None] = []
        for k, x in enumerate(inputs):
            if x is None or isinstance(x, ir.Value):
                values.append(self._own(x))
            elif isinstance(x, (np.ndarray, np.generic)):
                values.append(self.constant(x))
            elif isinstance(x, (bool, int, float)):
                values.append(self.constant(x, dtype_beside(x, k, inputs, types)))
            else:
                raise ShapeError(
                    f"an operator in {self.what()} expected values, numbers or arrays; found {x!r}",
                    at=self.source(),
                    mend="Make a list an array: numpy.array(x, numpy.float32).",
                )
        while values and values[-1] is None:
            values.pop()
        return values

    def _own(self, x: ir.Value | None) -> ir.Value | None:
        if isinstance(x, Value) and x.builder is not self:
            raise GraphError(
                f"{self.what()} expected values of one graph; found {x.name!r} of another",
                at=self.source(),
                mend="Build everything that belongs together in one build(...).",
            )
        return x

    def misfit(self, node: ir.Node, reason: str) -> ShapeError:
        """The error for a node whose inputs do not fit it."""
        found = ", ".join(describe(v) for v in node.inputs if v is not None) or "no inputs"
        # onnx ends its reasons with a source position of its own and starts them with the operator's name.
        reason = (reason.split("==>")[-1].splitlines() or ["its inputs do not fit"])[0].strip()
        for prefix in ("[ShapeInferenceError]", "[TypeInferenceError]", "Inference error(s):"):
            reason = reason.replace(prefix, "").strip()
        return ShapeError(
            f"{node.op_type} in {self.what()} cannot take {found}: {reason}",
            at=self.source(),
            mend="Look at what comes before it: print(x.shape) shows the shape of a value while the graph is built.",
        )

    def _value(self, name: str, kind: ir.TypeProtocol | None, shape: ir.Shape | None) -> Value:
        value = Value(name=name, type=kind, shape=shape)
        value.builder = self
        return value

    # --- the end
    def model(self, metadata: dict[str, str] | None = None) -> ir.Model:
        """The finished model."""
        return ir.Model(
            self.graph,
            ir_version=IR_VERSION,
            producer_name="onnxmx",
            functions=list(self.functions.values()),
            metadata_props=metadata,
        )
