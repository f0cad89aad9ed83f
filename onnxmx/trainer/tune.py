"""Picking the formulation of a gradient by measuring, as cuDNN's benchmark mode does, and remembering it.

A choice is timed alone, on the shapes of this net and batch, with the threads and the provider of the run, opened as
the engine opens a step. What won is kept in `tune.json` in the user's cache folder, by ONNX Runtime's version, the
processor or GPU, provider, threads, operator and shapes; such a file may be deleted at any time.
"""

from __future__ import annotations

import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import Dim, GraphBuilder
from onnxmx.builder.session import PROVIDERS, open_session, run_errors, runtime
from onnxmx.builder.values import show_shape
from onnxmx.errors import OnnxmxError
from onnxmx.files import cache_folder, write_atomic
from onnxmx.trainer.autodiff.choice import Choice, Uncovered

MODES = ("off", "cached", "full")
Array = np.ndarray[Any, Any]
_TURNS = 7


@dataclass
class Tuner:
    """Picks formulations. Give it to `compile_step(tune=...)`.

    mode: "off" takes the heuristics', "cached" what a former "full" found, and "full" measures what is not known yet.
    batch: samples a step, which shapes leave open.   threads, provider: as the engine's.
    path: where the findings are kept.   report: told of what is being measured.
    picked: after a compilation, what was picked for each choice that was met.
    """

    mode: str = "cached"
    batch: int = 64
    threads: int = 1
    provider: str = "cpu"
    path: Path = field(default_factory=lambda: cache_folder() / "tune.json")
    report: Callable[[str], None] = lambda _: None
    picked: dict[str, str] = field(default_factory=dict, init=False)
    _known: dict[str, Any] | None = field(default=None, init=False)

    def __call__(self, choice: Choice, inputs: Sequence[ir.Value], options: dict[str, Any], default: str) -> str:
        """The name of the formulation to take."""
        shapes = [self._shape(v) for v in inputs]
        if self.mode == "off" or any(s is None for s in shapes):
            return default
        key = self._key(choice, inputs, shapes, options)
        if key not in self.picked:
            found = self.known.get(key, {}).get("best")
            if found not in list(choice.forms) and self.mode == "full":
                found = self._measure(key, choice, inputs, shapes, options, default)
            self.picked[key] = found if found in list(choice.forms) else default
        return self.picked[key]

    @property
    def known(self) -> dict[str, Any]:
        """What the cache holds; a file that cannot be read holds nothing."""
        if self._known is None:
            try:
                read = json.loads(self.path.read_bytes())
                self._known = read if isinstance(read, dict) and all(isinstance(v, dict) for v in read.values()) else {}
            except (OSError, ValueError, RecursionError):
                self._known = {}
        return self._known

    def _measure(
        self,
        key: str,
        choice: Choice,
        inputs: Sequence[ir.Value],
        shapes: Sequence[Any],
        options: dict[str, Any],
        default: str,
    ) -> str:
        self.report(f"measuring {choice.operator} {choice.of} of {_show(inputs[0], shapes[0])}")
        random = np.random.default_rng(0)
        arrays = [
            random.normal(size=s).astype(v.dtype.numpy()) if v.dtype else np.zeros(s, np.float32)
            for v, s in zip(inputs, shapes, strict=True)
        ]
        runs: dict[str, Callable[[], Array]] = {}
        for name, form in choice.forms.items():
            try:
                runs[name] = self._prepare(form, inputs, arrays, options)
                runs[name]()
            except (Uncovered, OnnxmxError):
                runs.pop(name, None)
        if default not in runs:
            return default
        expected = runs[default]()
        times: dict[str, list[float]] = {
            name: [] for name, run in runs.items() if name == default or _agree(run(), expected)
        }
        for _ in range(_TURNS):
            for name, measured in times.items():
                start = time.perf_counter()
                runs[name]()
                measured.append(time.perf_counter() - start)
        medians = {name: statistics.median(t) for name, t in times.items()}
        best = min(medians, key=lambda name: medians[name])
        if medians[best] > 0.95 * medians[default]:  # nothing gained that would be there the next time too
            best = default
        self.known[key] = {"best": best, "ms": {name: round(t * 1e3, 4) for name, t in medians.items()}}
        self._keep()
        return best

    def _prepare(
        self, form: Callable[..., ir.Value], like: Sequence[ir.Value], arrays: Sequence[Array], options: dict[str, Any]
    ) -> Callable[[], Array]:
        """A function that runs one formulation on `arrays`."""
        from onnxmx.trainer.engine.ort import as_the_engine_opens

        g = GraphBuilder("formulation")
        inputs = [g.input(f"x{k}", _dims(v), v.dtype or ir.DataType.FLOAT) for k, v in enumerate(like)]
        g.output(form(g, *inputs, **options), "y")
        data = ir.to_proto(g.model()).SerializeToString()
        session = open_session(as_the_engine_opens(data, self.provider), threads=self.threads, provider=self.provider)
        ort = runtime()
        device = self.provider.removesuffix("_tf32")
        binding = session.io_binding()
        for k, a in enumerate(arrays):
            binding.bind_ortvalue_input(f"x{k}", ort.OrtValue.ortvalue_from_numpy(a, device, 0))
        binding.bind_output("y", device)

        def run() -> Array:
            with run_errors("expected a formulation that fits into the memory"):
                session.run_with_iobinding(binding)
                binding.synchronize_outputs()
            return np.asarray(binding.get_outputs()[0].numpy())

        return run

    def _shape(self, v: ir.Value) -> tuple[int, ...] | None:
        """With the batch filled in; None where more is open."""
        if v.shape is None:
            return None
        sizes = [d if isinstance(d, int) else self.batch if k == 0 else None for k, d in enumerate(v.shape)]
        return None if None in sizes else tuple(s for s in sizes if s is not None)

    def _key(self, choice: Choice, inputs: Sequence[ir.Value], shapes: Sequence[Any], options: dict[str, Any]) -> str:
        described = [f"{v.dtype.name if v.dtype else '?'}{list(s)}" for v, s in zip(inputs, shapes, strict=True)]
        machine = _processor() if PROVIDERS[self.provider] == "cpu" else _gpu()
        where = f"onnxruntime {runtime().__version__} {machine} {self.provider} {self.threads} threads"
        return f"{where} | {choice.operator} {choice.of} | {' '.join(described)} | {options}"

    def _keep(self) -> None:
        """Write the findings, with those that another process has written meanwhile. A full disk costs only them."""
        found, self._known = self.known, None
        self._known = {**self.known, **found}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, json.dumps(self._known, indent=1, sort_keys=True).encode())
        except (OSError, OnnxmxError):
            self.report(f"could not write {self.path}")


def _show(v: ir.Value, shape: Sequence[int]) -> str:
    return f"{v.dtype.name.lower() if v.dtype else '?'} {show_shape(shape)}"


def _dims(v: ir.Value) -> tuple[Dim, ...]:
    """The shape of `v`, its batch open as in a step."""
    assert v.shape is not None
    return tuple(d if isinstance(d, int) else "batch" for d in v.shape)


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    names += [platform.processor() or platform.machine()]
    return names[0]


@cache
def _gpu() -> str:
    """The name of the first GPU that this process may use, on which ONNX Runtime runs, as CUDA's driver tells it."""
    name, device = ctypes.create_string_buffer(256), ctypes.c_int()
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
        failed = failed or cuda.cuDeviceGetName(name, len(name), device)
    except (OSError, AttributeError):  # no driver, or no such function in it
        failed = True
    return "unknown GPU" if failed else name.value.decode(errors="replace")


def _agree(a: Array, b: Array) -> bool:
    """Whether two formulations gave the same, but for the order of their sums."""
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0.0) <= 1e-3 * np.abs(b).max(initial=1e-6))
