"""The command line: one thin module a command, each calling one library function.

    command.py    what all commands share: --format, --debug, the example in --help, options with library defaults
    output.py     what a command answers, as text or JSON
    habits.py     options as other tools call them
    report.py     what a person or a program sees of an error
    reference.py  writes docs/cli.md

Nothing heavy is imported before a command runs: `onnxmx --help` must feel instant.
"""

from __future__ import annotations

import importlib
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from onnxmx import __version__
from onnxmx.cli.command import HELP_OPTIONS, debug_option
from onnxmx.cli.habits import command_called
from onnxmx.cli.report import asks_for_json, report
from onnxmx.errors import INTERRUPTED, UsageError, unknown_name

COMMANDS = ("models", "datasets", "summary", "view", "train", "evaluate", "predict", "quantize", "distill", "serve")
"""In the order of a model's life. `onnxmx NAME` is `onnxmx.cli.NAME.NAME`."""


class Commands(click.Group):
    """A group that imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"onnxmx.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and args[0] not in COMMANDS:
            if known := command_called(args[0]):
                raise UsageError(f"no command named {args[0]!r}", mend=known)
            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, invoke_without_command=True, context_settings=HELP_OPTIONS)
@click.version_option(__version__, message="onnxmx %(version)s")
@debug_option
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Define, train, compress and serve models in one graph format: even the training step is a plain ONNX file.

    \b
    Start with:
      onnxmx train lenet --data digits -o runs/first
      onnxmx evaluate runs/first/model.onnx --data digits
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 it could not be done, 2 wrong usage, 130 interrupted.

    args: the words after `onnxmx`; by default those of this process.
    """
    whole = args is None  # the process ends with this command
    args = sys.argv[1:] if args is None else list(args)
    words = args[: args.index("--")] if "--" in args else args
    try:
        return cli.main(args, prog_name="onnxmx", standalone_mode=False) or 0
    except (Exception, KeyboardInterrupt) as error:
        # Looked up in the words, not in parsed options: the error may be that they could not be parsed.
        if "--debug" in words:
            traceback.print_exc()
        code = report(error, as_json=asks_for_json(words))
        if whole and code == INTERRUPTED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would break the end, with a traceback
        return code
