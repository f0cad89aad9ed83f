"""Activations, by name and as a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ParamSpec, cast

from onnxmx.builder import init
from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.literals import is_number
from onnxmx.errors import GraphError, UsageError, unknown_name

ActivationFunction = Callable[[Value], Value]
ACTIVATIONS: dict[str, ActivationFunction] = {}
P = ParamSpec("P")


def _activation(function: Callable[P, Value]) -> Callable[P, Value]:
    """Enter a function in ACTIVATIONS by its name, with its arguments checked."""
    checked: Any = checked_arguments(function)
    ACTIVATIONS[function.__name__] = checked
    return cast(Callable[P, Value], checked)


@_activation
def relu(x: Value) -> Value:
    """max(x, 0)"""
    return x.builder.op("Relu", x)


@_activation
def relu6(x: Value) -> Value:
    """min(max(x, 0), 6)   Source: Krizhevsky 2010."""
    return x.builder.op("Clip", x, 0.0, 6.0)


@_activation
def leaky_relu(x: Value, slope: float = 0.01) -> Value:
    """x where x > 0, else slope x; slope = 0.01.   Source: Maas et al. 2013."""
    return x.builder.op("LeakyRelu", x, alpha=slope)


@_activation
def elu(x: Value, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha (exp(x) - 1); alpha = 1.   Source: Clevert et al. 2016."""
    return x.builder.op("Elu", x, alpha=alpha)


@_activation
def selu(x: Value) -> Value:
    """1.0507 elu(x) with alpha = 1.6733, which keeps mean 0 and variance 1.   Source: Klambauer et al. 2017."""
    return x.builder.op("Selu", x)


@_activation
def celu(x: Value, alpha: float = 1.0) -> Value:
    """max(x, 0) + min(0, alpha (exp(x / alpha) - 1)); alpha = 1.   Source: Barron 2017."""
    return x.builder.op("Celu", x, alpha=alpha)


@_activation
def gelu(x: Value) -> Value:
    """x times the normal distribution function of x.   Source: Hendrycks & Gimpel 2016."""
    return x.builder.op("Gelu", x)


@_activation
def gelu_tanh(x: Value) -> Value:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), near gelu.   Source: Hendrycks & Gimpel 2016."""
    return x.builder.op("Gelu", x, approximate="tanh")


@_activation
def silu(x: Value) -> Value:
    """x sigmoid(x), also called swish.   Source: Elfwing et al. 2018."""
    return x * sigmoid(x)


@_activation
def swish(x: Value) -> Value:
    """silu by its other name.   Source: Ramachandran et al. 2017."""
    return silu(x)


@_activation
def mish(x: Value) -> Value:
    """x tanh(softplus(x))   Source: Misra 2019."""
    return x.builder.op("Mish", x)


@_activation
def sigmoid(x: Value) -> Value:
    """1 / (1 + exp(-x))"""
    return x.builder.op("Sigmoid", x)


@_activation
def hard_sigmoid(x: Value) -> Value:
    """min(max(x / 6 + 1/2, 0), 1)   Source: Howard et al. 2019, section 5.2."""
    return x.builder.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@_activation
def hard_swish(x: Value) -> Value:
    """x hard_sigmoid(x)   Source: Howard et al. 2019, section 5.2."""
    return x.builder.op("HardSwish", x)


@_activation
def tanh(x: Value) -> Value:
    """The hyperbolic tangent."""
    return x.builder.op("Tanh", x)


@_activation
def softplus(x: Value) -> Value:
    """log(1 + exp(x))"""
    return x.builder.op("Softplus", x)


@_activation
def softsign(x: Value) -> Value:
    """x / (1 + |x|)"""
    return x.builder.op("Softsign", x)


@_activation
def softmax(x: Value, axis: int = -1) -> Value:
    """exp(x) / sum(exp(x)) over an axis, the last by default."""
    return x.builder.op("Softmax", x, axis=axis)


@_activation
def log_softmax(x: Value, axis: int = -1) -> Value:
    """x - log(sum(exp(x))) over an axis, the last by default."""
    return x.builder.op("LogSoftmax", x, axis=axis)


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


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """y = x where x > 0, else slope x.   x, y: any shape   Source: Maas et al. 2013."""

    slope: float = 0.01

    def __post_init__(self) -> None:
        _check_number(self, "slope", self.slope)

    def forward(self, x: Value) -> Value:
        return leaky_relu(x, self.slope)


@dataclass(frozen=True)
class PReLU(Layer):
    """y = x where x > 0, else weight x, and the weight is learned.   x, y: (batch, channels, ...)

    weight: one for each channel, or a single one where shared; 0.25 at first.   Source: He et al. 2015, eq. 1.
    """

    _: KW_ONLY
    shared: bool = False
    weight_init: str | init.Initializer | None = None

    def forward(self, x: Value) -> Value:
        g = x.builder
        start = init.constant(0.25) if self.weight_init is None else self.weight_init
        if self.shared:
            return g.op("PRelu", x, g.parameter("weight", (1,), start))
        channels = self._static_dim(x, 1, "a number of channels", "Give the input's channels, or take shared=True.")
        # In the shape that broadcasts against x, so that no node has to reshape it.
        column = (channels,) + (1,) * (len(x.shape or ()) - 2)
        return g.op("PRelu", x, g.parameter("weight", column, start))


@dataclass(frozen=True)
class ELU(Layer):
    """y = x where x > 0, else alpha (exp(x) - 1).   x, y: any shape   Source: Clevert et al. 2016."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_number(self, "alpha", self.alpha, positive=True)

    def forward(self, x: Value) -> Value:
        return elu(x, self.alpha)


@dataclass(frozen=True)
class CELU(Layer):
    """y = max(x, 0) + min(0, alpha (exp(x / alpha) - 1)).   x, y: any shape   Source: Barron 2017."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_number(self, "alpha", self.alpha, positive=True)

    def forward(self, x: Value) -> Value:
        return celu(x, self.alpha)


@dataclass(frozen=True)
class Softmax(Layer):
    """y = exp(x) / sum(exp(x)) over one axis.   x, y: any shape"""

    axis: int = -1

    def forward(self, x: Value) -> Value:
        return softmax(x, self.axis)


@dataclass(frozen=True)
class LogSoftmax(Layer):
    """y = x - log(sum(exp(x))) over one axis.   x, y: any shape"""

    axis: int = -1

    def forward(self, x: Value) -> Value:
        return log_softmax(x, self.axis)


def _check_number(layer: Layer, name: str, value: object, *, positive: bool = False) -> None:
    if not is_number(value) or (positive and value <= 0):
        raise UsageError(
            f"{type(layer).__name__} expected {name} as a {'positive ' * positive}number; found {value!r}",
            at=layer._source,
            mend="PReLU learns it." if name == "slope" else "The default is 1.0.",
        )
