"""A training step to call by hand: what `fit` calls for each batch, without its loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments, checked_arguments
from onnxmx.builder.elsewhere import TRAINER, KnowsOthers
from onnxmx.builder.metadata import LOSS
from onnxmx.builder.model import Model
from onnxmx.builder.session import check_provider, check_threads
from onnxmx.errors import CheckpointError, DataError, unknown_name
from onnxmx.trainer import losses, state
from onnxmx.trainer.averages import AverageLike
from onnxmx.trainer.clipping import ClipLike
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.data.arrays import check_finite, check_masked
from onnxmx.trainer.engine import ENGINES, OrtEngine
from onnxmx.trainer.evaluate import Evaluator, Figures, fit_data, specs_of
from onnxmx.trainer.losses import LossLike, Specs
from onnxmx.trainer.mixing import MixLike
from onnxmx.trainer.objective import Measure, Objective, outputs_of
from onnxmx.trainer.optimizers import Adam, OptimizerLike
from onnxmx.trainer.precision import check_precision
from onnxmx.trainer.regularizers import RegularizerLike
from onnxmx.trainer.step import StepGraph, compile_step, initial_state
from onnxmx.trainer.teacher import Teacher
from onnxmx.trainer.update import Update

Array = np.ndarray[Any, Any]
MakeFigures = Callable[[Mapping[str, Array]], dict[str, Any]]
Criterion = tuple[str, int]
"""A measure of an epoch, and 1 where more of it is better or -1."""


class Trainer(KnowsOthers, CheckedArguments):
    """A model, its compiled training step, and the state that the step moves.

        trainer = mx.Trainer(model, optimizer=mx.Adam(1e-3), clip=mx.clip_global_norm(1.0))
        for x, y in batches:
            measured = trainer.step({"x": x, "label": y})
        trainer.model.save("net.onnx")

    loss, measure, optimizer, clip, regularize, average, micro_batch, mix, teach, labels: as in `compile_step`; Adam is
    the optimizer by default.
    total: the updates that there will be, which schedules and averages that end with them need.
    seed: what dropout is drawn from.
    precision, threads, provider, engine: as in `fit`.
    Raises what `compile_step` raises.
    """

    _others = TRAINER

    def __init__(
        self,
        model: Model,
        *,
        loss: LossLike = "softmax_cross_entropy",
        measure: Measure = None,
        optimizer: OptimizerLike | None = None,
        clip: ClipLike | None = None,
        regularize: RegularizerLike | None = None,
        average: AverageLike | None = None,
        micro_batch: int | None = None,
        mix: MixLike | None = None,
        teach: Teacher | None = None,
        labels: Specs | None = None,
        total: int | None = None,
        seed: int = 0,
        precision: str = "float32",
        threads: int | None = None,
        provider: str = "cpu",
        engine: str = "ort",
    ) -> None:
        if engine not in ENGINES:
            raise unknown_name("engine", engine, ENGINES)
        check_precision(precision, check_provider(provider), engine)
        update = Update.of(Adam() if optimizer is None else optimizer, clip, regularize, average)
        step = compile_step(
            model,
            loss=loss,
            measure=measure,
            optimizer=update.optimizer,
            clip=update.clip,
            regularize=update.regularize,
            average=update.average,
            micro_batch=micro_batch,
            mix=mix,
            teach=teach,
            precision=precision,
            labels=labels,
            total=total,
            differentiator=ENGINES[engine].differentiator(),
            provider=provider,
        )
        start = initial_state(model, update.optimizer, seed, update.average, precision)
        model = model.with_parameters({})
        model.metadata[LOSS] = str(losses.get(loss))
        self._hold(model, step, start, loss, measure, threads, provider, engine)
        self.engine.open()

    @classmethod
    def of(
        cls,
        model: Model,
        step: StepGraph,
        state: dict[str, Array],
        *,
        loss: LossLike,
        measure: Measure = None,
        threads: int | None = None,
        provider: str = "cpu",
        engine: str = "ort",
    ) -> Trainer:
        """One for a step that is compiled already, which goes on from `state`.

        Raises CheckpointError where the state is not that of the step.
        """
        trainer = cls.__new__(cls)
        trainer._hold(model, step, state, loss, measure, threads, provider, engine)
        return trainer

    def _hold(
        self,
        model: Model,
        step: StepGraph,
        state: dict[str, Array],
        loss: LossLike,
        measure: Measure,
        threads: int | None,
        provider: str,
        engine: str,
    ) -> None:
        self._model, self._loss, self._measure = model, loss, measure
        self._threads, self._provider = check_threads(threads), provider
        self.graph = step
        self.engine: OrtEngine = ENGINES[engine].run(step, state, threads=self._threads, provider=provider)
        # By parameter, the part of the state that a model file holds: an average of it, where there is one to use.
        prefix = step.spec.get("average")
        averages = {name: f"{prefix}.{name}" for name in model.parameters()} if prefix else {}
        self._weights = {name: averages[name] if averages.get(name) in state else name for name in model.parameters()}
        self._evaluator: Evaluator | None = None
        self._objective: tuple[Objective, dict[str, ir.Value]] | None = None

    @checked_arguments
    def step(self, batch: dict[str, Array]) -> dict[str, float]:
        """One update.

        batch: an array for each input and label, samples first, in the types that the step takes.
        Returns loss, metrics that are one number, grad_norm before clipping, and lr.
        Raises DataError where the batch does not fit, or holds what a dataset may not: a number that is not finite, a
        label that the loss does not take.
        """
        if not isinstance(batch, dict):
            raise DataError(
                f"a step expected arrays by name; found {type(batch).__name__}",
                mend='For example {"image": x, "label": y}: the inputs and labels of the step.',
            )
        self.engine.check(batch)
        self._check_values(batch)
        return self.engine.step(batch)

    def _check_values(self, batch: Mapping[str, Array]) -> None:
        """What `fit` checks of a whole dataset before its first step."""
        for name, array in batch.items():
            check_masked("the batch", name, array)
            check_finite("the batch", name, array)
        labels = {name: array for name, array in batch.items() if name not in self._model.inputs}
        if self._objective is None:
            outputs = outputs_of(self._model)
            self._objective = Objective.of(losses.get(self._loss), outputs, specs_of(labels), self._measure), outputs
        objective, outputs = self._objective
        objective.check(labels, outputs)

    @property
    def steps(self) -> dict[str, StepGraph]:
        """The steps that it runs, by name: one, without a name."""
        return {"": self.graph}

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return int(self.engine.values["step"].numpy())

    @property
    def model(self) -> Model:
        """A copy of the model as it is now; of its averaged weights where an average is to be used."""
        values = self.engine.values
        return self._model.with_parameters(
            {name: np.array(values[kept].numpy()) for name, kept in self._weights.items()}
        )

    @checked_arguments
    def evaluate(self, data: Dataset, batch_size: int = 256) -> dict[str, Any]:
        """Loss and metrics of the model as it is now over all of `data`, in inference form.

        Raises DataError where the data does not fit.
        """
        data = fit_data(self._model, data, self._loss)
        self.prepare_evaluation(data)
        return self.validate(data, batch_size)

    def validate(self, data: Dataset, batch_size: int) -> dict[str, Any]:
        """`evaluate` for data that is known to fit, and prepared."""
        assert self._evaluator is not None
        values = self.engine.values
        weights = {name: values[kept] for name, kept in self._weights.items()}
        return self._evaluator.run(data, batch_size, weights)

    def figures(self, data: Dataset, validated: bool) -> tuple[MakeFigures, Criterion]:
        """What makes loss and metrics of added sums, and the measure that chooses the best epoch.

        data: what it trains on.   validated: whether there are measures of validation data.
        Raises CheckpointError where the metrics are not those that the step was compiled with.
        """
        objective = Objective.of(losses.get(self._loss), outputs_of(self._model), specs_of(data.labels), self._measure)
        counted = {name.removeprefix("sum.") for name in self.engine.sums} - {"loss"}
        if counted != set(objective.metrics):
            raise CheckpointError(
                f"a run expected the metrics that it began with, {sorted(counted)}; found {sorted(objective.metrics)}",
                mend="Give them again: resume(..., measure=[...]).",
            )
        name, larger = objective.best_by
        criterion = (f"validation_{name}", 1 if larger else -1) if validated else ("loss", -1)
        return Figures(objective, {name: total.shape for name, total in self.engine.sums.items()}), criterion

    def prepare_evaluation(self, data: Dataset) -> None:
        """Open what evaluates such data, so that what cannot be evaluated is found before the training."""
        if self._evaluator is None:
            options: dict[str, Any] = {"threads": self._threads, "provider": self._provider, "live": True}
            self._evaluator = Evaluator(self._model, data, loss=self._loss, measure=self._measure, **options)

    @checked_arguments
    def save(self, path: str | os.PathLike[str], header: Mapping[str, Any] | None = None) -> None:
        """Write the whole state, parameters, slots, averages and the step, as safetensors, with `header` in it."""
        state.save(Path(path), self.engine.state(), dict(header or {}))

    @checked_arguments
    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Go on from a state that `save` wrote; returns its header.

        Raises CheckpointError where it is damaged, or that of another model: it names the parts that differ.
        """
        arrays, header = state.load(Path(path))
        self.engine.load(arrays)
        return header
