"""Every layer and activation, built in several configurations, against numpy and against the ONNX reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import onnxmx.builder.layers as L
from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Model, build

Array = np.ndarray[Any, Any]
IMAGE = (2, 4, 9, 8)


@dataclass
class Case:
    """A layer on a random input of `shape`. numpy: the same, from the input and the parameters by name."""

    layer: Any
    shape: tuple[int, ...]
    numpy: Callable[[Array, dict[str, Array]], Array] | None = None
    out: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.layer!r}{self.shape}"[:80]


def dense(x: Array, p: dict[str, Array]) -> Array:
    return x @ p["weight"] + p.get("bias", 0.0)


def conv(stride: int = 1, pads: tuple[int, int, int, int] = (0, 0, 0, 0), dilation: int = 1, groups: int = 1) -> Any:
    """Convolution as its definition reads: one product a window."""

    def compute(x: Array, p: dict[str, Array]) -> Array:
        w = p["weight"]
        windows = _windows(np.pad(x, _np_pads(pads)), w.shape[2:], stride, dilation)
        parts = [
            np.einsum("ncyxhw,ochw->noyx", xs, ws)
            for xs, ws in zip(np.split(windows, groups, 1), np.split(w, groups, 0), strict=True)
        ]
        return np.concatenate(parts, 1) + p.get("bias", np.zeros(w.shape[0]))[:, None, None]

    return compute


def pool(reduce: Any, size: int, stride: int, pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Any:
    """nan stands for padding, which neither the largest nor the mean counts."""
    return lambda x, p: reduce(
        _windows(np.pad(x, _np_pads(pads), constant_values=np.nan), (size, size), stride, 1), axis=(4, 5)
    )


def _np_pads(pads: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    top, left, bottom, right = pads
    return [(0, 0), (0, 0), (top, bottom), (left, right)]


def _windows(x: Array, kernel: tuple[int, ...], stride: int, dilation: int) -> Array:
    spans = tuple((k - 1) * dilation + 1 for k in kernel)
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(2, 3))
    return view[:, :, ::stride, ::stride, ::dilation, ::dilation]


def batch_norm(epsilon: float) -> Any:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        column = (slice(None),) + (None,) * (x.ndim - 2)
        mean, var = p["running_mean"][column], p["running_var"][column]
        return (x - mean) / np.sqrt(var + epsilon) * p["weight"][column] + p["bias"][column]

    return compute


def same(x: Array, p: dict[str, Array]) -> Array:
    return x


def mlp(x: Array, p: dict[str, Array]) -> Array:
    hidden = np.maximum(x @ p["0.weight"] + p["0.bias"], 0)
    return hidden @ p["head.weight"] + p["head.bias"]


CASES = [
    Case(L.Dense(5), (3, 4), dense),
    Case(L.Dense(5, bias=False), (3, 4), dense),
    Case(L.Dense(5), (2, 3, 4), dense),
    Case(L.Dense(5, bias=False), (2, 3, 4), dense),
    Case(L.Dense(5, activation="tanh"), (3, 4), lambda x, p: np.tanh(dense(x, p))),
    Case(L.Dense(np.int64(5)), (3, 4), dense),
    Case(L.Conv2D(6, 3), IMAGE, conv()),
    Case(L.Conv2D(6, 3, bias=False, stride=2), IMAGE, conv(stride=2)),
    Case(L.Conv2D(6, (3, 2), padding=(1, 2)), IMAGE, conv(pads=(1, 2, 1, 2))),
    Case(L.Conv2D(6, [3, 2], padding=1), IMAGE, conv(pads=(1, 1, 1, 1))),
    Case(L.Conv2D(6, 3, padding="same"), IMAGE, conv(pads=(1, 1, 1, 1)), out=(2, 6, 9, 8)),
    # 9 wide: 5 windows of 4 in steps of 2 span 12; 8 wide: 4 windows span 10: the odd pixel goes to the end.
    Case(L.Conv2D(6, 4, padding="same", stride=2), IMAGE, conv(stride=2, pads=(1, 1, 2, 1)), out=(2, 6, 5, 4)),
    Case(L.Conv2D(6, 3, dilation=2), IMAGE, conv(dilation=2)),
    Case(L.Conv2D(6, 3, groups=2), IMAGE, conv(groups=2)),
    Case(L.Conv2D(4, 3, groups=4, activation="relu"), IMAGE, lambda x, p: np.maximum(conv(groups=4)(x, p), 0)),
    Case(L.MaxPool2D(2), IMAGE, pool(np.nanmax, 2, 2)),
    Case(L.MaxPool2D(3, stride=2, padding=1), IMAGE, pool(np.nanmax, 3, 2, (1, 1, 1, 1))),
    Case(L.MaxPool2D(3, stride=1, padding="same"), IMAGE, pool(np.nanmax, 3, 1, (1, 1, 1, 1)), out=IMAGE),
    Case(L.AvgPool2D(2), IMAGE, pool(np.nanmean, 2, 2)),
    Case(L.AvgPool2D((3, 3), stride=(1, 1), padding=1), IMAGE, pool(np.nanmean, 3, 1, (1, 1, 1, 1))),
    Case(L.GlobalAvgPool2D(), IMAGE, lambda x, p: x.mean((2, 3)), out=(2, 4)),
    Case(L.Flatten(), IMAGE, lambda x, p: x.reshape(2, -1)),
    Case(L.BatchNorm(), IMAGE, batch_norm(1e-5)),
    Case(L.BatchNorm(epsilon=0.1), (3, 4), batch_norm(0.1)),
    Case(L.Dropout(0.4), (3, 4), same),
    Case(L.Activation("relu"), (3, 4), lambda x, p: np.maximum(x, 0)),
    Case(L.Activation(lambda x: x * 2.0), (3, 4), lambda x, p: 2 * x),
    Case(L.Sequential(L.Dense(6, activation="relu"), L.Dense(2, name="head")), (3, 4), mlp),
    Case(L.Residual(L.Activation("tanh")), (3, 4), lambda x, p: x + np.tanh(x)),
    Case(
        L.Residual(L.Dense(2), L.Dense(2, bias=False)),
        (3, 4),
        lambda x, p: x @ p["body.weight"] + p["body.bias"] + x @ p["shortcut.weight"],
    ),
]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
}


def made(layer: Any, shape: tuple[int, ...]) -> Model:
    """The layer as a model with a symbolic batch, its parameters random, so that a bias of 0 hides nothing."""
    model = build(layer, x=("batch", *shape[1:]))
    random = np.random.default_rng(5)
    return model.with_parameters(
        {name: random.uniform(0.5, 1.5, a.shape).astype(np.float32) for name, a in model.parameters().items()}
    )


def check(model: Model, x: Array, expected: Array) -> None:
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)
    (reference,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer(case: Case) -> None:
    x = np.random.default_rng(1).normal(size=case.shape).astype(np.float32)
    model = made(case.layer, case.shape)
    assert case.numpy is not None
    expected = case.numpy(x.astype(np.float64), model.parameters())
    check(model, x, expected)
    if case.out is not None:
        assert expected.shape == case.out
    assert model.outputs["output"].shape == ("batch", *expected.shape[1:])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    x = np.random.default_rng(2).normal(size=(4, 7)).astype(np.float32)
    check(made(L.Activation(name), x.shape), x, ACTIVATIONS[name](x.astype(np.float64)))


def test_every_layer_and_activation_has_a_row() -> None:
    layers = {x for x in vars(L).values() if isinstance(x, type) and issubclass(x, L.Layer)} - {L.Layer}
    assert layers == {type(case.layer) for case in CASES}
    assert set(L.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(L.__all__) >= {layer.__name__ for layer in layers} | set(ACTIVATIONS)


def test_functions_that_make_branches() -> None:
    def net(x: Value) -> Value:
        return L.concat(L.relu(x), -x, axis=-1)

    x = np.random.default_rng(3).normal(size=(2, 3)).astype(np.float32)
    check(build(net, x=("batch", 3)), x, np.concatenate([np.maximum(x, 0), -x], -1))


def test_a_layer_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Scale(L.Layer):
        def forward(self, x: Value) -> Value:
            return x * x.builder.parameter("scale", (1,), init.constant(3.0))

    x = np.ones((2, 3), np.float32)
    model = L.Sequential(Scale()).build(x=("batch", 3))
    assert list(model.parameters()) == ["0.scale"]
    check(model, x, 3 * x)


def test_layers_compare_by_what_they_hold() -> None:
    assert L.Sequential(L.Dense(1)) == L.Sequential(L.Dense(1))
    assert L.Sequential(L.Dense(1)) != L.Sequential(L.Dense(2))
    assert repr(L.Sequential(L.Flatten(), name="a")) == "Sequential(name='a', layers=(Flatten(name=None),))"
