"""Compiling a model, a loss and an optimizer into one training step, a plain ONNX graph.

    inputs    batch.<input or label>, state.<parameter, slot, running statistic>, state.step, state.seed
    outputs   loss, metric.<name>, grad_norm, lr, next.<name> for every state.<name>

It is a pure function: the same inputs give the same outputs, bit for bit on one machine and provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.graph import Dim, GraphBuilder, Value
from onnxmx.builder.metadata import CHECKPOINT, SOURCE
from onnxmx.builder.model import Model, Port, check
from onnxmx.builder.ops import INT64
from onnxmx.builder.source import user_line
from onnxmx.errors import CheckpointError, GradientError, GraphError, ShapeError
from onnxmx.files import sha256, write_atomic
from onnxmx.trainer import losses, metrics, state
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.clipping import ClipGlobalNorm, global_norm
from onnxmx.trainer.forward import Training, copy_model, only_output, open_called
from onnxmx.trainer.logits import before_activation, ends_in_activation, logits_of
from onnxmx.trainer.optimizers import Optimizer
from onnxmx.trainer.update import Rates, state_of, updates

Array = np.ndarray[Any, Any]
FORMAT = "onnxmx.step/1"
_AGAIN = "The file was altered or cut short. Put the original back, or train again."


@dataclass(frozen=True)
class StepGraph:
    """A compiled graph and what a program needs to drive it.

    data: the bytes of the ONNX file.
    spec: what `step.json` holds: each input and output with shape, dtype and meaning.
    """

    data: bytes
    spec: dict[str, Any]

    def save(self, folder: Path, state_arrays: dict[str, Array], header: dict[str, Any] | None = None) -> None:
        """Write `step.onnx`, `step.json` and `state.safetensors`, the state to start from, with `header` in it."""
        write_atomic(folder / "step.onnx", self.data)
        state.save(folder / "state.safetensors", state_arrays, header or {})
        # Last, since it names the digest of the first: with it the hand-over is whole.
        write_atomic(folder / "step.json", json.dumps(self.spec, indent=2).encode())

    @classmethod
    def load(cls, folder: Path) -> StepGraph:
        """Read what `save` wrote. Raises CheckpointError where it is missing or altered."""
        try:
            data = (folder / "step.onnx").read_bytes()
            spec = json.loads((folder / "step.json").read_bytes())
            expected = spec["digest"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"{folder} expected step.onnx and step.json; found {error!r}", mend=_AGAIN) from error
        if sha256(data) != expected:
            raise CheckpointError(
                f"{folder / 'step.onnx'} expected the digest {expected}; found {sha256(data)}", mend=_AGAIN
            )
        return cls(data, spec)


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


def compile_step(
    model: Model,
    *,
    loss: str | losses.Loss,
    optimizer: Optimizer,
    clip: ClipGlobalNorm | None = None,
    measure: Sequence[str | metrics.Metric] | None = None,
    total: int = 1,
    label: str = "label",
    differentiator: Differentiator | None = None,
) -> StepGraph:
    """One training step as a graph.

    measure: metrics beside the loss; by default the one that goes with it.
    total: the steps of the run, for schedules that end with it.
    label: the name of the label in a batch.
    differentiator: who makes the gradients.
    The bytes are a function of the arguments alone, not of where this is called.
    Raises GradientError where an operator between the loss and a parameter has no rule, ShapeError where model, loss
    and label do not fit.
    """
    maker = differentiator or Differentiator()
    g = maker.builder("step")
    rules = losses.get(loss)
    measures = metrics.chosen(measure, rules)
    only_output(model)
    batch, label_value = _batch(g, model, rules, label)
    states = _state_inputs(g, model, optimizer)
    training = Training(states["seed"], states["step"], rules=maker.plain)
    weights = {name: states[name] for name in model.parameters()}
    (output,) = copy_model(g, model, batch | weights, training).values()
    if lost := [name for name in training.running if name not in states]:
        raise GraphError(
            f"training expected running statistics that are initializers; found {lost[0]!r}, which is computed",
            mend="Export the model with its constants folded.",
        )
    if ends_in_activation(model, rules):
        output = before_activation(g, output, rules)
    with g.scope("loss"):
        loss_value = rules.compute(g, output, label_value)
        measured = [m.compute(g, output, label_value) for m in measures]
    trainable = {name: weights[name] for name in trainable_of(model)}
    found = _gradients(maker, g, loss_value, trainable)
    with g.scope("update"):
        norm = global_norm(g, found)
        clipped = clip(g, found, norm) if clip else found
        rates = Rates(g, states, loss_value, total)
        rate = rates.rate(optimizer)
        following = training.running | updates(g, optimizer, trainable, clipped, states, rates)
        following |= rates.following
        following["step"] = g.add(states["step"], 1)
    g.output(loss_value, "loss")
    for m, value in zip(measures, measured, strict=True):
        g.output(value, f"metric.{m.name}")
    g.output(norm, "grad_norm")
    g.output(rate, "lr")
    for name, value in states.items():
        g.output(following.get(name, value), f"next.{name}")
    made_of = settings(rules, optimizer, clip) | {"engine": maker.name}
    return _finish(g, "onnxmx training step", made_of, plain=maker.plain)


def settings(loss: str | losses.Loss, optimizer: Optimizer, clip: ClipGlobalNorm | None) -> dict[str, str]:
    """What of a run is compiled into its step, as text: `step.json` keeps it."""
    return {"loss": losses.get(loss).name, "optimizer": repr(optimizer), "clip": repr(clip)}


def compile_measures(model: Model, rules: losses.Loss, measure: Sequence[metrics.Metric]) -> bytes:
    """The loss and metrics of a model's output as a graph: inputs `output` and `label`, outputs as those of a step."""
    g = GraphBuilder("measures")
    output = model.outputs[only_output(model).name or ""]
    value: ir.Value = g.input("output", _shape(output), ir.DataType.from_numpy(output.dtype))
    label = g.input("label", *rules.label(value))
    if ends_in_activation(model, rules):
        value = logits_of(g, value, rules)
    g.output(rules.compute(g, value, label), "loss")
    for m in measure:
        g.output(m.compute(g, value, label), f"metric.{m.name}")
    return _finish(g, "onnxmx measures", {}).data


def initial_state(model: Model, optimizer: Optimizer, seed: int) -> dict[str, Array]:
    """The state before the first step, by name without `state.`: parameters, slots of zeros, step 0 and the seed."""
    arrays: dict[str, Array] = {"step": np.array(0, np.int64), "seed": np.array(seed, np.int64)}
    arrays |= model.parameters()
    added = state_of(optimizer, {name: arrays[name] for name in trainable_of(model)})
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


def _state_inputs(g: GraphBuilder, model: Model, optimizer: Optimizer) -> dict[str, Value]:
    """An input for each part of the state, by name without `state.`, in the order of the graph's inputs."""
    states = {name: g.input(f"state.{name}", (), INT64) for name in ("step", "seed")}
    arrays = model.parameters()
    added = state_of(optimizer, {name: arrays[name] for name in trainable_of(model)})
    for name, array in [*arrays.items(), *added.items()]:
        if name in states:
            raise GraphError(
                f"the state of a training step expected one part named {name!r}; found a parameter of that name beside "
                "the step's own",
                mend="Rename that parameter.",
            )
        states[name] = g.input(f"state.{name}", array.shape)
    return states


def _batch(g: GraphBuilder, model: Model, loss: losses.Loss, label: str) -> tuple[dict[str, Value], Value]:
    """The inputs that a batch brings: those of the model, and the label."""
    if label in model.inputs:
        raise ShapeError(f"the label and an input of the model are both named {label!r}", mend="Rename one of them.")
    batch = {
        p.name: g.input(f"batch.{p.name}", _shape(p), ir.DataType.from_numpy(p.dtype)) for p in model.inputs.values()
    }
    shape, dtype = loss.label(only_output(model))
    return batch, g.input(f"batch.{label}", shape, dtype)


def _shape(port: Port) -> tuple[Dim, ...]:
    if port.shape is None:
        raise ShapeError(f"training expected {port.name!r} to have a known rank; it has none")
    return port.shape


def _gradients(maker: Differentiator, g: GraphBuilder, loss: ir.Value, trainable: dict[str, Value]) -> list[ir.Value]:
    found = maker.gradients(g, loss, list(trainable.values()))
    for name, dp in zip(trainable, found, strict=True):
        if dp is None:
            raise GradientError(
                f"the loss does not depend on the parameter {name!r}",
                mend="Freeze it, or use the layer that it belongs to.",
            )
    return [dp for dp in found if dp is not None]


_MEANINGS = {
    "loss": "the mean loss of the batch, before the update",
    "grad_norm": "the L2 norm of all gradients together, before clipping",
    "lr": "the learning rate of this update",
    "state.step": "updates done so far",
    "state.seed": "what random numbers are drawn from",
}


def _finish(g: GraphBuilder, title: str, made_of: dict[str, str], *, plain: bool = True) -> StepGraph:
    """Drop what nothing reads, share what is computed twice, check what is plain ONNX, and describe."""
    model = g.model()
    open_called(model)
    for tidy in (
        passes.RemoveUnusedNodesPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
    ):
        tidy(model)
    here = user_line()
    for node in model.graph:
        if here and node.metadata_props.get(SOURCE) == here:  # the line that compiles says nothing of a node
            del node.metadata_props[SOURCE]
    proto = ir.to_proto(model)
    if plain:
        check(proto, title)
    data = proto.SerializeToString(deterministic=True)
    spec = {
        "format": FORMAT,
        "title": title,
        "digest": sha256(data),
        "settings": made_of,
        "checkpoint": any(CHECKPOINT in node.metadata_props for node in model.graph),
        "inputs": [_describe(v) for v in proto.graph.input],
        "outputs": [_describe(v) for v in proto.graph.output],
    }
    return StepGraph(data, spec)


def _describe(port: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = port.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    described = {"name": port.name, "shape": shape, "dtype": dtype, "meaning": _meaning(port.name)}
    kind_of, _, rest = port.name.partition(".")
    if kind_of == "state":
        # How to drive it: where the first value is in state.safetensors, and which output is the next one.
        described |= {"tensor": rest, "next": f"next.{rest}"}
    return described


def _meaning(name: str) -> str:
    if name in _MEANINGS:
        return _MEANINGS[name]
    kind, _, rest = name.partition(".")
    return {
        "batch": f"{rest} of each sample of the batch",
        "state": f"{rest} before the update",
        "next": f"state.{rest} after the update",
        "metric": f"{rest} of the batch, before the update",
    }.get(kind, "")
