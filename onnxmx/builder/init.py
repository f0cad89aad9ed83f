"""Initializers: what a parameter holds before the first step.

Each is `init(shape, random) -> array`, a function of the shape and a seeded generator alone. Fans follow the layout
of the weight: (n_in, units) for Dense, (out, in, *kernel) for convolutions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.literals import is_number
from onnxmx.builder.source import user_line
from onnxmx.errors import DataError, UsageError, unknown_name

__all__ = [
    "NAMED",
    "Initializer",
    "array",
    "bilinear",
    "constant",
    "file",
    "forget_bias",
    "get",
    "he",
    "msra",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "xavier",
    "zeros",
]

Array = np.ndarray[Any, Any]
Initializer = Callable[[tuple[int, ...], np.random.Generator], Array]


@checked_arguments
def constant(value: float) -> Initializer:
    """Every element is `value`."""
    _check_number("constant", "value", value, finite=False)
    return lambda shape, random: np.full(shape, value, np.float32)


@checked_arguments
def zeros() -> Initializer:
    """Every element is 0."""
    return constant(0.0)


@checked_arguments
def ones() -> Initializer:
    """Every element is 1."""
    return constant(1.0)


@checked_arguments
def uniform(scale: float = 0.07) -> Initializer:
    """Uniform in [-scale, scale)."""
    _check_number("uniform", "scale", scale, low=0.0)
    return lambda shape, random: random.uniform(-scale, scale, shape)


@checked_arguments
def normal(std: float = 0.01) -> Initializer:
    """Normal with mean 0 and the given standard deviation."""
    _check_number("normal", "std", std, low=0.0)
    return lambda shape, random: random.normal(0.0, std, shape)


@checked_arguments
def truncated_normal(std: float = 0.01) -> Initializer:
    """Normal with mean 0 and standard deviation `std`; what falls beyond two deviations is drawn again."""
    _check_number("truncated_normal", "std", std, low=0.0)

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        found = np.asarray(random.normal(0.0, std, shape))
        while (beyond := np.abs(found) > 2 * std).any():
            found[beyond] = random.normal(0.0, std, int(beyond.sum()))
        return found

    return draw


@checked_arguments
def xavier() -> Initializer:
    """Uniform with variance 2 / (fan_in + fan_out).   Source: Glorot & Bengio 2010, eq. 16."""

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        fan_in, fan_out = fans(shape)
        limit = math.sqrt(6.0 / (fan_in + fan_out))
        return random.uniform(-limit, limit, shape)

    return draw


@checked_arguments
def he(slope: float = 0.0) -> Initializer:
    """Normal with variance 2 / ((1 + slope^2) fan_in); `slope` is the leaky ReLU's.   Source: He et al. 2015, eq. 14.

    MXNet calls it MSRAPrelu, PyTorch kaiming_normal.
    """
    _check_number("he", "slope", slope)

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        fan_in, _ = fans(shape)
        return random.normal(0.0, math.sqrt(2.0 / ((1.0 + slope**2) * fan_in)), shape)

    return draw


msra = he


@checked_arguments
def orthogonal(gain: float = 1.0) -> Initializer:
    """Orthogonal rows or columns, whichever are fewer, over (shape[0], the rest).   Source: Saxe et al. 2014."""
    _check_number("orthogonal", "gain", gain)

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        rows, columns = math.prod(shape[:1]), math.prod(shape[1:])
        q, r = np.linalg.qr(random.normal(size=(max(rows, columns), min(rows, columns))))
        q = q * np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
        return (gain * (q if rows >= columns else q.T)).reshape(shape)

    return draw


@checked_arguments
def forget_bias(value: float = 1.0) -> Initializer:
    """Zeros, and `value` for an LSTM's forget gate, the third of four (i, o, f, c), so that it starts by remembering.

    shape: (4 units,), or an operator's (directions, 8 units): the input's bias, which gets it, and the recurrent one.
    Raises UsageError for another shape, when it is drawn.   Source: Jozefowicz et al. 2015.
    """
    _check_number("forget_bias", "value", value)

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


@checked_arguments
def bilinear() -> Initializer:
    """The kernel that enlarges each channel on its own by linear interpolation, for a transposed convolution.

    shape: (n_in, n_out / groups, *kernel). Input k reaches output k alone, the only one where the groups are as many
    as the channels. With stride s, a kernel of 2 s - s % 2 and padding (s - 1) / 2, rounded up, s times larger images.
    Source: Long et al. 2015, section 3.3.
    """

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        kernel = np.ones(())
        for size in shape[2:]:
            half = (size + 1) // 2
            center = half - 1 if size % 2 else half - 0.5
            kernel = np.multiply.outer(kernel, 1 - np.abs(np.arange(size) - center) / half)
        mix = np.eye(shape[0], shape[1]) if len(shape) > 1 and shape[1] > 1 else np.ones(shape[:2])
        return np.multiply.outer(mix, kernel)

    return draw


@checked_arguments
def array(values: Any) -> Initializer:
    """The numbers of an array, whose shape must be the parameter's. Raises UsageError for what holds none."""
    try:
        numbers = np.asarray(values)
    except (ValueError, TypeError):  # lists of several lengths
        numbers = np.array(None)
    if numbers.dtype.kind in "OUScmM":  # not "biuf": bfloat16 has none of these letters
        raise UsageError(
            f"init.array expected an array of numbers; found {type(values).__name__}",
            at=user_line(),
            mend="Such as init.array(numpy.load('weight.npy')).",
        )
    return lambda shape, random: np.asarray(numbers, np.float32)


@checked_arguments
def file(path: str | os.PathLike[str]) -> Initializer:
    """The array in a .npy file, whose shape must be the parameter's. Raises DataError where it cannot be read."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of several")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"init.file expected a .npy file; {os.fspath(path)!r} cannot be read: {error}",
            at=user_line(),
            mend="Write it with numpy.save(path, array).",
        ) from error
    return array(found)


NAMED: dict[str, Callable[[], Initializer]] = {
    "zeros": zeros,
    "ones": ones,
    "uniform": uniform,
    "normal": normal,
    "truncated_normal": truncated_normal,
    "xavier": xavier,
    "he": he,
    "msra": msra,
    "orthogonal": orthogonal,
    "bilinear": bilinear,
    "forget_bias": forget_bias,
}


_ELSEWHERE = {"glorot": "xavier", "kaiming": "he"}
"""By a part of what other libraries call it: `glorot_uniform`, `kaiming_normal_`."""


def get(init: str | Initializer, *, at: str | None = None) -> Initializer:
    """An initializer by name, or as it is. `init.he`, not called, is `init.he()`.

    at: the user's line, for the error. Raises UsageError for an unknown name or what is no initializer.
    """
    if isinstance(init, str):
        if init not in NAMED:
            for theirs, ours in _ELSEWHERE.items():
                if theirs in init.lower():
                    raise UsageError(f"no initializer named {init!r}", at=at, mend=f"Did you mean {ours!r}?")
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


def _check_number(name: str, what: str, value: float, *, low: float = -math.inf, finite: bool = True) -> None:
    """Raises UsageError unless the parameter `what` of an initializer is a number of at least `low`."""
    if not (is_number(value) and value >= low and (math.isfinite(value) or not finite)):
        expected = f"a {'finite ' if finite else ''}number{f' of at least {low:g}' if low > -math.inf else ''}"
        mend = f"Such as init.{name}(0.1)."
        raise UsageError(f"init.{name} expected {what} as {expected}; found {value!r}", at=user_line(), mend=mend)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs feed one unit, and how many units one input feeds."""
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    if len(shape) == 2:
        return shape[0], shape[1]
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel
