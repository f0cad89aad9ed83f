"""Compiling a model, a loss and an optimizer into one training step, a plain ONNX graph.

    inputs    batch.<input or label>, state.<parameter, slot, running statistic>, state.step, state.seed
    outputs   loss, metric.<name>, grad_norm, lr, next.<name> for every state.<name>

It is a pure function: the same inputs give the same outputs, bit for bit on one machine and provider.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.graph import Dim, GraphBuilder, Value
from onnxmx.builder.model import Model, Port, check
from onnxmx.builder.ops import INT64
from onnxmx.errors import CheckpointError, GradientError, ShapeError
from onnxmx.files import sha256, write_atomic
from onnxmx.trainer import losses, metrics, state
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.clipping import ClipGlobalNorm, global_norm
from onnxmx.trainer.forward import Training, copy_model
from onnxmx.trainer.optimizers import Optimizer
from onnxmx.trainer.schedules import as_schedule

Array = np.ndarray[Any, Any]
FORMAT = "onnxmx.step/1"


@dataclass(frozen=True)
class StepGraph:
    """A compiled graph and what a program needs to drive it.

    data: the bytes of the ONNX file.
    spec: what `step.json` holds: each input and output with shape, dtype and meaning.
    """

    data: bytes
    spec: dict[str, Any]

    def save(self, folder: Path, state_arrays: dict[str, Array]) -> None:
        """Write `step.onnx`, `step.json` and `state.safetensors`, the state to start from."""
        write_atomic(folder / "step.onnx", self.data)
        state.save(folder / "state.safetensors", state_arrays, {})
        # Last, since it names the digest of the first: with it the hand-over is whole.
        write_atomic(folder / "step.json", json.dumps(self.spec, indent=2).encode())

    @classmethod
    def load(cls, folder: Path) -> StepGraph:
        """Read what `save` wrote. Raises CheckpointError where it is missing or altered."""
        try:
            data = (folder / "step.onnx").read_bytes()
            spec = json.loads((folder / "step.json").read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} expected step.onnx and step.json; found {error}") from error
        if sha256(data) != spec.get("digest"):
            raise CheckpointError(
                f"{folder / 'step.onnx'} expected the digest {spec.get('digest')}; found {sha256(data)}",
                mend="The file was altered or cut short. Put the original back, or train again.",
            )
        return cls(data, spec)


def compile_step(
    model: Model,
    *,
    loss: str | losses.Loss,
    optimizer: Optimizer,
    clip: ClipGlobalNorm | None = None,
    measure: Sequence[str | metrics.Metric] | None = None,
    total: int = 1,
    label: str = "label",
) -> StepGraph:
    """One training step as a graph.

    measure: metrics beside the loss; by default the one that goes with it.
    total: the steps of the run, for schedules that end with it.
    label: the name of the label in a batch.
    Raises GradientError where an operator between the loss and a parameter has no rule.
    """
    g = GraphBuilder("step")
    rules = losses.get(loss)
    batch, label_value = _batch(g, model, rules, label)
    step = g.input("state.step", (), INT64)
    seed = g.input("state.seed", (), INT64)
    arrays = model.parameters()
    weights = {name: g.input(f"state.{name}", array.shape) for name, array in arrays.items()}
    slots = {
        name: [g.input(f"state.{name}.{slot}", arrays[name].shape) for slot in optimizer.slots]
        for name in model.trainable
    }
    training = Training(g, seed, step)
    output = _only_output(copy_model(g, model, batch | weights, training))
    with g.scope("loss"):
        loss_value = rules.compute(g, output, label_value)
        measured = [(m.name, m.compute(g, output, label_value)) for m in metrics.chosen(measure, rules)]
    trainable = {name: weights[name] for name in model.trainable}
    found = _gradients(g, loss_value, trainable)
    with g.scope("update"):
        norm = global_norm(g, found)
        clipped = clip(g, found, norm) if clip else found
        rate = as_schedule(optimizer.lr).resolve(total)(g, step)
        shared = optimizer.prepare(g, rate, step)
        following: dict[str, ir.Value] = dict(training.running)
        for (name, p), dp in zip(trainable.items(), clipped, strict=True):
            with g.scope(name):
                following[name], *next_slots = optimizer.update(g, p, dp, slots[name], shared)
            following |= {f"{name}.{slot}": v for slot, v in zip(optimizer.slots, next_slots, strict=True)}
        following |= {"step": g.add(step, 1), "seed": seed}
    g.output(loss_value, "loss")
    for name, value in measured:
        g.output(value, f"metric.{name}")
    g.output(norm, "grad_norm")
    g.output(rate, "lr")
    for port in g.graph.inputs:
        name = (port.name or "").removeprefix("state.")
        if port.name == f"state.{name}":
            g.output(following.get(name, port), f"next.{name}")
    return _finish(g, "onnxmx training step")


def compile_measures(output: Port, rules: losses.Loss, measure: Sequence[metrics.Metric]) -> bytes:
    """The loss and metrics of a model's output as a graph: inputs `output` and `label`, outputs as those of a step."""
    g = GraphBuilder("measures")
    value = g.input("output", _shape(output), ir.DataType.from_numpy(output.dtype))
    label = g.input("label", *rules.label(value))
    g.output(rules.compute(g, value, label), "loss")
    for m in measure:
        g.output(m.compute(g, value, label), f"metric.{m.name}")
    return _finish(g, "onnxmx measures").data


def initial_state(model: Model, optimizer: Optimizer, seed: int) -> dict[str, Array]:
    """The state before the first step, by name without `state.`: parameters, slots of zeros, step 0 and the seed."""
    arrays: dict[str, Array] = {"step": np.array(0, np.int64), "seed": np.array(seed, np.int64)}
    arrays |= model.parameters()
    for name in model.trainable:
        arrays |= {f"{name}.{slot}": np.zeros_like(arrays[name]) for slot in optimizer.slots}
    return arrays


def _batch(g: GraphBuilder, model: Model, loss: losses.Loss, label: str) -> tuple[dict[str, Value], Value]:
    """The inputs that a batch brings: those of the model, and the label."""
    if label in model.inputs:
        raise ShapeError(f"the label and an input of the model are both named {label!r}", mend="Rename one of them.")
    batch = {
        p.name: g.input(f"batch.{p.name}", _shape(p), ir.DataType.from_numpy(p.dtype)) for p in model.inputs.values()
    }
    output = _only_output({v.name or "": v for v in model.ir.graph.outputs})
    shape, dtype = loss.label(output)
    return batch, g.input(f"batch.{label}", shape, dtype)


def _shape(port: Port) -> tuple[Dim, ...]:
    if port.shape is None:
        raise ShapeError(f"training expected {port.name!r} to have a known rank; it has none")
    return port.shape


def _only_output(outputs: dict[str, Any]) -> Any:
    if len(outputs) != 1:
        raise ShapeError(f"training expected a model of one output; found {list(outputs)}")
    return next(iter(outputs.values()))


def _gradients(g: GraphBuilder, loss: ir.Value, trainable: dict[str, Value]) -> list[ir.Value]:
    found = gradients(g, loss, list(trainable.values()))
    if not trainable:
        raise GradientError(
            "the model has no trainable parameter", mend="Unfreeze some, or add a layer with parameters."
        )
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


def _finish(g: GraphBuilder, title: str) -> StepGraph:
    """Drop what nothing reads, share what is computed twice, check, and describe."""
    model = g.model()
    for tidy in (passes.RemoveUnusedNodesPass(), passes.CommonSubexpressionEliminationPass()):
        tidy(model)
    proto = check(ir.to_proto(model), title)
    data = proto.SerializeToString(deterministic=True)
    spec = {
        "format": FORMAT,
        "title": title,
        "digest": sha256(data),
        "inputs": [_describe(v) for v in proto.graph.input],
        "outputs": [_describe(v) for v in proto.graph.output],
    }
    return StepGraph(data, spec)


def _describe(port: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = port.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return {"name": port.name, "shape": shape, "dtype": dtype, "meaning": _meaning(port.name)}


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
