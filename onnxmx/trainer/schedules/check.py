"""Whether a function of the user's gives learning rates all the way: those that come with the package do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.ops import INT64
from onnxmx.builder.session import open_session
from onnxmx.builder.source import line_of
from onnxmx.errors import UsageError
from onnxmx.trainer.schedules.base import Custom, Schedule
from onnxmx.trainer.schedules.plateau import ReduceOnPlateau

_LOOKS = 1000
"""Updates that are looked at, evenly over the run; each takes some microseconds."""


def check_rates(schedule: Schedule, total: int) -> None:
    """Raises UsageError where a rate of a run of `total` updates is below 0 or not finite."""
    resolved = schedule.resolve(total)
    custom = next(_customs(resolved), None)
    if custom is None:
        return
    rate = resolved.rate if isinstance(resolved, ReduceOnPlateau) else resolved
    assert isinstance(rate, Schedule)
    g = GraphBuilder("schedule")
    g.output(rate(g, g.input("step", (), INT64)), "rate")
    session = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1)
    for step in np.unique(np.linspace(0, total - 1, min(total, _LOOKS)).astype(np.int64)):
        (found,) = session.run(None, {"step": np.array(step)})
        if not (np.isfinite(found) and found >= 0):
            raise UsageError(
                f"a learning rate expected to be finite and at least 0; found {found:g} after {step} of {total} "
                "updates",
                at=line_of(custom.function),
                mend="Keep it up, for example by t.builder.max(..., 0.0).",
            )


def _customs(schedule: Any) -> Iterator[Custom]:
    """The functions of the user's in it, and in those that it holds."""
    if isinstance(schedule, Custom):
        yield schedule
    elif dataclasses.is_dataclass(schedule):
        for field in dataclasses.fields(schedule):
            yield from _customs(getattr(schedule, field.name))
