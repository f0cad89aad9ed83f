"""One step graph as an engine runs it: what it takes and gives, and how it is bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxmx.builder.session import runtime
from onnxmx.trainer.data.dataset import Dataset
from onnxmx.trainer.engine.memory import SIZES, cancelled, giving_back
from onnxmx.trainer.packed import Packed
from onnxmx.trainer.step import StepGraph

Array = np.ndarray[Any, Any]
OrtValue = Any


class Program:
    """A step graph, and the sessions that run it.

    batch, state: its inputs by name, as `step.json` describes them.   writes: the parts of the state that it changes.
    measures: ONNX Runtime's value of each other output.   sums: those that are added up over batches.
    source, data: the dataset that its batches are drawn from, and its arrays as ONNX Runtime holds them.
    numbers: what the numbers of samples are written into, by how many there are.
    sessions: for batches (False) and for numbers of samples (True).
    bindings: of these, by the turns of all programs and how many `numbers` there are.
    cancelled, sizes: what ONNX Runtime tells batches apart by (memory.py).   largest: the size of one so far.
    options: of the next run.
    """

    def __init__(self, step: StepGraph) -> None:
        self.step = step
        self.batch = _ports(step.spec["inputs"], "batch.")
        self.state = step.state_ports
        self.writes = list(_ports(step.spec["outputs"], "next."))
        ports = {p["name"]: p for p in step.spec["outputs"] if not p["name"].startswith("next.")}
        self.sums = Packed({name: p["shape"] for name, p in ports.items() if name.startswith("sum.")})
        singles = {name: p["dtype"] for name, p in ports.items() if not p["shape"] and name not in self.sums}
        groups = [
            Packed({name: () for name in singles if singles[name] == dtype}, dtype)
            for dtype in dict.fromkeys(singles.values())
        ]
        self._singles = [([name.removeprefix("metric.") for name in group], group.flat) for group in groups]
        arrays = {name: np.zeros(p["shape"], p["dtype"]) for name, p in ports.items()}
        for group in (self.sums, *groups):
            arrays |= group
        self.measures = {name: on_device(array, "cpu") for name, array in arrays.items()}
        self.source: Dataset | None = None
        self.data: dict[str, OrtValue] = {}
        self.numbers: dict[int, OrtValue] = {}
        self.sessions: dict[bool, Any] = {}
        self.bindings: dict[tuple[int, int], Any] = {}
        self.known: list[tuple[str, Any, tuple[int, ...]]] = []
        self.cancelled = cancelled(self.batch.values())
        self.options: Any = None
        self.sizes: OrtValue = None
        self.largest = 0

    def expect(self, size: int) -> None:
        """The next batch is of that many samples or elements; called when that changes."""
        if size > self.largest:
            self.largest, self.options = size, giving_back()

    def tell_apart(self, sizes: Mapping[str, int]) -> None:
        """The next batch has these sizes, by the names of its dimensions; called when they change."""
        if self.cancelled:
            self.sizes = on_device(np.empty([*(sizes[name] for name in self.cancelled), 0], np.bool_), "cpu")
            for (numbers, _), binding in self.bindings.items():
                if not numbers:
                    binding.bind_ortvalue_input(SIZES, self.sizes)

    def measured(self) -> dict[str, float]:
        """The outputs of the last run that are one number."""
        return {name: value for names, flat in self._singles for name, value in zip(names, flat.tolist(), strict=True)}


def on_device(array: Array, device: str) -> OrtValue:
    """ONNX Runtime's value of an array; on a CPU it is the array's own memory."""
    return runtime().OrtValue.ortvalue_from_numpy(array, device, 0)


def _ports(ports: list[dict[str, Any]], prefix: str) -> dict[str, dict[str, Any]]:
    """Those whose names begin with `prefix`, by the rest of the name."""
    return {p["name"].removeprefix(prefix): p for p in ports if p["name"].startswith(prefix)}
