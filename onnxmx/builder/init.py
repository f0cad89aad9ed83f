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
from onnxmx.builder.source import user_line
from onnxmx.errors import DataError, UsageError, unknown_name

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


def truncated_normal(std: float = 0.01) -> Initializer:
    """Normal with mean 0 and standard deviation `std`; what falls beyond two deviations is drawn again."""

    def draw(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        found = np.asarray(random.normal(0.0, std, shape))
        while (beyond := np.abs(found) > 2 * std).any():
            found[beyond] = random.normal(0.0, std, int(beyond.sum()))
        return found

    return draw


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
    Raises UsageError for another shape, when it is drawn.   Source: Jozefowicz et al. 2015.
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


def array(values: Any) -> Initializer:
    """The numbers of an array, whose shape must be the parameter's."""
    return lambda shape, random: np.asarray(values, np.float32)


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
