"""Every error a user can meet. One hierarchy, one form: what was expected, what was found, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

INTERRUPTED = 130
"""The exit code of what Ctrl-C ended: 128 and the signal's number, as shells have it."""


class OnnxmxError(Exception):
    """The base of all errors that onnxmx raises on purpose.

    problem: one sentence with what was expected and what was found.
    at: the user's `file:line` where the thing was built, or a path into the input (`$.inputs[0].shape`).
    mend: one sentence that says what to do about it.
    """

    exit_code = 1
    """What the command line exits with: 1 it could not be done, 2 wrong usage, INTERRUPTED."""

    def __init__(self, problem: str, *, at: str | None = None, mend: str | None = None) -> None:
        self.problem, self.at, self.mend = problem, at, mend
        lines = [problem]
        if at:
            lines.append(f"  built at {at}")
        if mend:
            lines.append(f"  {mend}")
        super().__init__("\n".join(lines))


class UsageError(OnnxmxError):
    """A command or function was asked for something that cannot be: an unknown name, a value outside its range."""

    exit_code = 2


class ShapeError(OnnxmxError):
    """Shapes or element types that do not fit."""


class GraphError(OnnxmxError):
    """A graph that cannot be built or is not valid ONNX."""


class ModelFileError(OnnxmxError):
    """A model file that is missing, damaged, or not ONNX."""


class GradientError(OnnxmxError):
    """A gradient was asked of an operator that has none here."""


class DataError(OnnxmxError):
    """A dataset or an input that is missing, damaged, or does not fit the model."""


class SampleError(DataError):
    """A sample that does not do.   sample: its number in the arrays that were looked at."""

    def __init__(self, problem: str, sample: int, *, of: str = "", mend: str | None = None) -> None:
        """problem: up to what was found.   of: what the sample belongs to, in words."""
        super().__init__(f"{problem} in sample {sample}" + (f" of {of}" if of else ""), mend=mend)
        self.sample, self._said = sample, problem

    def placed(self, of: str, sample: int) -> SampleError:
        """The same, told by where the sample was read from."""
        return SampleError(self._said, sample, of=of, mend=self.mend)


class TrainingError(OnnxmxError):
    """Training that could not go on: a loss that is not a number."""


class DivergedError(TrainingError):
    """A loss or gradient that is not finite. step: the update, from 1.   samples: the indices of its batch."""

    def __init__(self, problem: str, *, step: int, samples: Sequence[int], mend: str | None = None) -> None:
        super().__init__(problem, mend=mend)
        self.step, self.samples = step, list(samples)


class StoppedError(TrainingError):
    """A run that Ctrl-C stopped between two steps; it is saved and can go on."""

    exit_code = INTERRUPTED


class CheckpointError(OnnxmxError):
    """A checkpoint or run directory that is missing, damaged, or belongs to another model."""


class MissingExtraError(OnnxmxError):
    """An optional package is not installed. note: what to add to the pip command."""

    def __init__(self, package: str, extra: str, purpose: str, *, note: str = "") -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; it is not installed",
            mend=f"Install it with: pip install 'onnxmx[{extra}]'" + (f", {note}" if note else ""),
        )


class OnnxmxWarning(UserWarning):
    """Something that works, though perhaps not as it was meant."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message that says something, or else the kind of the error."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option closest to `name`, or None when nothing is close, or it is no name."""
    if not isinstance(name, str):
        return None
    matches = difflib.get_close_matches(name.lower(), {o.lower(): o for o in options}, n=1)
    return next((o for o in options if matches and o.lower() == matches[0]), None)


def unknown_name(kind: str, name: str, options: Iterable[str], *, at: str | None = None) -> UsageError:
    """The error for a name that is not among `options`; it offers the nearest one. at: where it was written."""
    options = sorted(options)
    near = nearest(name, options)
    return UsageError(
        f"no {kind} named {name!r}",
        at=at,
        mend=f"Did you mean {near!r}?" if near else f"There are: {', '.join(options)}.",
    )
