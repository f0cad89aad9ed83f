"""What a step does with its gradients: the rate of each parameter, and the optimizer's update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.errors import UsageError
from onnxmx.trainer.optimizers import Optimizer
from onnxmx.trainer.schedules import Rate, ReduceOnPlateau, Scaled, Schedule, as_schedule

Array = np.ndarray[Any, Any]


def state_of(optimizer: Optimizer, trainable: Mapping[str, Array]) -> dict[str, Array]:
    """What the optimizer and its schedule add to the state, at first: `<parameter>.<slot>` and scalars, float32.

    The arrays are views of one number. Raises UsageError where a group matches none of the parameters.
    """
    optimizer.check_groups(trainable)
    schedule = as_schedule(optimizer.lr)
    scalars = schedule.state if isinstance(schedule, ReduceOnPlateau) else {}
    found = {name: np.array(value, np.float32) for name, value in scalars.items()}
    for name, array in trainable.items():
        for slot, value in optimizer.of(name, array.shape).slots(array.shape).items():
            found[f"{name}.{slot}"] = np.broadcast_to(np.float32(value), array.shape)
    return found


class Rates:
    """The learning rate of each parameter, each computed once in the graph.

    total: the steps of the run.   loss: that of this step, which a schedule may watch.
    following: what follows on the state of such a schedule, by name.
    """

    def __init__(self, g: GraphBuilder, states: Mapping[str, ir.Value], loss: ir.Value, total: int) -> None:
        self._g, self._states, self._loss, self._total = g, states, loss, total
        self._step = states["step"]
        self.following: dict[str, ir.Value] = {}
        self._rates: dict[Schedule, ir.Value] = {}
        self._shared: dict[tuple[Optimizer, float], tuple[ir.Value, tuple[ir.Value, ...]]] = {}

    def rate(self, optimizer: Optimizer) -> ir.Value:
        """The optimizer's learning rate at this step."""
        return self._of(optimizer.lr)

    def _of(self, lr: Rate) -> ir.Value:
        schedule = as_schedule(lr)
        if schedule not in self._rates:
            self._rates[schedule] = self._new(schedule)
        return self._rates[schedule]

    def _new(self, schedule: Schedule) -> ir.Value:
        if isinstance(schedule, Scaled):  # that of a schedule with a state watches no other loss
            return self._g.mul(self._of(schedule.schedule), np.float32(schedule.factor))
        resolved = schedule.resolve(self._total)
        if not isinstance(resolved, ReduceOnPlateau):
            return resolved(self._g, self._step)
        if self.following or any(name not in self._states for name in resolved.state):
            raise UsageError(
                "one run expected one ReduceOnPlateau, that of the optimizer itself; found another",
                mend="Give it to the last optimizer of ByName alone.",
            )
        rate, self.following = resolved.advance(self._g, self._step, self._loss, self._states)
        return rate

    def prepared(self, optimizer: Optimizer, multiplier: float) -> tuple[ir.Value, tuple[ir.Value, ...]]:
        """The rate times `multiplier`, and what the optimizer prepares of it."""
        key = (optimizer, multiplier)
        if key not in self._shared:
            rate = self.rate(optimizer)
            scaled = rate if multiplier == 1.0 else self._g.mul(rate, np.float32(multiplier))
            self._shared[key] = (scaled, optimizer.prepare(self._g, scaled, self._step))
        return self._shared[key]


def updates(
    g: GraphBuilder,
    optimizer: Optimizer,
    trainable: Mapping[str, Value],
    gradients: Sequence[ir.Value],
    states: Mapping[str, Value],
    rates: Rates,
) -> dict[str, ir.Value]:
    """What follows on the trainable parameters and their slots, by name."""
    following: dict[str, ir.Value] = {}
    for (name, p), dp in zip(trainable.items(), gradients, strict=True):
        assert p.shape is not None
        shape = [int(d) for d in p.shape if isinstance(d, int)]
        member = optimizer.of(name, shape)
        lr, decay = member.multipliers(name)
        rate, shared = rates.prepared(member, lr)
        slots = [f"{name}.{slot}" for slot in member.slots(shape)]
        with g.scope(name):
            updated = member.decayed_update(
                g, p, dp, [states[slot] for slot in slots], rate, shared, member.weight_decay * decay
            )
        following |= dict(zip([name, *slots], updated, strict=True))
    return following
