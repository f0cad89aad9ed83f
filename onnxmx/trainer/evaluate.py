"""Loss and metrics of a model over a dataset, in inference form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.layers import Layer
from onnxmx.builder.literals import beyond
from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session, run_errors, runtime
from onnxmx.builder.values import Dim, agree
from onnxmx.errors import DataError, SampleError, UsageError
from onnxmx.trainer import losses
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.data.arrays import first_bad
from onnxmx.trainer.data.others import instead_of_dataset
from onnxmx.trainer.losses import Loss, LossLike, Spec
from onnxmx.trainer.losses.base import Values
from onnxmx.trainer.objective import Measure, Objective, Task, outputs_of
from onnxmx.trainer.step import compile_figures, compile_measures

Array = np.ndarray[Any, Any]
OrtValue = Any


@checked_arguments
def evaluate(
    model: Model,
    data: Dataset,
    *,
    loss: LossLike | None = None,
    measure: Measure = None,
    batch_size: int = 256,
    threads: int | None = None,
    provider: str = "cpu",
) -> dict[str, Any]:
    """Loss and metrics of `model` over all of `data`, by name: numbers, and lists for a confusion matrix.

    loss: by default that of its training, and for a model from elsewhere what suits the labels.
    provider: where to run it: "cpu", "cuda", or "cuda_tf32".
    Raises DataError where the data does not fit the model, UsageError for what it cannot be measured by.
    """
    check_kinds("evaluate", model, data)
    rules = losses.of(model, data, loss)
    data = fit_data(model, data, rules)
    evaluator = Evaluator(model, data, loss=rules, measure=measure, threads=threads, provider=provider)
    return evaluator.run(data, batch_size)


def check_kinds(caller: str, model: Any, data: Any, validation: Any = None) -> None:
    """Raises UsageError for what is easily given in place of a model and datasets."""
    build = "Build a layer first: layer.build(x=('batch', 784)); load a file: mx.load(path); a run has run.model."
    if isinstance(model, Layer) and isinstance(data, Dataset):
        shapes = {name: ("batch", *shape) for name, shape in data.input_shapes.items()}
        build = f"Build it first: model = net.build({', '.join(f'{name}={shape}' for name, shape in shapes.items())})."
    held_out = "Hold samples out of the others: train, test = data.hold_out(0.2)."
    validating = held_out if isinstance(validation, float) else instead_of_dataset(validation)
    rows = (
        ("a model", model, isinstance(model, Model), build),
        ("a dataset", data, isinstance(data, Dataset), instead_of_dataset(data)),
        ("validation data", validation, validation is None or isinstance(validation, Dataset), validating),
    )
    for what, found, fits, mend in rows:
        if not fits:
            raise UsageError(f"{caller} expected {what}; found {type(found).__name__}", mend=mend)
        if isinstance(found, Dataset) and "inputs" not in vars(found):  # PyTorch: a class of one's own
            raise UsageError(
                f"{caller} expected {what} of arrays; found {type(found).__name__}, which has none",
                mend="End its __init__ with super().__init__(name, 'train', {'x': x}, {'label': labels}).",
            )


class Evaluator:
    """Evaluates one graph, with the parameters in it or, when `live`, with those given at each run.

    data: such as will be evaluated.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        *,
        loss: LossLike,
        measure: Measure = None,
        threads: int | None = None,
        provider: str = "cpu",
        live: bool = False,
    ) -> None:
        self._objective = Objective.of(losses.get(loss), outputs_of(model), specs_of(data.labels), measure)
        self._batch = fixed_batch(model)
        graph = _with_parameters_as_inputs(model) if live else model.to_bytes()
        self._model = open_session(graph, threads=threads, provider=provider)
        self._measures = open_session(compile_measures(model, self._objective), threads=1)
        self._sums = [port.name for port in self._measures.get_outputs()]
        self._figures = Figures(self._objective, {p.name: p.shape for p in self._measures.get_outputs()})

    def run(self, data: Dataset, batch_size: int, weights: Mapping[str, OrtValue] | None = None) -> dict[str, Any]:
        """The figures of all of `data`, by name; `loss` first. weights: ONNX Runtime values by parameter.

        batch_size: a model of a fixed batch is run on batches of that size instead.
        Raises DataError where that does not divide the samples, or the model cannot compute them.
        """
        value = runtime().OrtValue.ortvalue_from_numpy
        outputs, labels = self._objective.outputs, list(self._objective.labels)
        if self._batch and len(data) % self._batch:
            raise DataError(
                f"the model expected batches of exactly {self._batch} samples; found {len(data)} in {data.called}",
                mend="Take a multiple of that, or export the model with a symbolic batch dimension.",
            )
        sums: dict[str, Array] = {}
        for _, batch in Loader(data, self._batch or batch_size, shuffle=False).epoch(0):
            targets = {f"label.{name}": value(batch.pop(name)) for name in labels}
            feeds = {name: value(array) for name, array in batch.items()} | dict(weights or {})
            with run_errors(f"expected samples in {data.name} that the model can compute"):
                found = self._model.run_with_ort_values(outputs, feeds)
                targets |= {f"output.{name}": v for name, v in zip(outputs, found, strict=True)}
                measured = self._measures.run_with_ort_values(self._sums, targets)
            add(sums, {name: m.numpy() for name, m in zip(self._sums, measured, strict=True)})
        return self._figures(sums)


class Figures:
    """Makes of added sums the figures that they stand for.

    sums: the shape of each, by name, as a graph's outputs are called: `sum.<name>`.
    """

    def __init__(self, objective: Objective, sums: Mapping[str, Sequence[int]]) -> None:
        shapes = {name.removeprefix("sum."): shape for name, shape in sums.items()}
        self._session = open_session(compile_figures(objective, shapes), threads=1)
        self._names = [port.name for port in self._session.get_outputs()]

    def __call__(self, sums: Mapping[str, Array]) -> dict[str, Any]:
        """The figures by name. sums: float64, by `sum.<name>`."""
        found = self._session.run(self._names, dict(sums))
        return {n.removeprefix("metric."): array.tolist() for n, array in zip(self._names, found, strict=True)}


def add(sums: dict[str, Array], batch: Mapping[str, Array]) -> None:
    """Add the sums of a batch to those of the batches before it."""
    for name, array in batch.items():
        if name in sums:
            sums[name] += array
        else:
            sums[name] = array.copy()


def fit_data(model: Model, data: Dataset, loss: LossLike) -> Dataset:
    """`fit_inputs`, with the labels that the loss reads alone, checked against what it takes.

    Raises DataError where they do not fit.
    """
    data = fit_inputs(model, data)
    outputs, found = outputs_of(model), specs_of(data.labels)
    objective = Objective.of(
        losses.get(loss), outputs, found, measure=[] if isinstance(losses.get(loss), Loss) else None
    )
    for name, spec in objective.labels.items():
        if found[name].dtype != spec.dtype or not agree(spec.shape[1:], found[name].shape[1:]):
            task = next(task for task in objective.tasks if name in task.columns)
            raise DataError(
                f"{task.loss.name} expected labels of {spec} for this model; "
                f"found {name!r} of {found[name]} in {data.called}",
                mend=_other_loss(task, name, data.labels[name], spec, {n: outputs[n] for n in task.outputs}),
            )
    data = replace(data, labels={name: data.labels[name] for name in objective.labels})
    try:
        objective.check(data.labels, outputs)
    except SampleError as error:
        raise error.placed(*data.read_from(error.sample)) from None
    return data


def _other_loss(task: Task, name: str, array: Array, wanted: Spec, outputs: Values) -> str:
    """What to do about labels that a loss does not take: the losses that take them, or what these ask of the model."""
    found = specs_of({name: array})[name]
    mend = f"{task.loss.name} takes {task.loss.takes}."
    if fitting := losses.that_take(name, array, found, outputs):
        mend += f" Losses that take these labels: {', '.join(fitting)}."
    elif array.ndim > 1 and array.shape[-1] == 1 and agree(wanted.shape[1:], array.shape[1:-1]):
        mend += " Without their last axis, of one, these would fit: y[..., 0]."
    elif len(wanted.shape) > array.ndim:
        mend += " This model's output has more axes than the labels: it may lack Flatten() or return_sequences=False."
    elif array.dtype.kind in "iu" and array.ndim == 1:
        mend += " Class numbers are for softmax_cross_entropy, and a model that ends in an output for each class."
    if array.dtype.kind == "f" and not wanted.dtype.is_floating_point() and (array == np.floor(array)).all():
        mend += " As class numbers they are given as integers: y.astype(int)."
    if wanted.dtype.is_floating_point() and agree(wanted.shape[1:], found.shape[1:]):
        mend += " As numbers they are given in float32: y.astype(numpy.float32)."
    return mend


def specs_of(labels: Mapping[str, Array]) -> dict[str, Spec]:
    """What labels are, samples first, by name."""
    return {
        name: Spec(("batch", *array.shape[1:]), ir.DataType.from_numpy(array.dtype)) for name, array in labels.items()
    }


def _typed(data: Dataset, name: str, dtype: np.dtype[Any]) -> Dataset:
    """`data` that gives the input `name` as it is, in the model's own element type: token numbers, masks."""
    array = data.inputs[name]
    found = array.dtype
    if not np.can_cast(found, dtype, "same_kind"):
        raise DataError(
            f"the model's input {name!r} expected {dtype}; found {found} in {data.called}",
            mend=f"Give an array that holds {dtype}, or build the model with another input type.",
        )
    if (wrong := beyond(dtype, array)).any():
        sample, value = first_bad(array, wrong)
        of, row = data.read_from(sample)
        raise SampleError(
            f"the model's input {name!r} expected integers that {dtype} holds; found {value}",
            row,
            of=of,
            mend="Repair them: as they are, they would be read as others.",
        )
    return data.typed({name: dtype.name})


def fit_inputs(model: Model, data: Dataset) -> Dataset:
    """`data` with its only input named as the model's only one. Raises DataError where data does not fit the model."""
    if len(data.inputs) == len(model.inputs) == 1:
        data = data.rename({next(iter(data.inputs)): next(iter(model.inputs))})
    if set(data.inputs) != set(model.inputs):
        raise DataError(
            f"the model expected the inputs {sorted(model.inputs)}; found {sorted(data.inputs)} in {data.called}"
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
                f"the model's input {name!r} expected samples of shape {expected}; found {shape} in {data.called}",
                mend=_other_shape(expected, shape, port.shape),
            )
    return data


def _other_shape(expected: tuple[Dim, ...], found: tuple[int, ...], whole: tuple[Dim, ...]) -> str:
    """What to do about samples of another shape than a model takes.   whole: that of the input, samples first."""
    sizes = [d for d in expected if isinstance(d, int)]
    if agree(whole, found):
        return f"The first dimension of an input counts samples: build(x=('batch', {', '.join(map(str, found))}))."
    if len(expected) == 1 and not found:
        return "Samples come first: x[None] holds one of them."
    if len(found) == 3 and agree(expected, (found[2], *found[:2])):
        return "Channels come before height and width: x.transpose(0, 3, 1, 2)."
    if len(expected) == 3 and agree(expected, (1, *found)):
        return "Give the images an axis of channels: x[:, None]."
    if len(sizes) == len(expected) and math.prod(sizes) == math.prod(found):
        return f"Give the samples that shape: x.reshape({', '.join(map(str, (-1, *sizes)))})."
    return "Train or choose a model for this data, or another dataset."


def fixed_batch(model: Model) -> int | None:
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
