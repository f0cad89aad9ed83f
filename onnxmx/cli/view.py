"""`onnxmx view`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from onnxmx.cli.command import command
from onnxmx.cli.output import Answer, Result

if TYPE_CHECKING:
    from onnxmx.builder.viewer import View


@command(example="onnxmx view lenet --no-browser")
@click.argument("model")
@click.option("--port", type=int, default=0, show_default=True, help="The port; 0 for any that is free.")
@click.option("--no-browser", is_flag=True, help="Open no browser: the address is printed anyway.")
def view(model: str, port: int, no_browser: bool) -> Answer:
    """Look at the graph of a model in a browser, until Ctrl-C.

    MODEL is a name from `onnxmx models`, path.py:function, or an .onnx file. Needs the extra `plot`.
    """
    from onnxmx.builder.viewer import view as library
    from onnxmx.trainer.run import resolve_model

    name = Path(model.partition(":")[0]).stem
    return _Served(library(resolve_model(model), name, port=port, browser=not no_browser))


@dataclass(frozen=True)
class _Served:
    """The address at once, and then the wait."""

    view: View

    def write(self, stdout: TextIO, *, as_json: bool) -> None:
        Result({"url": self.view.url}, f"{self.view.url} (Ctrl-C ends it)").write(stdout, as_json=as_json)
        stdout.flush()
        self.view.wait()
