"""Loss and metrics of a model over a dataset, in inference form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session, run_errors, runtime
from onnxmx.builder.values import agree, show_shape
from onnxmx.errors import DataError
from onnxmx.trainer import losses, metrics
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.forward import only_output
from onnxmx.trainer.step import compile_measures

OrtValue = Any


def evaluate(
    model: Model,
    data: Dataset,
    *,
    loss: str | losses.Loss = "softmax_cross_entropy",
    measure: Sequence[str | metrics.Metric] | None = None,
    batch_size: int = 256,
    threads: int | None = None,
    provider: str = "cpu",
) -> dict[str, float]:
    """Loss and metrics of `model` over all of `data`, by name.

    provider: where to run it: "cpu", "cuda", or "cuda_tf32".

    Raises DataError where the data does not fit the model.
    """
    evaluator = Evaluator(model, loss=loss, measure=measure, threads=threads, provider=provider)
    return evaluator.run(fit_data(model, data, loss), batch_size)


class Evaluator:
    """Evaluates one graph, with the parameters in it or, when `live`, with those given at each run."""

    def __init__(
        self,
        model: Model,
        *,
        loss: str | losses.Loss,
        measure: Sequence[str | metrics.Metric] | None = None,
        threads: int | None = None,
        provider: str = "cpu",
        live: bool = False,
    ) -> None:
        rules = losses.get(loss)
        self._metrics = metrics.chosen(measure, rules)
        self._output = only_output(model).name or ""
        self._batch = _fixed_batch(model)
        graph = _with_parameters_as_inputs(model) if live else model.to_bytes()
        self._model = open_session(graph, threads=threads, provider=provider)
        self._measures = open_session(compile_measures(model, rules, self._metrics), threads=1)

    def run(self, data: Dataset, batch_size: int, weights: Mapping[str, OrtValue] | None = None) -> dict[str, float]:
        """The mean over the samples of `data`, by name; `loss` first. weights: ONNX Runtime values by parameter.

        batch_size: a model of a fixed batch is run on batches of that size instead.
        """
        value = runtime().OrtValue.ortvalue_from_numpy
        names = ["loss", *(f"metric.{m.name}" for m in self._metrics)]
        total = np.zeros(len(names))
        label = next(iter(data.labels))
        if self._batch and len(data) % self._batch:
            raise DataError(
                f"the model expected batches of exactly {self._batch} samples; found {len(data)} in {data.name}",
                mend="Take a multiple of that, or export the model with a symbolic batch dimension.",
            )
        for _, batch in Loader(data, self._batch or batch_size, shuffle=False).epoch(0):
            target = batch.pop(label)
            feeds = {name: value(array) for name, array in batch.items()} | dict(weights or {})
            with run_errors(f"expected samples in {data.name} that the model can compute"):
                (output,) = self._model.run_with_ort_values([self._output], feeds)
                measured = self._measures.run_with_ort_values(names, {"output": output, "label": value(target)})
            total += len(target) * np.array([m.numpy() for m in measured], np.float64)
        return {n.removeprefix("metric."): float(t) for n, t in zip(names, total / len(data), strict=True)}


def fit_data(model: Model, data: Dataset, loss: str | losses.Loss) -> Dataset:
    """`fit_inputs`, and the label checked against what the loss takes. Raises DataError where it does not fit."""
    data = fit_inputs(model, data)
    rules = losses.get(loss)
    shape, kind = rules.label(only_output(model))
    name, found = next(iter(data.labels.items()))
    if found.dtype != kind.numpy() or not agree(shape[1:], found.shape[1:]):
        raise DataError(
            f"{rules.name} expected labels of {kind.numpy().name} {show_shape(shape)} for this model; "
            f"found {name!r} of {found.dtype} {show_shape(('batch', *found.shape[1:]))} in {data.name}",
            mend="softmax_cross_entropy takes class numbers, integers; mean_squared_error takes floats of the shape of "
            "the model's output.",
        )
    output = only_output(model)
    if (
        rules.classes
        and output.shape is not None
        and isinstance(classes := output.shape[losses.class_axis(output)], int)
    ):
        data.check_classes(classes)
    return data


def _typed(data: Dataset, name: str, dtype: np.dtype[Any]) -> Dataset:
    """`data` that gives the input `name` as it is, in the model's own element type: token numbers, masks."""
    found = data.inputs[name].dtype
    if not np.can_cast(found, dtype, "same_kind"):
        raise DataError(
            f"the model's input {name!r} expected {dtype}; found {found} in {data.name}",
            mend=f"Give an array that holds {dtype}, or build the model with another input type.",
        )
    return data.typed({name: dtype.name})


def fit_inputs(model: Model, data: Dataset) -> Dataset:
    """`data` with its only input named as the model's only one. Raises DataError where data does not fit the model."""
    if len(data.inputs) == len(model.inputs) == 1:
        data = data.rename({next(iter(data.inputs)): next(iter(model.inputs))})
    if set(data.inputs) != set(model.inputs):
        raise DataError(
            f"the model expected the inputs {sorted(model.inputs)}; found {sorted(data.inputs)} in {data.name}"
        )
    for name, shape in data.input_shapes.items():
        port = model.inputs[name]
        if port.dtype != np.float32:
            data = _typed(data, name, port.dtype)
        if not port.shape:
            raise DataError(
                f"the model's input {name!r} expected a first dimension that counts samples; "
                f"found {'an unknown rank' if port.shape is None else 'a scalar'}",
                mend="Build or export the model with a batch dimension.",
            )
        expected = port.shape[1:]
        if not agree(expected, shape):
            raise DataError(
                f"the model's input {name!r} expected samples of shape {expected}; found {shape} in {data.name}",
                mend="Train or choose a model for this data, or another dataset.",
            )
    if len(data.labels) != 1:
        raise DataError(f"expected one label in {data.name}; found {sorted(data.labels)}")
    return data


def _fixed_batch(model: Model) -> int | None:
    """The number of samples that the model's inputs are fixed to, or None."""
    sizes = [port.shape[0] for port in model.inputs.values() if port.shape]
    return next((d for d in sizes if isinstance(d, int)), None)


def _with_parameters_as_inputs(model: Model) -> bytes:
    """The model's file with its parameters listed among its inputs, which lets a run replace them."""
    proto: Any = ir.to_proto(model.ir)
    parameters = model.parameters()
    listed = {port.name for port in proto.graph.input}  # an old file lists them already
    for tensor in proto.graph.initializer:
        if tensor.name in parameters and tensor.name not in listed:
            port = proto.graph.input.add()
            port.name = tensor.name
            port.type.tensor_type.elem_type = tensor.data_type
            for d in tensor.dims:
                port.type.tensor_type.shape.dim.add().dim_value = d
    data: bytes = proto.SerializeToString()
    return data
