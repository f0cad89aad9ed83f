"""What a person or a program sees of an error.

On stderr `ShapeError: what was expected and found`, then where, then how to mend it. With `--format json` also on
stdout, {"error": {"type": "ShapeError", "message": ..., "at": ..., "mend": ...}}: a program reads one object from
stdout whatever happens.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import click

from onnxmx.cli.habits import advice
from onnxmx.cli.output import to_json
from onnxmx.errors import INTERRUPTED, OnnxmxError


def report(error: BaseException, *, as_json: bool) -> int:
    """Show the error and return the exit code that goes with it."""
    if isinstance(error, click.Abort) and error.__cause__ is not None:
        error = error.__cause__  # click makes one of KeyboardInterrupt and EOFError
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    kind, code, shown = _explain(error)
    with contextlib.suppress(OSError):  # nobody reads it: there is nobody left to tell
        click.echo(f"{kind}: {shown}", err=True)
        if as_json:
            click.echo(to_json(to_object(shown, kind)))
    return code


def to_object(error: OnnxmxError, kind: str | None = None) -> dict[str, Any]:
    """The error as JSON has it. kind: by default its own."""
    found = {"type": kind or type(error).__name__, "message": error.problem, "at": error.at, "mend": error.mend}
    return {"error": found}


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether the command line asks for JSON: known even where it could not be parsed."""
    return "--format=json" in words or ("--format", "json") in itertools.pairwise(words)


def _explain(error: BaseException) -> tuple[str, int, OnnxmxError]:
    """What kind of error it is, its exit code, and what there is to say."""
    if isinstance(error, OnnxmxError):
        return type(error).__name__, error.exit_code, error
    if isinstance(error, click.ClickException):
        return "UsageError", error.exit_code, _usage(error)
    kind = type(error).__name__
    if isinstance(error, MemoryError):
        return kind, 1, OnnxmxError("there is not enough memory", mend="Give a smaller --batch-size, or less data.")
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return (
            kind,
            1,
            OnnxmxError(f"{error.strerror or error}{where}", mend="Check that path, its permissions and its disk."),
        )
    text = " ".join(str(error).split())
    return kind, 1, OnnxmxError(f"{text}; this is a bug in onnxmx; run with --debug and report what it shows")


def _usage(error: click.ClickException) -> OnnxmxError:
    """What click found wrong with the words of a command."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    if ctx and isinstance(error, click.NoSuchOption):
        takes = {name for parameter in ctx.command.params for name in parameter.opts}
        if known := advice(error.option_name, takes):
            return OnnxmxError(f"No such option '{error.option_name}'.", mend=known)
    if ctx and "unexpected extra argument" in error.format_message():
        data = [f"A dataset is given by --data: {ctx.command_path} MODEL --data DATASET. "]
        takes = {name for parameter in ctx.command.params for name in parameter.opts}
        return OnnxmxError(
            error.format_message(), mend=f"{data[0] if '--data' in takes else ''}See: {ctx.command_path} --help"
        )
    return OnnxmxError(error.format_message(), mend=f"See: {ctx.command_path if ctx else 'onnxmx'} --help")
