"""A compiled step as a file: its graph tidied and checked, what each port means, saving and loading."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.metadata import CHECKPOINT, SOURCE
from onnxmx.builder.model import check
from onnxmx.builder.source import user_line
from onnxmx.builder.unused import remove_unused
from onnxmx.errors import CheckpointError
from onnxmx.files import sha256, write_atomic
from onnxmx.trainer import state
from onnxmx.trainer.averages import Average
from onnxmx.trainer.forward import open_called

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
        state.save(folder / "state.safetensors", state_arrays, header or {})
        self.save_graph(folder)  # last: with it the hand-over is whole

    def save_graph(self, folder: Path, name: str = "step") -> None:
        """Write `<name>.onnx` and `<name>.json`, the latter last, since it names the digest of the first."""
        write_atomic(folder / f"{name}.onnx", self.data)
        write_atomic(folder / f"{name}.json", json.dumps(self.spec, indent=2).encode())

    @property
    def state_ports(self) -> dict[str, dict[str, Any]]:
        """What it reads of a state, by name without `state.`: the descriptions of step.json."""
        inputs = ((port["name"].partition("."), port) for port in self.spec["inputs"])
        return {name: port for (kind, _, name), port in inputs if kind == "state"}

    @classmethod
    def load(cls, folder: Path, name: str = "step") -> StepGraph:
        """Read what `save_graph` wrote. Raises CheckpointError where it is missing or altered."""
        path = folder / f"{name}.onnx"
        try:
            data = path.read_bytes()
            spec = json.loads(path.with_suffix(".json").read_bytes())
            expected = spec["digest"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{folder} expected {name}.onnx and {name}.json; found {error!r}", mend=_AGAIN
            ) from error
        if sha256(data) != expected:
            raise CheckpointError(f"{path} expected the digest {expected}; found {sha256(data)}", mend=_AGAIN)
        return cls(data, spec)


_MEANINGS = {
    "loss": "the mean loss of the batch, before the update",
    "grad_norm": "the L2 norm of all gradients together, before clipping",
    "lr": "the learning rate of this update",
    "loss_scale": "what the loss was multiplied by before the gradients were taken, which were divided by it",
    "skipped": "steps so far that changed nothing, since a gradient was not finite",
    "state.loss_scale": "what the loss is multiplied by before gradients are taken",
    "state.loss_scale_steps": "steps since the loss scale last changed",
    "state.skipped": "steps so far that were skipped",
    "state.step": "steps done so far",
    "state.seed": "what random numbers are drawn from",
}


def finish(
    g: GraphBuilder,
    title: str,
    made_of: dict[str, str],
    *,
    plain: bool = True,
    average: Average | None = None,
    total: int | None = None,
) -> StepGraph:
    """A graph as a step: without what nothing reads or is computed twice, checked where it is plain ONNX, described.

    total: the updates that it was made for; None where it is the same for any number of them.
    """
    model = g.model()
    open_called(model)
    remove_unused(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    for port in list(model.graph.inputs):
        if (port.name or "").startswith("state.") and not port.uses():  # of another step that shares the state
            model.graph.inputs.remove(port)
    here = user_line()
    for node in model.graph:
        if here and node.metadata_props.get(SOURCE) == here:  # the line that compiles says nothing of a node
            del node.metadata_props[SOURCE]
    proto = ir.to_proto(model)
    if plain:
        check(proto, title)
    data = proto.SerializeToString(deterministic=True)
    outputs = {y.name for y in proto.graph.output}
    spec = {
        "format": FORMAT,
        "title": title,
        "digest": sha256(data),
        "settings": made_of,
        # The parameters of a model file are the tensors of that prefix where there is one.
        "average": average.prefix if average and average.use else None,
        "total": total,
        "checkpoint": any(CHECKPOINT in node.metadata_props for node in model.graph),
        "inputs": [_describe(v, outputs) for v in proto.graph.input],
        "outputs": [_describe(v) for v in proto.graph.output],
    }
    return StepGraph(data, spec)


def _describe(port: onnx.ValueInfoProto, outputs: Collection[str] = ()) -> dict[str, Any]:
    kind = port.type.tensor_type
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    described: dict[str, Any] = {"name": port.name, "shape": shape, "dtype": dtype, "meaning": _meaning(port.name)}
    kind_of, _, rest = port.name.partition(".")
    if kind_of == "state":
        # How to drive it: where the first value is in state.safetensors, and which output is the next one; it stays as
        # it is where there is none.
        following = f"next.{rest}"
        described |= {"tensor": rest, "next": following if following in outputs else None}
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
        "sum": f"what {rest} of many batches is made of, once this is added up over them",
    }.get(kind, "")
