"""What a step does with its gradients: regularizers, clipping, the rate of each parameter, the optimizer, averages."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.graph import GraphBuilder
from onnxmx.errors import UsageError
from onnxmx.trainer import averages, optimizers
from onnxmx.trainer.averages import Average, AverageLike
from onnxmx.trainer.clipping import ClipLike, Gradients, Transform, as_transforms
from onnxmx.trainer.optimizers import Optimizer, OptimizerLike
from onnxmx.trainer.regularizers import Regularizer, RegularizerLike, as_regularizers
from onnxmx.trainer.schedules import Rate, ReduceOnPlateau, Scaled, Schedule, as_schedule
from onnxmx.trainer.schedules.base import check_updates
from onnxmx.trainer.schedules.check import check_rates

Array = np.ndarray[Any, Any]
Values = Mapping[str, ir.Value]


@dataclass(frozen=True)
class Update(CheckedArguments):
    """All that changes the parameters, in the order in which it comes.

    regularize: L1 and L2 add to the gradients.   clip: clipping and the like, in their order.
    optimizer: the update.   regularize again: max-norm bounds what came out.   average: follows it.
    Each is given as to `fit`: one or several, a name, an object.
    """

    optimizer: Optimizer
    clip: tuple[Transform, ...] = ()
    regularize: tuple[Regularizer, ...] = ()
    average: Average | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimizer", optimizers.get(self.optimizer))
        object.__setattr__(self, "clip", as_transforms(self.clip))
        object.__setattr__(self, "regularize", as_regularizers(self.regularize))
        object.__setattr__(self, "average", averages.get(self.average))

    @classmethod
    def of(
        cls,
        optimizer: OptimizerLike,
        clip: ClipLike | None = None,
        regularize: RegularizerLike | None = None,
        average: AverageLike | None = None,
    ) -> Update:
        """Of what `fit` takes. Raises UsageError for anything else."""
        return cls(optimizers.get(optimizer), as_transforms(clip), as_regularizers(regularize), averages.get(average))

    def state(self, trainable: Mapping[str, Array], statistics: Mapping[str, Array]) -> dict[str, Array]:
        """What it adds to the state, at first: slots, a schedule's scalars, averages; float32.

        statistics: the running statistics.   Slots are views of one number.
        Raises UsageError where a pattern matches no parameter.
        """
        self.optimizer.check_groups(trainable)
        for transform in (*self.clip, *self.regularize):
            transform.check(list(trainable))
        schedule = as_schedule(self.optimizer.lr)
        scalars = schedule.state if isinstance(schedule, ReduceOnPlateau) else {}
        found = {name: np.array(value, np.float32) for name, value in scalars.items()}
        for name, array in trainable.items():
            for slot, value in self.optimizer.of(name, array.shape).slots(array.shape).items():
                found[f"{name}.{slot}"] = np.broadcast_to(np.float32(value), array.shape)
        if self.average:
            found |= {f"{self.average.prefix}.{name}": a for name, a in {**trainable, **statistics}.items()}
        return found

    def settings(self) -> dict[str, str]:
        """What it is, as text."""
        clip = list(self.clip) if len(self.clip) > 1 else next(iter(self.clip), None)
        found: dict[str, Any] = {"optimizer": self.optimizer, "clip": clip}
        if self.regularize:
            found["regularize"] = list(self.regularize)
        if self.average:
            found["average"] = self.average
        # A function is told without its address in memory, which another process has elsewhere.
        return {name: re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)) for name, value in found.items()}

    def ends(self, total: int) -> bool:
        """Whether a rate or the average of a run of `total` updates is another one in a longer run."""
        return self._ending(total) is not None

    def _ending(self, total: int) -> Schedule | Average | None:
        longer = 20 * (total + 1)  # no share of the run, such as a warm-up's twentieth, is rounded to the same
        parts: list[Schedule | Average] = [*self.optimizer.schedules, *([self.average] if self.average else [])]
        return next((part for part in parts if part.resolve(total) != part.resolve(longer)), None)

    def length(self, total: int | None) -> int:
        """The updates to compile for: those given, or else any number.

        Raises UsageError where none is given and a rate or the average ends with them, and for a rate below 0.
        """
        if total is not None:
            check_updates("a step", "total", total, 1)
            for schedule in self.optimizer.schedules if total < WITHOUT_END else ():
                check_rates(schedule, total)
            return total
        if part := self._ending(WITHOUT_END):
            raise UsageError(
                f"{part!r} ends with the run and expected total, the updates that there will be; found none",
                mend="Give it, for example total=1000.",
            )
        return WITHOUT_END

    def build(
        self, at: Gradients, loss: ir.Value, states: Values, running: Values, total: int
    ) -> tuple[ir.Value, dict[str, ir.Value]]:
        """Add it to the graph. Returns the learning rate, and what follows on each part of the state that changes.

        loss: float32 scalar, that of this step.   running: the next running statistics.   total: the steps of the run.
        """
        g = at.g
        gradients: Values = at.values
        for transform in (*self.regularize, *self.clip):
            gradients = transform(Gradients(g, gradients, at.parameters, at.seed, at.step))
        rates = Rates(g, states, loss, total)
        rate = rates.rate(self.optimizer)
        following = {**running, **self._updates(g, at.parameters, gradients, states, rates), **rates.following}
        following["step"] = g.add(at.step, 1)
        if self.average:
            average = self.average.resolve(total)
            for name in (*at.parameters, *running):
                key = f"{average.prefix}.{name}"
                following[key] = average(g, states[key], following[name], at.step)
        return rate, following

    def _updates(
        self, g: GraphBuilder, parameters: Values, gradients: Values, states: Values, rates: Rates
    ) -> dict[str, ir.Value]:
        """What follows on the parameters and their slots, by name."""
        following: dict[str, ir.Value] = {}
        for names, (member, lr, decay) in self._together(parameters):
            rate, shared = rates.prepared(member, lr)
            slots = [["", *(f".{slot}" for slot in member.slots(_shape(parameters[name])))] for name in names]
            with g.scope(names[0] if len(names) == 1 else "small"):
                p, *values = (
                    _gathered(g, [states[n + s] for n, s in zip(names, of, strict=True)])
                    for of in zip(*slots, strict=True)
                )
                dp = _gathered(g, [gradients[name] for name in names])
                made = member.decayed_update(g, p, dp, values, rate, shared, member.weight_decay * decay)
                parts = [_apart(g, v, [parameters[name] for name in names]) for v in made]
            for of, name in enumerate(names):
                updated, *kept = (part[of] for part in parts)
                for regularizer in self.regularize:
                    with g.scope(name):
                        updated = regularizer.project(g, name, updated)
                following |= dict(zip((name + s for s in slots[of]), [updated, *kept], strict=True))
        return following

    def _together(self, parameters: Values) -> list[tuple[list[str], _Key]]:
        """The names of the parameters that are updated in one go, and how.

        Small ones that are updated alike, element by element, are one flat vector: each node costs more than its
        arithmetic there (docs/performance.md).
        """
        found: list[tuple[list[str], _Key]] = []
        small: dict[_Key, list[str]] = {}
        for name, p in parameters.items():
            shape = _shape(p)
            member = self.optimizer.of(name, shape)
            key = (member, *member.multipliers(name))
            if member.elementwise and math.prod(shape) <= SMALL:
                if key not in small:
                    small[key] = []
                    found.append((small[key], key))
                small[key].append(name)
            else:
                found.append(([name], key))
        return found


WITHOUT_END = 2**31
"""The updates of a run that may go on for ever: no schedule is too long for it."""
SMALL = 2048
"""The elements of a parameter that is gathered with others."""
_Key = tuple[Optimizer, float, float]


def _shape(p: ir.Value) -> list[int]:
    assert p.shape is not None
    return [int(d) for d in p.shape if isinstance(d, int)]


def _gathered(g: GraphBuilder, values: Sequence[ir.Value]) -> ir.Value:
    return values[0] if len(values) == 1 else g.concat([g.reshape(v, [-1]) for v in values], 0)


def _apart(g: GraphBuilder, value: ir.Value, like: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """What `_gathered` put together."""
    if len(like) == 1:
        return [value]
    shapes = [_shape(v) for v in like]
    sizes = g.constant([math.prod(shape) for shape in shapes])
    parts = g.ops("Split", value, sizes, outputs=len(like), axis=0)
    return [g.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


class Rates:
    """The learning rate of each parameter, each computed once in the graph.

    total: the steps of the run.   loss: that of this step, which a schedule may watch.
    following: what follows on the state of such a schedule, by name.
    """

    def __init__(self, g: GraphBuilder, states: Values, loss: ir.Value, total: int) -> None:
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
