"""Every layer and activation, built in several configurations, against numpy and against the ONNX reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import onnxmx.builder.layers as L
from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.model import build
from onnxmx.errors import OnnxmxWarning, UsageError
from tests.builder import rows_norm, rows_windows
from tests.builder.layer_table import Array, Case, check, made
from tests.builder.rows_norm import ACTIVATIONS

IMAGE = (2, 4, 9, 8)


def dense(x: Array, p: dict[str, Array]) -> Array:
    return x @ p["weight"] + p.get("bias", 0.0)


def same(x: Array, p: dict[str, Array]) -> Array:
    return x


def inner(name: str, p: dict[str, Array]) -> dict[str, Array]:
    """The parameters of the layer called `name`."""
    return {key.removeprefix(f"{name}."): array for key, array in p.items() if key.startswith(f"{name}.")}


def mlp(x: Array, p: dict[str, Array]) -> Array:
    hidden = np.maximum(x @ p["0.weight"] + p["0.bias"], 0)
    return hidden @ p["head.weight"] + p["head.bias"]


BASIC = [
    Case(L.Dense(5), (3, 4), dense),
    Case(L.Dense(5, bias=False), (3, 4), dense),
    Case(L.Dense(5), (2, 3, 4), dense),
    Case(L.Dense(5, bias=False), (2, 3, 4), dense),
    Case(L.Dense(5, activation="tanh"), (3, 4), lambda x, p: np.tanh(dense(x, p))),
    Case(L.Dense(np.int64(5)), (3, 4), dense),
    Case(L.Flatten(), IMAGE, lambda x, p: x.reshape(2, -1)),
    Case(L.Reshape(8, 36), IMAGE, lambda x, p: x.reshape(2, 8, 36)),
    Case(L.Reshape(2, -1, 4), IMAGE, lambda x, p: x.reshape(2, 2, 36, 4), out=(2, 2, 36, 4)),
    Case(L.Reshape(-1), IMAGE, lambda x, p: x.reshape(2, -1)),
    Case(L.Permute(2, 3, 1), IMAGE, lambda x, p: x.transpose(0, 2, 3, 1)),
    Case(L.Permute(2, 1), (2, 3, 4), lambda x, p: x.transpose(0, 2, 1)),
    Case(L.Lambda(lambda x: x * 2.0 + 1.0), (3, 4), lambda x, p: 2 * x + 1),
    Case(L.Sequential(L.Identity(), L.Dense(5, name="d"), L.Identity()), (3, 4), lambda x, p: dense(x, inner("d", p))),
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
    Case(L.Concat(L.Dense(2), L.Activation("tanh")), (3, 4),
         lambda x, p: np.hstack([dense(x, inner("0", p)), np.tanh(x)])),
    Case(L.Concat(L.Identity(), L.Identity(), axis=2), IMAGE, lambda x, p: np.concatenate([x, x], 2)),
    Case(L.Concat(L.Dense(2)), (3, 4), lambda x, p: dense(x, inner("0", p))),
    Case(L.Add(L.Dense(4), L.Identity(), L.Activation("tanh")), (3, 4),
         lambda x, p: dense(x, inner("0", p)) + x + np.tanh(x)),
    Case(L.Multiply(L.Dense(4, name="gate"), L.Identity(), L.Dense(4)), (3, 4),
         lambda x, p: dense(x, inner("gate", p)) * x * dense(x, inner("2", p))),
]  # fmt: skip
CASES = [*BASIC, *rows_windows.CASES, *rows_norm.CASES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer(case: Case) -> None:
    x = np.random.default_rng(1).normal(size=case.shape).astype(np.float32)
    model = made(case.layer, case.shape)
    expected = case.numpy(x.astype(np.float64), model.parameters())
    check(model, x, expected, reference=case.reference)
    if case.out is not None:
        assert expected.shape == case.out
    assert model.outputs["output"].shape == ("batch", *expected.shape[1:])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    x = 4 * np.random.default_rng(2).normal(size=(4, 7)).astype(np.float32)
    assert x.max() > 6  # or relu6 is relu
    check(made(L.Activation(name), x.shape), x, ACTIVATIONS[name](x.astype(np.float64)))


def test_every_layer_and_activation_has_a_row() -> None:
    layers = {x for x in vars(L).values() if isinstance(x, type) and issubclass(x, L.Layer)} - {L.Layer}
    elsewhere = {L.Identity, L.Parallel}  # no node of its own; several outputs
    sequence = ("attention", "cells", "embedding", "recurrent")  # test_sequence_layers.py has those
    layers -= {layer for layer in layers if layer.__module__.rpartition(".")[2] in sequence}
    assert layers == {type(case.layer) for case in CASES} | elsewhere
    assert set(L.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(L.__all__) >= {layer.__name__ for layer in layers} | set(ACTIVATIONS)


def test_parallel_names_the_outputs() -> None:
    net = L.Sequential(L.Dense(3, name="body"), L.Parallel(mean=L.Dense(2), spread=L.Activation("softplus")))
    model = made(net, (4, 5))
    x, p = np.random.default_rng(3).normal(size=(4, 5)).astype(np.float32), model.parameters()
    hidden = dense(x, inner("body", p))
    found = model(x)
    assert list(found) == list(model.outputs) == ["mean", "spread"]
    np.testing.assert_allclose(found["mean"], dense(hidden, inner("1.mean", p)), rtol=1e-5)
    np.testing.assert_allclose(found["spread"], np.log1p(np.exp(hidden)), rtol=1e-5)


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


def test_a_layer_whose_parts_are_made_beforehand() -> None:
    """As Gluon, Keras and PyTorch write it."""

    class Net(L.Layer):
        def __init__(self, units: int) -> None:
            super().__init__()
            self.first = L.Dense(units, activation="relu")
            self.heads = [L.Dense(2), L.Dense(2)]

        def forward(self, x: L.Value) -> L.Value:
            y = self.first(x)
            return self.heads[0](y) + self.heads[1](y)

    model = made(Net(8), (3, 4))
    assert list(model.parameters())[::2] == ["dense.weight", "dense_1.weight", "dense_2.weight"]
    x, p = np.ones((3, 4), np.float32), model.parameters()
    y = np.maximum(dense(x, inner("dense", p)), 0)
    np.testing.assert_allclose(model(x), dense(y, inner("dense_1", p)) + dense(y, inner("dense_2", p)), rtol=1e-5)


def test_layers_in_lists_and_generators_are_laid_out() -> None:
    dense, relu, head = L.Dense(4), L.Activation("relu"), L.Dense(2)
    net = L.Sequential(dense, relu, head)
    assert L.Sequential([dense, relu, head]) == net
    assert L.Sequential(layer for layer in net) == net
    assert L.Sequential(dense, [relu, (head,)]) == L.Sequential([], dense, [[relu], [head]]) == net
    assert L.Sequential(L.Sequential(dense, relu), head) != net
    assert list(made(L.Sequential([dense, relu], head), (3, 4)).parameters())[2:] == ["2.weight", "2.bias"]
    assert (len(net), net[-1], *net) == (3, head, dense, relu, head)
    for kind in (L.Add, L.Multiply, L.Concat):
        assert kind([dense, head], name="a") == kind(dense, head, name="a")
    with pytest.raises(UsageError, match=r"Add expected at least one layer; found none(.|\n)*joined by a \+ b"):
        L.Add([])


def test_channels_that_come_last_are_warned_of() -> None:
    with pytest.warns(OnnxmxWarning, match=r"second axis of .*28, 28, 3\) [^$]*test_layers[^$]*', 3, 28, 28"):
        made(L.Conv2D(4, 3), (2, 28, 28, 3))
    for shape in ((2, 28, 28, 28), (2, 28, 27, 3), (2, 3, 3, 3), (2, 28, 28, 5)):  # an error where warnings are
        made(L.Conv2D(4, 3, padding=1), shape)
    made(L.Sequential(L.Reshape(28, 28, 3), L.Conv2D(4, 3)), (2, 28 * 28 * 3))


def test_values_in_a_list_are_put_side_by_side() -> None:
    one = np.ones((2, 3), np.float32)
    for net in (lambda x: L.concat([x, 2 * x], axis=1), lambda x: L.concat((x, 2 * x)), lambda x: L.concat(x, 2 * x)):
        np.testing.assert_array_equal(build(net, x=("batch", 3))(one), np.concatenate([one, 2 * one], 1))


def test_layers_compare_by_what_they_hold() -> None:
    assert L.Sequential(L.Dense(1)) == L.Sequential(L.Dense(1))
    assert L.Sequential(L.Dense(1)) != L.Sequential(L.Dense(2))
    assert repr(L.Flatten(name="a")) == "Flatten(name='a', checkpoint=False)"
