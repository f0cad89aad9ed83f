"""`onnxmx datasets`."""

from __future__ import annotations

import click

from onnxmx.cli.command import command
from onnxmx.cli.output import Answer, Result, Table


@command(example="onnxmx datasets --data-dir ~/data/mnist")
@click.option("--data-dir", metavar="DIR", help="Where to look for files; by default $ONNXMX_DATA or the cache.")
def datasets(data_dir: str | None) -> Answer:
    """List the datasets that go by a name, and whether each is on this machine already."""
    from onnxmx.trainer.data import list_datasets

    found = list_datasets(data_dir)
    rows = [
        (
            d.name,
            f"{d.train:,}",
            f"{d.test:,}",
            " ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in d.inputs.items()),
            str(len(d.classes)) if d.classes else "-",
            "yes" if d.available else "by download",
            d.summary,
        )
        for d in found
    ]
    head = ("name", "train", "test", "input", "classes", "available", "what")
    return Result({"datasets": [d.to_dict() for d in found]}, Table(head, rows, numbers=("train", "test", "classes")))
