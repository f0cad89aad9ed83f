"""The model zoo: one build function each, written in the DSL.

Each takes the shape of one input sample and the number of classes, and returns a layer to build:

    from onnxmx import models
    model = models.lenet(input=(1, 28, 28), classes=10).build(image=("batch", 1, 28, 28))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxmx.errors import unknown_name
from onnxmx.models.lenet import lenet
from onnxmx.models.mlp import mlp
from onnxmx.models.resnet import resnet8

MODELS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (mlp, lenet, resnet8)}


def get_model(name: str) -> Callable[..., Any]:
    """The build function called `name`. Raises UsageError, which offers the nearest name."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def list_models() -> list[dict[str, Any]]:
    """For each model its name, what it is, and its input and parameters at the default size."""
    import inspect

    rows = []
    for name, function in MODELS.items():
        shape = inspect.signature(function).parameters["input"].default
        model = function().build(image=("batch", *shape))
        about = (inspect.getdoc(function) or "").splitlines()[0]
        rows.append({"name": name, "summary": about, "input": list(shape), "parameters": model.summary().parameters})
    return rows


__all__ = ["MODELS", "get_model", "lenet", "list_models", "mlp", "resnet8"]
