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
from onnxmx.errors import CheckpointError, DataError, UsageError, unknown_name
from onnxmx.trainer.data.dataset import Dataset
from onnxmx.trainer.engine.block_size import block_size
from onnxmx.trainer.engine.blocked import lower
from onnxmx.trainer.engine.memory import SIZES, with_sizes
from onnxmx.trainer.engine.program import Program, on_device
from onnxmx.trainer.engine.resident import INDICES, arrays_of, drawing, fits, quantizes
from onnxmx.trainer.packed import Packed
from onnxmx.trainer.state import differences
from onnxmx.trainer.step import StepGraph

Array = np.ndarray[Any, Any]
OrtValue = Any


class OrtEngine:
    """Holds a training state and moves it on, one batch at a time.

    steps: the compiled step, or several by name that share the state.
    state: arrays by name without `state.`; copied.
    threads, provider, profile: as in `open_session`.
    Raises CheckpointError where the state is not that of these step graphs.
    """

    _blocks: ClassVar[bool] = True  # whether convolutions are brought to ONNX Runtime's blocked layout
    _holds: ClassVar[bool] = True  # whether a graph may draw its batches itself

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
        self._programs = {name: Program(step) for name, step in named.items()}
        self._inputs = {part: port for program in self._programs.values() for part, port in program.state.items()}
        self._check_state(state)
        self._bits = {name: 1 << k for k, name in enumerate(self._programs)}
        self._turns = 0  # of each program whether it has run an odd number of times, a bit each
        self._writers = {
            part: sum(bit for name, bit in self._bits.items() if part in self._programs[name].writes) for part in state
        }
        self._pairs = {
            part: [_buffer(array, self._device) for _ in range(2 if self._writers[part] else 1)]
            for part, array in state.items()
        }
        self._options: dict[str, Any] = {"threads": threads, "provider": provider, "tidy": True, "profile": profile}
        self._options["awake"] = len(named) == 1  # several would wait on each other's cores
        self._last = next(iter(self._programs.values()))

    def step(self, batch: dict[str, Array] | Array, name: str = "") -> dict[str, float]:
        """One update. batch: an array for each input and label, samples first, float32 or int64 as the step takes it;
        or, after `hold`, the numbers of the samples, int64 (batch,).

        name: which step, where there are several.
        Returns loss, metrics that are one number, grad_norm and lr of this step. Raises DataError where the batch does
        not fit; what numbers there are is not looked at, the loop gives those of its own loader.
        """
        try:
            program = self._programs[name]
        except (KeyError, TypeError):
            raise self._unknown(name) from None
        if isinstance(batch, np.ndarray) and program.source is not None:
            binding = self._binding(program, len(batch))
            program.numbers[len(batch)].update_inplace(batch)
            session = program.sessions[True]
        else:
            self.check(batch, name)
            binding = self._binding(program)
            for key, array in dict(batch).items():
                binding.bind_cpu_input(f"batch.{key}", array)
            session = program.sessions[False]
        try:
            session.run_with_iobinding(binding, program.options)
        except Exception:
            with run_errors("expected a batch that the step can compute"):  # entered before, it costs 5 us a step
                raise
        program.options = None
        self._turns ^= self._bits[name]
        self._last = program
        return program.measured()

    def hold(self, source: Dataset, name: str = "") -> bool:
        """Keep `source`, whose batches fit, where the step runs: from then on a step takes numbers of its samples.

        Returns whether it does: not with data that lies in a file, is too large for the device, or is of a class that
        makes its batches in a way of its own.   Raises GraphError where ONNX Runtime refuses the step.
        """
        if not (self._holds and fits(source, self._device)):
            self.open(name)
            return False
        program = self._named(name)
        program.sessions.pop(True, None)  # they read another source, whose memory may be gone
        program.bindings = {case: binding for case, binding in program.bindings.items() if not case[0]}
        program.source, program.largest = source, 0
        program.data = {key: on_device(array, self._device) for key, array in arrays_of(source).items()}
        self._session(program, True)
        return True

    def open(self, name: str = "") -> None:
        """Get ready to run a step that is given its batch; the first one would do it otherwise.

        Raises GraphError where ONNX Runtime refuses the step.
        """
        self._session(self._named(name), False)

    def check(self, batch: Any, name: str = "") -> None:
        """Raises DataError unless `batch` has the names, types and shapes that the step takes.

        Always before a step: ONNX Runtime would read a missing array from the batch before, and broadcast a label of
        one sample over all of them.
        """
        program = self._named(name)
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
        agrees = (
            batch.keys() == ports.keys()
            and all(
                array.dtype.name == port["dtype"]
                and array.dtype.isnative  # ONNX Runtime takes the bytes as they lie
                and array.ndim == len(port["shape"])
                and array.shape[:1] != (0,)
                and all(
                    d is None or n == (sizes.setdefault(d, n) if isinstance(d, str) else d)
                    for d, n in zip(port["shape"], array.shape, strict=True)
                )
                for array, port in ((batch[name], port) for name, port in ports.items())
            )
        )
        if not agrees:
            expected = ", ".join(f"{n} {p['dtype']} {show_shape(p['shape'])}" for n, p in ports.items())
            found = ", ".join(f"{n} {a.dtype} {show_shape(a.shape)}" for n, a in batch.items())
            raise DataError(
                f"the step expected a batch of {expected}; found {found or 'nothing'}",
                mend=_mend_batch(ports, batch),
            )
        program.known = kinds
        program.tell_apart(sizes)
        program.expect(sum(array.size for array in batch.values()))

    @property
    def sums(self) -> Packed:
        """What of the last batch is added up over batches, by name; the next step writes over it."""
        return self._last.sums

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
        return str(next(iter(self._last.sessions.values())).end_profiling())

    def _named(self, name: str) -> Program:
        try:
            return self._programs[name]
        except (KeyError, TypeError):
            raise self._unknown(name) from None

    def _unknown(self, name: str) -> UsageError:
        return unknown_name("step", name, self._programs)

    def _session(self, program: Program, held: bool) -> Any:
        """What runs it, opened when it is first asked for."""
        if held not in program.sessions:
            # The batch may be of any size: a graph with a symbolic one runs as fast as with a number
            # (docs/performance.md).
            data, lean = program.step.data, program.step.spec.get("checkpoint", False)
            if self._blocks:
                data = as_the_engine_opens(data, self._options["provider"])
            if held and program.source:
                data = drawing(data, program.source)
            else:
                data = with_sizes(data, program.cancelled)
            program.sessions[held] = self._open(data, lean=lean, integer=quantizes(program.step.data), **self._options)
        return program.sessions[held]

    def _open(self, data: bytes, **options: Any) -> Any:
        return open_session(data, **options)

    def _now(self, part: str) -> int:
        """Which buffer holds the present value."""
        return (self._turns & self._writers[part]).bit_count() & 1

    def _binding(self, program: Program, numbers: int = 0) -> Any:
        """A session bound to read the present state and to write what follows beside it.

        numbers: how many samples it draws itself; 0 where it is given a batch.
        """
        case = numbers, self._turns
        if case not in program.bindings:
            binding = program.bindings[case] = self._session(program, numbers > 0).io_binding()
            for part in program.state:
                binding.bind_ortvalue_input(f"state.{part}", self._pairs[part][self._now(part)])
            for part in program.writes:
                binding.bind_ortvalue_output(f"next.{part}", self._pairs[part][1 - self._now(part)])
            for name, value in program.measures.items():
                binding.bind_ortvalue_output(name, value)
            if numbers:
                program.expect(numbers)
                program.numbers.setdefault(numbers, _buffer(np.zeros(numbers, np.int64), self._device))
                for name, value in {INDICES: program.numbers[numbers], **program.data}.items():
                    binding.bind_ortvalue_input(name, value)
            elif program.sizes is not None:
                binding.bind_ortvalue_input(SIZES, program.sizes)
        return program.bindings[case]

    def _check_state(self, state: dict[str, Array]) -> None:
        if differ := differences(self._inputs, state):
            raise CheckpointError(
                f"the state is not that of this step graph; {differ}",
                mend="Use the state of the model that the step was compiled from.",
            )


def as_the_engine_opens(data: bytes, provider: str) -> bytes:
    """A step graph in the form in which `provider` runs it fastest."""
    return lower(data, block_size()) if provider == "cpu" else data


def _mend_batch(ports: dict[str, dict[str, Any]], batch: Mapping[str, Array]) -> str:
    """What to do about a batch that does not fit; a model of one fixed batch size is the most common reason."""
    name, port = next(iter(ports.items()), ("", {"shape": []}))
    size, *rest = port["shape"] or [None]
    if isinstance(size, int) and name in batch and list(batch[name].shape[1:]) == rest:
        free = f"model.resize({name}={('batch', *rest)})" if name.isidentifier() else "model.resize"
        return f"The model is written for batches of {size}: {free} frees that, or let batch_size={size}."
    return "Names, element types and shapes must agree, and all arrays hold the same number of samples, one at least."


def _buffer(array: Array, device: str) -> OrtValue:
    value = runtime().OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, device, 0)
    value.update_inplace(np.ascontiguousarray(array))
    return value
