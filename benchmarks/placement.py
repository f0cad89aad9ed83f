"""Where ONNX Runtime runs the nodes of a training step: `python -m benchmarks.placement MODEL [--provider cuda]`.

MODEL is a name of the zoo or an .onnx file. The step is compiled and opened as `onnxmx train` would, ONNX Runtime is
asked which provider it gave each node to, and one step is run and profiled. Nodes beside the provider that the table
of kernels (onnxmx/trainer/placement.py) does not call harmless make it exit with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import onnxmx as mx
from onnxmx.builder.session import PROVIDERS, providers, runtime
from onnxmx.trainer.engine.ort import as_the_engine_opens
from onnxmx.trainer.placement import on_cpu
from onnxmx.trainer.step import StepGraph, initial_state

NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_RECORD = "session.record_ep_graph_assignment_info"


def open_step(step: StepGraph, provider: str, profile: str | None = None) -> Any:
    """A session that remembers where it put each node. profile: what the name of the profile begins with."""
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(_RECORD, "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(as_the_engine_opens(step.data, provider), options, providers=providers(provider))


def nodes(session: Any) -> dict[str, list[tuple[str, str]]]:
    """The operator and name of each node, by the provider that it was given to."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend((node.op_type, node.name) for node in part.get_nodes())
    return found


def times(session: Any, feeds: dict[str, Any]) -> dict[str, float]:
    """Milliseconds in the kernels of each provider, of the second of two steps."""
    session.run(None, feeds)
    session.run(None, feeds)
    path = Path(session.end_profiling())
    kernels = [e for e in json.loads(path.read_text()) if str(e.get("name", "")).endswith("_kernel_time")]
    found: Counter[str] = Counter()
    for event in kernels[len(kernels) // 2 :]:
        found[event["args"].get("provider", "?")] += event["dur"] / 1e3
    return dict(found)


def feeds_of(step: StepGraph, state: dict[str, Any], batch: int, classes: int) -> dict[str, Any]:
    """Random inputs: integers below `classes`, and images or the like."""
    random = np.random.default_rng(0)
    feeds: dict[str, Any] = {f"state.{name}": array for name, array in state.items()}
    for port in step.spec["inputs"]:
        if port["name"].startswith("batch."):
            shape = [d if isinstance(d, int) else batch if k == 0 else 8 for k, d in enumerate(port["shape"])]
            whole = port["dtype"].startswith("int")
            drawn = random.integers(0, classes, shape) if whole else random.normal(size=shape)
            feeds[port["name"]] = drawn.astype(port["dtype"])
    return feeds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name of the zoo, or an .onnx file")
    parser.add_argument("--provider", default="cpu", choices=PROVIDERS)
    parser.add_argument("--loss", default="softmax_cross_entropy")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--classes", type=int, default=2, help="integers of the random batch are below this")
    parser.add_argument("--open", action="store_true", help="open the step and do not run it")
    given = parser.parse_args()
    device = PROVIDERS[given.provider]
    model = mx.load(given.model) if given.model.endswith(".onnx") else mx.models.build(given.model)
    optimizer, clip = mx.Adam(1e-3), mx.clip_global_norm(1.0)
    step = mx.compile_step(model, loss=given.loss, optimizer=optimizer, clip=clip, provider=given.provider)
    with tempfile.TemporaryDirectory() as folder:
        session = open_step(step, given.provider, f"{folder}/profile")
        placed = nodes(session)
        measured: dict[str, float] = {}
        if not given.open:
            measured = times(session, feeds_of(step, initial_state(model, optimizer, 0), given.batch, given.classes))
    for name, found in sorted(placed.items()):
        line = f"{len(found)} nodes" + (f", {measured[name]:.3f} ms a step" if name in measured else "")
        print(f"{name}: {line}")
    if device == "cpu":
        return 0
    beside = Counter(op for name, found in placed.items() if name != NAMES[device] for op, _ in found)
    expected = Counter(f.op_type for f in on_cpu(step.data) if f.harmless)
    # CUDA gathers every type; those on the CPU are of shapes, and of ONNX Runtime's making: it moves a Transpose.
    expected["Gather"] = beside["Gather"]
    for op, n in sorted(beside.items()):
        print(f"  on the CPU: {n} {op}" + ("" if n <= expected[op] else f", of which {n - expected[op]} not foreseen"))
    return int(bool(beside - expected))


if __name__ == "__main__":
    sys.exit(main())
