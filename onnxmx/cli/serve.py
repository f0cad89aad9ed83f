"""`onnxmx serve`."""

from __future__ import annotations

from typing import Any

import click

from onnxmx.cli.command import command, given, library_option
from onnxmx.cli.output import Answer, Result

_SERVE = "onnxmx.serve:serve"


@command(example="onnxmx serve runs/lenet-digits/model.onnx --port 8000")
@click.argument("path", metavar="REPO_OR_FILE")
@library_option("--host", default_in=f"{_SERVE}.host", help="The address to listen on; 0.0.0.0 for all.")
@library_option("--port", type=int, default_in=f"{_SERVE}.port", help="The port; 0 for any that is free.")
@library_option(
    "--max-body-mb",
    type=int,
    default_in=f"{_SERVE}.max_body_bytes",
    show=lambda size: size >> 20,
    help="The largest request, in MiB; a larger one gets 413.",
)
@library_option("--threads", type=int, default_in=f"{_SERVE}.threads", help="Worker threads of one request.")
def serve(path: str, max_body_mb: int | None, **options: Any) -> Answer:
    """Answer requests over HTTP, in the Open Inference Protocol v2, until SIGTERM or Ctrl-C.

    REPO_OR_FILE is an .onnx file, or a folder of <model>/<version>/model.onnx.

    Unlike predict, which takes raw values, infer takes them prepared, as the model reads them: GET /v2/models/<model>
    shows the preprocessing, and the classes, under `parameters`. With "parameters": {"preprocess": true} in a request
    its values are raw, and the server prepares them.
    """
    from onnxmx.serve import serve as library

    if max_body_mb is not None:
        options["max_body_bytes"] = max_body_mb << 20
    library(path, **given(options))
    return Result({"served": path}, "stopped")
