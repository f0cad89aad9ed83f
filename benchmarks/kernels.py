"""Write the table of ONNX Runtime's CUDA kernels: `python -m benchmarks.kernels onnxmx/trainer/kernels.json`.

It asks the installed onnxruntime-gpu itself, so it wants a machine where that package loads its CUDA libraries. Run it
when the version of ONNX Runtime that onnxmx is tested with changes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx

from onnxmx.builder.graph import OPSET
from onnxmx.builder.session import runtime

Types = dict[str, list[str]]


def kernels(provider: str) -> dict[str, list[Types]]:
    """For each operator of `OPSET`, its kernels: the element types that each takes, by type parameter."""
    found: dict[str, list[Types]] = {}
    for d in _definitions():
        if d.provider != provider or d.domain or (since := _since(d.op_name)) is None:
            continue
        first, last = d.version_range
        # A kernel without an end is for the version that it names alone: what came later it does not know.
        if since != first and not (last < 2**31 - 1 and first <= since <= last):
            continue
        _add(found.setdefault(d.op_name, []), {p: sorted(map(_short, t)) for p, t in d.type_constraints.items()})
    return dict(sorted(found.items()))


def inlined() -> list[str]:
    """Operators that are functions and have no kernel anywhere: ONNX Runtime puts their definition in their place."""
    have = {d.op_name for d in _definitions() if not d.domain}
    named = (s for s in onnx.defs.get_all_schemas() if not s.domain and _since(s.name) is not None)
    return sorted(s.name for s in named if (s.has_function or s.has_context_dependent_function) and s.name not in have)


def _add(rows: list[Types], new: Types) -> None:
    """Put a kernel in a row of its own, or in one that differs in the types of one parameter only."""
    for row in rows:
        differ = [p for p in new if row.get(p) != new[p]]
        if row.keys() == new.keys() and len(differ) <= 1:
            for p in differ:
                row[p] = sorted({*row[p], *new[p]})
            return
    rows.append(new)


def _short(name: str) -> str:
    return name.removeprefix("tensor(").removesuffix(")") if name.startswith("tensor") else name


def _since(op_type: str) -> int | None:
    try:
        version: int = onnx.defs.get_schema(op_type, OPSET, "").since_version
        return version
    except onnx.defs.SchemaError:
        return None


def _definitions() -> list[Any]:
    runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return list(state.get_all_opkernel_def())


def main() -> None:
    table = {
        "source": f"get_all_opkernel_def() of onnxruntime-gpu {runtime().__version__}",
        "opset": OPSET,
        "inlined": inlined(),
        "cuda": kernels("CUDAExecutionProvider"),
    }
    rows = [f"  {json.dumps(op)}: {json.dumps(found)}" for op, found in table.pop("cuda").items()]
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items())
    Path(sys.argv[1]).write_text("{\n" + head + ',\n "cuda": {\n' + ",\n".join(rows) + "\n }\n}\n")


if __name__ == "__main__":
    main()
