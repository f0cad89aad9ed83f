"""Model: a graph and its parameters, saved as ordinary ONNX."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder import drawing, weights
from onnxmx.builder.arguments import CheckedArguments, checked_arguments
from onnxmx.builder.elsewhere import MODEL, KnowsOthers
from onnxmx.builder.external import read_external
from onnxmx.builder.foreign import check as check
from onnxmx.builder.foreign import normalize, tidy
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.guard import MAX_BYTES
from onnxmx.builder.guard import inspect as inspect_file
from onnxmx.builder.inference import OPSET
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import beyond
from onnxmx.builder.metadata import AS_IT_IS, PREPROCESSING, TRAINABLE
from onnxmx.builder.session import open_session, run_errors
from onnxmx.builder.source import called_at, line_of, raised_at, user_line
from onnxmx.builder.summary import Summary, real_inputs, summarize
from onnxmx.builder.surgery import Surgery
from onnxmx.builder.values import Dim, Value, agree, dims, expects_numbers, operator_named, show_shape
from onnxmx.errors import DataError, GraphError, ModelFileError, UsageError, first_line, unknown_name
from onnxmx.files import write_atomic

Array = np.ndarray[Any, Any]
_MEND_FILE = "The file may be damaged: copy or export it again."


@dataclass(frozen=True)
class Input(CheckedArguments):
    """An input of a model: its shape (integers, or names of symbolic dimensions) and element type."""

    shape: Sequence[Dim]
    dtype: str = "float32"


InputSpec = Input | Sequence[Dim]


@dataclass(frozen=True)
class Port:
    """An input or output of a graph as it is outside: name, shape (None where its rank is unknown), element type."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: np.dtype[Any]


@checked_arguments
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
            "build expected at least one input; found none",
            at=user_line(),
            mend='For example image=("batch", 1, 28, 28).',
        )
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UsageError(
            f"seed expected a whole number of 0 or more; found {seed!r}", at=user_line(), mend="For example seed=1."
        )
    _check_net(net, list(inputs))
    g = GraphBuilder()
    g.seed = int(seed)
    values = []
    for name, spec in inputs.items():
        spec = spec if isinstance(spec, Input) else Input(spec)
        values.append(g.input(name, spec.shape, _data_type(name, spec.dtype)))
    try:
        result = net._call("", *values) if isinstance(net, Layer) else net(*values)
    except TypeError as error:
        called = called_at(error)
        if called is None or not operator_named(called):
            raise
        raise GraphError(
            f"a model expected operators of its graph; found {called}, which takes numbers: {error}",
            at=raised_at(error),
            mend=expects_numbers(error),
        ) from None
    results = result if isinstance(result, dict) else {"output": result}
    if not results or not all(isinstance(v, Value) for v in results.values()):
        raise GraphError(
            f"the model expected to return a graph value or a dict of them; found {result!r}",
            at=net._source if isinstance(net, Layer) else line_of(net),
            mend="Call the layer on a value: Dense(10)(x)."
            if isinstance(result, Layer)
            else "End the function with `return y`.",
        )
    for name, value in results.items():
        g.output(value, name)
    trainable = [v.name for v in g.graph.initializers.values() if v.meta.get("trainable")]
    return Model(g.model({TRAINABLE: json.dumps(trainable)}))


def _check_net(net: Any, inputs: list[str]) -> None:
    if isinstance(net, type) or not callable(net):
        raise UsageError(
            f"build expected a layer or a function of graph values; found {net!r}",
            at=user_line(),
            mend=f"Write {net.__name__}(...)."
            if isinstance(net, type)
            else "For example build(Dense(10), x=('batch', 4)).",
        )
    if isinstance(net, Layer):
        return  # it checks its own arguments
    try:
        inspect.signature(net).bind(*inputs)
    except TypeError as error:
        raise UsageError(
            f"the model function expected its parameters {inspect.signature(net)} as inputs; found {inputs}: {error}",
            at=line_of(net),
            mend="Give build(...) one input for each.",
        ) from None
    except ValueError:
        return  # a function in C says nothing of its parameters


def _data_type(name: str, dtype: str) -> ir.DataType:
    try:
        return ir.DataType.from_numpy(np.dtype(dtype))
    except TypeError:
        raise UsageError(
            f"input {name!r} expected an element type such as 'float32' or 'int64'; found {dtype!r}",
            at=user_line(),
            mend="Any numeric type of numpy will do.",
        ) from None


class Model(KnowsOthers, CheckedArguments, Surgery):
    """An ONNX graph with its parameters.

    ir: the `onnx_ir.Model` itself.
    inputs, outputs: what it takes and gives, a Port by name.
    metadata: what the product adds to the file (`onnxmx.*`), as strings.
    """

    _others = MODEL

    def __init__(self, model: ir.Model | None = None) -> None:
        if not isinstance(model, ir.Model):
            raise UsageError(
                f"Model expected an onnx_ir.Model; found {type(model).__name__}",
                at=user_line(),
                mend="mx.load('lenet.onnx') reads a file; net.build(x=('batch', 4)) makes one of a mx.layers.Layer.",
            )
        super().__init__(model)
        self.inputs = {p.name: p for p in map(_port, real_inputs(model.graph))}
        self.outputs = {p.name: p for p in map(_port, model.graph.outputs)}
        self.metadata = model.metadata_props
        self._session: Any = None

    def __repr__(self) -> str:
        def show(ports: dict[str, Port]) -> str:
            return ", ".join(f"{p.name} {p.dtype} {show_shape(p.shape)}" for p in ports.values())

        name = f"{self.ir.graph.name!r}, " if self.ir.graph.name not in (None, "", "main") else ""
        learned = (self.ir.graph.initializers[n] for n in weights.trainable_at_all(self.ir.graph, self._listed()))
        count = sum(math.prod(d for d in v.shape if isinstance(d, int)) for v in learned if v.shape is not None)
        return f"Model({name}{show(self.inputs)} -> {show(self.outputs)}, {count:,} parameters)"

    def __reduce__(self) -> tuple[Callable[[bytes], Model], tuple[bytes]]:
        """Pickled as its file."""
        return from_bytes, (self.to_bytes(),)

    # --- parameters
    def parameters(self) -> dict[str, Array]:
        """Every parameter by name, running statistics included: read-only arrays, see `with_parameters`."""
        found = self._parameter_values().items()
        arrays = {name: value.const_value.numpy().view() for name, value in found if value.const_value}
        for array in arrays.values():  # a session that is open would not see what is written there, the file would
            array.flags.writeable = False
        return arrays

    def _parameter_values(self) -> dict[str, ir.Value]:
        return weights.parameters(self.ir.graph, self._listed())

    @checked_arguments
    def with_parameters(self, arrays: dict[str, Array]) -> Model:
        """A copy with other numbers. arrays: some or all parameters, each of its own shape, float32.

        Raises UsageError for an unknown name, and for another shape or type.
        """
        copy = Model(ir.from_proto(ir.to_proto(self.ir)))
        values = copy._parameter_values()
        for name, array in arrays.items():
            if name not in values:
                raise unknown_name("parameter", name, values)
            given, expected = np.asarray(array), tuple(values[name].shape or ())
            if given.shape != expected or not np.can_cast(given.dtype, np.float32, "same_kind"):
                raise UsageError(
                    f"parameter {name!r} expected float32 {show_shape(expected)}; "
                    f"found {given.dtype} {show_shape(given.shape)}",
                    mend="Its shape is part of the graph: build a model of that size instead.",
                )
            # asarray and copy: ascontiguousarray would make a vector of a scalar.
            values[name].const_value = ir.Tensor(np.asarray(given, np.float32).copy(), name=name)
        return copy

    # --- running
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on ONNX Runtime. Arrays by position or by input name; returns an array, or a dict of several by name.

        Arrays are prepared, as the model reads them. Raises DataError where they do not fit the inputs, and for bytes
        where the file says that they are to be scaled.
        """
        feeds = self._feeds(args, kwargs)
        if self._session is None:
            self._session = open_session(self.to_bytes())
        with run_errors("expected inputs that the model can compute"):
            results = self._session.run(list(self.outputs), feeds)
        return results[0] if len(results) == 1 else dict(zip(self.outputs, results, strict=True))

    def _feeds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Array]:
        given = dict(zip(self.inputs, args, strict=False)) | kwargs
        if len(args) + len(kwargs) != len(self.inputs) or set(given) != set(self.inputs):
            raise DataError(
                f"the model expected the inputs {list(self.inputs)}; found {len(args)} by position and {list(kwargs)}",
                mend="Give each input once, by its place or by its name.",
            )
        for name, x in given.items():
            self.refuse_raw(name, x)
        feeds = {name: check_array(self.inputs[name], x) for name, x in given.items()}
        sizes: dict[str, int] = {}
        for name, array in feeds.items():
            for dim, size in zip(self.inputs[name].shape or (), array.shape, strict=False):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise DataError(
                        f"input {name!r} expected {dim} = {sizes[dim]}, as before it; found {size}",
                        mend="A named dimension has one size in all inputs.",
                    )
        return feeds

    def refuse_raw(self, name: str, x: Any) -> None:
        """Raises DataError for bytes as the input `name`, where the file says how to make floats of those."""
        if getattr(x, "dtype", None) == np.uint8 and self.inputs[name].dtype.kind == "f":
            how = self.metadata.get(PREPROCESSING)
            if how is not None and how != AS_IT_IS:
                raise DataError(
                    f"input {name!r} expected floats, prepared as the model's file says, {how}; found uint8",
                    at=user_line(),
                    mend="Give x * scale + shift, as in a dataset's batch(slice(4)); `onnxmx predict` takes raw ones.",
                )

    # --- files
    def to_bytes(self) -> bytes:
        """The file's bytes. The same model gives the same bytes."""
        data: bytes = self.to_proto().SerializeToString(deterministic=True)
        return data

    def to_proto(self) -> onnx.ModelProto:
        """The model as `onnx.ModelProto`, checked in full."""
        for value in self.ir.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy()  # drawn here: onnx-ir would wrap the error of an initializer in its own
        return check(ir.to_proto(self.ir))

    @checked_arguments
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`. A failure leaves what was there before."""
        write_atomic(path, self.to_bytes())

    def summary(self) -> Summary:
        """Layers, shapes, parameters, floating-point operations and memory. Print it, or take `.to_dict()`."""
        learned = set(weights.trainable_at_all(self.ir.graph, self._listed()))
        return summarize(self.ir, learned, set(self.trainable), set(self._parameter_values()) - learned)

    # --- pictures
    @checked_arguments
    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the graph to an .svg, .png, .pdf or .dot file. Needs the extra `plot`."""
        drawing.plot(self.ir.graph, path)

    def to_mermaid(self) -> str:
        """The graph as the text of a Mermaid flowchart."""
        return drawing.to_mermaid(self.ir.graph)


@checked_arguments
def load(path: str | os.PathLike[str]) -> Model:
    """Load a model from an ONNX file of any maker, opset 7 or newer. See docs/any-onnx.md.

    Raises ModelFileError where it is missing, damaged, hostile or not ONNX, or holds what cannot be converted.
    """
    path = Path(path)
    if not path.is_file():
        of_a_run = path / "model.onnx"
        raise ModelFileError(
            f"expected a model file at {path}; found {'a folder' if path.is_dir() else 'nothing'}",
            mend=f"Give the file in it: {of_a_run}"
            if of_a_run.is_file()
            else "Check the path, or train a model first: onnxmx train.",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError(
                f"{path} expected at most {MAX_BYTES} bytes, as ONNX files hold; found {path.stat().st_size}",
                mend="Export it with its weights in a file of their own.",
            )
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(
            f"cannot read {path}: {error.strerror}", mend="Check the permissions of the file."
        ) from error
    return _read(data, str(path), path.parent)


def from_bytes(data: bytes, what: str = "the model") -> Model:
    """Load a model from the bytes of an ONNX file; `what` names it in errors. Raises ModelFileError."""
    return _read(data, what, None)


def _read(data: bytes, what: str, folder: Path | None) -> Model:
    """folder: where weights that the file keeps beside itself are; None where there is no such place."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has moved between its releases
        raise ModelFileError(f"{what} is not an ONNX file: {error}", mend=_MEND_FILE) from error
    if not proto.HasField("graph") or not proto.graph.output:
        raise ModelFileError(f"{what} is not an ONNX file: it holds no graph", mend=_MEND_FILE)
    try:
        inspect_file(proto, what)
        read_external(proto, what, folder)
        model = Model(ir.from_proto(normalize(proto, what)))
        tidy(model.ir)
        _look_at(model)
    except ModelFileError:
        raise
    except Exception as error:  # the version converter and the reader raise what they meet
        raise ModelFileError(
            f"{what} cannot be read as ONNX opset {OPSET}: {first_line(error)}", mend=_MEND_FILE
        ) from error
    return model


def _look_at(model: Model) -> None:
    """Read what is read late otherwise, so that what is damaged shows when the file is loaded."""
    model.parameters()
    model.summary()
    ir.to_proto(model.ir)  # text that is not UTF-8 passes the checker and cannot be written


def check_array(port: Port, x: Any) -> Array:
    """`x` as the input `port` takes it. Raises DataError where shape, element type or integers do not fit."""
    if np.ma.is_masked(x):
        raise DataError(
            f"input {port.name!r} expected a value everywhere; found some under a mask",
            mend="Fill them, as x.filled(0) does.",
        )
    try:
        array = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise DataError(
            f"input {port.name!r} expected an array; found {type(x).__name__}: {error}",
            mend="Give all rows one length.",
        ) from error
    shape = array.shape if port.shape is None else port.shape
    if not agree(shape, array.shape):
        raise DataError(
            f"input {port.name!r} expected shape {show_shape(shape)}; found {show_shape(array.shape)}",
            mend="Reshape the array; a single sample needs a first dimension of 1.",
        )
    if not np.can_cast(array.dtype, port.dtype, "same_kind"):
        raise DataError(
            f"input {port.name!r} expected {port.dtype}; found {array.dtype}",
            mend=f"Use array.astype({str(port.dtype)!r}).",
        )
    if (wrong := beyond(port.dtype, array)).any():
        raise DataError(
            f"input {port.name!r} expected integers that {port.dtype} holds; found {array[wrong].flat[0]}",
            mend="Repair them: as they are, they would be read as others.",
        )
    return np.asarray(array, port.dtype, order="C")


def _port(value: ir.Value) -> Port:
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    return Port(value.name or "", None if value.shape is None else dims(value.shape), dtype)
