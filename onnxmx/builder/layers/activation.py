"""Activations, by name and as a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.errors import GraphError, UsageError, unknown_name

ActivationFunction = Callable[[Value], Value]


def relu(x: Value) -> Value:
    """max(x, 0)"""
    return x.builder.op("Relu", x)


def leaky_relu(x: Value) -> Value:
    """x where x > 0, else 0.01 x.   Source: Maas et al. 2013."""
    return x.builder.op("LeakyRelu", x, alpha=0.01)


def elu(x: Value) -> Value:
    """x where x > 0, else exp(x) - 1.   Source: Clevert et al. 2016."""
    return x.builder.op("Elu", x)


def gelu(x: Value) -> Value:
    """x times the normal distribution function of x.   Source: Hendrycks & Gimpel 2016."""
    return x.builder.op("Gelu", x)


def silu(x: Value) -> Value:
    """x sigmoid(x), also called swish.   Source: Elfwing et al. 2018."""
    return x * sigmoid(x)


def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x))"""
    return x.builder.op("Sigmoid", x)


def tanh(x: Value) -> Value:
    """The hyperbolic tangent."""
    return x.builder.op("Tanh", x)


def softplus(x: Value) -> Value:
    """log(1 + exp(x))"""
    return x.builder.op("Softplus", x)


def softmax(x: Value) -> Value:
    """exp(x) / sum(exp(x)) over the last axis."""
    return x.builder.op("Softmax", x, axis=-1)


def log_softmax(x: Value) -> Value:
    """x - log(sum(exp(x))) over the last axis."""
    return x.builder.op("LogSoftmax", x, axis=-1)


ACTIVATIONS: dict[str, ActivationFunction] = {
    f.__name__: f for f in (relu, leaky_relu, elu, gelu, silu, sigmoid, tanh, softplus, softmax, log_softmax)
}


def activate(x: Value, activation: str | ActivationFunction | None) -> Value:
    """`x` through an activation: a name, a function of a value, or None for none. UsageError for an unknown name."""
    if activation is None:
        return x
    at = x.builder.source()
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS, at=at)
        return ACTIVATIONS[activation](x)
    if not callable(activation):
        raise UsageError(
            f"an activation expected to be a name or a function of a value; found {activation!r}",
            at=at,
            mend=f"There are: {', '.join(ACTIVATIONS)}.",
        )
    y = activation(x)
    if not isinstance(y, Value):
        raise GraphError(
            f"an activation expected to return a value; found {y!r}", at=at, mend="Give a function such as layers.relu."
        )
    return y


@dataclass(frozen=True)
class Activation(Layer):
    """y = activation(x), by name or any function of a value.   x, y: any shape"""

    activation: str | ActivationFunction

    def forward(self, x: Value) -> Value:
        return activate(x, self.activation)
