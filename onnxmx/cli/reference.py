"""docs/cli.md, written from the commands themselves: `python -m onnxmx.cli.reference docs/cli.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from onnxmx.cli import COMMANDS, cli
from onnxmx.errors import INTERRUPTED

_HEAD = f"""\
# Command line

Written by `python -m onnxmx.cli.reference docs/cli.md`; a test fails when it is stale.

`onnxmx --help` lists the commands, `onnxmx COMMAND --help` says what is said here.

**Exit codes.** 0: done. 1: it could not be done. 2: wrong usage. {INTERRUPTED}: interrupted.

**Output.** Answers go to stdout, progress and errors to stderr. With `--format json` stdout gets one JSON object and
nothing else, for an error too: `{{"error": {{"type": ..., "message": ..., "at": ..., "mend": ...}}}}`, of which `at`
and `mend` may be null. The exception is `predict MODEL -`, which answers each line of stdin by a line of JSON, and one
that cannot be answered by its error. A number that is not finite is null. A traceback is
shown only with `--debug`, before or after the command.
"""


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *map(_section, COMMANDS)])


def _section(name: str) -> str:
    ctx = click.Context(cli)
    command = cli.get_command(ctx, name)
    assert command is not None
    with click.Context(command, info_name=f"onnxmx {name}", **command.context_settings) as ctx:
        usage = " ".join([f"onnxmx {name}", *command.collect_usage_pieces(ctx)])
        options = [f"- `{names}`: {text}" for names, text in _options(command, ctx)]
    _, _, example = (command.epilog or "").partition("Example:\n")
    parts = [
        f"## onnxmx {name}",
        f"`{usage}`",
        inspect.cleandoc(command.help or ""),
        "\n".join(options),
        f"```sh\n{inspect.cleandoc(example)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _options(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record:
            names, text = record
            yield names, " ".join(text.split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render())
