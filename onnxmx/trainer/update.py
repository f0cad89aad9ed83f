"""What a step does with its gradients: the rate of each parameter, and the optimizer's update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.optimizers import Optimizer
from onnxmx.trainer.schedules import Schedule, as_schedule

Shapes = Mapping[str, Sequence[int]]


def slots_of(optimizer: Optimizer, shapes: Shapes) -> Iterator[tuple[str, Sequence[int], float]]:
    """The optimizer's part of the state: `<parameter>.<slot>`, its shape, and the number that fills it at first.

    shapes: those of the trainable parameters, by name. Raises UsageError where a group matches none of them.
    """
    optimizer.check_groups(shapes)
    for name, shape in shapes.items():
        for slot, value in optimizer.of(name, shape).slots(shape).items():
            yield f"{name}.{slot}", shape, value


class Rates:
    """The learning rate of each parameter, each computed once in the graph."""

    def __init__(self, g: GraphBuilder, step: ir.Value, total: int) -> None:
        self._g, self._step, self._total = g, step, total
        self._rates: dict[Schedule, ir.Value] = {}
        self._shared: dict[tuple[Optimizer, float], tuple[ir.Value, tuple[ir.Value, ...]]] = {}

    def rate(self, optimizer: Optimizer) -> ir.Value:
        """The optimizer's learning rate at this step."""
        schedule = as_schedule(optimizer.lr)
        if schedule not in self._rates:
            self._rates[schedule] = schedule.resolve(self._total)(self._g, self._step)
        return self._rates[schedule]

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
