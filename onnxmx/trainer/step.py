"""Compiling a model, a loss and an optimizer into one training step, a plain ONNX graph.

    inputs    batch.<input or label>, state.<parameter, slot, running statistic>, state.step, state.seed
    outputs   loss, metric.<name>, grad_norm, lr, sum.<name>, next.<name> for every state.<name>

It is a pure function: the same inputs give the same outputs, bit for bit on one machine and provider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder import weights
from onnxmx.builder.arguments import checked_arguments, integer
from onnxmx.builder.graph import Dim, GraphBuilder, Value
from onnxmx.builder.model import Model, Port
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.builder.session import PROVIDERS, check_provider
from onnxmx.errors import GradientError, GraphError, ShapeError, UsageError
from onnxmx.trainer import losses, mixing
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.autodiff.choice import picking
from onnxmx.trainer.averages import AverageLike
from onnxmx.trainer.clipping import ClipLike, Gradients
from onnxmx.trainer.forward import Training, copy_model
from onnxmx.trainer.logits import as_logits, before_activations
from onnxmx.trainer.losses import LossLike, Specs
from onnxmx.trainer.micro import Pass, Values, in_micro_batches
from onnxmx.trainer.mixing import MixLike, Mixup
from onnxmx.trainer.objective import Counts, Measure, Objective, outputs_of
from onnxmx.trainer.optimizers import OptimizerLike
from onnxmx.trainer.precision import Precision, get_precision
from onnxmx.trainer.regularizers import RegularizerLike
from onnxmx.trainer.step_graph import StepGraph as StepGraph
from onnxmx.trainer.step_graph import finish as finish
from onnxmx.trainer.teacher import Teacher
from onnxmx.trainer.tune import Tuner
from onnxmx.trainer.update import Update

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Differentiator:
    """Who makes the gradients of a step; by default the rules of `autodiff`.

    builder: what the step's graph is built with.
    gradients: (builder, scalar, values) -> the gradient of each value, or None where the scalar does not depend on it.
    plain: whether its nodes are all ONNX's own, which ONNX's checker knows.
    """

    name: str = "ort"
    builder: Callable[[str], GraphBuilder] = GraphBuilder
    gradients: Callable[[GraphBuilder, ir.Value, Sequence[ir.Value]], Sequence[ir.Value | None]] = gradients
    plain: bool = True


@checked_arguments
def compile_step(
    model: Model,
    *,
    loss: LossLike,
    optimizer: OptimizerLike,
    clip: ClipLike | None = None,
    regularize: RegularizerLike | None = None,
    average: AverageLike | None = None,
    measure: Measure = None,
    total: int | None = None,
    micro_batch: int | None = None,
    mix: MixLike | None = None,
    teach: Teacher | None = None,
    precision: str = "float32",
    labels: Specs | None = None,
    differentiator: Differentiator | None = None,
    tune: Tuner | None = None,
    provider: str = "cpu",
) -> StepGraph:
    """One training step as a graph.

    loss: a loss, its name, a function of graph values, or losses by the output that they read.
    optimizer, average: one, or its name, with options after a colon.
    clip: clipping and whatever else changes gradients, one or several in their order.   regularize: likewise.
    average: of the weights, kept beside them.   micro_batch: samples at a time, to use less memory; by default all.
    mix: mx.Mixup or mx.CutMix of the samples of a batch.   teach: whom to learn from besides the labels; `loss` stays
    the model's own.
    precision: what products are computed in, "float32", "float16" or "bfloat16".
    measure: metrics beside the loss, of several losses by output; by default those that go with it.
    total: the steps of the run, which schedules and averages that end with it need.
    labels: shape and element type of the labels that a batch holds, by name; by default what the loss expects, called
    "label", or, of several losses, as the output.
    differentiator: who makes the gradients.   tune: who picks among the formulations of one gradient.
    provider: where the step is to run: CUDA lacks kernels that the CPU has, and gets others that compute the same bits.
    The bytes are a function of the arguments alone, not of where this is called.
    Raises GradientError where an operator between the loss and a parameter has no rule, ShapeError where model, loss
    and label do not fit.
    """
    maker = differentiator or Differentiator()
    g = maker.builder("step")
    g.device = PROVIDERS[check_provider(provider)]
    objective = Objective.of(losses.get(loss), outputs_of(model), labels, measure)
    update = Update.of(optimizer, clip, regularize, average)
    total = update.length(total)
    mix = mixing.get(mix)
    batch = _batch(g, model, objective)
    mixed_precision = get_precision(precision)
    states = _state_inputs(g, model, update, mixed_precision)
    trainable = {name: states[name] for name in trainable_of(model)}
    statistics = {name: states[name] for name in statistics_of(model)}
    # A part of a batch adds its share of a mean. Where labels weigh unlike, that mean is over all of the batch's.
    whole: Counts = []
    if micro_batch is not None:
        micro_batch = integer("micro_batch", micro_batch, 1, 2**63)
        with g.scope("counts"):
            whole = objective.counts(g, outputs_of(model), batch)
    one_pass = _OnePass(maker, model, objective, states, mixed_precision, mix, teach, tune, whole)
    if micro_batch is None:
        found = one_pass(g, batch, states["seed"], statistics)
    else:
        _check_plain(maker)
        found = in_micro_batches(g, one_pass, batch, states["seed"], statistics, micro_batch)
    (loss_value,) = found.scalars
    sums: dict[str, ir.Value] = dict(zip(["loss", *objective.metrics], found.sums, strict=True))
    with g.scope("metrics"):
        figures = {name: g.cast(objective.finish(g, name, sums[name]), FLOAT) for name in objective.metrics}
    with g.scope("update"):
        by_name = dict(zip(trainable, mixed_precision.unscaled(g, found.gradients, states), strict=True))
        counted = {**states, "step": mixed_precision.updates(g, states)}
        at = Gradients(g, by_name, trainable, states["seed"], counted["step"])
        rate, following = update.build(at, loss_value, counted, found.running, total)
        norm, after, shown = mixed_precision.guard(g, at.norm, states, following)
    g.output(loss_value, "loss")
    for name, value in figures.items():
        g.output(value, f"metric.{name}")
    for name, scalar in {"grad_norm": norm, "lr": rate, **shown}.items():
        g.output(scalar, name)
    for name, added in sums.items():
        g.output(added, f"sum.{name}")
    for name, value in states.items():
        g.output(after.get(name, value), f"next.{name}")
    taught = {} if teach is None else {"teach": str(teach)}
    made_of = settings(loss, update, micro_batch, mix, precision) | {"engine": maker.name} | taught
    return finish(
        g,
        "onnxmx training step",
        made_of,
        plain=maker.plain,
        average=update.average,
        total=total if update.ends(total) else None,
    )


@dataclass(frozen=True)
class _OnePass:
    """Adds to a graph the way through the model and back, of a batch or a part of one: a `MakePass`.

    states: the inputs of the step's state, by name.
    whole: what the labels of the whole batch count for each task, where a pass is over a part of it.
    """

    maker: Differentiator
    model: Model
    objective: Objective
    states: Mapping[str, Value]
    precision: Precision
    mix: Mixup | None
    teach: Teacher | None
    tune: Tuner | None
    whole: Counts

    def __call__(
        self, g: GraphBuilder, batch: Values, seed: ir.Value, running: Values, share: ir.Value | None = None
    ) -> Pass:
        mixed = None
        if self.mix is not None:
            with g.scope("mix"):
                mixed = self.mix(g, {name: batch[name] for name in self.model.inputs}, seed, self.states["step"])
        inputs = batch if mixed is None else mixed.inputs
        outputs, moved = self._forward(g, inputs, seed, running)
        with g.scope("loss"):
            logits = outputs | before_activations(
                g, self.model, self.objective, {name: outputs[name] for name in self.model.outputs}
            )
            targets = {name: batch[name] for name in self.objective.labels}
            counts = [None if count is None or share is None else g.mul(count, share) for count in self.whole]
            if mixed is None:
                loss, sums = self.objective.compute(g, logits, targets, counts)
            else:
                loss, sums = self.objective.compute_mixed(g, logits, targets, mixed.partner, mixed.share, counts)
        goal = loss
        if self.teach is not None:
            with g.scope("teacher"):
                given = {name: inputs[name] for name in self.model.inputs}
                goal = self.teach.guide(g, self.model, self.objective, loss, logits, given)
        trainable = {name: self.states[name] for name in trainable_of(self.model)}
        with picking(self.tune):
            gradients = gradients_of(self.maker, g, self.precision.scaled(g, goal, self.states), trainable)
        return Pass([loss], gradients, moved, list(sums.values()))

    def _forward(
        self, g: GraphBuilder, inputs: Values, seed: ir.Value, running: Values
    ) -> tuple[dict[str, ir.Value], dict[str, ir.Value]]:
        """The outputs of the model as it trains, by name, and the next running statistics."""
        learned = {*trainable_of(self.model), *statistics_of(self.model)}
        training = Training(
            seed,
            self.states["step"],
            rules=self.maker.plain,
            precision=self.precision,
            frozen=frozenset(self.states) - learned,
        )
        parameters = {name: self.states[name] for name in self.model.parameters()}
        seen = self.model if self.teach is None else self.teach.seen_in(self.model)
        outputs = copy_model(g, seen, {**parameters, **running, **inputs}, training)
        if lost := [name for name in training.running if name not in running]:
            raise GraphError(
                f"training expected running statistics that are initializers; found {lost[0]!r}, which is computed",
                mend="Export the model with its constants folded.",
            )
        return outputs, training.running


def settings(
    loss: LossLike, update: Update, micro_batch: int | None, mix: Mixup | None = None, precision: str = "float32"
) -> dict[str, str]:
    """What of a run is compiled into its step, as text: `step.json` keeps it."""
    more = {"micro_batch": micro_batch, "mix": mix, "precision": None if precision == "float32" else precision}
    given = {name: str(value) for name, value in more.items() if value is not None}
    return {"loss": str(losses.get(loss)), **update.settings(), **given}


def compile_measures(model: Model, objective: Objective) -> bytes:
    """The sums of a model's outputs as a graph: inputs `output.<name>` and `label.<name>`, outputs `sum.<name>`."""
    g = GraphBuilder("measures")
    ports = model.outputs
    values: dict[str, ir.Value] = {
        name: g.input(f"output.{name}", _shape(ports[name]), ir.DataType.from_numpy(ports[name].dtype))
        for name in objective.outputs
    }
    targets = {name: g.input(f"label.{name}", *spec) for name, spec in objective.labels.items()}
    for name, value in objective.compute(g, as_logits(g, model, objective, values), targets)[1].items():
        g.output(value, f"sum.{name}")
    return finish(g, "onnxmx measures", {}).data


def compile_figures(objective: Objective, sums: Mapping[str, Sequence[int]]) -> bytes:
    """What added sums come to, as a graph: inputs `sum.<name>`, outputs `loss` and `metric.<name>`.

    sums: the shape of each sum, by name.
    """
    g = GraphBuilder("figures")
    for name, shape in sums.items():
        figure = objective.finish(g, name, g.input(f"sum.{name}", shape, ir.DataType.DOUBLE))
        g.output(figure, "loss" if name == "loss" else f"metric.{name}")
    return finish(g, "onnxmx figures", {}).data


def initial_state(
    model: Model, optimizer: OptimizerLike, seed: int, average: AverageLike | None = None, precision: str = "float32"
) -> dict[str, Array]:
    """The state before the first step, by name without `state.`: step 0, the seed, parameters, slots, averages.

    Raises UsageError for what is no seed.
    """
    seed = integer("seed", seed, 0, 2**63)
    arrays: dict[str, Array] = {"step": np.array(0, np.int64), "seed": np.array(seed, np.int64)}
    arrays |= model.parameters()
    added = _added(model, Update.of(optimizer, average=average), get_precision(precision), arrays)
    return arrays | {name: np.array(array) for name, array in added.items()}


def trainable_of(model: Model) -> list[str]:
    """The parameters that a step changes. Raises GradientError where there is none."""
    names = model.trainable
    if not names:
        raise GradientError(
            "the model has no trainable parameter of type float32",
            mend="Unfreeze some, add a layer with parameters, or convert the model to float32.",
        )
    return list(dict.fromkeys(names))


def statistics_of(model: Model) -> list[str]:
    """The running statistics, which a step moves without a gradient."""
    learned = set(weights.trainable_at_all(model.ir.graph, model.trainable))
    return [name for name in model.parameters() if name not in learned]


def _added(model: Model, update: Update, precision: Precision, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What the update and mixed precision add to the state."""
    trainable, statistics = trainable_of(model), statistics_of(model)
    slots = update.state({name: arrays[name] for name in trainable}, {name: arrays[name] for name in statistics})
    return slots | precision.state()


def _state_inputs(g: GraphBuilder, model: Model, update: Update, precision: Precision) -> dict[str, Value]:
    """An input for each part of the state, by name without `state.`, in the order of the graph's inputs."""
    states = {name: g.input(f"state.{name}", (), INT64) for name in ("step", "seed")}
    arrays = model.parameters()
    added = _added(model, update, precision, arrays)
    for name, array in [*arrays.items(), *added.items()]:
        if name in states:
            raise GraphError(
                f"the state of a training step expected one part named {name!r}; found a parameter of that name beside "
                "the step's own",
                mend="Rename that parameter.",
            )
        states[name] = g.input(f"state.{name}", array.shape, ir.DataType.from_numpy(array.dtype))
    return states


def _batch(g: GraphBuilder, model: Model, objective: Objective) -> dict[str, Value]:
    """The inputs that a batch brings: those of the model, and the labels."""
    for label in objective.labels:
        if label in model.inputs:
            raise ShapeError(
                f"the label and an input of the model are both named {label!r}", mend="Rename one of them."
            )
    batch = {
        p.name: g.input(f"batch.{p.name}", _shape(p), ir.DataType.from_numpy(p.dtype)) for p in model.inputs.values()
    }
    return batch | {name: g.input(f"batch.{name}", *spec) for name, spec in objective.labels.items()}


def _shape(port: Port) -> tuple[Dim, ...]:
    if port.shape is None:
        raise ShapeError(f"training expected {port.name!r} to have a known rank; it has none")
    return port.shape


def gradients_of(
    maker: Differentiator, g: GraphBuilder, loss: ir.Value, trainable: Mapping[str, Value]
) -> list[ir.Value]:
    """The gradient of each trainable parameter. Raises GradientError where the loss does not depend on one."""
    found = maker.gradients(g, loss, list(trainable.values()))
    for name, dp in zip(trainable, found, strict=True):
        if dp is None:
            raise GradientError(
                f"the loss does not depend on the parameter {name!r}",
                mend="Freeze it, or use the layer that it belongs to.",
            )
    return [dp for dp in found if dp is not None]


def _check_plain(maker: Differentiator) -> None:
    if not maker.plain:
        raise UsageError(
            f"micro-batches expected the engine 'ort'; found {maker.name!r}, whose gradients cannot be in a loop",
            mend="Take the default engine.",
        )
