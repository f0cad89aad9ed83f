"""What all commands share."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import click

from onnxmx.cli.output import Answer

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)  # `main` looks it up itself
_format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What stdout gets: text for people, or one JSON object.",
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def command(*, example: str) -> Callable[[Callable[..., Answer | None]], click.Command]:
    """Makes a command of a function that returns its answer: its name is the function's, its help the docstring.

    example: one or more lines to type, shown at the end of the help.
    """

    def make(function: Callable[..., Answer | None]) -> click.Command:
        @functools.wraps(function)
        def run(form: str, **options: Any) -> int | None:
            stdout = sys.stdout
            # A model's own code, or a library, may print: stdout is for the answer alone.
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                answer = function(**options)
                return answer.write(stdout, as_json=form == "json") if answer is not None else None

        lines = "\n".join(f"  {line}" for line in example.splitlines())
        run = _format_option(debug_option(run))
        # The shared options were added last but are read least: they go to the end.
        parameters: list[click.Parameter] = run.__click_params__  # type: ignore[attr-defined]
        parameters[:] = parameters[-2:] + parameters[:-2]
        return click.command(epilog=f"\b\nExample:\n{lines}", context_settings=HELP_OPTIONS)(run)

    return make


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """A line of text: where in this package or another it was said is of no use to who typed a command."""
    print(f"onnxmx: warning: {message}", file=sys.stderr)


class LibraryOption(click.Option):
    """An option whose default belongs to the library: left out unless given, and looked up when help is shown.

    default_in: where to look, as `module:function.parameter`; a dataclass will do for the function.
    choices_in: a table whose keys are the values allowed, as `module:name`; the library itself checks them.
    show: how to write the default.
    """

    def __init__(
        self,
        *args: Any,
        default_in: str,
        choices_in: str | None = None,
        show: Callable[[Any], object] = str,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self._default_in, self._choices_in, self._show = default_in, choices_in, show

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None:
            return None
        names, text = record
        if self._choices_in:
            module, _, table = self._choices_in.partition(":")
            choices: Iterable[str] = getattr(importlib.import_module(module), table)
            text = f"{text} One of: {', '.join(choices)}."
        default = _default(self._default_in)
        return names, text if default in (
            None,
            inspect.Parameter.empty,
        ) else f"{text}  [default: {self._show(default)}]"


def library_option(*names: str, **attributes: Any) -> Decorator:
    """A LibraryOption; the attributes are those of it and of `click.option`."""
    return click.option(*names, cls=LibraryOption, **attributes)


def threads_option(of: str) -> Decorator:
    """--threads, whose default is that of `of`, a library function as `module:function`."""
    words = "Worker threads; by default the cores of this machine."
    return library_option("--threads", type=int, default_in=f"{of}.threads", help=words)


def provider_option(of: str) -> Decorator:
    """--provider, likewise."""
    table = "onnxmx.builder.session:PROVIDERS"
    return library_option("--provider", choices_in=table, default_in=f"{of}.provider", help="Where to run.")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those options that were given: the library has its own defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


def data_options(*, required: bool = True) -> Decorator:
    """--data and --data-dir."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        folder = click.option(
            "--data-dir", metavar="DIR", help="Where the dataset's files are; by default $ONNXMX_DATA or the cache."
        )
        name = click.option(
            "--data",
            required=required,
            metavar="DATASET",
            help="A name from `onnxmx datasets`, or an .npz file (docs/data.md).",
        )
        return name(folder(function))

    return add


def _default(where: str) -> Any:
    module, _, rest = where.partition(":")
    function, _, parameter = rest.partition(".")
    return inspect.signature(getattr(importlib.import_module(module), function)).parameters[parameter].default
