"""Initializers: what a parameter holds before the first step.

Each is `init(shape, random) -> array`, a function of the shape and a seeded generator alone. Fans follow the layout
of the weight: (n_in, units) for Dense, (out, in, *kernel) for convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxmx.errors import UsageError, unknown_name

Array = np.ndarray[Any, Any]
Initializer = Callable[[tuple[int, ...], np.random.Generator], Array]


def constant(value: float) -> Initializer:
    """Every element is `value`."""
    return lambda shape, random: np.full(shape, value, np.float32)


def zeros() -> Initializer:
    """Every element is 0."""
    return constant(0.0)


def ones() -> Initializer:
    """Every element is 1."""
    return constant(1.0)


def uniform(scale: float = 0.07) -> Initializer:
    """Uniform in [-scale, scale)."""
    return lambda shape, random: random.uniform(-scale, scale, shape)


def normal(std: float = 0.01) -> Initializer:
    """Normal with mean 0 and the given standard deviation."""
    return lambda shape, random: random.normal(0.0, std, shape)


def xavier() -> Initializer:
    """Uniform with variance 2 / (fan_in + fan_out).   Source: Glorot & Bengio 2010, eq. 16."""

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        fan_in, fan_out = fans(shape)
        limit = math.sqrt(6.0 / (fan_in + fan_out))
        return random.uniform(-limit, limit, shape)

    return draw


def he(slope: float = 0.0) -> Initializer:
    """Normal with variance 2 / ((1 + slope^2) fan_in); `slope` is the leaky ReLU's.   Source: He et al. 2015, eq. 14.

    MXNet calls it MSRAPrelu, PyTorch kaiming_normal.
    """

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        fan_in, _ = fans(shape)
        return random.normal(0.0, math.sqrt(2.0 / ((1.0 + slope**2) * fan_in)), shape)

    return draw


msra = he


def orthogonal(gain: float = 1.0) -> Initializer:
    """Orthogonal rows or columns, whichever are fewer, over (shape[0], the rest).   Source: Saxe et al. 2014."""

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        rows, columns = math.prod(shape[:1]), math.prod(shape[1:])
        q, r = np.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
        return (gain * (q if rows >= columns else q.T)).reshape(shape)

    return draw


def forget_bias(value: float = 1.0) -> Initializer:
    """Zeros, and `value` for an LSTM's forget gate, the third of four (i, o, f, c), so that it starts by remembering.

    shape: (4 units,), or an operator's (directions, 8 units): the input's bias, which gets it, and the recurrent one.
    Source: Jozefowicz et al. 2015.
    """

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        if len(shape) not in (1, 2) or shape[-1] % (4 * len(shape)):
            raise UsageError(
                f"forget_bias expected a bias of four gates, (4 units,) or (directions, 8 units); found {shape}",
                mend="It is for LSTM and LSTMCell.",
            )
        gates = np.zeros((math.prod(shape[:-1]), 4 * len(shape), shape[-1] // (4 * len(shape))))
        gates[:, 2] = value
        return gates.reshape(shape)

    return draw


NAMED: dict[str, Callable[[], Initializer]] = {
    "zeros": zeros,
    "ones": ones,
    "uniform": uniform,
    "normal": normal,
    "xavier": xavier,
    "he": he,
    "msra": msra,
    "orthogonal": orthogonal,
    "forget_bias": forget_bias,
}


def get(init: str | Initializer, *, at: str | None = None) -> Initializer:
    """An initializer by name, or as it is. `init.he`, not called, is `init.he()`.

    at: the user's line, for the error. Raises UsageError for an unknown name or what is no initializer.
    """
    if isinstance(init, str):
        if init not in NAMED:
            raise unknown_name("initializer", init, NAMED, at=at)
        return NAMED[init]()
    factory: Any = init
    if factory in NAMED.values():
        return NAMED[factory.__name__]()
    if not callable(init):
        raise UsageError(
            f"an initializer expected to be a name or a function of (shape, random); found {init!r}",
            at=at,
            mend=f"There are: {', '.join(NAMED)}; a number is init.constant(number).",
        )
    return init


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs feed one unit, and how many units one input feeds."""
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    if len(shape) == 2:
        return shape[0], shape[1]
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel
