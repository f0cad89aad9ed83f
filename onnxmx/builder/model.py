"""Model: a graph and its parameters, saved as ordinary ONNX."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir

from onnxmx.builder.graph import IR_VERSION, OPSET, Dim, GraphBuilder, Value, show_shape
from onnxmx.builder.session import open_session
from onnxmx.builder.summary import Summary, summarize
from onnxmx.errors import DataError, GraphError, ModelFileError, UsageError
from onnxmx.files import write_atomic

Array = np.ndarray[Any, Any]
_TRAINABLE = "onnxmx.trainable"


@dataclass(frozen=True)
class Input:
    """An input of a model: its shape (integers, or names of symbolic dimensions) and element type."""

    shape: Sequence[Dim]
    dtype: str = "float32"


InputSpec = Input | Sequence[Dim]


@dataclass(frozen=True)
class Port:
    """An input or output of a graph as it is outside: name, shape (None where unknown) and element type."""

    name: str
    shape: tuple[Dim, ...]
    dtype: np.dtype[Any]


def build(net: Callable[..., Any], *, seed: int = 0, **inputs: InputSpec) -> Model:
    """Build a model from a layer, or from any function of graph values.

        model = mx.build(net, image=("batch", 1, 28, 28))

    net: takes one value for each input and returns a value, or a dict of named values.
    seed: what the parameters are drawn from; each depends on it and on its own name alone.
    inputs: name = shape, or name = Input(shape, dtype).
    Raises ShapeError, GraphError or UsageError at the line of `net` that does not fit.
    """
    if not inputs:
        raise UsageError(
            "build expected at least one input; found none", mend='For example image=("batch", 1, 28, 28).'
        )
    g = GraphBuilder()
    g.seed = seed
    values = []
    for name, spec in inputs.items():
        spec = spec if isinstance(spec, Input) else Input(spec)
        values.append(g.input(name, spec.shape, ir.DataType.from_numpy(np.dtype(spec.dtype))))
    result = net._call("", *values) if hasattr(net, "_call") else net(*values)
    results = result if isinstance(result, dict) else {"output": result}
    for name, value in results.items():
        if not isinstance(value, Value):
            raise GraphError(f"the model's {name!r} expected a graph value; found {value!r}")
        g.output(value, name)
    trainable = [v.name for v in g.graph.initializers.values() if v.meta.get("trainable")]
    return Model(g.model({_TRAINABLE: json.dumps(trainable)}))


class Model:
    """An ONNX graph with its parameters.

    ir: the `onnx_ir.Model` itself.
    inputs, outputs: what it takes and gives, by name.
    metadata: what the product adds to the file (`onnxmx.*`), as strings.
    """

    def __init__(self, model: ir.Model) -> None:
        self.ir = model
        self.inputs = {p.name: p for p in map(_port, _real_inputs(model.graph))}
        self.outputs = {p.name: p for p in map(_port, model.graph.outputs)}
        self.metadata = model.metadata_props
        self._session: Any = None

    # --- parameters
    def parameters(self) -> dict[str, Array]:
        """Every parameter by name, running statistics included."""
        return {
            name: value.const_value.numpy() for name, value in self._parameter_values().items() if value.const_value
        }

    @property
    def trainable(self) -> list[str]:
        """The names of the parameters that training changes."""
        if _TRAINABLE in self.metadata:
            return list(json.loads(self.metadata[_TRAINABLE]))
        statistics = {
            v.name
            for node in self.ir.graph
            if node.op_type == "BatchNormalization"
            for v in node.inputs[3:5]
            if v is not None
        }
        return [name for name in self._parameter_values() if name not in statistics]

    def _parameter_values(self) -> dict[str, ir.Value]:
        floats = {
            name: value
            for name, value in self.ir.graph.initializers.items()
            if value.dtype == ir.DataType.FLOAT and not name.startswith("const.")
        }
        return floats

    def with_parameters(self, arrays: dict[str, Array]) -> Model:
        """A copy with other numbers. arrays: some or all parameters, each of its own shape, float32."""
        copy = Model(ir.from_proto(ir.to_proto(self.ir)))
        values = copy._parameter_values()
        for name, array in arrays.items():
            if name not in values:
                raise UsageError(f"the model has no parameter {name!r}", mend=f"It has: {', '.join(values)}.")
            found, expected = np.shape(array), tuple(values[name].shape or ())
            if found != expected:
                raise UsageError(f"parameter {name!r} expected shape {show_shape(expected)}; found {show_shape(found)}")
            values[name].const_value = ir.Tensor(np.ascontiguousarray(array, np.float32), name=name)
        return copy

    # --- running
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on ONNX Runtime. Arrays by position or by input name; returns an array, or a dict of several by name."""
        feeds = self._feeds(args, kwargs)
        if self._session is None:
            self._session = open_session(self.to_bytes())
        results = self._session.run(list(self.outputs), feeds)
        return results[0] if len(results) == 1 else dict(zip(self.outputs, results, strict=True))

    def _feeds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Array]:
        given = dict(zip(self.inputs, args, strict=False)) | kwargs
        if len(args) + len(kwargs) != len(self.inputs) or set(given) != set(self.inputs):
            raise DataError(f"the model expected the inputs {list(self.inputs)}; found {len(args)} and {list(kwargs)}")
        return {name: check_array(self.inputs[name], np.asarray(x)) for name, x in given.items()}

    # --- files
    def to_bytes(self) -> bytes:
        """The file's bytes. The same model gives the same bytes."""
        return self.to_proto().SerializeToString(deterministic=True)

    def to_proto(self) -> onnx.ModelProto:
        """The model as `onnx.ModelProto`, checked in full."""
        return check(ir.to_proto(self.ir))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`. A failure leaves what was there before."""
        write_atomic(path, self.to_bytes())

    def summary(self) -> Summary:
        """Layers, shapes, parameters, floating-point operations and memory. Print it, or take `.to_dict()`."""
        return summarize(self.ir, set(self.trainable))


def load(path: str | os.PathLike[str]) -> Model:
    """Load a model from an ONNX file. Raises ModelFileError where it is missing, damaged or not ONNX."""
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"no model file at {path}", mend="Check the path, or train a model first: onnxmx train.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    return from_bytes(data, str(path))


def from_bytes(data: bytes, what: str = "the model") -> Model:
    """Load a model from the bytes of an ONNX file; `what` names it in errors."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has moved between its releases
        raise ModelFileError(f"{what} is not an ONNX file: {error}") from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelFileError(f"{what} is not an ONNX file: it holds no graph")
    try:
        versions = {o.domain: o.version for o in proto.opset_import}
        if versions.get("", OPSET) != OPSET:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        proto.ir_version = min(proto.ir_version, IR_VERSION)
        return Model(ir.from_proto(check(proto, what)))
    except ModelFileError:
        raise
    except Exception as error:  # the version converter and the reader raise what they meet
        raise ModelFileError(f"{what} cannot be read as ONNX opset {OPSET}: {_first_line(error)}") from error


def check(proto: onnx.ModelProto, what: str = "the model") -> onnx.ModelProto:
    """`proto`, once the ONNX checker has passed it in full. Raises ModelFileError."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelFileError(f"{what} is not valid ONNX: {_first_line(error)}") from error
    return proto


def check_array(port: Port, x: Array) -> Array:
    """`x` as the input `port` takes it. Raises DataError where shape or element type do not fit."""
    fits = len(x.shape) == len(port.shape) and all(
        not isinstance(d, int) or d == n for d, n in zip(port.shape, x.shape, strict=True)
    )
    if not fits:
        raise DataError(f"input {port.name!r} expected shape {show_shape(port.shape)}; found {show_shape(x.shape)}")
    if not np.can_cast(x.dtype, port.dtype, "same_kind"):
        raise DataError(f"input {port.name!r} expected {port.dtype}; found {x.dtype}")
    return np.ascontiguousarray(x, port.dtype)


def _real_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that a caller must give: old files list their initializers among the inputs too."""
    return [v for v in graph.inputs if v.name not in graph.initializers]


def _port(value: ir.Value) -> Port:
    dims: tuple[Dim, ...] = ()
    if value.shape is not None:
        dims = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    return Port(value.name or "", dims, dtype)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
