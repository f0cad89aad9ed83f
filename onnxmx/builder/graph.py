"""GraphBuilder: a graph under construction, typed node by node.

Every call adds one node and infers its output's type and shape at once, so a mistake is reported at the user's line
and not when the finished file is loaded. Names follow the scope (`encoder.0.weight`), and each node keeps the line
of the user's code that asked for it in its metadata (`onnxmx.source`).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder.ops import Arg, Ops
from onnxmx.builder.source import user_line
from onnxmx.errors import GraphError, ShapeError, nearest

if TYPE_CHECKING:
    from onnxmx.builder.functions import Function

OPSET = 20
IR_VERSION = 10
DOMAIN = "ai.onnxmx"
"""The domain of the functions that this product defines inside its files."""

# Constants up to this many elements are shown to shape inference: shapes, axes, pads and the like.
_SMALL = 64

Dim = int | str | None


class Value(ir.Value):
    """A typed value in a graph under construction. Arithmetic on it adds nodes."""

    builder: GraphBuilder

    def __add__(self, other: Arg) -> Value:
        return self.builder.add(self, other)

    def __radd__(self, other: Arg) -> Value:
        return self.builder.add(other, self)

    def __sub__(self, other: Arg) -> Value:
        return self.builder.sub(self, other)

    def __rsub__(self, other: Arg) -> Value:
        return self.builder.sub(other, self)

    def __mul__(self, other: Arg) -> Value:
        return self.builder.mul(self, other)

    def __rmul__(self, other: Arg) -> Value:
        return self.builder.mul(other, self)

    def __truediv__(self, other: Arg) -> Value:
        return self.builder.div(self, other)

    def __rtruediv__(self, other: Arg) -> Value:
        return self.builder.div(other, self)

    def __pow__(self, other: Arg) -> Value:
        return self.builder.pow(self, other)

    def __matmul__(self, other: Arg) -> Value:
        return self.builder.matmul(self, other)

    def __neg__(self) -> Value:
        return self.builder.neg(self)


@dataclass(frozen=True)
class _Scope:
    path: str
    source: str | None
    what: str


class GraphBuilder(Ops):
    """Builds one ONNX graph.

    graph: the graph so far, an `onnx_ir.Graph`.
    functions: the `ai.onnxmx` functions that its nodes use, by name.
    """

    def __init__(self, name: str = "main") -> None:
        self.graph = ir.Graph((), (), nodes=(), name=name, opset_imports={"": OPSET})
        self.functions: dict[str, ir.Function] = {}
        self._constants: dict[tuple[Any, ...], Value] = {}
        self._scopes: list[_Scope] = []
        self._taken: Counter[str] = Counter()
        self._layers: dict[int, tuple[str, object]] = {}
        self._sharing = 0

    # --- what a graph is made of
    def input(self, name: str, shape: Sequence[Dim], dtype: ir.DataType = ir.DataType.FLOAT) -> Value:
        """A graph input. shape: integers, names of symbolic dimensions, or None for unknown ones."""
        value = self._value(self._claim(name), ir.TensorType(dtype), ir.Shape(list(shape)))
        self.graph.inputs.append(value)
        return value

    def parameter(
        self,
        name: str,
        shape: Sequence[int],
        init: Callable[[tuple[int, ...], np.random.Generator], np.ndarray[Any, Any]],
        *,
        trainable: bool = True,
    ) -> Value:
        """A float32 initializer named after the scope. Its numbers are drawn when first looked at.

        trainable: False for running statistics, which a step updates without a gradient.
        """
        path = self._path(name)
        if self._sharing and path in self.graph.initializers:
            return self._shared(path, shape)
        path = self._claim(path)
        value = self._value(path, ir.TensorType(ir.DataType.FLOAT), ir.Shape(list(shape)))
        value.const_value = ir.LazyTensor(
            lambda: ir.Tensor(init(tuple(shape), self.random(path)).astype(np.float32), name=path),
            dtype=ir.DataType.FLOAT,
            shape=ir.Shape(list(shape)),
            name=path,
            cache=True,
        )
        value.meta["trainable"] = trainable
        self.graph.register_initializer(value)
        return value

    def _shared(self, path: str, shape: Sequence[int]) -> Value:
        value = self.graph.initializers[path]
        if list(value.shape or ()) != list(shape):
            raise ShapeError(
                f"{self.what()} is used twice and its {path!r} expected shape {show_shape(value.shape)} both times; "
                f"found {show_shape(shape)}",
                at=self.source(),
                mend="Use a second layer, or give both uses inputs of one size.",
            )
        return value  # type: ignore[return-value]  # parameter() made it a Value

    seed = 0

    def random(self, name: str) -> np.random.Generator:
        """The generator of one parameter: a function of the seed and the name alone, not of the order of building."""
        key = np.frombuffer(name.encode().ljust(8, b"\0"), np.uint8)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *key.tolist()])))

    def constant(self, value: Any, dtype: ir.DataType | None = None) -> Value:
        array = np.asarray(value)
        if dtype is not None:
            array = array.astype(dtype.numpy())
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._new_constant(array)
        return self._constants[key]

    def _new_constant(self, array: np.ndarray[Any, Any]) -> Value:
        name = self._claim(f"const.{_spell(array)}")
        value = self._value(name, ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape))
        value.const_value = ir.Tensor(array, name=name)
        self.graph.register_initializer(value)
        return value

    def output(self, value: ir.Value, name: str) -> None:
        """Make `value` an output called `name`; a value that has a fixed name already passes through an Identity."""
        if value.producer() is None or value.is_graph_output():
            value = self.op("Identity", value)
        self._taken[name] += 1
        value.name = name
        self.graph.outputs.append(value)

    # --- adding nodes
    def op(self, op_type: str, *inputs: Arg, **attributes: Any) -> Value:
        return self.ops(op_type, *inputs, outputs=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: Arg, outputs: int, **attributes: Any) -> tuple[Value, ...]:
        schema = _schema(op_type)
        node = self._node("", op_type, inputs, outputs, attributes)
        self._infer(node, schema)
        self.graph.append(node)
        return tuple(node.outputs)  # type: ignore[arg-type]  # _node made them Values

    def call(self, function: Function, inputs: Sequence[Arg], attributes: dict[str, Any]) -> tuple[Value, ...]:
        """Add a node that calls an `ai.onnxmx` function, and the function's definition where it is new."""
        node = self._node(DOMAIN, function.name, inputs, len(function.outputs), attributes)
        function.define(self, node)
        for out, kind in zip(node.outputs, function.infer(node, attributes), strict=True):
            out.type, out.shape = kind
        self.graph.opset_imports.setdefault(DOMAIN, 1)
        self.graph.append(node)
        return tuple(node.outputs)  # type: ignore[arg-type]  # _node made them Values

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> tuple[Value, ...]:
        """Add a copy of a node from another graph on `inputs`, its types inferred anew."""
        attributes = {name: _attribute_value(a) for name, a in node.attributes.items()}
        if node.domain == DOMAIN:
            raise GraphError(f"cannot copy the function node {node.name!r}")
        with self.scope(_parent(node.name or ""), source=node.metadata_props.get("onnxmx.source"), absolute=True):
            return self.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)

    def _node(
        self, domain: str, op_type: str, inputs: Sequence[Arg], outputs: int, attributes: dict[str, Any]
    ) -> ir.Node:
        values = self._as_values(inputs)
        name = self._claim(self._path(op_type))
        outs = [self._value(name if outputs == 1 else f"{name}.{k}", None, None) for k in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        node = ir.Node(domain, op_type, values, ir.convenience.convert_attributes(kept), outputs=outs, name=name)
        if source := self.source():
            node.metadata_props["onnxmx.source"] = source
        return node

    def _as_values(self, inputs: Sequence[Arg]) -> list[ir.Value | None]:
        """Numbers beside a value take its element type; alone they are what numpy makes of them, float64 as float32."""
        like = next((x.dtype for x in inputs if isinstance(x, ir.Value) and x.dtype is not None), None)
        values: list[ir.Value | None] = []
        for x in inputs:
            if x is None or isinstance(x, ir.Value):
                values.append(x)
            elif isinstance(x, (np.ndarray, np.generic)):
                values.append(self.constant(x))
            else:
                values.append(self.constant(x, like or (ir.DataType.FLOAT if isinstance(x, float) else None)))
        while values and values[-1] is None:
            values.pop()
        return values

    def _infer(self, node: ir.Node, schema: onnx.defs.OpSchema) -> None:
        """Set the types of the outputs of `node`, or say at the user's line why its inputs do not fit."""
        known = {v.name: _type_proto(v) for v in node.inputs if v is not None and v.name and v.type is not None}
        if len(known) < len({v.name for v in node.inputs if v is not None}):
            return  # an input of unknown type: nothing can be said of the outputs
        data = {
            v.name: ir.serde.serialize_tensor(v.const_value)
            for v in node.inputs
            if v is not None and v.name and v.const_value is not None and v.const_value.size <= _SMALL
        }
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema,
                ir.serde.serialize_node(node),
                known,
                data,
                opset_imports=_opset_imports(),
                ir_version=IR_VERSION,
            )
        except Exception as error:  # onnx raises InferenceError, RuntimeError and ValidationError here
            raise self.misfit(node, str(error)) from error
        for out in node.outputs:
            if (proto := inferred.get(out.name or "")) is not None:
                out.type = ir.serde.deserialize_type_proto_for_type(proto)
                out.shape = ir.serde.deserialize_type_proto_for_shape(proto)

    def misfit(self, node: ir.Node, reason: str) -> ShapeError:
        """The error for a node whose inputs do not fit it."""
        found = ", ".join(describe(v) for v in node.inputs if v is not None)
        # onnx ends its reasons with a source position of its own and starts them with the operator's name.
        reason = reason.split("==>")[-1].splitlines()[0].strip()
        for prefix in ("[ShapeInferenceError]", "[TypeInferenceError]", "Inference error(s):"):
            reason = reason.replace(prefix, "").strip()
        return ShapeError(f"{node.op_type} in {self.what()} cannot take {found}: {reason}", at=self.source())

    # --- names and places
    @contextmanager
    def scope(
        self, name: str, *, source: str | None = None, what: str | None = None, absolute: bool = False
    ) -> Iterator[str]:
        """Name what is added inside after `name`. absolute: `name` is a whole path and not below the current scope."""
        path = name if absolute else self._path(name)
        self._scopes.append(_Scope(path, source, what or repr(path or "the graph")))
        try:
            yield path
        finally:
            self._scopes.pop()

    @contextmanager
    def layer_scope(self, layer: object, name: str, *, source: str | None, kind: str) -> Iterator[str]:
        """The scope of one layer. A layer met again keeps its path, and so shares its parameters."""
        again = id(layer) in self._layers
        path = self._layers[id(layer)][0] if again else self._claim_path(name)
        self._layers[id(layer)] = (path, layer)  # holds the layer, so that its id stays its own
        with self.scope(path, source=source, what=f"{kind} {path!r}", absolute=True):
            self._sharing += again
            try:
                yield path
            finally:
                self._sharing -= again

    def source(self) -> str | None:
        """The user's line for what is added now: that of the innermost scope that has one, else the caller's."""
        if self._scopes and self._scopes[-1].source:
            return self._scopes[-1].source
        return user_line()

    def what(self) -> str:
        """What is being built, for an error: `Dense 'head'`."""
        return self._scopes[-1].what if self._scopes else "the graph"

    def _path(self, name: str) -> str:
        parent = self._scopes[-1].path if self._scopes else ""
        return f"{parent}.{name}" if parent else name

    def _claim_path(self, name: str) -> str:
        """A path for a new layer: `name` below the current scope, counted up where a layer has it already."""
        # A scope and a value may share a name; the slash keeps the two apart in one table.
        path, _, count = self._claim(f"{self._path(name)}/").partition("/")
        return path + count

    def _claim(self, name: str) -> str:
        """`name`, or the first of `name_1`, `name_2` ... that is free."""
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


def describe(value: ir.Value) -> str:
    """`float32 (batch, 784)`: type and shape for an error."""
    kind = value.dtype.numpy().name if value.dtype is not None else "?"
    return f"{kind} {show_shape(value.shape)}"


def show_shape(shape: ir.Shape | Sequence[Any] | None) -> str:
    """`(batch, 3, ?)`: a shape as an error shows it."""
    if shape is None:
        return "(unknown rank)"
    dims = [str(d) if isinstance(d, (int, str)) else (getattr(d, "value", None) or "?") for d in shape]
    return f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"


def _spell(array: np.ndarray[Any, Any]) -> str:
    """A readable name for a constant: its type and, when short, its numbers."""
    if array.size <= 4:
        return f"{array.dtype.name}.{'x'.join(str(v) for v in array.ravel().tolist()) or 'empty'}"
    return array.dtype.name


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _attribute_value(attribute: ir.Attr) -> Any:
    return attribute.value


@functools.cache
def _schema(op_type: str) -> onnx.defs.OpSchema:
    try:
        return onnx.defs.get_schema(op_type, OPSET, "")
    except onnx.defs.SchemaError:
        names = {s.name for s in onnx.defs.get_all_schemas() if s.domain == ""}
        near = nearest(op_type, names)
        raise GraphError(
            f"ai.onnx has no operator {op_type!r} at opset {OPSET}", mend=f"Did you mean {near!r}?" if near else None
        ) from None


@functools.cache
def _opset_imports() -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid("", OPSET)]


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    """The type of a value as onnx wants it; kept on the value, since a value is read by several nodes."""
    proto = value.meta.get("type_proto")
    if proto is None or value.meta.get("type_proto_of") != (value.type, str(value.shape)):
        proto = ir.serde.serialize_value(value).type
        value.meta["type_proto"], value.meta["type_proto_of"] = proto, (value.type, str(value.shape))
    return proto  # type: ignore[no-any-return]  # meta holds anything
