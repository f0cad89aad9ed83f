"""What a command answers: text for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import click


class Answer(Protocol):
    """What a command returns."""

    def write(self, stdout: TextIO, *, as_json: bool) -> int | None:
        """Returns the exit code where it is not 0."""


@dataclass(frozen=True)
class Result:
    """One answer. data: the JSON object.   text: what a person reads instead."""

    data: dict[str, Any]
    text: str | Table

    def write(self, stdout: TextIO, *, as_json: bool) -> None:
        if as_json:
            click.echo(to_json(self.data), file=stdout)
        elif isinstance(self.text, Table) and stdout.isatty():
            self.text.draw(stdout)
        else:
            click.echo(str(self.text), file=stdout)


@dataclass(frozen=True)
class Stream:
    """Answers without end, written as they come: a line each, in JSON a JSON object a line.

    One that holds an "error" makes the exit code 1, and its text goes to stderr in both forms.
    """

    items: Iterable[tuple[dict[str, Any], str]]

    def write(self, stdout: TextIO, *, as_json: bool) -> int | None:
        failed = False
        for data, text in self.items:
            failed |= "error" in data
            if "error" in data:
                click.echo(text, err=True)
            if as_json or "error" not in data:
                click.echo(to_json(data) if as_json else text, file=stdout)
        return 1 if failed else None


@dataclass(frozen=True)
class Table:
    """Rows of text under a head. numbers: the columns that are set to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = (
            "  ".join(
                cell.rjust(width) if name in self.numbers else cell.ljust(width)
                for name, cell, width in zip(self.head, row, widths, strict=True)
            ).rstrip()
            for row in (self.head, *self.rows)
        )
        return "\n".join(lines)

    def draw(self, stdout: TextIO) -> None:
        """On a terminal: fitted to its width."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.head:
            table.add_column(name, justify="right" if name in self.numbers else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))  # Text: brackets in a cell are not markup
        Console(file=stdout).print(table)


def to_json(value: Any) -> str:
    """One line of JSON. A number that is not finite, for which JSON has no word, becomes null."""
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
