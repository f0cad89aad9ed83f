"""`onnxmx summary`."""

from __future__ import annotations

import click

from onnxmx.cli.command import command, data_options
from onnxmx.cli.output import Answer, Result


@command(example="onnxmx summary lenet --data digits")
@click.argument("model")
@data_options(required=False)
def summary(model: str, data: str | None, data_dir: str | None) -> Answer:
    """Show the layers of a model: shapes, parameters, operations and memory.

    MODEL is a name from `onnxmx models`, path.py:function, or an .onnx file. With --data, a model that is built here
    is built for that data.
    """
    from onnxmx.trainer.data import get_dataset
    from onnxmx.trainer.run import resolve_model

    found = resolve_model(model, get_dataset(data, "train", data_dir) if data else None).summary()
    return Result({"model": model, **found.to_dict()}, str(found))
