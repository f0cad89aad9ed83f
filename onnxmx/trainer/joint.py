"""Several models trained by steps that share one state: a GAN, a Q-network and its target.

Each step is a plain ONNX graph, trains one of the models, and has the parts of the state that it reads or changes:

    state.<model>.<parameter, slot, statistic>    of each model
    state.<model>.step                            updates of that model so far, which its schedule counts
    state.step, state.seed                        updates of all of them, and the seed: random numbers come from these
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder import random
from onnxmx.builder.arguments import CheckedArguments, integer
from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.model import Model
from onnxmx.builder.ops import FLOAT
from onnxmx.builder.session import PROVIDERS, check_provider
from onnxmx.builder.source import user_line
from onnxmx.builder.values import Dim
from onnxmx.errors import GradientError, UsageError, unknown_name
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.clipping import Gradients
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.forward import Training, copy_model
from onnxmx.trainer.losses import Specs
from onnxmx.trainer.optimizers import OptimizerLike
from onnxmx.trainer.step import (
    Differentiator,
    StepGraph,
    finish,
    gradients_of,
    initial_state,
    statistics_of,
    trainable_of,
)
from onnxmx.trainer.update import Update

Array = np.ndarray[Any, Any]
Loss = Callable[["Nets", Mapping[str, Value]], Any]
_STREAMS_OF_A_MODEL = 1 << 12
_SEED_OF_NEXT = 1 << 40
"""How far the seeds of the gradient noise of two models lie apart."""
_NOISE_STREAM = 1 << 21
"""Where the streams of `Nets.normal` begin, beyond those of dropout and gradient noise."""


class Joint(CheckedArguments):
    """Models by name, how each is updated, and the state that their steps share.

        nets = mx.Joint({"generator": g, "discriminator": d}, {"generator": mx.Adam(), "discriminator": mx.Adam()})
        step = nets.step("generator", loss)
        engine = nets.start({"generator": step, ...})
        engine.step(batch, "generator")

    updates: an optimizer, or an mx.Update with clipping and averages, for each model that a step trains. A model
    without one stays as it is, frozen: its batch normalization takes the running statistics.
    """

    def __init__(self, models: Mapping[str, Model], updates: Mapping[str, Update | OptimizerLike]) -> None:
        self.models = dict(models)
        for name, model in self.models.items():
            if not isinstance(model, Model):
                raise UsageError(
                    f"Joint expected a model as {name!r}; found {type(model).__name__}",
                    at=user_line(),
                    mend="Build a layer first: net.build(x=('batch', 4)).",
                )
        for name in updates:
            self._known(name)
        self._updates = {name: u if isinstance(u, Update) else Update.of(u) for name, u in updates.items()}

    def step(
        self, trains: str, loss: Loss, *, batch: Specs | None = None, total: int | None = None, provider: str = "cpu"
    ) -> StepGraph:
        """A step that trains one of the models.

        loss: a function (nets, batch) of a `Nets` and the graph values of a batch by name, which returns a scalar, or
        that and a dict of further scalars, the metrics of the step.
        batch: what a batch holds: mx.losses.Spec(shape, element type) by name.   total: the updates of this
        model, which schedules and averages that end with them need.
        provider: where the step is to run.
        Raises GradientError where the loss does not depend on a parameter of the model, or an operator between has no
        rule.
        """
        update = self._update(trains)
        total = update.length(total)
        g = GraphBuilder(f"step of {trains}")
        g.device = PROVIDERS[check_provider(provider)]
        given = {name: g.input(f"batch.{name}", *spec) for name, spec in (batch or {}).items()}
        states = {
            name: g.input(f"state.{name}", array.shape, ir.DataType.from_numpy(array.dtype))
            for name, array in self.state().items()
        }
        nets = Nets(g, self, states)
        result = loss(nets, given)
        value, metrics = result if isinstance(result, tuple) else (result, {})
        if not isinstance(value, ir.Value) or value.shape is None or len(value.shape):
            raise GradientError(
                f"the loss of a step expected to return a scalar; found {value!r}",
                mend="End it with g.reduce_mean(loss, keepdims=False), g being nets.g.",
            )
        own = {name: states[f"{trains}.{name}"] for name in self._state_of(trains)}
        parameters = {name: own[name] for name in trainable_of(self.models[trains])}
        found = dict(zip(parameters, gradients_of(Differentiator(), g, value, parameters), strict=True))
        with g.scope("update"):
            # The noise of two models' gradients is not the same where both have done as many steps.
            seed = g.add(states["seed"], np.int64(list(self.models).index(trains) * _SEED_OF_NEXT))
            at = Gradients(g, found, parameters, seed, own["step"])
            rate, following = update.build(at, value, own, nets.running(trains), total)
            count = g.add(states["step"], np.int64(1))
        for name, output in {"loss": value, **{f"metric.{n}": v for n, v in metrics.items()}}.items():
            g.output(output, name)
        g.output(at.norm, "grad_norm")
        g.output(rate, "lr")
        g.output(count, "next.step")
        for name, output in following.items():
            g.output(output, f"next.{trains}.{name}")
        about = {"trains": trains, **update.settings()}
        return finish(
            g,
            f"onnxmx training step of {trains}",
            about,
            average=update.average,
            total=total if update.ends(total) else None,
        )

    def state(self, seed: int = 0) -> dict[str, Array]:
        """The state before the first step, by name without `state.`. Raises UsageError for what is no seed."""
        seed = integer("seed", seed, 0, 2**63)
        found: dict[str, Array] = {"step": np.array(0, np.int64), "seed": np.array(seed, np.int64)}
        for model in self.models:
            found |= {f"{model}.{name}": array for name, array in self._state_of(model).items()}
        return found

    def start(
        self, steps: Mapping[str, StepGraph], *, seed: int = 0, threads: int | None = None, provider: str = "cpu"
    ) -> OrtEngine:
        """What runs the steps by their names, `engine.step(batch, name)`, and holds the parts that they read.

        Raises UsageError for what is no step, or no seed.
        """
        if not isinstance(steps, Mapping) or not steps or not all(isinstance(s, StepGraph) for s in steps.values()):
            raise UsageError(
                f"start expected steps by name; found {reprlib.repr(steps)}",
                at=user_line(),
                mend='Such as nets.start({"critic": nets.step("critic", loss)}).',
            )
        read = {p["tensor"] for step in steps.values() for p in step.spec["inputs"] if "tensor" in p}
        state = {name: array for name, array in self.state(seed).items() if name in read}
        engine = OrtEngine(steps, state, threads=threads, provider=provider)
        for name in steps:
            engine.open(name)
        return engine

    def model(self, name: str, state: Mapping[str, Array], *, average: bool | None = None) -> Model:
        """A model with its parameters of a state; those that are not in it stay.

        average: whether to take the average of its weights; by default where it is kept for that.
        """
        return with_state(self.models[self._known(name)], f"{name}.", state, self._average(name, average))

    def frozen(self, name: str) -> frozenset[str]:
        """The parameters of a model that no step changes though it could: of a model without an update, all."""
        model = self.models[self._known(name)]
        learned = model.trainable if name in self._updates else ()
        return frozenset(model.parameters()) - {*learned, *statistics_of(model)}

    def _average(self, name: str, wanted: bool | None) -> str:
        """What the names of a model's averages begin with, or "" where they are not to be used."""
        update = self._updates.get(name)
        average = update.average if update else None
        use = (average is not None and average.use) if wanted is None else wanted
        if use and average is None:
            raise UsageError(
                f"{name!r} expected an average of its weights; found none",
                mend="Give its update one: mx.Update(mx.Adam(), average=mx.Target(every=100)).",
            )
        return f"{average.prefix}." if use and average else ""

    def _state_of(self, name: str) -> dict[str, Array]:
        """The state of one model, without its name."""
        model = self.models[name]
        if name not in self._updates:
            return model.parameters()
        update = self._updates[name]
        found = initial_state(model, update.optimizer, 0, update.average)
        del found["seed"]
        return found

    def _known(self, name: str) -> str:
        if name not in self.models:
            raise unknown_name("model", name, self.models)
        return name

    def _update(self, name: str) -> Update:
        if self._known(name) not in self._updates:
            raise UsageError(f"{name!r} expected an optimizer; found none", mend="Give Joint one for each that learns.")
        return self._updates[name]


class Nets:
    """What the loss of a step is written with: the models, random numbers, gradients.

    g: the builder of the step's graph.
    """

    def __init__(self, g: GraphBuilder, joint: Joint, states: Mapping[str, Value]) -> None:
        self.g, self._joint, self._states = g, joint, states
        self._trainings = {
            name: Training(states["seed"], states["step"], streams=k * _STREAMS_OF_A_MODEL, frozen=joint.frozen(name))
            for k, (name, model) in enumerate(joint.models.items())
        }
        self._draws = 0

    def __call__(self, model: str, *inputs: ir.Value, training: bool = True, average: bool = False) -> Any:
        """A model's output, or several by name. inputs: in the order of the model's.

        training: in the training form, with dropout and, where it is not frozen, batch normalization by the batch's own
        statistics; else as the model infers.
        average: with the average of the weights, as the model infers: a target network.
        """
        net = self._joint.models[self._joint._known(model)]
        if len(inputs) != len(net.inputs):
            raise UsageError(f"{model!r} expected the inputs {list(net.inputs)}; found {len(inputs)} values")
        prefix = self._joint._average(model, average)
        values = {n: self._states.get(f"{model}.{prefix}{n}", self._states[f"{model}.{n}"]) for n in net.parameters()}
        form = self._trainings[model] if training and not average else None
        with self.g.scope(model):
            outputs = copy_model(self.g, net, {**values, **dict(zip(net.inputs, inputs, strict=True))}, form)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def running(self, model: str) -> dict[str, ir.Value]:
        """The next running statistics of a model, as far as it was called."""
        known = set(statistics_of(self._joint.models[model]))
        return {name: value for name, value in self._trainings[model].running.items() if name in known}

    def gradients(self, of: ir.Value, wrt: Sequence[ir.Value]) -> list[Value]:
        """The gradients of a scalar, which can be part of the loss.

        Raises GradientError where it does not depend on one of `wrt`.
        """
        found = gradients(self.g, of, wrt)
        if missing := [x.name for x, dx in zip(wrt, found, strict=True) if dx is None]:
            raise GradientError(f"{of.name!r} expected to depend on {missing[0]!r}; it does not")
        return [dx for dx in found if dx is not None]

    def normal(self, *shape: Dim, like: ir.Value | None = None) -> Value:
        """Normal random numbers of mean 0 and variance 1, float32, others in each step.

        shape: sizes.   like: given, the first size is the batch of this value, and `shape` holds the others.
        """
        return self._draw(NormalNoise, shape, like)

    def uniform(self, *shape: Dim, like: ir.Value | None = None) -> Value:
        """Random numbers in [0, 1), as `normal`."""
        return self._draw(UniformNoise, shape, like)

    def _draw(self, of: Callable[..., Any], shape: Sequence[Dim], like: ir.Value | None) -> Value:
        g, sizes = self.g, np.array([int(d or 1) for d in shape], np.int64)
        wanted: Any = sizes if like is None else g.concat([g.op("Shape", like, start=0, end=1), sizes], 0)
        zeros = g.op("ConstantOfShape", wanted)
        zeros.shape = ir.Shape([*([] if like is None else list(like.shape or ())[:1]), *sizes.tolist()])
        stream = _NOISE_STREAM + self._draws
        self._draws += 2
        drawn: Value = of(g, zeros, self._states["seed"], self._states["step"], stream=stream)
        return drawn


def with_state(model: Model, prefix: str, state: Mapping[str, Array], average: str = "") -> Model:
    """A model with its parameters of a state, where they are called `prefix` and their name, or before that `average`.

    Those that are not there stay.
    """
    parts = {n: [p for p in (f"{prefix}{average}{n}", f"{prefix}{n}") if p in state] for n in model.parameters()}
    return model.with_parameters({n: state[found[0]] for n, found in parts.items() if found})


@function(outputs=("noise",))
def NormalNoise(g: GraphBuilder, x: ir.Value, seed: ir.Value, step: ir.Value, *, stream: ir.Value) -> Value:
    """Normal numbers of mean 0 and variance 1 in the shape of x, float32.   seed, step: int64 scalars.

    stream: an integer; it and the next one set these numbers apart from others.   Source: Box & Muller 1958.
    """
    return random.normal_like(g, x, seed, step, stream)


@function(outputs=("noise",))
def UniformNoise(g: GraphBuilder, x: ir.Value, seed: ir.Value, step: ir.Value, *, stream: ir.Value) -> Value:
    """Numbers in [0, 1) in the shape of x, float32.   seed, step: int64 scalars.

    stream: an integer that sets these numbers apart from others.
    """
    drawn = random.uniform_int31(g, g.op("Size", x), random.key(g, seed, step, stream))
    # 24 bits are what float32 tells apart: 31 of them would round to 1.
    bits = g.op("BitShift", g.cast(drawn, ir.DataType.UINT32), np.uint32(7), direction="RIGHT")
    return g.reshape_like(g.mul(g.cast(bits, FLOAT), np.float32(2**-24)), x)
