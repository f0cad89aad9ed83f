"""Rows of the table of layers: normalization and activations, with every activation by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import onnxmx.builder.layers as L
from tests.builder.layer_table import Array, Case, Reference

IMAGE = (2, 6, 5, 4)


def column(v: Array, x: Array) -> Array:
    """A number for each channel, as it broadcasts against x."""
    return v.reshape(-1, *(1,) * (x.ndim - 2))


def standard(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def batch_norm(epsilon: float) -> Reference:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        mean, var = column(p["running_mean"], x), column(p["running_var"], x)
        return (x - mean) / np.sqrt(var + epsilon) * column(p["weight"], x) + column(p["bias"], x)

    return compute


def layer_norm(axes: int, epsilon: float = 1e-5) -> Reference:
    return lambda x, p: standard(x, tuple(range(-axes, 0)), epsilon) * p["weight"] + p.get("bias", 0.0)


def instance_norm(epsilon: float = 1e-5) -> Reference:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        y = standard(x, tuple(range(2, x.ndim)), epsilon)
        return y * column(p["weight"], x) + column(p["bias"], x) if p else y

    return compute


def group_norm(groups: int, epsilon: float = 1e-5) -> Reference:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        y = standard(x.reshape(len(x), groups, -1), (2,), epsilon).reshape(x.shape)
        return y * p["weight"] + p["bias"]

    return compute


def rms_norm(epsilon: float) -> Reference:
    return lambda x, p: x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * p["weight"]


def local_response_norm(size: int, alpha: float, beta: float, k: float) -> Reference:
    def compute(x: Array, p: dict[str, Array]) -> Array:
        y = np.empty_like(x)
        for c in range(x.shape[1]):
            near = x[:, max(0, c - size // 2) : c + size // 2 + 1]
            y[:, c] = x[:, c] / (k + alpha / size * (near**2).sum(1)) ** beta
        return y

    return compute


def prelu(x: Array, p: dict[str, Array]) -> Array:
    return np.where(x > 0, x, x * p["weight"])


def elu(alpha: float) -> Callable[..., Array]:
    return lambda x, p=None: np.where(x > 0, x, alpha * np.expm1(x))


def celu(alpha: float) -> Callable[..., Array]:
    return lambda x, p=None: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


CASES = [
    Case(L.BatchNorm(), IMAGE, batch_norm(1e-5)),
    Case(L.BatchNorm(epsilon=0.1), (3, 4), batch_norm(0.1)),
    Case(L.LayerNorm(), (3, 5, 7), layer_norm(1)),
    Case(L.LayerNorm(2, epsilon=0.1), (3, 5, 7), layer_norm(2, 0.1)),
    Case(L.LayerNorm(bias=False), (3, 7), layer_norm(1)),
    Case(L.RMSNorm(), (3, 5, 7), rms_norm(1e-5)),
    Case(L.RMSNorm(epsilon=0.1), (3, 7), rms_norm(0.1)),
    Case(L.InstanceNorm(), IMAGE, instance_norm()),
    Case(L.InstanceNorm(epsilon=0.1), (2, 6, 9), instance_norm(0.1)),
    Case(L.InstanceNorm(affine=False), (2, 3, 4, 3, 2), instance_norm()),
    Case(L.GroupNorm(3), IMAGE, group_norm(3)),
    Case(L.GroupNorm(1, epsilon=0.1), IMAGE, group_norm(1, 0.1)),
    Case(L.GroupNorm(6), (2, 6, 9), group_norm(6)),
    # onnx.reference computes as many channels as there are samples.
    Case(L.LocalResponseNorm(), (6, 6, 3, 2), local_response_norm(5, 1e-4, 0.75, 1.0)),
    Case(L.LocalResponseNorm(3, alpha=2.0, beta=0.5, k=2.0), (6, 6, 3, 2), local_response_norm(3, 2.0, 0.5, 2.0)),
    Case(L.LeakyReLU(0.3), (3, 4), lambda x, p: np.where(x > 0, x, 0.3 * x)),
    Case(L.PReLU(), IMAGE, prelu),
    Case(L.PReLU(), (3, 4), prelu),
    Case(L.PReLU(shared=True), IMAGE, prelu),
    Case(L.ELU(0.7), (3, 4), elu(0.7)),
    Case(L.CELU(0.7), (3, 4), celu(0.7)),
    Case(L.Softmax(), (3, 4, 2), lambda x, p: softmax(x)),
    Case(L.Softmax(1), (3, 4, 2), lambda x, p: softmax(x, 1)),
    Case(L.LogSoftmax(1), (3, 4, 2), lambda x, p: np.log(softmax(x, 1))),
]

ACTIVATIONS: dict[str, Callable[[Array], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": elu(1.0),
    "selu": lambda x: 1.05070098735548 * elu(1.67326324235437)(x),
    "celu": celu(1.0),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": silu,
    "swish": silu,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda x: x * hard_sigmoid(x),
    "tanh": np.tanh,
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softmax": softmax,
    "log_softmax": lambda x: np.log(softmax(x)),
}
