"""A step whose convolutions run in ONNX Runtime's blocked layout computes what the step file says."""

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.session import open_session
from onnxmx.trainer.engine.block_size import DOMAIN, block_size
from onnxmx.trainer.engine.blocked import lower
from onnxmx.trainer.step import initial_state
from tests.trainer.test_blocked_graphs import kernels

B = block_size()
pytestmark = pytest.mark.skipif(B is None, reason="ONNX Runtime has no blocked layout on this machine")

# Smooth activations: at the kink of a ReLU another order of sums may fall on the other side.
tanh = L.Activation("tanh")
CASES = [
    # layers, channels of the input, convolutions in blocks
    ("one channel", [L.Conv2D(16, 3, padding=1)], 1, 1),
    ("three channels, with a bias, a stride", [L.Conv2D(32, 5, stride=2), tanh, L.Conv2D(16, 3)], 3, 3),
    ("no pads: the way back pads by two", [L.Conv2D(16, 3), tanh, L.Conv2D(32, 3)], 16, 3),
    ("a kernel that is not square", [L.Conv2D(16, (1, 3), padding=(0, 1)), L.Conv2D(16, (3, 1))], 16, 3),
    (
        "a stride with nothing over, and with a row over",
        [L.Conv2D(16, 3, stride=2, padding=1), L.Conv2D(16, 1, stride=2)],
        16,
        2,
    ),
    ("dilation", [L.Conv2D(16, 3, padding=1), L.Conv2D(16, 3, dilation=2, padding=2)], 16, 2),
    ("batch normalization between", [L.Conv2D(32, 3), L.BatchNorm(), tanh, L.Conv2D(32, 3), L.BatchNorm()], 16, 3),
    ("max pooling between", [L.Conv2D(16, 3), tanh, L.MaxPool2D(2), L.Conv2D(32, 3)], 16, 3),
    ("tiles that are not square", [L.Conv2D(16, 3), tanh, L.MaxPool2D((1, 3)), L.Conv2D(32, 3)], 16, 3),
    ("as many channels as a tile has elements", [L.Conv2D(16, (2, 4)), tanh, L.Conv2D(16, 1), L.MaxPool2D(4)], 16, 3),
    (
        "activations computed again",
        [L.Conv2D(16, 3), L.Sequential(tanh, L.Conv2D(32, 3), tanh, L.Conv2D(16, 3), checkpoint=True)],
        16,
        6,
    ),
    ("channels that fill no block stay", [L.Conv2D(20, 3), tanh, L.Conv2D(50, 3)], 1, 0),
    ("groups stay", [L.Conv2D(32, 3, groups=2), L.Conv2D(32, 3, groups=32)], 16, 0),
]


@pytest.mark.parametrize(("layers", "channels", "blocked"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_step_in_blocks_computes_the_same(layers, channels, blocked):
    model = L.Sequential(*layers, L.GlobalAvgPool2D(), L.Dense(5)).build(image=("batch", channels, 13, 11), seed=3)
    optimizer = mx.SGD(lr=1.0)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer, measure=())
    data = lower(step.data, B)

    kernels = [n for n in onnx.load_from_string(data).graph.node if n.domain == DOMAIN and n.op_type == "Conv"]
    assert len(kernels) == blocked
    assert (data == step.data) == (blocked == 0)

    random = np.random.default_rng(0)
    state = {f"state.{n}": a for n, a in initial_state(model, optimizer, seed=0).items()}
    batch = {"batch.image": random.normal(size=(6, channels, 13, 11)).astype(np.float32)}
    feeds = state | batch | {"batch.label": random.integers(0, 5, 6)}
    expected, found = (open_session(graph, threads=1) for graph in (step.data, data))
    names = [v.name for v in expected.get_outputs()]
    assert [v.name for v in found.get_outputs()] == names
    for name, a, b in zip(names, expected.run(None, feeds), found.run(None, feeds), strict=True):
        if name.removeprefix("next.") in model.trainable:  # what the update added to it
            before = state[f"state.{name.removeprefix('next.')}"]
            a, b = a - before, b - before
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-7 + 2e-5 * np.abs(a).max(), err_msg=name)


@pytest.mark.parametrize("again", [False, True])
def test_a_residual_block_keeps_its_images_in_blocks(again):
    model = mx.models.resnet8(checkpoint=again).build(image=("batch", 3, 32, 32))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.Adam())
    kinds = [n.op_type for n in onnx.load_from_string(lower(step.data, B)).graph.node if n.domain == DOMAIN]
    assert kinds.count("Conv") == 9 + 4 + 8 * again  # forward, back where there is no stride, again but for the first
    assert kinds.count("ReorderInput") <= 3


def test_pooling_keeps_its_images_in_blocks():
    """Nothing but what goes to the dense layer and to the convolutions' own gradients leaves its blocks."""
    layers = [L.Conv2D(16, 3, activation="relu"), L.MaxPool2D(2), L.Conv2D(32, 2, activation="relu"), L.MaxPool2D(3)]
    model = L.Sequential(*layers, L.Flatten(), L.Dense(5)).build(image=("batch", 1, 28, 28))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.Adam())
    nodes = onnx.load_from_string(lower(step.data, B)).graph.node
    kinds = [n.op_type for n in nodes if n.domain == DOMAIN]
    assert (kinds.count("MaxPool"), kinds.count("Upsample"), kinds.count("AveragePool")) == (2, 4, 2)
    assert not any(n.op_type.startswith("Tile") for n in nodes)
    assert kinds.count("ReorderInput") == 1  # the gradient that comes from the dense layer


def test_without_blocks_a_step_stays_as_it_is():
    model = mx.models.resnet8().build(image=("batch", 3, 32, 32))
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.Adam())
    assert lower(step.data, None) == step.data


def test_micro_batches_run_in_blocks_too():
    layers = [L.Conv2D(16, 3), tanh, L.Conv2D(32, 3), L.GlobalAvgPool2D(), L.Dense(5)]
    model = L.Sequential(*layers).build(image=("batch", 16, 13, 11), seed=3)
    optimizer = mx.SGD(lr=1.0)
    step = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer, micro_batch=2)
    random = np.random.default_rng(0)
    feeds = {f"state.{n}": a for n, a in initial_state(model, optimizer, seed=0).items()}
    feeds |= {"batch.image": random.normal(size=(5, 16, 13, 11)).astype(np.float32)}
    feeds |= {"batch.label": random.integers(0, 5, 5)}
    data = lower(step.data, B)
    assert kernels(onnx.load_from_string(data).graph) == 3
    expected, found = (open_session(graph, threads=1).run(None, feeds) for graph in (step.data, data))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
