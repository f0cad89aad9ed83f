"""The two steps of a GAN in turns, as the training loop sees one step of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxmx.builder.model import Model
from onnxmx.errors import UsageError
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.gan.steps import DISCRIMINATOR, GENERATOR
from onnxmx.trainer.joint import Joint, with_state
from onnxmx.trainer.packed import Packed
from onnxmx.trainer.step import StepGraph
from onnxmx.trainer.trainer import Criterion, MakeFigures

Array = np.ndarray[Any, Any]
_FIGURES = ("loss", "generator_loss", "real_score", "made_score")


class Rounds:
    """An engine whose step is one of the discriminator, and after each k of them one of the generator.

    sums: by figure, a sum and a count.
    """

    def __init__(self, engine: OrtEngine, k: int) -> None:
        self._engine, self._k = engine, k
        self._done = int(engine.values[f"{DISCRIMINATOR}.step"].numpy())
        self.sums = Packed({f"sum.{name}": (2,) for name in _FIGURES})

    def hold(self, source: Dataset) -> bool:
        """As of an engine, for the discriminator's step; the generator's takes no samples."""
        self._engine.open(GENERATOR)
        return self._engine.hold(source, DISCRIMINATOR)

    def step(self, batch: dict[str, Array] | Array) -> dict[str, float]:
        """One round. Returns the discriminator's measures; those of the generator where it was its turn."""
        measured = self._engine.step(batch, DISCRIMINATOR)
        size = len(batch if isinstance(batch, np.ndarray) else next(iter(batch.values())))
        self._done += 1
        self.sums.flat[:] = 0
        for name in ("loss", "real_score", "made_score"):
            self.sums[f"sum.{name}"][:] = measured[name] * size, size
        finite = math.isfinite(measured["loss"]) and math.isfinite(measured["grad_norm"])
        if self._done % self._k == 0 and finite:  # else the loop looks into the step that was the last
            found = self._engine.step({}, GENERATOR)
            measured |= {"generator_loss": found["loss"], "generator_grad_norm": found["grad_norm"]}
            self.sums["sum.generator_loss"][:] = found["loss"], 1
        return measured

    def check(self, batch: dict[str, Array]) -> None:
        """As of an engine, for the discriminator's step; so are `values` and `state`, of both."""
        self._engine.check(batch, DISCRIMINATOR)

    @property
    def values(self) -> dict[str, Any]:
        return self._engine.values

    def state(self, *, former: bool = False) -> dict[str, Array]:
        return self._engine.state(former=former)


class GanTrainer:
    """What the training loop moves on: see `Trainer`, of which it has what the loop uses."""

    def __init__(
        self,
        nets: Joint,
        steps: Mapping[str, StepGraph],
        state: dict[str, Array],
        k: int,
        *,
        threads: int | None,
        provider: str,
    ) -> None:
        self._nets = nets
        prefix = steps[GENERATOR].spec["average"]  # a resumed run knows it from there alone
        self._average = f"{prefix}." if prefix else ""
        self.graph, self.steps = steps[DISCRIMINATOR], steps
        self.engine = Rounds(OrtEngine(steps, state, threads=threads, provider=provider), k)

    @property
    def model(self) -> Model:
        """The generator as it is now; of its averaged weights where they are to be used."""
        return with_state(self._nets.models[GENERATOR], f"{GENERATOR}.", self.engine.state(), self._average)

    @property
    def discriminator(self) -> Model:
        """The discriminator as it is now."""
        return with_state(self._nets.models[DISCRIMINATOR], f"{DISCRIMINATOR}.", self.engine.state())

    @property
    def updates(self) -> int:
        """Steps of both so far."""
        return int(self.engine.state()["step"])

    def figures(self, data: Dataset, validated: bool) -> tuple[MakeFigures, Criterion]:
        """Means of the sums. No epoch is better than another but by being later."""
        return _means, ("epoch", 1)

    def prepare_evaluation(self, data: Dataset) -> None:
        raise UsageError("a GAN expected no validation data; found some", mend="Judge samples by mx.gan.judge.")

    def validate(self, data: Dataset, batch_size: int) -> dict[str, Any]:
        raise NotImplementedError  # pragma: no cover - prepare_evaluation comes first


def _means(sums: Mapping[str, Array]) -> dict[str, Any]:
    """What `Figures` is for one model. Left out is what was not counted yet."""
    return {n.removeprefix("sum."): float(a[0] / a[1]) for n, a in sums.items() if a[1]}
