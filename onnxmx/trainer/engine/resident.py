"""Step graphs that draw their batch themselves, from a dataset that stays where they compute.

Between a step and the next one, Python then hands over the numbers of the samples and nothing else. Gathering and
scaling them takes the threads of the step itself; a thread of its own would take a core from them, and a batch of
images for each step would cross over to the device (docs/performance.md).

The step file stays as it is. Only what this process hands to its own session changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmx.trainer.data.dataset import Dataset, Preprocessing

Array = np.ndarray[Any, Any]

INDICES = "indices"
_DEVICE_BYTES = 1 << 30
"""Of a dataset, at most, on a device with a memory of its own."""
_HALVES = ("float16", "bfloat16")


def fits(source: Dataset, device: str) -> bool:
    """Whether `source` can stay on `device`: arrays as ONNX Runtime reads them, in memory, and not too large.

    A class of the user's may make its batches in a way of its own, which only Python knows.
    """
    ours = all(
        getattr(type(maker), name) is getattr(kind, name)
        for maker, kind, name in (
            (source, Dataset, "batch"),
            (source, Dataset, "_prepared"),
            (source.preprocessing, Preprocessing, "apply"),
        )
    )
    arrays = [*source.inputs.values(), *source.labels.values()]
    size = sum(array.nbytes for array in arrays)
    # ONNX Runtime casts float64 to these by way of float32, which rounds twice.
    twice = any(a.dtype == np.float64 and source.types.get(name) in _HALVES for name, a in source.inputs.items())
    return (
        ours
        and not twice
        and (device == "cpu" or size <= _DEVICE_BYTES)
        and all(array.flags.c_contiguous and array.dtype.isnative and not _in_a_file(array) for array in arrays)
    )


def arrays_of(source: Dataset) -> dict[str, Array]:
    """What a graph of `drawing` reads, by the names of its inputs."""
    return {f"data.{name}": array for name, array in {**source.inputs, **source.labels}.items()}


def quantizes(step: bytes) -> bool:
    """Whether a step graph has quantization of its own, which ONNX Runtime fuses by the patterns it knows."""
    return b"QuantizeLinear" in step


def drawing(step: bytes, source: Dataset) -> bytes:
    """The same step with `indices`, int64 (batch,), and the arrays of `arrays_of` in the place of its batch.

    Its batches have the bits of `source.batch(indices)`. An index outside the data is not looked for on CUDA.
    """
    model = onnx.load_from_string(step)
    graph = model.graph
    ports = [port for port in graph.input if port.name.startswith("batch.")]
    batch = ports[0].type.tensor_type.shape.dim[0]
    taken = helper.make_tensor_value_info(INDICES, onnx.TensorProto.INT64, [None])
    taken.type.tensor_type.shape.dim[0].CopyFrom(batch)
    whole = [
        helper.make_tensor_value_info(name, _element(array), [None, *array.shape[1:]])
        for name, array in arrays_of(source).items()
    ]
    others = [port for port in graph.input if port not in ports]
    nodes = [node for port in ports for node in _prepared(port, source, quantizes(step))]
    nodes.extend(graph.node)
    graph.value_info.extend(ports)
    for field, values in ((graph.input, [taken, *whole, *others]), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    return bytes(model.SerializeToString())


def _prepared(port: onnx.ValueInfoProto, source: Dataset, quantized: bool) -> Iterator[onnx.NodeProto]:
    """The nodes that make one part of a batch: what `Dataset.batch` does, in its order, so to the same bits."""
    name = port.name.removeprefix("batch.")
    array = source.inputs[name] if name in source.inputs else source.labels[name]
    to, rule = port.type.tensor_type.elem_type, source.preprocessing
    scales = name in source.inputs and name not in source.types
    todo: list[tuple[str, float | None]] = [("Gather", None)]
    if scales and rule.scale > 0 and array.dtype.itemsize == 1 and array.dtype.kind in "iu" and not quantized:
        todo.append(("DequantizeLinear", rule.scale))  # a cast and a product in one pass
    else:
        todo += [("Cast", None)] * (_element(array) != to)
        todo += [("Mul", rule.scale)] * (scales and rule.scale != 1.0)
    todo += [("Add", rule.shift)] * (scales and rule.shift != 0.0)
    at = f"data.{name}"
    for k, (kind, operand) in enumerate(todo):
        made = port.name if k == len(todo) - 1 else f"{port.name}.{kind}"
        inputs = [at, INDICES] if kind == "Gather" else [at]
        if operand is not None:
            inputs.append(f"{port.name}.{kind}.operand")
            number = numpy_helper.from_array(np.array(operand, np.float32))
            yield helper.make_node("Constant", [], inputs[1:], value=number)
        node = helper.make_node(kind, inputs, [made], name=made)
        if kind == "Cast":
            node.attribute.append(helper.make_attribute("to", to))
        yield node
        at = made


def _element(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def _in_a_file(array: Any) -> bool:
    """Whether its values are read from a disk as they are asked for."""
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None
