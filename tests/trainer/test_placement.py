"""What a step compiled for CUDA is made of: operators that ONNX Runtime has CUDA kernels for, by its own list."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxmx as mx
from benchmarks import placement
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT, INT64
from onnxmx.builder.substitutes import SUBSTITUTES
from onnxmx.errors import UsageError
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.engine.ort import OrtEngine, as_the_engine_opens
from onnxmx.trainer.gan import Game
from onnxmx.trainer.joint import Joint
from onnxmx.trainer.optimizers import OPTIMIZERS
from onnxmx.trainer.placement import fallbacks, lacks, on_cpu
from onnxmx.trainer.step import initial_state
from tests.builder.layer_table import Case
from tests.trainer.loss_rows import ROWS, Row
from tests.trainer.nets import TINY, ZOO, batch_for
from tests.trainer.test_layer_rules import ROWS as LAYERS
from tests.trainer.test_losses import build

WORDS = {"vocabulary": 11, "classes": 3}
RECURRENT = {**WORDS, "embedding": 6, "units": 8}


def zoo(name: str, **options: Any) -> Callable[[], mx.Model]:
    return lambda: mx.models.build(name, **options)


NETS: dict[str, Callable[[], mx.Model]] = {
    **TINY,
    **ZOO,
    "lstm": zoo("text_lstm", **RECURRENT),
    "gru": zoo("text_gru", **RECURRENT),
    "two directions": zoo("text_bilstm", **RECURRENT),
    "transformer": zoo("transformer_classifier", **WORDS, units=8, heads=2, hidden=12),
    "gpt": zoo("gpt_mini", vocabulary=11, length=8, units=8, heads=2, layers=1),
    "seq2seq": zoo("seq2seq", vocabulary=11, embedding=6, units=8),
    "unet": zoo("unet", input=(2, 16, 16), classes=4, width=4, depth=2),
    "mobilenet": lambda: L.Sequential(
        L.Conv2D(4, 3, stride=2, padding=1), L.BatchNorm(), L.Activation("relu6"),
        L.Conv2D(4, 3, padding="same", groups=4), L.BatchNorm(), L.GlobalAvgPool2D(), L.Dense(3),
    ).build(x=("batch", 3, 8, 8)),
    "generator": zoo("dcgan_generator", output=(1, 8, 8), code=5, width=4),
    "discriminator": zoo("dcgan_discriminator", input=(1, 16, 16), width=4),
    "embedding": zoo("ncf", users=11, items=12, factors=3, hidden=(8, 6)),
}  # fmt: skip
REGRESSION = {"generator", "discriminator", "embedding"}


def compiled(model: mx.Model, provider: str = "cuda", **options: Any) -> mx.StepGraph:
    given = {"loss": "softmax_cross_entropy", "optimizer": mx.AdamW(1e-3), "clip": mx.clip_global_norm(1.0), **options}
    return mx.compile_step(model, provider=provider, **given)


@pytest.mark.parametrize("name", NETS)
def test_no_node_of_a_step_falls_back(name: str) -> None:
    loss = "mean_squared_error" if name in REGRESSION else "softmax_cross_entropy"
    assert list(map(str, fallbacks(compiled(NETS[name](), loss=loss).data))) == []


OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": make(lr=0.1)} for name, make in OPTIMIZERS.items()},
    "micro-batches": {"micro_batch": 2},
    "float16": {"precision": "float16"},
    "bfloat16": {"precision": "bfloat16"},
    "mixup": {"mix": mx.Mixup(0.2)},
    "cutmix": {"mix": mx.CutMix(1.0)},
    "noise": {"clip": [mx.clip_value(1.0), mx.GradientNoise(0.1)]},
    "average": {"average": mx.EMA(0.9), "regularize": [mx.L2(1e-4), mx.L1(1e-4)]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_nor_of_what_a_run_adds_to_it(name: str) -> None:
    net = TINY["conv" if "mix" in name else "dropout"]()
    assert list(map(str, fallbacks(compiled(net, **OPTIONS[name]).data))) == []


@pytest.mark.parametrize("loss", ["non_saturating_gan", "wasserstein_gan"])
def test_nor_of_the_steps_of_a_gan(loss: str) -> None:
    nets = {name: NETS[name]() for name in ("generator", "discriminator")}
    nets["discriminator"] = mx.models.build("dcgan_discriminator", input=(1, 8, 8), width=4)
    steps = Game(loss).steps(Joint(nets, dict.fromkeys(nets, mx.Adam())), 4, 1, "cuda")
    assert [str(f) for step in steps.values() for f in fallbacks(step.data)] == []


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_nor_of_the_gradient_of_a_layer(case: Case) -> None:
    def make(g: GraphBuilder) -> list[Any]:
        x = g.input("x", ("batch", *case.shape[1:]))
        y = case.layer(x)
        parameters = [v for v in g.graph.initializers.values() if v.meta.get("trainable")]
        return [y, *gradients(g, g.reduce_sum(y * y, keepdims=False), [x, *parameters])]

    assert list(map(str, fallbacks(graph(make)))) == []


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_nor_of_a_loss(row: Row) -> None:
    assert list(map(str, fallbacks(graph(lambda g: build(g, row.loss, *row.arrays())[1])))) == []


def test_a_step_for_cuda_computes_the_same_bits() -> None:
    model, optimizer = TINY["dropout"](), mx.Adam(1e-2)
    states = []
    for provider in ("cpu", "cuda"):
        step = compiled(model, provider, optimizer=optimizer)
        engine = OrtEngine(step, initial_state(model, optimizer, seed=3), threads=1)
        for k in range(3):
            engine.step(batch_for(model, seed=k))
        states.append({name: array.tobytes() for name, array in engine.state().items()})
    assert states[0] == states[1]


def test_the_blocked_layout_is_for_the_cpu_alone() -> None:
    data = compiled(TINY["conv"]()).data
    assert as_the_engine_opens(data, "cuda") is data
    assert as_the_engine_opens(data, "cuda_tf32") is data


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(UsageError, match="provider expected"):
        compiled(TINY["mlp"](), "tpu")


@dataclass
class Placed:
    """A graph, and the operators that ONNX Runtime 1.31.1 puts on the CPU; `data` are those that work on data."""

    name: str
    make: Callable[[GraphBuilder], Any]
    on_cpu: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def floats(g: GraphBuilder, *shape: Any) -> Value:
    return g.input(f"x{len(g.graph.inputs)}", shape or ("batch", 3))


def integers(g: GraphBuilder) -> Value:
    return g.input("x", ("batch", 3), INT64)


def recurrent(g: GraphBuilder, **attributes: Any) -> Value:
    w, r = (g.constant(np.ones((1, 12, n), np.float32)) for n in (3, 4))
    return g.ops("GRU", floats(g, 5, 2, 3), w, r, outputs=2, hidden_size=4, **attributes)[0]


def lstm(g: GraphBuilder, peepholes: Any = None) -> Value:
    w, r = (g.constant(np.ones((1, 16, n), np.float32)) for n in (3, 4))
    return g.ops("LSTM", floats(g, 5, 2, 3), w, r, None, None, None, None, peepholes, outputs=2, hidden_size=4)[0]


def upsampled(g: GraphBuilder, **pads: Any) -> Value:
    return g.op("ConvTranspose", floats(g, 1, 2, 4, 4), np.ones((2, 2, 3, 3), np.float32), strides=[2, 2], **pads)


def count(g: GraphBuilder) -> Value:
    """The elements of a batch, from its shape."""
    return g.op("ReduceProd", g.op("Shape", floats(g)), keepdims=0)


PLACED = [
    Placed("kernels", lambda g: g.op("Tanh", g.matmul(floats(g), np.ones((3, 3), np.float32)))),
    Placed("no kernel", lambda g: g.op("Atan", floats(g)), ("Atan",), ("Atan",)),
    Placed("no kernel of this type", lambda g: g.op("ReduceProd", integers(g)), ("ReduceProd",), ("ReduceProd",)),
    Placed("a constant", lambda g: g.add(floats(g), g.op("Atan", np.ones(3, np.float32)))),
    Placed("a shape", lambda g: g.div(g.exp(floats(g)), g.cast(count(g), FLOAT)), ("ReduceProd", "Cast")),
    Placed(
        "half precision from a shape",
        lambda g: g.exp(g.add(g.cast(count(g), ir.DataType.FLOAT16), np.float16(1))),
        ("ReduceProd", "Cast"),
    ),
    Placed("a shape for a kernel that wants it", lambda g: g.reshape(floats(g), g.op("Shape", floats(g, 3, "batch")))),
    Placed("data beside a shape", lambda g: g.add(integers(g), g.op("Size", floats(g))), ("Add",), ("Add",)),
    Placed(
        "an input of the graph beside a shape",
        lambda g: g.div(floats(g), g.cast(g.op("Size", floats(g)), FLOAT)),
        ("Cast", "Div"),
        ("Div",),
    ),
    Placed("pads", lambda g: upsampled(g, pads=[1, 1, 1, 1])),
    Placed("pads that differ", lambda g: upsampled(g, pads=[0, 0, 1, 1]), ("ConvTranspose",), ("ConvTranspose",)),
    Placed("auto_pad", lambda g: upsampled(g, auto_pad="SAME_UPPER"), ("ConvTranspose",), ("ConvTranspose",)),
    Placed("auto_pad that adds none", lambda g: upsampled(g, auto_pad="VALID")),
    Placed(
        "random numbers",
        lambda g: g.add(floats(g), g.op("Atan", g.op("RandomNormal", shape=[3]))),
        ("Atan",),
        ("Atan",),
    ),
    Placed("a reset after the product", lambda g: recurrent(g, linear_before_reset=1)),
    Placed("a reset before the product", lambda g: recurrent(g, linear_before_reset=0), ("GRU",), ("GRU",)),
    Placed("a reset where none is named", recurrent, ("GRU",), ("GRU",)),
    Placed("its activations named", lambda g: recurrent(g, linear_before_reset=1, activations=["Sigmoid", "Tanh"])),
    Placed(
        "other activations",
        lambda g: recurrent(g, linear_before_reset=1, activations=["Sigmoid", "Relu"]),
        ("GRU",),
        ("GRU",),
    ),
    Placed("an LSTM", lstm),
    Placed("peepholes", lambda g: lstm(g, np.ones((1, 12), np.float32)), ("LSTM",), ("LSTM",)),
]


@pytest.mark.parametrize("row", PLACED, ids=lambda row: row.name)
def test_nodes_are_placed_as_onnx_runtime_places_them(row: Placed) -> None:
    data = graph(lambda g: [row.make(g)], "cpu")
    assert tuple(f.op_type for f in on_cpu(data)) == row.on_cpu
    assert tuple(f.op_type for f in fallbacks(data)) == row.data
    assert fallbacks(data, "cpu") == []


def test_peepholes_that_are_left_out() -> None:
    types = {name: onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None) for name in "xwrpy"}
    inputs = ["x", "w", "r", "", "", "", ""]
    assert lacks(onnx.helper.make_node("LSTM", [*inputs, ""], ["y"]), types) is None
    assert lacks(onnx.helper.make_node("LSTM", [*inputs, "p"], ["y"]), types) == "peepholes"


def test_a_branch_knows_the_constants_around_it() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (bool q, float[3] x) => (float[3] y) {
        k = Constant<value = float[3] {1.0, 2.0, 3.0}>()
        y = If(q) <then_branch = t () => (float[3] a) { b = Atan(k) a = Add(b, x) },
                   else_branch = e () => (float[3] c) { c = Atan(x) }>
    }"""
    assert [f.op_type for f in on_cpu(onnx.parser.parse_model(text).SerializeToString())] == ["Atan"]


def test_the_page_names_every_operator_without_a_kernel() -> None:
    page = (Path(__file__).parents[2] / "docs/gpu.md").read_text()
    (named,) = re.findall(r"and run on the CPU: ([^.]*)\.", page)
    current = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain and s.since_version <= 20}
    current = {name for name in current if not onnx.defs.get_schema(name, 20, "").deprecated} - {"Constant"}
    missing = {name for name in current if lacks(onnx.NodeProto(op_type=name), {}) == "no kernel"}
    assert named.split(", ") == sorted(missing - set(SUBSTITUTES["cuda"]))


def test_the_nodes_of_a_step_are_listed_by_provider(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["placement", "mlp", "--batch", "4"])
    assert placement.main() == 0
    (nodes, ms) = re.fullmatch(
        r"CPUExecutionProvider: (\d+) nodes, ([\d.]+) ms a step\n", capsys.readouterr().out
    ).groups()
    assert int(nodes) > 100
    assert float(ms) > 0


def graph(make: Callable[[GraphBuilder], list[Any]], device: str = "cuda") -> bytes:
    """What `make` adds to a graph for a device, its values the outputs."""
    g = GraphBuilder()
    g.device = device
    for k, value in enumerate(make(g)):
        g.output(value, f"y{k}")
    data: bytes = ir.to_proto(g.model()).SerializeToString()
    return data
