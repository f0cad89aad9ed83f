"""Where a number that is not finite came from: a step run once more, with every value kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxmx.builder.metadata import SOURCE
from onnxmx.builder.session import open_session, run_errors
from onnxmx.errors import OnnxmxError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Offender:
    """The first value on the way to a bad one that is not finite.

    what: what made it.   value, place, shape: the first such number in it, its index, and the shape.
    read: the least and largest number that its maker read, or None.   source: the user's line, or None.
    """

    what: str
    value: float
    place: tuple[int, ...]
    shape: tuple[int, ...]
    read: tuple[float, float] | None
    source: str | None

    def row(self, samples: int) -> int | None:
        """Which of the batch's samples it belongs to, where its first axis counts them."""
        return self.place[0] if self.place and self.shape[0] == samples else None

    def __str__(self) -> str:
        at = f" at [{', '.join(map(str, self.place))}]" if self.place else ""
        read = f", whose inputs lie in [{self.read[0]:.3g}, {self.read[1]:.3g}]" if self.read else ""
        built = f", built at {self.source}" if self.source else ""
        return f"{self.value}{at} of {self.what}{read}{built}"


def find_offender(data: bytes, state: Mapping[str, Array], batch: Mapping[str, Array], bad: str) -> Offender | None:
    """Follow the output `bad` of a step graph back to the first value that is not finite.

    data: the graph.   state, batch: what it read, by bare name.
    None where it cannot be run once more, for want of memory for instance, or where it gives a finite number now.
    """
    model = onnx.load_from_string(data)
    feeds = {f"state.{k}": v for k, v in state.items()} | {f"batch.{k}": v for k, v in batch.items()}
    makers = {name: node for node in model.graph.node for name in node.output if name}
    given = {port.name for port in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in makers if name not in given)
    try:
        session = open_session(model.SerializeToString(), threads=1)
        names = [port.name for port in session.get_outputs()]
        with run_errors("expected a step that runs once more"):
            values = dict(zip(names, session.run(names, feeds), strict=True)) | feeds
    except (OnnxmxError, MemoryError):
        return None
    if not _bad(values[bad]):
        return None
    values |= {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    name = bad
    while (node := makers.get(name)) and (worse := _worst(node, values)):
        name = worse
    return _describe(name, makers.get(name), values)


def _worst(node: onnx.NodeProto, values: Mapping[str, Any]) -> str | None:
    """The input of a node that is to blame: one with NaN, or else one with an infinity, or none."""
    bad = [name for name in node.input if _bad(values.get(name))]
    return next((name for name in bad if np.isnan(values[name]).any()), bad[0] if bad else None)


def _bad(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all()


def _describe(name: str, node: onnx.NodeProto | None, values: Mapping[str, Any]) -> Offender:
    value = values[name]
    place = tuple(int(k) for k in np.argwhere(~np.isfinite(value))[0])
    if node is None:
        kind, _, rest = name.partition(".")
        what = {"state": f"{rest} as the step began", "batch": f"{rest} in the batch"}.get(kind, name)
        return Offender(what, float(value[place]), place, value.shape, None, None)
    floats = [v for n in node.input if isinstance(v := values.get(n), np.ndarray) and v.dtype.kind == "f" and v.size]
    read = (min(float(v.min()) for v in floats), max(float(v.max()) for v in floats)) if floats else None
    source = next((p.value for p in node.metadata_props if p.key == SOURCE), None)
    return Offender(f"{node.op_type} {node.name!r}", float(value[place]), place, value.shape, read, source)
