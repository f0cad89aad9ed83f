"""PyTorch as an oracle: layers and whole models, forward and gradients, in float32.

Both sides get the same inputs and weights. PyTorch runs in an environment of its own; the two meet in files.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

import onnxmx as mx
from onnxmx import layers as L
from onnxmx import models
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.session import open_session
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.forward import Training, copy_model
from onnxmx.trainer.step import initial_state
from tests.builder import test_layers, test_sequence_layers
from tests.builder.layer_table import Array, made
from tests.models.test_training import CASES as SMALL
from tests.models.test_training import IMAGES, batch
from tests.models.test_training import Case as Small

ROOT = Path(__file__).parents[2]
SPARSE = 1e-2
"""A tensor is measured against this part of the largest gradient of its case where its own elements are smaller: the
gradient of a bias before a normalization is 0 but for rounding."""

MODELS = [Small("mlp", {**IMAGES, "hidden": (24, 16)}), Small("lenet", {"input": (1, 16, 16), "classes": 4}), *SMALL]
NO_DROPOUT = {"alexnet", "vgg11_bn", "mobilenet_v1", "mobilenet_v2", "text_cnn", "gpt_mini", "transformer_classifier"}


@dataclass
class Case:
    """What both sides compute. request: what the worker reads.   arrays: by name.   ours: what onnxmx found."""

    name: str
    request: dict[str, Any]
    arrays: dict[str, Array]
    ours: dict[str, Array]


Make = Callable[..., Case]


@dataclass
class Result:
    """The largest relative errors of one case, and those of PyTorch's own float32 against its float64."""

    name: str
    forward: float
    gradient: float
    tensors: int
    rounding: float = 0.0

    @property
    def error(self) -> float:
        return max(self.forward, self.gradient)


def compare(python: str, cases: Sequence[Case]) -> list[Result]:
    """Have the interpreter `python`, which has PyTorch, compute the cases too."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k:04}.json" for k in range(len(cases))]
        for case, path in zip(cases, paths, strict=True):
            path.write_text(json.dumps(case.request))
            np.savez(path.with_suffix(".npz"), **case.arrays)
        alone = {key: v for key, v in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([python, "-m", "tests.oracle.torch_worker", folder], check=True, cwd=ROOT, env=alone)
        return [_result(case, path) for case, path in zip(cases, paths, strict=True)]


def _result(case: Case, path: Path) -> Result:
    theirs = _load(path.with_suffix(".out.npz"))
    exact = path.with_suffix(".double.npz")
    return Result(
        case.name,
        forward=difference(_of(case.ours, False), _of(theirs, False), case.name),
        gradient=difference(_of(case.ours, True), _of(theirs, True), case.name),
        tensors=len(_of(theirs, True)),
        rounding=difference(_of(theirs, True), _of(_load(exact), True), case.name) if exact.exists() else 0.0,
    )


def _of(arrays: dict[str, Array], derived: bool) -> dict[str, Array]:
    return {name: a for name, a in arrays.items() if name.startswith("d ") == derived}


def _load(path: Path) -> dict[str, Array]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def difference(ours: dict[str, Array], theirs: dict[str, Array], what: str) -> float:
    """The largest difference of two sets of arrays, relative to the largest element of each array; see SPARSE."""
    assert ours.keys() == theirs.keys(), what
    floor = SPARSE * max((float(np.abs(a).max(initial=0.0)) for a in theirs.values()), default=0.0)
    return max((_error(ours[n], a, floor, f"{what}: {n}") for n, a in theirs.items()), default=0.0)


def _error(ours: Array, theirs: Array, floor: float, what: str) -> float:
    assert ours.shape == theirs.shape, f"{what}: expected {theirs.shape}; found {ours.shape}"
    scale = max(float(np.abs(theirs).max(initial=0.0)), floor) or 1.0
    return float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0)) / scale


# --- layers
def layer_cases() -> Iterator[Case]:
    """A case for each row of the tables of layers that PyTorch can be asked for, and for each activation."""
    for _, make in layer_makers():
        yield make()


def layer_makers() -> Iterator[tuple[str, Make]]:
    """For each case its name, and what makes it: with a builder, who differentiates, and in training form or not."""
    random = np.random.default_rng(3)
    for row in test_layers.CASES:
        if (spec := describe(row.layer)) is not None:
            x = random.normal(size=row.shape).astype(np.float32)
            model = made(row.layer, row.shape)
            yield _maker(spec, model, model.parameters(), {"x": x})
    for name in test_layers.ACTIVATIONS:
        x = 4 * random.normal(size=(4, 7)).astype(np.float32)
        layer = L.Activation(name)
        yield _maker(describe(layer) or {}, made(layer, x.shape), {}, {"x": x})
    for row in test_sequence_layers.ROWS:
        prefix = f"{type(row.layer).__name__.lower()}."
        model = row.build()
        parameters = {name.removeprefix(prefix): a for name, a in model.parameters().items()}
        yield _maker(describe(row.layer) or {}, model, parameters, row.inputs, prefix)


def describe(layer: Any) -> dict[str, Any] | None:
    """A layer's fields as the worker reads them; None where one is a Python function, which PyTorch cannot be told."""
    found: dict[str, Any] = {"type": type(layer).__name__}
    for field in fields(layer):
        value = getattr(layer, field.name)
        if field.name.endswith("_init"):
            continue
        if isinstance(value, L.Layer):
            value = describe(value)
        elif isinstance(value, tuple) and any(isinstance(v, L.Layer) for v in value):
            value = [describe(v) for v in value]
        elif isinstance(value, np.generic):
            value = value.item()
        elif callable(value):
            return None
        found[field.name] = value
    return found


def _maker(
    spec: dict[str, Any], model: mx.Model, parameters: dict[str, Array], inputs: dict[str, Array], prefix: str = ""
) -> tuple[str, Make]:
    shapes = ", ".join(f"{n} {a.shape}" for n, a in inputs.items())
    name = f"{json.dumps(spec)} of {shapes}"
    return name, lambda *how: _layer_case(name, spec, model, parameters, inputs, prefix, *how)


def _layer_case(
    name: str, spec: dict[str, Any], model: mx.Model, parameters: dict[str, Array], inputs: dict[str, Array],
    prefix: str, builder: Any = GraphBuilder, differentiate: Any = gradients, training: bool = False,
) -> Case:  # fmt: skip
    g = builder("layer")
    values = {n: g.input(n, p.shape or (), ir.DataType.from_numpy(p.dtype)) for n, p in model.inputs.items()}
    full = {prefix + n if prefix + n in model.parameters() else n: a for n, a in parameters.items()}
    values |= {n: g.input(f"p.{n}", a.shape) for n, a in full.items()}
    seed = g.constant(np.int64(7))
    rules = differentiate is gradients
    (y,) = copy_model(g, model, values, Training(seed, seed, rules=rules) if training else None).values()
    y = g.op("Identity", y)
    output = np.asarray(model(**inputs))
    weight = g.input("weight of y", output.shape)
    loss = g.reduce_sum(g.mul(y, weight), keepdims=False)
    wrt = [n for n, a in inputs.items() if a.dtype == np.float32] + model.trainable
    wrt = [n for n in wrt if n != "mask"]  # it counts, and nothing is differentiated by it
    found = differentiate(g, loss, [values[n] for n in wrt])
    g.output(y, "output")
    for n, dx in zip(wrt, found, strict=True):
        g.output(dx if dx is not None else g.sub(values[n], values[n]), f"d {n.removeprefix(prefix)}")
    w = np.random.default_rng(1).normal(size=output.shape).astype(np.float32)
    feeds = {**inputs, **{f"p.{n}": a for n, a in full.items()}, "weight of y": w}
    graph = g.model()
    RemoveUnusedNodesPass()(graph)  # as a step does: no kernel is asked for what nothing reads
    session = open_session(ir.to_proto(graph).SerializeToString(), threads=1)
    names = [o.name for o in session.get_outputs()]
    ours = dict(zip(names, session.run(names, feeds), strict=True))
    request = {"layer": spec, "inputs": list(inputs), "wrt": [n.removeprefix(prefix) for n in wrt], "label": "y."}
    return Case(name, request, {**inputs, **parameters, "y.": w}, ours)


# --- whole models
def model_cases() -> Iterator[Case]:
    """Models of the zoo, small: the output at inference, loss and gradients of one training step, as it makes them."""
    for row in MODELS:
        options = {**row.options, **({"dropout": 0.0} if row.name in NO_DROPOUT else {})}
        yield _model_case(row.name, models.build(row.name, **options), row.loss)


def _model_case(name: str, model: mx.Model, loss: str) -> Case:
    # After the first step what momentum remembers is the gradient itself.
    optimizer = mx.SGD(lr=1.0, momentum=0.9)
    state = initial_state(model, optimizer, 0)
    engine = OrtEngine(mx.compile_step(model, loss=loss, optimizer=optimizer), state, threads=1)
    given = batch(model, loss)
    measured, after = engine.step(given), engine.state()
    inferred = model(**{n: a for n, a in given.items() if n != "label"})
    ours = {"output": inferred, "loss": np.float32(measured["loss"])} | {
        f"d {n}": after[f"{n}.m"] for n in model.trainable
    }
    graph = model.ir.graph
    constants = {n: v.const_value.numpy() for n, v in graph.initializers.items() if v.const_value is not None}
    nodes = [
        {
            "op": node.op_type,
            "inputs": [x.name if x is not None else "" for x in node.inputs],
            "outputs": [y.name for y in node.outputs],
            "attributes": {key: _plain(a.value) for key, a in node.attributes.items()},
        }
        for node in graph
    ]
    (output,) = model.outputs
    request = {"graph": {"nodes": nodes, "output": output}, "loss": loss, "label": "label", "wrt": model.trainable}
    return Case(name, request, {**constants, **given}, ours)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
