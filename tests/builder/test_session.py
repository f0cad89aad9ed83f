"""Opening a graph: what is missing, what is refused, and where a line in an error points."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxmx.builder.layers as L
from onnxmx.builder.model import Input, build
from onnxmx.builder.session import open_session, providers, run_errors, spins_as_long_as_it_is_told
from onnxmx.builder.source import line_of, user_line
from onnxmx.errors import DataError, GraphError, MissingExtraError, UsageError

BYTES = build(L.relu, x=("batch", 3)).to_bytes()


def test_without_onnxruntime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onnxmx\[cpu\]'"):
        open_session(BYTES)


def test_providers() -> None:
    with pytest.raises(UsageError, match="expected 'cpu', 'cuda' or 'cuda_tf32'; found 'tpu'"):
        open_session(BYTES, provider="tpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(MissingExtraError, match=r"pip install 'onnxmx\[gpu\]'"):
            open_session(BYTES, provider="cuda")


@pytest.mark.parametrize("threads", [0, -1, True, 1.0, "2", [1], 1025, 2**31, 2**70, np.float32(1)])
def test_what_is_no_number_of_threads(threads: Any) -> None:
    with pytest.raises(UsageError, match=r"threads expected an integer (of at least 1|below 1025); found"):
        open_session(BYTES, threads=threads)
    assert open_session(BYTES, threads=np.int64(2)).run(None, {"x": np.ones((1, 3), np.float32)})[0].all()


@pytest.mark.parametrize(("provider", "flag"), [("cuda", "0"), ("cuda_tf32", "1")])
def test_a_gpu_multiplies_in_full_precision_unless_asked(
    provider: str, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert providers(provider) == [("CUDAExecutionProvider", {"use_tf32": flag}), ("CPUExecutionProvider", {})]


@pytest.mark.parametrize(
    ("version", "knows"), [("1.19.2", False), ("1.25.1", False), ("1.26.0", True), ("1.31.1.dev20261101", True)]
)
def test_threads_wait_awake_where_the_runtime_ends_it(version: str, knows: bool) -> None:
    assert spins_as_long_as_it_is_told(version) is knows


def test_the_threads_of_an_idle_session_sleep() -> None:
    """Those of a step too, within a millisecond and some: of ONNX Runtime's own 45 ms others would feel each one."""
    x = np.ones((256, 512), np.float32)
    model = build(L.Sequential(L.Dense(512), L.Dense(512)), x=("batch", 512)).to_bytes()
    for awake in (False, True):
        session, used = open_session(model, threads=2, awake=awake), []
        for _ in range(5):
            session.run(None, {"x": x})
            start = time.process_time()
            time.sleep(0.05)
            used.append(time.process_time() - start)
        assert float(np.median(used)) < 0.01


def test_a_graph_that_is_refused() -> None:
    with pytest.raises(GraphError, match=r"expected a graph that ONNX Runtime .* can run; ONNX Runtime found: "):
        open_session(b"not a graph")


@pytest.mark.parametrize(
    ("raised", "found"),
    [
        (RuntimeError("[ONNXRuntimeError] : 1 : FAIL\nstack"), r"found: \[ONNXRuntimeError\] : 1 : FAIL$"),
        (RuntimeError("\n \nlate"), "found: late$"),
        (RuntimeError(""), "found: RuntimeError$"),
    ],
)
def test_what_a_run_raises_in_one_line(raised: Exception, found: str) -> None:
    with pytest.raises(DataError) as caught, run_errors("expected samples"):
        raise raised
    assert re.search(f"^expected samples; ONNX Runtime {found}", caught.value.problem)
    assert caught.value.__cause__ is raised
    with pytest.raises(UsageError, match="mine"), run_errors("expected samples"):
        raise UsageError("mine")


def test_what_a_run_raises_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime's own log would say it too, in red."""
    model = build(L.Embedding(5, 3), x=Input(("batch", 4), np.int64))
    with pytest.raises(DataError, match="idx=9 must be within"):
        model(np.full((2, 4), 9))
    assert capfd.readouterr() == ("", "")


def test_a_line_says_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(__file__)
    code = user_line.__code__  # a function of the package: named from the package on
    for folder, name in (
        (here.parent, "test_session.py"),
        (here.parent.parent, "builder/test_session.py"),
        (tmp_path, "test_session.py"),
    ):
        monkeypatch.chdir(folder)
        assert (user_line() or "").rpartition(":")[0] == name.replace("/", "\\" if sys.platform == "win32" else "/")
    assert line_of(user_line) == f"onnxmx/builder/source.py:{code.co_firstlineno}"
    assert line_of(len) is None
