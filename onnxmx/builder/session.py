"""Opening a graph on stock ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxmx.builder.arguments import integer
from onnxmx.errors import DataError, GraphError, MissingExtraError, OnnxmxError, UsageError, first_line

PROVIDERS = {"cpu": "cpu", "cuda": "cuda", "cuda_tf32": "cuda"}
"""Where a graph runs, and the device that its tensors are on. cuda_tf32 multiplies by TensorFloat-32, with an error of
about 1e-3 instead of 1e-7."""

MOST_THREADS = 1024
"""A machine runs out of memory, or of patience, over more than it has cores for."""


def runtime(purpose: str = "Running a graph") -> Any:
    """The onnxruntime package, its telemetry off. Raises MissingExtraError, which names `purpose`, without it.

    From 1.31 on, official builds for Linux and macOS report each process and session to their maker unless this
    variable says otherwise before the first import. A user who sets it to 0 keeps that.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu", purpose) from None
    return onnxruntime


def open_session(
    graph: bytes,
    *,
    threads: int | None = None,
    provider: str = "cpu",
    tidy: bool = False,
    lean: bool = False,
    profile: str | None = None,
    awake: bool = False,
    integer: bool = True,
) -> Any:
    """An `onnxruntime.InferenceSession` for a serialized model.

    threads: worker threads inside an operator; by default the cores this process may use.
    provider: one of PROVIDERS.
    tidy: the graph computes nothing twice, so that ONNX Runtime need not look: that takes 20 s for a DenseNet step.
    lean: memory is taken as it is needed, not as a block laid out by what the first run took: 2.5% more time for a
    LeNet (docs/performance.md).
    profile: where to write a trace, the beginning of a file's path; `end_profiling` of the session gives the whole.
    awake: worker threads wait a millisecond for the next run before they sleep: for runs that follow one another. Only
    from ONNX Runtime 1.26 on.
    integer: whether to fuse what lies between DequantizeLinear and QuantizeLinear into integer kernels.
    Raises GraphError when ONNX Runtime refuses the graph, UsageError for threads and providers that there are not.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = check_threads(threads)
    options.log_severity_level = 4  # errors are raised: the log would say them twice
    options.enable_mem_pattern = not lean
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.add_session_config_entry("session.disable_quant_qdq", str(int(not integer)))
    # Left alone, threads of an idle session go on spinning for 45 ms and slow down the others of the process.
    awake = awake and spins_as_long_as_it_is_told(ort.__version__)
    options.add_session_config_entry("session.force_spinning_stop", "0" if awake else "1")
    if awake:
        options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    known = ["CommonSubexpressionElimination"] if tidy else None
    names = providers(provider)
    expected = f"expected a graph that ONNX Runtime {ort.__version__} can run"
    with run_errors(expected, GraphError, mend="A newer onnxruntime may know its operators."):
        return ort.InferenceSession(graph, options, providers=names, disabled_optimizers=known)


def spins_as_long_as_it_is_told(version: str) -> bool:
    """Whether this ONNX Runtime knows spin_duration_us: an older one passes over it, and spins on."""
    major, minor, *_ = version.split(".")
    return (int(major), int(minor)) >= (1, 26)


@contextmanager
def run_errors(
    expected: str, kind: type[OnnxmxError] = DataError, *, mend: str = "Check the values: an index may be out of range."
) -> Iterator[None]:
    """Makes a `kind` of what ONNX Runtime raises inside: `expected`, then the first line of what it found."""
    try:
        yield
    except OnnxmxError:
        raise
    except Exception as error:  # onnxruntime has no common base for what it raises
        raise kind(f"{expected}; ONNX Runtime found: {first_line(error)}", mend=mend) from error


def cores() -> int:
    """The cores that this process may use: in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """How many worker threads to take, Python's integer or numpy's; by default the cores that this process may use.

    Raises UsageError for what is no number of threads, and for more of them than any machine has use for.
    """
    if threads is None:
        return cores()
    return integer("threads", threads, 1, MOST_THREADS + 1)


def check_provider(provider: str) -> str:
    """`provider`, if it is one of PROVIDERS. Raises UsageError."""
    if provider not in PROVIDERS:
        *names, last = map(repr, PROVIDERS)
        raise UsageError(
            f"provider expected {', '.join(names)} or {last}; found {provider!r}", mend="Use one of these."
        )
    return provider


def providers(provider: str) -> list[tuple[str, dict[str, str]]]:
    """`provider` in ONNX Runtime's terms. Raises UsageError for an unknown one, MissingExtraError without it."""
    cpu: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
    if PROVIDERS[check_provider(provider)] == "cpu":
        return cpu
    if "CUDAExecutionProvider" not in runtime().get_available_providers():
        raise MissingExtraError("onnxruntime-gpu", "gpu", "The CUDA provider")
    # On by default from Ampere on: products of 10-bit mantissas, in gradients too.
    return [("CUDAExecutionProvider", {"use_tf32": str(int(provider == "cuda_tf32"))}), *cpu]
