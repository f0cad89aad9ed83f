"""The register of the zoo: the build functions by name, and the inputs that each one's model takes.

A build function takes its options and returns a layer. Beside it stands, as another function of the same options,
what that layer is to be built on:

    @model(images)
    def lenet(input: Shape = (1, 28, 28), classes: int = 10) -> L.Layer:
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from onnxmx.builder import layers as L
from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.model import Input, Model
from onnxmx.builder.values import Dim
from onnxmx.errors import UsageError, unknown_name

Shape = Sequence[int]
"""Of one sample, without the batch."""
Times = Sequence[Dim]
"""The shape of one text: its length, or a name where any length will do."""

Function = Callable[..., L.Layer]
Takes = Callable[..., dict[str, Input]]
_F = TypeVar("_F", bound=Function)

MODELS: dict[str, Function] = {}
_TAKES: dict[Function, Takes] = {}


def model(takes: Takes) -> Callable[[_F], _F]:
    """Enter a build function in the list. takes: its model's inputs, from the function's own options."""

    def enter(function: _F) -> _F:
        checked = cast(_F, checked_arguments(function))
        MODELS[function.__name__] = checked
        _TAKES[checked] = takes
        return checked

    return enter


def images(input: Shape, **_: Any) -> dict[str, Input]:
    """One float32 array a sample, such as an image."""
    return {"image": Input(("batch", *input))}


def tokens(input: Times, **_: Any) -> dict[str, Input]:
    """One text a sample: int64 numbers of its words or characters. Raises UsageError for data that is no text."""
    if len(input) != 1:
        raise UsageError(
            f"a model of texts expected input=(length,); found {tuple(input)}",
            mend="Give it rows of word numbers, or take a model of images.",
        )
    return {"tokens": Input(("batch", *input), "int64")}


def get_model(name: str) -> Function:
    """The build function called `name`. Raises UsageError, which offers the nearest name."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def inputs_of(function: Function, **options: Any) -> dict[str, Input] | None:
    """What the model of `function(**options)` takes; None for a function that is not of the zoo."""
    takes = _TAKES.get(function)
    if takes is None:
        return None
    bound = inspect.signature(function).bind(**options)
    bound.apply_defaults()
    return takes(**bound.arguments)


def build(name: str, *, seed: int = 0, **options: Any) -> Model:
    """The model called `name` on its own inputs, its weights not drawn yet.

        model = mx.models.build("resnet18", input=(3, 64, 64), classes=5)

    options: as its build function takes them.   seed: what the parameters are drawn from.
    Raises UsageError for a name or an option that is not there.
    """
    function = get_model(name)
    takes = inspect.signature(function).parameters
    for option in options:
        if option not in takes:
            raise unknown_name(f"option of {name}", option, takes)
    return function(**options).build(seed=seed, **(inputs_of(function, **options) or {}))


def about(function: Function) -> tuple[str, str]:
    """What a model is, the first sentence of its docstring, and the paper it comes from, the last one."""
    text = " ".join((inspect.getdoc(function) or "").split())
    _, _, source = text.partition("Source: ")
    return text.partition(". ")[0].rstrip("."), source.rstrip(".")


def list_models() -> list[dict[str, Any]]:
    """For each model its name, what it is, and its inputs, parameters and source at the default size.

    Each is built; no weights are drawn.
    """
    rows = []
    for name, function in MODELS.items():
        inputs = {k: {"shape": list(v.shape), "dtype": v.dtype} for k, v in (inputs_of(function) or {}).items()}
        what, source = about(function)
        parameters = build(name).summary().parameters
        rows.append({"name": name, "summary": what, "inputs": inputs, "parameters": parameters, "source": source})
    return rows


def show_inputs(inputs: dict[str, Any]) -> str:
    """`image 3x224x224` or `user int64, item int64`: the inputs of one row of the list, without the batch."""
    return ", ".join(
        " ".join([name, *([] if spec["dtype"] == "float32" else [spec["dtype"]]), *_by(spec["shape"][1:])])
        for name, spec in inputs.items()
    )


def _by(shape: Sequence[Dim]) -> list[str]:
    return ["x".join(map(str, shape))] if shape else []
