"""What a caller writes between the parentheses, checked: an unknown keyword is answered with its name here.

A class that takes arguments of the user's is a `CheckedArguments`, a function has `@checked_arguments`. Signatures stay
what they are, for `inspect`, `help` and type checkers.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar

from onnxmx.builder.elsewhere import hint
from onnxmx.builder.source import raised_at, user_line
from onnxmx.builder.synonyms import instead_of
from onnxmx.errors import UsageError, nearest

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class _Called(type(Protocol)):  # type: ignore[misc]  # found at run time: that of abc.ABC, and its subclass
    """A class whose call is checked. Not its `__new__`: a copy is made through that, without arguments. Nor its
    `__init__`, which a dataclass gets after all that a base class could do about it.

    A class of the user's may also be one of typing.Protocol or abc.ABC: two metaclasses must be one.
    """

    __instancecheck__ = ABCMeta.__instancecheck__  # no class here is itself a protocol
    __subclasscheck__ = ABCMeta.__subclasscheck__

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
        takes = _constructor(cls)
        if takes is not None:
            if not takes.fit(args, kwargs):
                raise _refused(cls.__name__, takes, args, kwargs)
            _check_flags(cls.__name__, _maker(cls), takes, args, kwargs)
        return super().__call__(*args, **kwargs)

    if not TYPE_CHECKING:  # or any attribute would be one to a type checker

        def __getattr__(cls, name: str) -> NoReturn:
            """A class method of another library is answered as an attribute of an object is."""
            said = hint(name, getattr(cls, "_others", {}), ()) if name[0] != "_" else ""
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}{said}")

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of the constructor; `inspect` would give that of `__call__`."""
        maker = _maker(cls)
        parameters = [*inspect.signature(maker).parameters.values()][1:] if maker is not object.__new__ else []
        return inspect.Signature(parameters)


class CheckedArguments(metaclass=_Called):
    """A class whose constructor raises UsageError, at the user's line, for arguments that it does not take.

    So it does for what is neither True nor False where one of them is asked for. Where a constructor of ours stumbles
    over an argument that is not of the kind that its annotation says, that is the error.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("onnxmx."):
            for name in ("__init__", "__post_init__"):
                if name in cls.__dict__:
                    setattr(cls, name, _explained(cls.__dict__[name]))


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """A function that raises UsageError, at the user's line, for arguments that it does not take.

    Where it stumbles over one that is not of the kind that its annotation says, that is the error. What works is not
    looked at, but what is to be True or False: any value works as one of them.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs:
            takes = _parameters(function, bound=False)
            if takes is not None:
                _check_flags(function.__name__, function, takes, (), kwargs)
        try:
            return function(*args, **kwargs)
        except _STUMBLES as error:
            name = function.__name__
            # A traceback that ends in this frame: the call itself failed, nothing inside the function.
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:
                bound = _is_method(function)
                if takes := _parameters(function, bound=bound):
                    raise _refused(name, takes, args[bound:], kwargs) from None
                raise
            if raised_at(error) is not None:  # by the user's own code, which was called inside
                raise
            from onnxmx.builder.kinds import given_to, wrong_kind  # numpy with it: not before it is needed

            if refused := wrong_kind(name, function, given_to(function, args, kwargs)):
                raise refused from None
            raise

    return checked


def refused_arguments(reasons: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function answer an argument that another of ours takes and it does not by the reason, by its name."""

    def refusing(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if name := next((name for name in kwargs if name in reasons), None):
                problem = f"{function.__name__} expected {name} to be left out; found it"
                raise UsageError(problem, at=user_line(), mend=reasons[name])
            return function(*args, **kwargs)

        return checked

    return refusing


def checked_methods(cls: type[C]) -> type[C]:
    """A class each of whose methods is as `checked_arguments` makes it."""
    for name, method in list(vars(cls).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(cls, name, checked_arguments(method))
    return cls


def integer(name: str, found: Any, low: int, below: int | None = None) -> int:
    """`found`, Python's or numpy's, as an int, which JSON can hold. Raises UsageError for others and beyond the limits.

    low: the least that will do.   below: what is too much.
    """
    if isinstance(found, bool) or not isinstance(found, Integral) or int(found) < low:
        raise UsageError(f"{name} expected an integer of at least {low}; found {found!r}")
    if below is not None and int(found) >= below:
        shown = f"2^{below.bit_length() - 1}" if below > 10**6 else below
        raise UsageError(f"{name} expected an integer below {shown}; found {found!r}")
    return int(found)


def plain_numbers(made: Any) -> None:
    """Make Python's numbers of numpy's among the fields of a dataclass: JSON and text hold those alone."""
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if isinstance(value, Real) and hasattr(value, "item"):
            object.__setattr__(made, field.name, value.item())


_STUMBLES = (TypeError, AttributeError, ValueError)
"""What Python raises where a value is not of the kind that was expected."""


def _explained(method: Callable[..., None]) -> Callable[..., None]:
    """A constructor's part, whose errors over an argument of another kind are explained."""

    @functools.wraps(method)
    def explained(self: Any, /, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except _STUMBLES as error:
            if raised_at(error) is not None:  # by the user's own code, which was called inside
                raise
            from onnxmx.builder.kinds import given_to, wrong_kind

            kind = type(self)
            if method.__name__ == "__init__":
                of, given = method, [*given_to(method, (self, *args), kwargs)]
            else:
                of, given = kind, list(vars(self).items())
            if refused := wrong_kind(kind.__name__, of, given):
                raise refused from None
            raise

    return explained


class _Takes(NamedTuple):
    """What a callable takes, its object or class aside.

    places: the parameters that may be given by place.   flags: those that are a bool.
    any_place, any_name: whether any number may be given by place, and any name.
    """

    names: tuple[str, ...]
    places: tuple[str, ...]
    required: frozenset[str]
    flags: frozenset[str]
    any_place: bool
    any_name: bool

    def fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call with these would be taken."""
        placed = self.places[: len(args)]
        if len(args) > len(placed) and not self.any_place:
            return False
        if not self.any_name and not all(map(self.names.__contains__, kwargs)):
            return False
        return kwargs.keys().isdisjoint(placed) and self.required <= {*placed, *kwargs}


@functools.cache
def _constructor(cls: type) -> _Takes | None:
    """What the constructor of `cls` takes; None where a class of the user's checks that for itself."""
    maker = _maker(cls)
    if maker is object.__new__:
        return _Takes((), (), frozenset(), frozenset(), False, False)
    return _parameters(maker, bound=True) if maker.__name__ == "__init__" else None


def _maker(cls: Any) -> Callable[..., Any]:
    """What takes the arguments of a constructor: `__init__`, or `__new__` where a class has no other."""
    found: Callable[..., Any] = cls.__new__ if cls.__init__ is object.__init__ else cls.__init__
    return found


@functools.cache
def _parameters(function: Callable[..., Any], *, bound: bool) -> _Takes | None:
    """What a function takes.   bound: whether its first parameter is an object or a class, which no caller writes.

    None where a name could be that of two parameters: with some by place alone, Python itself knows best.
    """
    found = list(inspect.signature(function).parameters.values())
    if bound and found and found[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        del found[0]
    if any(p.kind is p.POSITIONAL_ONLY for p in found):
        return None
    named = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    kinds = {p.kind for p in found}
    return _Takes(
        tuple(p.name for p in named),
        tuple(p.name for p in named if p.kind != p.KEYWORD_ONLY),
        frozenset(p.name for p in named if p.default is p.empty),
        frozenset(p.name for p in named if p.annotation in ("bool", bool)),
        inspect.Parameter.VAR_POSITIONAL in kinds,
        inspect.Parameter.VAR_KEYWORD in kinds,
    )


def _is_method(function: Callable[..., Any]) -> bool:
    """Whether the first argument of a function of ours is an object or a class."""
    return next(iter(inspect.signature(function).parameters), "") in ("self", "cls")


def _check_flags(name: str, of: Any, takes: _Takes, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raises UsageError for what is neither True nor False where `of` asks for one of them."""
    if not takes.flags:
        return
    for flag, value in (*zip(takes.places, args, strict=False), *kwargs.items()):
        if flag in takes.flags and not isinstance(value, bool):
            from onnxmx.builder.kinds import wrong_kind

            if refused := wrong_kind(name, of, [(flag, value)]):
                raise refused


def _refused(name: str, takes: _Takes, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> UsageError:
    """The error for a call that does not fit."""
    placed = takes.places[: len(args)]
    strange = [] if takes.any_name else [key for key in kwargs if key not in takes.names]
    missing = [n for n in takes.names if n in takes.required and n not in kwargs and n not in placed]
    twice = [n for n in placed if n in kwargs]
    if strange:
        expected = f"arguments among {', '.join(takes.names)}" if takes.names else "no arguments by name"
        found, mend = repr(strange[0]), _mend(name, strange[0], takes)
    elif len(args) > len(placed) and not takes.any_place:
        expected = f"{', '.join(takes.places) or 'nothing'} by place"
        found = f"{len(args)} value{'s' * (len(args) > 1)}"
        mend = _too_many(name, takes, args)
    elif twice:
        expected, found = f"{twice[0]!r} once", "it by place and by name"
        mend = "Leave one of them out."
        if isinstance(args[takes.places.index(twice[0])], (Mapping, list)):  # PyTorch: Adam(parameters, lr=1e-3)
            mend = instead_of("parameters", ()) or mend
    else:
        expected, found = " and ".join(map(repr, missing)), "none"
        mend = f"Call it as {name}({', '.join(_shown(n, takes) for n in takes.names if n in takes.required)})."
    return UsageError(f"{name} expected {expected}; found {found}", at=user_line(), mend=mend)


def _too_many(name: str, takes: _Takes, args: tuple[Any, ...]) -> str:
    """What to write where more is given by place than is taken so."""
    rest = "Give the others by name." if set(takes.names) - set(takes.places) else "Leave the others out."
    if any(type(value).__name__ == "Value" for value in args):  # Flatten(x)
        return f"Make the layer, then call it: {name}(...)(x)."
    if name in _BY_NAME:
        return _BY_NAME[name]
    if "data" in takes.places:  # Keras: fit(x, y)
        return f"Make one of arrays: data=mx.data.Dataset.from_arrays(x, y). {rest}"
    if takes.places[:1] in (("units",), ("channels",)) or ("epsilon" in takes.names and not takes.places):
        # PyTorch: Linear(4, 3), BatchNorm2d(8)
        return f"The size of its input is none of them: a layer takes that from what it is called on. {rest}"
    return rest


_BY_NAME = {
    "Model": "mx.build(net, x=('batch', 4)) makes a model of a layer, or of a function of graph values.",
    "Trainer": "Give the others by name: Trainer(model, optimizer=mx.SGD(0.1)).",
    "build": "Give each input by name, with its shape: build(x=('batch', 4)).",
    "step": "Make one dict of all arrays: step({'image': x, 'label': y}).",
}


def _shown(name: str, takes: _Takes) -> str:
    return name if name in takes.places else f"{name}=..."


def _mend(function: str, name: str, takes: _Takes) -> str:
    if known := instead_of(name, takes.names):
        return known
    near = nearest(name, takes.names)
    return f"Did you mean {near!r}?" if near else f"Leave it out; help({function}) says what it takes."
