"""Whether a value is of the kind that an annotation says, and both in words: for errors, once something went wrong."""

from __future__ import annotations

import collections.abc
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from onnxmx.builder.literals import is_number
from onnxmx.builder.source import user_line
from onnxmx.errors import UsageError


def wrong_kind(name: str, of: Any, given: Iterable[tuple[str, Any]]) -> UsageError | None:
    """The error for the first argument of `given` that is not what the annotations of `of` say; None where all are.

    name: what was called.   of: the function or class that has the annotations.
    """
    hints = _hints(of)
    for argument, value in given:
        if argument in hints and not fits(value, hints[argument]):
            kinds = list(_kinds(hints[argument]))
            expected = " or ".join(dict.fromkeys(map(_words, kinds)))
            return UsageError(
                f"{name} expected {argument} as {expected}; found {_shown(value)}",
                at=user_line(),
                mend=next((_MENDS[k.__name__] for k in kinds if k.__name__ in _MENDS), f"See help({name})."),
            )
    return None


def _hints(of: Any) -> dict[str, Any]:
    """The annotations; what is only there for type checkers may be anything. None of them where one cannot be read."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(of, localns=unknown)
        except NameError as error:
            unknown[str(error.name)] = Any
        except Exception:  # of a class of the user's: torch.Tensor, where torch is only there for type checkers
            return {}


def given_to(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The arguments of a call, each with the name of the parameter that takes it."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, each) for each in value)
        elif kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated kind, as far as can be told: not what it holds, nor what a protocol asks."""
    if get_origin(hint) in (Union, UnionType):
        return any(fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return is_number(value)
    if hint is int:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, (bool, np.bool_)) or (isinstance(value, int) and value in (0, 1))
    kind = NoneType if hint is None else get_origin(hint) or hint
    if not isinstance(kind, type):
        return True
    try:
        return isinstance(value, kind) and not (kind in _LISTS and isinstance(value, (str, bytes)))
    except TypeError:  # a protocol that only type checkers know
        return True


def _kinds(hint: Any) -> Iterable[type]:
    """The classes that an annotation is made of."""
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _kinds(part)
    else:
        kind = get_origin(hint) or hint
        if isinstance(kind, type) and kind is not NoneType:
            yield kind


def _words(kind: type) -> str:
    return _WORDS.get(kind, f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}")


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) and len(repr(value)) <= 60 else type(value).__name__


_LISTS = (collections.abc.Sequence, collections.abc.Iterable, tuple, list)
_WORDS: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    os.PathLike: "a path",
    collections.abc.Callable: "a function",  # type: ignore[dict-item]  # a class at run time
    collections.abc.Mapping: "a dict",
    **dict.fromkeys(_LISTS, "a list"),
}
_MENDS = {
    "Model": "mx.load('lenet.onnx') reads one; net.build(x=('batch', 4)) makes one of a layer; a run has run.model.",
    "Dataset": "Make one of arrays: mx.data.Dataset.from_arrays(x, labels).",
    "PathLike": "Such as 'lenet.onnx'.",
    "Value": "To run on arrays, build a model first: model = net.build(x=(...)); model(array).",
    "Optimizer": "Such as mx.Adam(1e-3).",
}
