"""The gradient of whole models: what a compiled step does to its parameters, against finite differences of its loss.

With SGD(lr=1, momentum=0) and no clipping the update of a parameter is its gradient. The tiny models run in float64
on ONNX's reference runtime, which shares no code with what is tested, the zoo in float32 on ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

import onnxmx as mx
from onnxmx.builder.session import open_session
from onnxmx.trainer.step import initial_state, trainable_of
from tests.trainer.nets import TINY, ZOO, batch_for, feeds

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], dict[str, Array]]
SGD = mx.SGD(lr=1.0, momentum=0.0)


def step_of(model: mx.Model) -> tuple[bytes, list[str]]:
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=SGD)
    return step.data, [p["name"] for p in step.spec["outputs"]]


def in_double(data: bytes, names: list[str]) -> Run:
    """The step on the reference runtime, with every float32 in it a float64."""
    proto = onnx.load_from_string(data)
    for tensor in proto.graph.initializer:
        widen(tensor)
    for body in (proto.graph, *proto.functions):
        nodes = list(body.node)
        del body.node[:]
        for node in nodes:
            body.node.extend(in_double_node(node))
    session = onnx.reference.ReferenceEvaluator(proto)

    def run(values: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(names, values), strict=True))

    return run


def in_double_node(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.DOUBLE
        elif attribute.name == "value":
            widen(attribute.t)
        elif attribute.name == "value_float":
            wide = node.output[0]
            node.output[0] = f"{wide}.single"
            return [node, onnx.helper.make_node("Cast", [node.output[0]], [wide], to=onnx.TensorProto.DOUBLE)]
    return [node]


def widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == onnx.TensorProto.FLOAT:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))


def in_single(data: bytes, names: list[str]) -> Run:
    session = open_session(data, threads=2)
    return lambda values: dict(zip(names, session.run(names, values), strict=True))


def worst_error(run: Run, model: mx.Model, values: dict[str, Array], h: float, by_parameter: bool) -> float:
    """The largest error of a directional derivative, relative to the gradient's norm.

    Along the gradient itself, and along random directions: the first would miss a part that is orthogonal to the rest.
    """
    after = run(values)
    gradient = {n: values[f"state.{n}"] - after[f"next.{n}"] for n in trainable_of(model)}
    random = np.random.default_rng(5)
    groups = [[n] for n in gradient] if by_parameter else [list(gradient)]
    worst = 0.0
    for group in groups:
        norm = np.sqrt(sum(float((gradient[n].astype(np.float64) ** 2).sum()) for n in group))
        assert norm > 1e-4, f"{group} has no gradient to speak of"
        noise = {n: random.normal(size=gradient[n].shape) for n in group}
        length = np.sqrt(sum((d**2).sum() for d in noise.values()))
        for way in ({n: gradient[n] / norm for n in group}, {n: d / length for n, d in noise.items()}):
            up, down = (loss_at(run, values, way, sign * h) for sign in (1, -1))
            expected = (up - down) / (2 * h)
            found = sum(float((gradient[n] * way[n]).sum()) for n in group)
            worst = max(worst, abs(found - expected) / norm)
    return worst


def loss_at(run: Run, values: dict[str, Array], way: dict[str, Array], h: float) -> float:
    moved = {f"state.{n}": (values[f"state.{n}"] + h * d).astype(values[f"state.{n}"].dtype) for n, d in way.items()}
    return float(run(values | moved)["loss"])


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_in_float64(name: str) -> None:
    model = TINY[name]()
    values = feeds(batch_for(model, seed=2), initial_state(model, SGD, 4))
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in values.items()}
    assert worst_error(in_double(*step_of(model)), model, wide, 1e-5, by_parameter=True) < 1e-6


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_in_float32(name: str) -> None:
    model = ZOO[name]()
    values = feeds(batch_for(model, 16), initial_state(model, SGD, 4))
    assert worst_error(in_single(*step_of(model)), model, values, 3e-3, by_parameter=False) < 5e-3


def test_frozen_parameters_stay() -> None:
    """What onnxmx.trainable does not name has no slots and no update, and the rest learns as before."""
    whole, frozen = TINY["mlp"](), TINY["mlp"]()
    names = [n for n in whole.trainable if not n.startswith("1.")]
    assert 0 < len(names) < len(whole.trainable)
    frozen.metadata["onnxmx.trainable"] = str(names).replace("'", '"')
    after = []
    for model in (whole, frozen):
        assert {n for n in initial_state(model, mx.Adam(), 0) if n.endswith(".m")} == {
            f"{n}.m" for n in model.trainable
        }
        state = initial_state(model, SGD, 0)
        after.append((state, in_single(*step_of(model))(feeds(batch_for(model), state))))
    (_, free), (state, held) = after
    for name in whole.trainable:
        expected = free[f"next.{name}"] if name in names else state[name]
        np.testing.assert_array_equal(held[f"next.{name}"], expected)
        assert not np.array_equal(free[f"next.{name}"], state[name])
