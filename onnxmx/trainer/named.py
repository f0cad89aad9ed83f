"""Losses and metrics as text: `huber`, and with options `huber:delta=0.5,weight=0.3`."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from typing import Any

from onnxmx.errors import UsageError, unknown_name

_LONGEST = 10_000  # characters of options: the text may come from a file of someone else's


def named(kind: str, text: str, table: Mapping[str, Any], short: Mapping[str, Any]) -> Any:
    """What `text` names in `table`, or by a shorter name in `short`, made with the options that it gives.

    Raises UsageError for an unknown name or option, and for a value that is not allowed.
    """
    name, _, options = text.partition(":")
    found = {**short, **table}.get(name)
    if found is None:
        raise unknown_name(kind, name, table)
    values = _values(kind, text, options)
    known = [f.name for f in dataclasses.fields(found) if f.init]
    for option in values:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return found(**values)


def spell(name: str, made: Any) -> str:
    """The text that `named` makes an equal of `made` from: its name and the options that are not their defaults."""
    options = [
        f"{f.name}={_literal(getattr(made, f.name))}"
        for f in dataclasses.fields(made)
        if f.init and getattr(made, f.name) != f.default
    ]
    return name + (":" + ",".join(options) if options else "")


def _values(kind: str, text: str, options: str) -> dict[str, Any]:
    try:
        if len(options) > _LONGEST:
            raise ValueError(f"{len(options)} characters")
        call = ast.parse(f"f({options})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("no name before a value")
        return {str(k.arg): _value(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"a {kind} expected a name and options, as in huber:delta=0.5,weight=2; found {text[:80]!r}",
            mend="Options follow a colon, with commas between them; a list is written [1,2].",
        ) from error


def _value(node: ast.expr) -> Any:
    """A number, text, list, true, false or none; a word stands for itself."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)
    value = ast.literal_eval(node)
    return tuple(value) if isinstance(value, list) else value


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(_literal, value)) + "]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return value if isinstance(value, str) and value.isidentifier() else repr(value)
