"""Several optimizers at once: each parameter goes to the first whose pattern matches its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from onnxmx.errors import UsageError
from onnxmx.trainer.optimizers.base import Optimizer, check_match
from onnxmx.trainer.schedules import Rate, Schedule


@dataclass(frozen=True, init=False)
class ByName(Optimizer):
    """Optimizers by pattern: `ByName({"head.*": mx.SGD(0.1), "*": mx.Adam(1e-3)})`. The first that matches serves.

    The rate that a step reports is that of the last one. Each has the rate, decay and groups that it was given.
    """

    optimizers: tuple[tuple[str, Optimizer], ...] = ()

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        if not optimizers or not all(isinstance(o, Optimizer) for o in optimizers.values()):
            raise UsageError(
                f"ByName expected optimizers by pattern; found {optimizers!r}",
                mend='For example mx.ByName({"head.*": mx.SGD(0.1), "*": mx.Adam()}).',
            )
        object.__setattr__(self, "optimizers", tuple(optimizers.items()))
        super().__init__(lr=self.optimizers[-1][1].lr)

    lr: Rate

    def check_groups(self, names: Iterable[str]) -> None:
        names = list(names)
        taken: dict[str, list[str]] = {pattern: [] for pattern, _ in self.optimizers}
        for name in names:
            taken[self._pattern(name)].append(name)
        for pattern, optimizer in self.optimizers:
            check_match(pattern, names)
            if taken[pattern]:
                optimizer.check_groups(taken[pattern])

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        return tuple(schedule for _, optimizer in self.optimizers for schedule in optimizer.schedules)

    def of(self, name: str, shape: Sequence[int]) -> Optimizer:
        return dict(self.optimizers)[self._pattern(name)].of(name, shape)

    def _pattern(self, name: str) -> str:
        for pattern, _ in self.optimizers:
            if fnmatchcase(name, pattern):
                return pattern
        raise UsageError(
            f"ByName expected an optimizer for every parameter; found none for {name!r}",
            mend='End it with "*": an optimizer for all others.',
        )
