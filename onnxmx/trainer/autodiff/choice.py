"""Several formulations of one gradient, and who picks among them.

A rule that knows several ways to compute the same says so once, as a Choice, and calls it like a function:

    WEIGHT = Choice("Conv", "dW", dilated=dilated, one_hot=one_hot)
    ...
    dw = WEIGHT(g, x, w, dy, window=window, group=group, default="dilated")

`default` is what a heuristic says. A picker that `picking` puts in charge may say otherwise: `onnxmx.trainer.tune` asks
the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value

Formulation = Callable[..., Value]
Picker = Callable[["Choice", Sequence[ir.Value], dict[str, Any], str], str]

CHOICES: list[Choice] = []
"""All of them, in the order of their definition."""

_PICKER: ContextVar[Picker | None] = ContextVar("picker", default=None)


class Uncovered(Exception):
    """A formulation does not cover the inputs that it was asked about. It says so before it adds a node."""


class Choice:
    """Formulations by name: functions (g, *inputs, **options) -> value that compute the same.

    operator, of: whose gradient it is, and with respect to what.
    """

    def __init__(self, operator: str, of: str, **forms: Formulation) -> None:
        self.operator, self.of, self.forms = operator, of, forms
        CHOICES.append(self)

    def __call__(self, g: GraphBuilder, *inputs: ir.Value, default: str, **options: Any) -> Value:
        """Add the formulation that is picked, or the default where that does not cover these inputs."""
        picker = _PICKER.get()
        name = default if picker is None else picker(self, inputs, options, default)
        try:
            return self.forms[name](g, *inputs, **options)
        except Uncovered:  # an old cache may know it otherwise
            return self.forms[default](g, *inputs, **options)


@contextmanager
def picking(picker: Picker | None) -> Iterator[None]:
    """Let `picker(choice, inputs, options, default) -> name` pick, for as long as this lasts."""
    token = _PICKER.set(picker)
    try:
        yield
    finally:
        _PICKER.reset(token)
