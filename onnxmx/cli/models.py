"""`onnxmx models`."""

from __future__ import annotations

from onnxmx.cli.command import command
from onnxmx.cli.output import Answer, Result, Table


@command(example="onnxmx models")
def models() -> Answer:
    """List the models that `onnxmx train` knows by name."""
    from onnxmx.models import list_models, show_inputs

    found = list_models()
    rows = [(m["name"], show_inputs(m["inputs"]), f"{m['parameters']:,}", m["summary"]) for m in found]
    return Result({"models": found}, Table(("name", "input", "parameters", "what"), rows, numbers=("parameters",)))
