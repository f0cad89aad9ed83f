"""The outputs of a model for many samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session, run_errors
from onnxmx.errors import ShapeError
from onnxmx.trainer.data import Dataset, Loader
from onnxmx.trainer.evaluate import check_kinds, fit_inputs, fixed_batch

Array = np.ndarray[Any, Any]


@checked_arguments
def predict(
    model: Model,
    data: Dataset | npt.ArrayLike | Mapping[str, npt.ArrayLike],
    *,
    batch_size: int = 256,
    threads: int | None = None,
    provider: str = "cpu",
) -> Array | dict[str, Array]:
    """What `model` gives for all of `data`, in its order: an array (samples, ...), or a dict of several by output.

        classes = mx.predict(run.model, test).argmax(axis=1)

    data: a dataset, of which the labels are not read and the preprocessing is applied; or an array as the model reads
    it, samples first, or a dict of arrays by input.
    batch_size: samples a run; a model of a fixed batch is run on batches of that size instead.
    threads: worker threads; by default the cores of this machine.
    provider: where to run it: "cpu", "cuda", or "cuda_tf32".
    Raises DataError where the data does not fit the model, ShapeError where an output has no row for each sample.
    """
    data = replace(_dataset(model, data), labels={})
    data = fit_inputs(model, data)
    count, fixed = len(data), fixed_batch(model)
    size = fixed or batch_size
    if fixed and count % fixed:  # the last sample fills up the last batch
        data = data.subset(np.minimum(np.arange(-(-count // fixed) * fixed), count - 1))
    session = open_session(model.to_bytes(), threads=threads, provider=provider)
    names, found = list(model.outputs), dict[str, Array]()
    for index, batch in Loader(data, size, shuffle=False).epoch(0):
        with run_errors(f"expected samples in {data.name} that the model can compute"):
            outputs = dict(zip(names, session.run(names, batch), strict=True))
        rows = len(next(iter(batch.values())))
        for name, output in outputs.items():
            all_of_it = found.get(name, output)
            if output.shape[:1] != (rows,) or output.shape[1:] != all_of_it.shape[1:]:
                raise ShapeError(
                    f"output {name!r} expected {rows} rows of one shape for {rows} samples; found {output.shape}"
                    + (f" after rows of {all_of_it.shape[1:]}" if name in found else ""),
                    mend="Run such a model by calls, a batch at a time: model(array).",
                )
            if name not in found:
                found[name] = np.empty((len(data), *output.shape[1:]), output.dtype)
            found[name][index * size : index * size + rows] = output
    found = {name: output[:count] for name, output in found.items()}
    return found if len(names) > 1 else found[names[0]]


def _dataset(model: Model, data: Any) -> Dataset:
    found: Dataset = data
    if hasattr(data, "__array__") or (isinstance(data, Mapping) and data):
        arrays = data if isinstance(data, Mapping) else {next(iter(model.inputs)): data}
        for name in arrays.keys() & model.inputs.keys():
            model.refuse_raw(name, arrays[name])
        found = Dataset.from_arrays(arrays, name="the arrays")
    check_kinds("predict", model, found)
    return found
