"""`onnxmx models`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxmx.cli.command import command
from onnxmx.cli.output import Answer, Result, Table

_LISTED = Path(__file__).parents[1] / "models" / "listed.json"


@command(example="onnxmx models")
def models() -> Answer:
    """List the models that `onnxmx train` knows by name."""
    found = listed()
    rows = [(m["name"], m["takes"], f"{m['parameters']:,}", m["summary"]) for m in found]
    return Result({"models": found}, Table(("name", "input", "parameters", "what"), rows, numbers=("parameters",)))


def listed() -> list[dict[str, Any]]:
    """The rows of `mx.models.list_models` as they are kept beside the models: building each takes two seconds."""
    found: list[dict[str, Any]] = json.loads(_LISTED.read_text())
    return found
