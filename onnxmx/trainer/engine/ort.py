"""Running step graphs on stock ONNX Runtime, without a copy or an allocation a step.

Each part of the state lives in two buffers. A step reads one of them and writes the other, and then the two change
places. Writing a next value onto its own present one would not do: a gradient may still read a weight after that.

Several step graphs may share a state, as those of a GAN do. Each reads and writes the parts that it names; only what
it writes changes places. Where a part is depends on how often each of its writers has run, even or odd, and so does
what a step binds: each such case is bound once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from onnxmx.builder.session import PROVIDERS, open_session, providers, run_errors, runtime
from onnxmx.builder.values import show_shape
from onnxmx.errors import CheckpointError, DataError
from onnxmx.trainer.engine.block_size import block_size
from onnxmx.trainer.engine.blocked import lower
from onnxmx.trainer.state import differences
from onnxmx.trainer.step import StepGraph

Array = np.ndarray[Any, Any]
OrtValue = Any


class _Program:
    """One step graph: what it takes and gives, and how it is bound.

    batch, state: its inputs by name, as `step.json` describes them.   writes: the parts of the state that it changes.
    measures: a buffer for each other output.   bindings: by the turns of all programs.
    """

    def __init__(self, step: StepGraph) -> None:
        self.step = step
        self.batch = _ports(step.spec["inputs"], "batch.")
        self.state = _ports(step.spec["inputs"], "state.")
        self.writes = list(_ports(step.spec["outputs"], "next."))
        ports = (p for p in step.spec["outputs"] if not p["name"].startswith("next."))
        self.measures = {p["name"]: _buffer(np.zeros(p["shape"], p["dtype"]), "cpu") for p in ports}
        views = {name: value.numpy() for name, value in self.measures.items()}
        self.scalars = {n.removeprefix("metric."): v for n, v in views.items() if not v.ndim}
        self.sums: dict[str, Array] = {n: v for n, v in views.items() if n.startswith("sum.")}
        self.session: Any = None
        self.bindings: dict[tuple[int, ...], Any] = {}
        self.known: list[tuple[str, Any, tuple[int, ...]]] = []


class OrtEngine:
    """Holds a training state and moves it on, one batch at a time.

    steps: the compiled step, or several by name that share the state.
    state: arrays by name without `state.`; copied.
    threads, provider, profile: as in `open_session`.
    sums: those of the last batch, by name; the next step writes over them.
    Raises CheckpointError where the state is not that of these step graphs.
    """

    _blocks: ClassVar[bool] = True  # whether convolutions are brought to ONNX Runtime's blocked layout

    def __init__(
        self,
        steps: StepGraph | Mapping[str, StepGraph],
        state: dict[str, Array],
        *,
        threads: int | None = None,
        provider: str = "cpu",
        profile: str | None = None,
    ) -> None:
        self._ort = runtime()
        providers(provider)  # before the first buffer, which would fail with less to say
        self._device = PROVIDERS[provider]
        named = {"": steps} if isinstance(steps, StepGraph) else dict(steps)
        self._programs = {name: _Program(step) for name, step in named.items()}
        self._inputs = {part: port for program in self._programs.values() for part, port in program.state.items()}
        self._check_state(state)
        self._turns = dict.fromkeys(self._programs, 0)
        self._writers = {part: [n for n, p in self._programs.items() if part in p.writes] for part in state}
        self._pairs = {
            part: [_buffer(array, self._device) for _ in range(2 if self._writers[part] else 1)]
            for part, array in state.items()
        }
        for program in self._programs.values():
            # The batch may be of any size: a graph with a symbolic one runs as fast as with a number
            # (docs/performance.md).
            data, lean = program.step.data, program.step.spec.get("checkpoint", False)
            if self._blocks and not lean:
                data = as_the_engine_opens(data, provider)
            options = {"threads": threads, "provider": provider, "tidy": True, "lean": lean, "profile": profile}
            options["awake"] = len(named) == 1  # several would wait on each other's cores
            program.session = self._open(data, **options)
        self.sums = {name: sums for program in self._programs.values() for name, sums in program.sums.items()}
        self._last = program

    def step(self, batch: dict[str, Array], name: str = "") -> dict[str, float]:
        """One update. batch: an array for each input and label, samples first, float32 or int64 as the step takes it.

        name: which step, where there are several.
        Returns loss, metrics that are one number, grad_norm and lr of this step. Raises DataError where the batch does
        not fit.
        """
        self.check(batch, name)
        program = self._programs[name]
        binding = self._binding(program)
        for key, array in batch.items():
            value = self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)
            binding.bind_ortvalue_input(f"batch.{key}", value)
        with run_errors("expected a batch that the step can compute"):
            program.session.run_with_iobinding(binding)
        self._turns[name] ^= 1
        self._last = program
        return {name: float(view) for name, view in program.scalars.items()}

    def check(self, batch: dict[str, Array], name: str = "") -> None:
        """Raises DataError unless `batch` has the names, types and shapes that the step takes.

        Always before a step: ONNX Runtime would read a missing array from the batch before, and broadcast a label of
        one sample over all of them.
        """
        program = self._programs[name]
        if not isinstance(batch, Mapping):
            raise DataError(
                f"the step expected a dict of arrays; found {type(batch).__name__}",
                mend=f"Its keys are {', '.join(map(repr, program.batch))}.",
            )
        kinds = [(key, array.dtype, array.shape) for key, array in batch.items() if isinstance(array, np.ndarray)]
        if len(kinds) < len(batch):
            other = next(key for key, array in batch.items() if not isinstance(array, np.ndarray))
            raise DataError(
                f"the step expected arrays; found {type(batch[other]).__name__} as {other!r}",
                mend="Such as numpy.asarray(x, numpy.float32).",
            )
        if kinds == program.known:
            return
        ports = program.batch
        sizes: dict[str, int] = {}
        fits = batch.keys() == ports.keys() and all(
            array.dtype.name == port["dtype"]
            and array.dtype.isnative  # ONNX Runtime takes the bytes as they lie
            and array.ndim == len(port["shape"])
            and all(
                d is None or n == (sizes.setdefault(d, n) if isinstance(d, str) else d)
                for d, n in zip(port["shape"], array.shape, strict=True)
            )
            for array, port in ((batch[name], port) for name, port in ports.items())
        )
        if not fits:
            expected = ", ".join(f"{n} {p['dtype']} {show_shape(p['shape'])}" for n, p in ports.items())
            found = ", ".join(f"{n} {a.dtype} {show_shape(a.shape)}" for n, a in batch.items())
            raise DataError(
                f"the step expected a batch of {expected}; found {found or 'nothing'}",
                mend=_mend_batch(ports, batch),
            )
        program.known = kinds

    @property
    def values(self) -> dict[str, OrtValue]:
        """The present state as ONNX Runtime holds it; the next step but one overwrites these buffers."""
        return {part: pair[self._now(part)] for part, pair in self._pairs.items()}

    def state(self, *, former: bool = False) -> dict[str, Array]:
        """A copy of the present state, or of that before the last step."""
        written = self._last.writes if former else ()
        values = {**self.values, **{part: self._pairs[part][1 - self._now(part)] for part in written}}
        return {part: np.array(value.numpy()) for part, value in values.items()}

    def load(self, state: dict[str, Array]) -> None:
        """Go on from `state`. Raises CheckpointError where it is not that of this step graph."""
        self._check_state(state)
        values = self.values
        for name, array in state.items():
            values[name].update_inplace(np.ascontiguousarray(array).reshape(array.shape))

    def end_profile(self) -> str:
        """Write the trace of the only step graph; returns its path."""
        return str(self._last.session.end_profiling())

    def _open(self, data: bytes, **options: Any) -> Any:
        return open_session(data, **options)

    def _now(self, part: str) -> int:
        """Which buffer holds the present value."""
        return sum(self._turns[name] for name in self._writers[part]) % 2

    def _binding(self, program: _Program) -> Any:
        """The program's session bound to read the present state and to write what follows beside it."""
        turns = tuple(self._turns.values())
        if turns not in program.bindings:
            binding = program.bindings[turns] = program.session.io_binding()
            for part in program.state:
                binding.bind_ortvalue_input(f"state.{part}", self._pairs[part][self._now(part)])
            for part in program.writes:
                binding.bind_ortvalue_output(f"next.{part}", self._pairs[part][1 - self._now(part)])
            for name, value in program.measures.items():
                binding.bind_ortvalue_output(name, value)
        return program.bindings[turns]

    def _check_state(self, state: dict[str, Array]) -> None:
        if differ := differences(self._inputs, state):
            raise CheckpointError(
                f"the state is not that of this step graph; {differ}",
                mend="Use the state of the model that the step was compiled from.",
            )


def as_the_engine_opens(data: bytes, provider: str) -> bytes:
    """A step graph in the form in which `provider` runs it fastest."""
    return lower(data, block_size()) if provider == "cpu" else data


def _ports(ports: list[dict[str, Any]], prefix: str) -> dict[str, dict[str, Any]]:
    """Those whose names begin with `prefix`, by the rest of the name."""
    return {p["name"].removeprefix(prefix): p for p in ports if p["name"].startswith(prefix)}


def _mend_batch(ports: dict[str, dict[str, Any]], batch: dict[str, Array]) -> str:
    """What to do about a batch that does not fit; a model of one fixed batch size is the most common reason."""
    name, port = next(iter(ports.items()), ("", {"shape": []}))
    size, *rest = port["shape"] or [None]
    if isinstance(size, int) and name in batch and list(batch[name].shape[1:]) == rest:
        free = f"model.resize({name}={('batch', *rest)})" if name.isidentifier() else "model.resize"
        return f"The model is written for batches of {size}: {free} frees that, or let batch_size={size}."
    return "Names, element types and shapes must agree, and all arrays hold the same number of samples."


def _buffer(array: Array, device: str) -> OrtValue:
    value = runtime().OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, device, 0)
    value.update_inplace(np.ascontiguousarray(array))
    return value
