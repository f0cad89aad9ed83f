"""Where the time of a step goes: ONNX Runtime's own trace, added up by layer and by operator."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxmx.errors import UsageError
from onnxmx.files import write_atomic
from onnxmx.trainer.callbacks import Callback
from onnxmx.trainer.engine import ENGINES

if TYPE_CHECKING:
    from onnxmx.trainer.loop import Loop
    from onnxmx.trainer.step_graph import StepGraph

TRACE = "profile.json"
_WARM, _STEPS = 3, 20
_FUNCTION = re.compile(r"_inlfunc_([A-Za-z0-9]+?)(?:_token_\d+)?_[A-Z]")
_HOLDERS = {"Loop", "Scan", "If"}  # the nodes of their bodies are in the trace too


@dataclass(frozen=True)
class Summary:
    """A trace added up.

    steps: how many.   step_ms: of one, on the average.
    layers: milliseconds a step by layer, (forward, backward).   operators: (milliseconds, calls) a step, by type.
    Both with the largest first. `update` is what optimizer and clipping take, and a function that was inlined, such as
    AdamWUpdate, stands in parentheses.
    """

    steps: int
    step_ms: float
    layers: dict[str, tuple[float, float]]
    operators: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        total = sum(map(sum, self.layers.values())) or 1.0
        lines = [f"{self.step_ms:.3f} ms a step over {self.steps} steps, {total:.3f} of it in operators", ""]
        lines += [f"{'layer':<32} {'forward':>9} {'backward':>9}   ms"]
        lines += [f"{name:<32} {f:9.3f} {b:9.3f} {(f + b) / total:6.1%}" for name, (f, b) in self.layers.items()]
        lines += ["", f"{'operator':<32} {'ms':>9} {'calls':>9}"]
        lines += [f"{name:<32} {ms:9.3f} {n:9.1f} {ms / total:6.1%}" for name, (ms, n) in self.operators.items()]
        return "\n".join(lines)


def summarize(path: Path) -> Summary:
    """Add up a trace that ONNX Runtime wrote, its first steps left out: they lay out memory."""
    events = json.loads(path.read_text())
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    runs = runs[_WARM:] or runs
    steps, start = len(runs), runs[0]["ts"] if runs else 0
    layers: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    operators: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in _kernels(events):
        kind = event["args"]["op_name"]
        if event["ts"] < start or kind in _HOLDERS:
            continue
        ms = event["dur"] / 1e3 / steps
        layer, backward = layer_of(event["name"].removesuffix("_kernel_time"))
        layers[layer][backward] += ms
        operators[kind][0] += ms
        operators[kind][1] += 1 / steps
    return Summary(
        steps,
        sum(e["dur"] for e in runs) / 1e3 / max(steps, 1),
        {name: (f, b) for name, (f, b) in sorted(layers.items(), key=lambda row: -sum(row[1]))},
        {name: (ms, n) for name, (ms, n) in sorted(operators.items(), key=lambda row: -row[1][0])},
    )


def layer_of(node: str) -> tuple[str, bool]:
    """The layer that a node of a step belongs to, and whether it is of the way back: grad.2.Conv.Gemm is of 2's."""
    if inlined := _FUNCTION.match(node):
        return f"({inlined[1]})", False
    *scopes, last = node.removeprefix("fused ").split(".")
    backward = bool(scopes) and scopes[0] == "grad"
    layer: list[str] = []
    for part in [*scopes, last]:
        if part == "grad" and not layer:  # of a gradient's gradient too
            continue
        if part[:1].isupper():  # an operator, whose nodes follow
            break
        layer.append(part)
    return ".".join(layer) or "(others)", backward


def _kernels(events: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))


def traces(folder: Path) -> dict[str, Path]:
    """The traces of a run by the name of the step, which is "" where there is one alone."""
    found = {path.stem.partition("-")[2]: path for path in sorted(folder.glob("profile-*.json"))}
    return {"": folder / TRACE} if (folder / TRACE).is_file() else found


class Profile(Callback):
    """Before the run, times the operators of some steps on its first batch, on a copy of the state.

    It writes ONNX Runtime's trace as profile.json, which chrome://tracing and ui.perfetto.dev show, and profile.txt; of
    several steps, as those of a GAN, profile-<step>.json and profile-<step>.txt of each.
    """

    def begin(self, loop: Loop) -> None:
        if loop.folder is None:
            raise UsageError("profile expected a run with a folder; found none", mend='Name one: out="runs/first".')
        if loop.steps:
            return  # a resumed run was timed when it began
        state, batch = loop.trainer.engine.state(), loop.data.batch(slice(loop.plan.batch_size))
        for name, step in loop.trainer.steps.items():
            read = {part: state[part] for part in step.state_ports}
            given = batch if any(port["name"].startswith("batch.") for port in step.spec["inputs"]) else {}
            self._time(loop, f"-{name}" if name else "", step, read, given)

    def _time(self, loop: Loop, name: str, step: StepGraph, state: dict[str, Any], batch: dict[str, Any]) -> None:
        assert loop.folder is not None
        plan = loop.plan
        with tempfile.TemporaryDirectory(prefix="onnxmx-") as folder:
            kind = ENGINES[plan.engine].run
            options: dict[str, Any] = {"threads": plan.threads, "provider": plan.provider, "profile": f"{folder}/trace"}
            engine = kind(step, state, **options)
            for _ in range(_WARM + _STEPS):
                engine.step(batch)
            trace = Path(engine.end_profile())
            write_atomic(loop.folder / f"profile{name}.txt", f"{summarize(trace)}\n".encode())
            write_atomic(loop.folder / f"profile{name}.json", trace.read_bytes())
