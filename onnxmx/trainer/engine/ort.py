"""Running a step graph on stock ONNX Runtime, without a copy or an allocation a step.

The state lives in two sets of buffers. A step reads one set and writes the other, and then the two change places.
Writing a next value onto its own present one would not do: a gradient may still read a weight after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxmx.builder.session import PROVIDERS, open_session, providers, run_errors, runtime
from onnxmx.builder.values import show_shape
from onnxmx.errors import CheckpointError, DataError
from onnxmx.trainer.engine.blocked import block_size, lower
from onnxmx.trainer.step import StepGraph

Array = np.ndarray[Any, Any]
OrtValue = Any


class OrtEngine:
    """Holds a training state and moves it on, one batch at a time.

    step: the compiled step.
    state: arrays by name without `state.`; copied.
    threads, provider: as in `open_session`.
    sums: those of the last batch, by name; the next step writes over them.
    Raises CheckpointError where the state is not that of this step graph.
    """

    _blocks: ClassVar[bool] = True  # whether convolutions are brought to ONNX Runtime's blocked layout

    def __init__(
        self,
        step: StepGraph,
        state: dict[str, Array],
        *,
        threads: int | None = None,
        provider: str = "cpu",
    ) -> None:
        self._ort = runtime()
        providers(provider)  # before the first buffer, which would fail with less to say
        self._device = PROVIDERS[provider]
        inputs = {port["name"]: port for port in step.spec["inputs"]}
        self._batch_inputs = {name.removeprefix("batch."): p for name, p in inputs.items() if name.startswith("batch.")}
        self._state_inputs = {name.removeprefix("state."): p for name, p in inputs.items() if name.startswith("state.")}
        self._check_state(state)
        self._sets = [{name: self._buffer(array) for name, array in state.items()} for _ in range(2)]
        self._now = 0
        ports = {p["name"]: p for p in step.spec["outputs"] if not p["name"].startswith("next.")}
        self._measures = {n: self._buffer(np.zeros(p["shape"], p["dtype"]), "cpu") for n, p in ports.items()}
        views = {name: value.numpy() for name, value in self._measures.items()}
        self._scalars = {n.removeprefix("metric."): v for n, v in views.items() if not v.ndim}
        self.sums: dict[str, Array] = {n: v for n, v in views.items() if n.startswith("sum.")}
        # The batch may be of any size: a graph with a symbolic one runs as fast as with a number (docs/performance.md).
        lean = step.spec.get("checkpoint", False)
        data = as_the_engine_opens(step.data, provider) if self._blocks and not lean else step.data
        self._session = self._open(data, threads=threads, provider=provider, tidy=True, lean=lean)
        self._bindings = [self._bind(0, 1), self._bind(1, 0)]

    def step(self, batch: dict[str, Array]) -> dict[str, float]:
        """One update. batch: an array for each input and label, samples first, float32 or int64 as the step takes it.

        Returns loss, metrics that are one number, grad_norm and lr of this step. Raises DataError where the batch does
        not fit.
        """
        self.check(batch)
        binding = self._bindings[self._now]
        for name, array in batch.items():
            value = self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            binding.bind_ortvalue_input(f"batch.{name}", value)
        with run_errors("expected a batch that the step can compute"):
            self._session.run_with_iobinding(binding)
        self._now = 1 - self._now
        return {name: float(view) for name, view in self._scalars.items()}

    def check(self, batch: dict[str, Array]) -> None:
        """Raises DataError unless `batch` has the names, types and shapes that the step takes.

        Always before a step: ONNX Runtime would read a missing array from the batch before, and broadcast a label of
        one sample over all of them.
        """
        sizes: dict[str, int] = {}
        fits = batch.keys() == self._batch_inputs.keys() and all(
            array.dtype.name == port["dtype"]
            and array.ndim == len(port["shape"])
            and all(
                d is None or n == (sizes.setdefault(d, n) if isinstance(d, str) else d)
                for d, n in zip(port["shape"], array.shape, strict=True)
            )
            for array, port in ((batch[name], port) for name, port in self._batch_inputs.items())
        )
        if not fits:
            expected = ", ".join(f"{n} {p['dtype']} {show_shape(p['shape'])}" for n, p in self._batch_inputs.items())
            found = ", ".join(f"{n} {a.dtype} {show_shape(a.shape)}" for n, a in batch.items())
            raise DataError(
                f"the step expected a batch of {expected}; found {found or 'nothing'}",
                mend="Names, element types and shapes must agree, and all arrays hold the same number of samples.",
            )

    @property
    def values(self) -> dict[str, OrtValue]:
        """The present state as ONNX Runtime holds it; the next step but one overwrites these buffers."""
        return self._sets[self._now]

    def state(self, *, former: bool = False) -> dict[str, Array]:
        """A copy of the present state, or of that before the last step."""
        values = self._sets[1 - self._now] if former else self.values
        return {name: np.array(value.numpy()) for name, value in values.items()}

    def load(self, state: dict[str, Array]) -> None:
        """Go on from `state`. Raises CheckpointError where it is not that of this step graph."""
        self._check_state(state)
        for name, array in state.items():
            self.values[name].update_inplace(np.ascontiguousarray(array).reshape(array.shape))

    def _open(self, data: bytes, **options: Any) -> Any:
        return open_session(data, **options)

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
        for name, value in self._measures.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def _check_state(self, state: dict[str, Array]) -> None:
        if differ := differences(self._state_inputs, state):
            raise CheckpointError(
                f"the state is not that of this step graph; {differ}",
                mend="Use the state of the model that the step was compiled from.",
            )


def as_the_engine_opens(data: bytes, provider: str) -> bytes:
    """A step graph in the form in which `provider` runs it fastest."""
    return lower(data, block_size()) if provider == "cpu" else data


def differences(expected: Mapping[str, dict[str, Any]], found: Mapping[str, Array]) -> str:
    """Which parts of a state are not as its step graph has them, by name and shape; empty where all are.

    expected: the descriptions of step.json by name.
    """
    altered: list[str] = []
    missing: list[str] = []
    for name, port in expected.items():
        array = found.get(name)
        if array is None or list(array.shape) != port["shape"] or array.dtype.name != port["dtype"]:
            said = f"{name} (expected {port['dtype']} {show_shape(port['shape'])}, found {_describe(array)})"
            (missing if array is None else altered).append(said)
    more = [f"{name} (not expected, found {_describe(array)})" for name, array in found.items() if name not in expected]
    kinds = [(kind, kind[:_SHOWN]) for kind in (altered, missing, more)]
    said = "; ".join(part for _, shown in kinds for part in shown)
    left = sum(len(kind) - len(shown) for kind, shown in kinds)
    count = left + sum(len(shown) for _, shown in kinds)
    return f"{count} differ: {said}" + (f"; and {left} others" if left else "") if count else ""


_SHOWN = 4


def _describe(array: Array | None) -> str:
    return "none" if array is None else f"{array.dtype} {show_shape(array.shape)}"
