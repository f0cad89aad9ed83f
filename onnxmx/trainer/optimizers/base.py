"""What an optimizer is: slots, scalars that all parameters share, and the update of one parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments
from onnxmx.builder.elsewhere import OPTIMIZER, KnowsOthers
from onnxmx.builder.functions import Function, function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_finite, is_number
from onnxmx.builder.ops import FLOAT
from onnxmx.errors import UsageError, nearest
from onnxmx.trainer.schedules import Rate, Schedule, as_schedule, check_rate

Values = tuple[ir.Value, ...]
DOUBLE = ir.DataType.DOUBLE


@dataclass(frozen=True)
class Group(CheckedArguments):
    """What is otherwise for the parameters whose names match: `Group("*.bias", lr=2.0, decay=0.0)`.

    match: a name, in which `*` stands for anything.
    lr, decay: what the learning rate and the weight decay are multiplied by; of several groups that match, by all.
    """

    match: str
    lr: float = 1.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.match, str) or not self.match:
            raise UsageError(f"a group expected a pattern of names; found {self.match!r}", mend='Such as "*.bias".')
        check_rate(f"the lr of group {self.match!r}", self.lr)
        check_rate(f"the decay of group {self.match!r}", self.decay)


@dataclass(frozen=True)
class Optimizer(KnowsOthers, CheckedArguments):
    """The base of all optimizers. A subclass gives `slots` and `update_rule`, and `prepare` where it needs more than
    the rate.

    lr: the learning rate, a number or a schedule.
    weight_decay: added to the gradient as weight_decay * p (L2), or, where the optimizer is `decoupled`, taken from
    the parameter as rate * weight_decay * p.
    groups: parameters with a rate and a decay of their own.
    Raises UsageError for values out of range.
    """

    lr: Rate = 1e-2
    weight_decay: float = field(default=0.0, kw_only=True)
    groups: tuple[Group, ...] = field(default=(), kw_only=True)
    _others: ClassVar[Mapping[str, str]] = OPTIMIZER
    update_rule: ClassVar[Function]
    """The update of one parameter, an `ai.onnxmx` function. Inputs: p, dp, its slots, what `prepare` gives; attributes:
    fields of the optimizer. Outputs: the next p and the next slots."""
    decoupled: ClassVar[bool] = False
    decay_inside: ClassVar[bool] = False
    """Whether weight decay is an attribute `decay` of `update_rule`."""
    elementwise: ClassVar[bool] = False
    """Whether each element is updated by itself, whatever parameter it belongs to: small ones are then gathered."""
    fractions: ClassVar[tuple[str, ...]] = ()
    """The fields that are numbers in [0, 1)."""
    positives: ClassVar[tuple[str, ...]] = ()
    """The fields that are finite numbers above 0."""
    rates: ClassVar[tuple[str, ...]] = ("weight_decay",)
    """The fields that are finite numbers of at least 0."""

    def __post_init__(self) -> None:
        if not callable(self.lr):  # a schedule checks itself
            check_rate(f"{type(self).__name__}'s lr", self.lr)
        for name in self.fractions:
            value = getattr(self, name)
            if not (is_number(value) and 0.0 <= value < 1.0):
                raise UsageError(f"{name} expected a number in [0, 1); found {value!r}")
        for name in self.positives:
            value = getattr(self, name)
            if not (is_finite(value) and value > 0):
                raise UsageError(f"{name} expected a finite number above 0; found {value!r}")
        for name in self.rates:
            check_rate(name, getattr(self, name))
        object.__setattr__(self, "groups", tuple(self.groups))
        for group in self.groups:
            if not isinstance(group, Group):
                raise UsageError(
                    f"groups expected a sequence of groups; found {group!r}", mend='Such as mx.Group("*.bias", lr=2).'
                )

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """What its learning rates follow."""
        return (as_schedule(self.lr),)

    def of(self, name: str, shape: Sequence[int]) -> Optimizer:
        """The optimizer that updates the parameter `name`: this one, unless it leaves some to others."""
        return self

    def slots(self, shape: Sequence[int]) -> dict[str, float]:
        """What it remembers of a parameter, in the parameter's shape: names, and the number that fills it at first."""
        return {}

    def prepare(self, g: GraphBuilder, rate: ir.Value, step: ir.Value) -> Values:
        """Scalars that all parameters of a rate share. rate: float32; step: int64, updates done so far."""
        return (rate,)

    def update(self, g: GraphBuilder, p: ir.Value, dp: ir.Value, slots: Sequence[ir.Value], shared: Values) -> Values:
        """The next value of the parameter `p`, whose gradient is `dp`, then those of its slots."""
        return self.apply(self.update_rule, g, p, dp, *slots, *shared)

    def decayed_update(
        self,
        g: GraphBuilder,
        p: ir.Value,
        dp: ir.Value,
        slots: Sequence[ir.Value],
        rate: ir.Value,
        shared: Values,
        decay: float,
    ) -> Values:
        """The update with weight decay. rate, decay: those of this parameter."""
        if self.decay_inside:
            return self.apply(self.update_rule, g, p, dp, *slots, *shared, decay=decay)
        if decay and self.decoupled:
            p = DecoupledDecay(g, p, rate, weight_decay=float(decay))
        elif decay:
            dp = L2Decay(g, p, dp, weight_decay=float(decay))
        return self.update(g, p, dp, slots, shared)

    def apply(self, function: Function, g: GraphBuilder, *inputs: ir.Value, **numbers: float) -> Values:
        """The outputs of a function whose attributes are `numbers` and this optimizer's fields of the same names."""
        given = vars(self) | numbers
        # As floats: an integer among them would give the attribute another type.
        made = function(g, *inputs, **{name: float(given[name]) for name in function.attributes})
        return made if isinstance(made, tuple) else (made,)

    def check_groups(self, names: Iterable[str]) -> None:
        """Raises UsageError where a group matches none of the parameters `names`."""
        names = list(names)
        for group in self.groups:
            check_match(group.match, names)

    def multipliers(self, name: str) -> tuple[float, float]:
        """What the rate and the decay of the parameter `name` are multiplied by."""
        found = [group for group in self.groups if fnmatchcase(name, group.match)]
        return math.prod(group.lr for group in found), math.prod(group.decay for group in found)


def check_match(pattern: str, names: Sequence[str]) -> None:
    """Raises UsageError where no parameter of `names` matches the pattern; it offers the nearest name."""
    if not any(fnmatchcase(name, pattern) for name in names):
        near = nearest(pattern, names)
        raise UsageError(
            f"{pattern!r} expected to match the name of a parameter; found none",
            mend=f"Did you mean {near!r}?" if near else f"There are: {', '.join(names)}.",
        )


@function(outputs=("decayed",))
def DecoupledDecay(g: GraphBuilder, p: ir.Value, rate: ir.Value, *, weight_decay: ir.Value) -> Value:
    """decayed = p (1 - rate weight_decay), before the update.   Source: Loshchilov & Hutter 2019, alg. 2."""
    return g.mul(p, g.sub(1.0, g.mul(rate, weight_decay)))


@function(outputs=("decayed",))
def L2Decay(g: GraphBuilder, p: ir.Value, dp: ir.Value, *, weight_decay: ir.Value) -> Value:
    """decayed = dp + weight_decay p, the gradient of the loss plus weight_decay / 2 |p|^2.   p, dp: one shape."""
    return g.add(dp, g.mul(p, weight_decay))


def correction(g: GraphBuilder, beta: ir.Value, step: ir.Value, *, root: bool = False) -> Value:
    """1 - beta^(step + 1), by which a running mean that began at 0 falls short, or its root; a float32 scalar.

    In float64: in float32 the first steps of a beta near 1 would be wrong by 5e-5.   step: int64 scalar.
    """
    t = g.cast(g.add(step, np.int64(1)), DOUBLE)
    left = g.sub(1.0, g.pow(g.cast(beta, DOUBLE), t))
    return g.cast(g.sqrt(left) if root else left, FLOAT)
