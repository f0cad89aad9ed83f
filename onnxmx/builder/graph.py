"""GraphBuilder: a graph under construction, typed node by node.

Every call adds one node and infers its output's type and shape at once, so a mistake is reported at the user's line
and not when the finished file is loaded. Names follow the scope (`encoder.0.weight`), and each node keeps the line
of the user's code that asked for it in its metadata (`onnxmx.source`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder import inference
from onnxmx.builder import init as initializers
from onnxmx.builder.inference import IR_VERSION, OPSET, InputTypes
from onnxmx.builder.init import Initializer
from onnxmx.builder.literals import dtype_beside, holds, is_size, spell
from onnxmx.builder.metadata import SOURCE
from onnxmx.builder.ops import Arg, Ops
from onnxmx.builder.source import user_line
from onnxmx.builder.values import Dim, Value, describe, show_shape
from onnxmx.errors import GraphError, ShapeError, UsageError

if TYPE_CHECKING:
    from onnxmx.builder.functions import Function

__all__ = ["DOMAIN", "IR_VERSION", "OPSET", "Dim", "GraphBuilder", "Value", "describe", "show_shape"]

DOMAIN = "ai.onnxmx"
"""The domain of the functions that this product defines inside its files."""


@dataclass(frozen=True)
class _Scope:
    path: str
    source: str | None
    what: str


class GraphBuilder(Ops):
    """Builds one ONNX graph.

    graph: the graph so far, an `onnx_ir.Graph`.
    functions: the `ai.onnxmx` functions that its nodes use, by name.
    seed: what the parameters are drawn from.
    """

    def __init__(self, name: str = "main") -> None:
        self.graph = ir.Graph((), (), nodes=(), name=name, opset_imports={"": OPSET})
        self.functions: dict[str, ir.Function] = {}
        self.seed = 0
        self._constants: dict[tuple[Any, ...], Value] = {}
        self._parameters: dict[str, Value] = {}
        self._scopes: list[_Scope] = []
        self._taken: Counter[str] = Counter()
        self._layers: dict[int, tuple[str, object]] = {}
        # The paths of layers and parameters met so far. It starts empty when a layer is called again, so that what
        # is inside gets the names it had the first time, and with them the same parameters.
        self._met: set[str] = set()

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
        """Make `value` an output called `name`; a value that has a fixed name already passes through an Identity."""
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
        """Add an `ai.onnx` node with several outputs."""
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
        """Add a node that calls an `ai.onnxmx` function, and the function's definition where it is new."""
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

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> tuple[Value, ...]:
        """Add a copy of a node from another graph on `inputs`, its types inferred anew."""
        if node.domain == DOMAIN:
            raise GraphError(f"cannot copy the function node {node.name!r}")
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        parent = (node.name or "").rpartition(".")[0]
        with self.scope(parent, source=node.metadata_props.get(SOURCE), absolute=True):
            return self.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)

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

    # --- names and places
    @contextmanager
    def scope(
        self, name: str, *, source: str | None = None, what: str | None = None, absolute: bool = False
    ) -> Iterator[str]:
        """Name what is added inside after `name`. absolute: `name` is a whole path and not below the current scope."""
        path = name if absolute else self._path(name)
        self._scopes.append(_Scope(path, source, what or (repr(path) if path else "the graph")))
        try:
            yield path
        finally:
            self._scopes.pop()

    @contextmanager
    def layer_scope(
        self, layer: object, name: str, *, source: str | None, kind: str, given: bool = False
    ) -> Iterator[str]:
        """The scope of one layer. A layer met again keeps its path, and so shares its parameters.

        given: the user chose the name, so that another layer of that name is a mistake; else it is counted up.
        """
        again = id(layer) in self._layers
        path = self._layers[id(layer)][0] if again else self._layer_path(name, given, source, kind)
        self._layers[id(layer)] = (path, layer)  # holds the layer, so that its id stays its own
        met, self._met = self._met, set() if again else self._met
        try:
            with self.scope(path, source=source, what=f"{kind} {path!r}" if path else kind, absolute=True):
                yield path
        finally:
            self._met = met

    def _layer_path(self, name: str, given: bool, source: str | None, kind: str) -> str:
        path = self._path(name)
        if not isinstance(name, str) or path == "const" or path.startswith("const."):
            raise GraphError(
                f"{kind} expected a name that is text and not 'const', as constants are called; found {name!r}",
                at=source or user_line(),
                mend="Name it otherwise.",
            )
        if given and f"{path}/" in self._met:
            raise GraphError(
                f"{kind} expected a name of its own; found another layer named {path!r}",
                at=source or user_line(),
                mend="Rename one of the two. To share parameters, call one layer twice.",
            )
        # A layer and a value may share a name; the slash keeps the two apart in one table.
        path, _, count = self._meet(f"{path}/").partition("/")
        return path + count

    def source(self) -> str | None:
        """The user's line for what is added now: that of the innermost scope where it has one, else the caller's."""
        if self._scopes and self._scopes[-1].source:
            return self._scopes[-1].source
        return user_line()

    def what(self) -> str:
        """What is being built, for an error: `Dense 'head'`."""
        return self._scopes[-1].what if self._scopes else "the graph"

    def _path(self, name: str) -> str:
        parent = self._scopes[-1].path if self._scopes else ""
        return f"{parent}.{name}" if parent else name

    def _meet(self, path: str) -> str:
        """`path`, or the first of `path_1`, `path_2` ... that was not met; it is now."""
        free, count = path, 0
        while free in self._met:
            count += 1
            free = f"{path}_{count}"
        self._met.add(free)
        return free

    def _claim(self, name: str) -> str:
        """`name`, or `name_1`, `name_2` ... where a value has it already."""
        while True:
            count = self._taken[name]
            self._taken[name] += 1
            if count == 0:
                return name
            name = f"{name}_{count}"

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
