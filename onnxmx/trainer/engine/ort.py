"""Running a step graph on stock ONNX Runtime, without a copy or an allocation a step.

The state lives in two sets of buffers. A step reads one set and writes the other, and then the two change places.
Writing a next value onto its own present one would not do: a gradient may still read a weight after that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxmx.builder.session import open_session, runtime
from onnxmx.errors import CheckpointError, DataError, OnnxmxError
from onnxmx.trainer.step import StepGraph

Array = np.ndarray[Any, Any]
OrtValue = Any


class OrtEngine:
    """Holds a training state and moves it on, one batch at a time.

    step: the compiled step.
    state: arrays by name without `state.`; copied.
    threads, provider: as in `open_session`.
    Raises CheckpointError where the state is not that of this step graph.
    """

    def __init__(
        self,
        step: StepGraph,
        state: dict[str, Array],
        *,
        threads: int | None = None,
        provider: str = "cpu",
    ) -> None:
        self._ort = runtime()
        self._device = provider
        inputs = {port["name"]: port for port in step.spec["inputs"]}
        self._batch_inputs = {name.removeprefix("batch."): p for name, p in inputs.items() if name.startswith("batch.")}
        self._state_inputs = {name.removeprefix("state."): p for name, p in inputs.items() if name.startswith("state.")}
        self._check_state(state)
        self._sets = [{name: self._buffer(array) for name, array in state.items()} for _ in range(2)]
        self._now = 0
        names = [port["name"] for port in step.spec["outputs"]]
        self._scalars = {n: self._buffer(np.zeros((), np.float32), "cpu") for n in names if not n.startswith("next.")}
        self._scalar_views = {n.removeprefix("metric."): v.numpy() for n, v in self._scalars.items()}
        # The batch may be of any size: a graph with a symbolic one runs as fast as with a number (docs/performance.md).
        self._session = open_session(step.data, threads=threads, provider=provider)
        self._bindings = [self._bind(0, 1), self._bind(1, 0)]

    def step(self, batch: dict[str, Array]) -> dict[str, float]:
        """One update. batch: an array for each input and label, samples first, float32 or int64 as the step takes it.

        Returns loss, metrics, grad_norm and lr of this step. Raises DataError where the batch does not fit.
        """
        binding = self._bindings[self._now]
        for name, array in batch.items():
            value = self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            binding.bind_ortvalue_input(f"batch.{name}", value)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime has no common base for what it raises here
            raise self._explain(batch, error) from error
        self._now = 1 - self._now
        return {name: float(view) for name, view in self._scalar_views.items()}

    @property
    def values(self) -> dict[str, OrtValue]:
        """The present state as ONNX Runtime holds it; the next step but one overwrites these buffers."""
        return self._sets[self._now]

    def state(self) -> dict[str, Array]:
        """A copy of the present state."""
        return {name: np.array(value.numpy()) for name, value in self.values.items()}

    def _buffer(self, array: Array, device: str | None = None) -> OrtValue:
        value = self._ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, device or self._device, 0)
        value.update_inplace(np.ascontiguousarray(array))
        return value

    def _bind(self, source: int, target: int) -> Any:
        """The session bound to read the state from one set of buffers and to write the next one to the other."""
        binding = self._session.io_binding()
        for name, value in self._sets[source].items():
            binding.bind_ortvalue_input(f"state.{name}", value)
        for name, value in self._sets[target].items():
            binding.bind_ortvalue_output(f"next.{name}", value)
        for name, value in self._scalars.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def _check_state(self, state: dict[str, Array]) -> None:
        differ = [
            f"{name} (expected {tuple(port['shape'])}, found {state[name].shape if name in state else 'none'})"
            for name, port in self._state_inputs.items()
            if name not in state or list(state[name].shape) != port["shape"]
        ] + [f"{name} (not expected)" for name in state if name not in self._state_inputs]
        if differ:
            raise CheckpointError(
                f"the state is not that of this step graph; {len(differ)} differ: {'; '.join(differ[:5])}"
            )

    def _explain(self, batch: dict[str, Array], error: Exception) -> OnnxmxError:
        expected = {name: (tuple(p["shape"]), p["dtype"]) for name, p in self._batch_inputs.items()}
        found = {name: (a.shape, a.dtype.name) for name, a in batch.items()}
        fits = expected.keys() == found.keys() and all(
            dtype == found[name][1]
            and len(shape) == len(found[name][0])
            and all(isinstance(d, str) or d is None or d == n for d, n in zip(shape, found[name][0], strict=True))
            for name, (shape, dtype) in expected.items()
        )
        if not fits:
            return DataError(f"the step expected a batch of {expected}; found {found}")
        return OnnxmxError(f"ONNX Runtime could not run the step: {str(error).splitlines()[0]}")
