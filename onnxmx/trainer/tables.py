"""Tables of a configuration: `{name = "adamw", beta1 = 0.8}`, checked against the class that the name stands for.

As text such a table is `adamw:beta1=0.8`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from onnxmx.errors import UsageError, nearest
from onnxmx.trainer.named import parts, unknown

Table = dict[str, Any]


def make(what: str, found: str | Table, kinds: Mapping[str, Any], kind: str = "", **given: Any) -> Any:
    """What a name or a table with a `name` stands for.

    what: where it stands, for errors.   kinds: classes by name.   kind: what they are.
    given: what is given besides the table's own options.
    Raises UsageError for an unknown name or option, which it answers with the nearest one, and a missing option.
    """
    table = as_table(what, found)
    name, options = table["name"], {k: v for k, v in table.items() if k != "name"}
    if name not in kinds:
        raise unknown(kind or what, name, kinds)
    fields = {f.name: f for f in dataclasses.fields(kinds[name]) if f.init and f.name not in given}
    hints = get_type_hints(kinds[name])
    for key, value in options.items():
        if key not in fields:
            raise unknown_key(f"{what} {name!r}", key, fields)
        check_type(f"expected {what}.{key}", value, hints[key])
    for key, field in fields.items():
        if field.default is field.default_factory is dataclasses.MISSING and key not in options:
            raise UsageError(f"{what} expected {key!r} for {name!r}; found none", mend=f"Add {what}.{key} = ...")
    return kinds[name](**given, **options)


def as_table(what: str, found: Any, default: str | None = None) -> Table:
    """A table with a name, which is `default` where it has none, or text. Raises UsageError for others."""
    table = _of_text(what, found) if isinstance(found, str) else found
    if isinstance(table, dict) and default is not None:
        table = {"name": default, **table}
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise UsageError(
            f"{what} expected a name or a table with one; found {found!r}", mend=f'Such as {what}.name = "...".'
        )
    return table


def _of_text(what: str, text: str) -> Table:
    name, options = parts(what, text)
    return {"name": name, **options}


def listed(found: Any) -> list[Any]:
    """One or several."""
    return found if isinstance(found, list) else [found]


def unknown_key(where: str, key: str, keys: Mapping[str, Any]) -> UsageError:
    """The error for a key that does not stand in the schema; it offers the nearest one."""
    near = nearest(key, keys)
    return UsageError(
        f"{where} has an unknown key {key!r}",
        mend=f"Did you mean {near!r}?" if near else f"There are: {', '.join(keys)}." if keys else "It takes none.",
    )


def check_type(what: str, value: Any, hint: Any) -> None:
    """Raises UsageError where a value of TOML is not of the type."""
    kinds = [get_origin(k) or k for k in (get_args(hint) if get_origin(hint) in _UNIONS else (hint,))]
    shown = {_NAMES[k]: k for k in kinds if k in _NAMES}
    found = float if type(value) is int and float in kinds and int not in kinds else type(value)
    if not any(found in (k, list if k is tuple else k) for k in shown.values()):
        raise UsageError(f"{what} to be {' or '.join(shown)}; found {value!r}")


_UNIONS = (Union, UnionType)
_NAMES: dict[Any, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    list: "a list",
    tuple: "a list",
}
_TWINS = {"lr": "optimizer.lr", "warmup": "schedule.warmup"}


def override(values: Table, settings: Mapping[str, Any], shorthands: Mapping[str, str]) -> Table:
    """A copy of `values` in which each dotted key of `settings` has its value: {"optimizer.lr": 3e-4}.

    shorthands: by key, what a number in the place of a table is the value of.
    Raises UsageError for a key that leads nowhere.
    """
    values = {key: _copied(value) for key, value in values.items()}
    for dotted, value in settings.items():
        for short, long in _TWINS.items():  # one number with two places: the last one said counts
            if dotted == short:
                _drop(values, long)
            elif dotted == long:
                values.pop(short, None)
        *path, last = dotted.split(".")
        if not all((*path, last)):
            raise UsageError(f"a setting expected a key such as optimizer.lr; found {dotted!r}")
        place: Any = values
        for depth, key in enumerate(path):
            place = _step(place, key, ".".join(path[: depth + 1]), shorthands)
        if isinstance(place, list):
            place[_index(place, last, dotted)] = value
        else:
            place[last] = value
    return values


def _step(place: Any, key: str, where: str, shorthands: Mapping[str, str]) -> Any:
    """The table or list at `key`, which stands there from now on in the place of text or a number."""
    at: Any = key
    what = key
    if isinstance(place, list):
        at, what = _index(place, key, where), where.split(".")[-2]
    found = place[at] if isinstance(place, list) else place.get(key, {})
    if isinstance(found, str):
        found = _of_text(where, found)
    elif isinstance(found, (int, float)):
        found = {"name": shorthands[what]} if what in shorthands else found
    if not isinstance(found, (dict, list)):
        raise UsageError(f"{where} expected a table to set a part of; found {found!r}", mend="Set it as a whole.")
    place[at] = found
    return found


def _index(place: list[Any], key: str, where: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise UsageError(f"{where} expected a place from 0 to {len(place) - 1} in a list; found {key!r}")
    return int(key)


def _drop(values: Table, dotted: str) -> None:
    table, _, key = dotted.partition(".")
    if isinstance(values.get(table), dict):
        values[table].pop(key, None)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def parse_setting(text: str) -> tuple[str, Any]:
    """`optimizer.lr=3e-4` as a dotted key and a value: TOML where it is that, else text. Raises UsageError."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise UsageError(f"a setting expected KEY=VALUE; found {text!r}", mend="For example -s optimizer.lr=3e-4")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
