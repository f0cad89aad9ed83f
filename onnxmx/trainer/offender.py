"""Where a number that is not finite came from: a step run once more, with every value kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    samples: those that its pass was over, of the batch.
    """

    what: str
    value: float
    place: tuple[int, ...]
    shape: tuple[int, ...]
    read: tuple[float, float] | None
    source: str | None
    samples: range

    @property
    def row(self) -> int | None:
        """Which of the batch's samples it belongs to, where its first axis counts them."""
        return self.samples[self.place[0]] if self.place and self.shape[0] == len(self.samples) else None

    def __str__(self) -> str:
        at = f" at [{', '.join(map(str, self.place))}]" if self.place else ""
        read = f", whose inputs lie in [{self.read[0]:.3g}, {self.read[1]:.3g}]" if self.read else ""
        built = f", built at {self.source}" if self.source else ""
        return f"{self.value}{at} of {self.what}{read}{built}"


def find_offender(
    data: bytes, state: Mapping[str, Array], batch: Mapping[str, Array], bad: str, part: int | None = None
) -> Offender | None:
    """Follow the output `bad` of a step graph back to the first value that is not finite.

    data: the graph.   state, batch: what it read, by bare name.   part: the samples of a micro-batch, if it has such.
    None where it cannot be run once more, for want of memory for instance, or where it gives a finite number now.
    """
    model = onnx.load_from_string(data)
    feeds = {f"state.{k}": v for k, v in state.items()} | {f"batch.{k}": v for k, v in batch.items()}
    samples = range(len(next(iter(batch.values()))) if batch else 0)
    try:
        values = _keeping(model)(feeds)
        if not _bad(values[bad]):
            return None
        name, node = _first(model.graph, values, bad)
        if node is not None and node.op_type == "Loop" and part is not None:
            for k, round_ in enumerate(_rounds(model, node, values)):
                inside = _body(node).output[1 + list(node.output).index(name)].name
                if _bad(round_.get(inside)):
                    name, node = _first(_body(node), round_, inside)
                    values, samples = round_, samples[k * part : (k + 1) * part]
                    break
    except (OnnxmxError, MemoryError):
        return None
    return _describe(name, node, values, samples)


def _keeping(model: onnx.ModelProto) -> Callable[[Mapping[str, Array]], dict[str, Any]]:
    """What runs the graph of a model, and returns every value in it by name."""
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    given = {port.name for port in kept.graph.output}
    made = (name for node in kept.graph.node for name in node.output if name)
    kept.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in given)
    session = open_session(kept.SerializeToString(), threads=1)
    names = [port.name for port in session.get_outputs()]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}

    def run(feeds: Mapping[str, Array]) -> dict[str, Any]:
        with run_errors("expected a step that runs once more"):
            return dict(zip(names, session.run(names, dict(feeds)), strict=True)) | dict(feeds) | constants

    return run


def _rounds(model: onnx.ModelProto, loop: onnx.NodeProto, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every value inside a Loop, round by round: its body as a graph of its own. values: those around it, by name."""
    body = onnx.GraphProto()
    body.CopyFrom(_body(loop))
    own = [port.name for port in body.input]
    around = {n: v for n in _read(body) if isinstance(v := values.get(n), np.ndarray)}
    body.input.extend(
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in around.items()
    )
    options = {"functions": model.functions, "opset_imports": model.opset_import, "ir_version": model.ir_version}
    run = _keeping(onnx.helper.make_model(body, **options))
    states = [values[name] for name in loop.input[2:]]
    for k in range(int(values[loop.input[0]])):
        found = run(dict(zip(own, [np.array(k), np.array(True), *states], strict=True)) | around)
        yield found
        states = [found[port.name] for port in body.output[1 : 1 + len(states)]]


def _body(loop: onnx.NodeProto) -> onnx.GraphProto:
    found: onnx.GraphProto = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    return found


def _read(graph: onnx.GraphProto) -> set[str]:
    """The names that nodes of a graph read, and of those inside it."""
    inside = (a.g for node in graph.node for a in node.attribute if a.HasField("g"))
    return {name for node in graph.node for name in node.input}.union(*map(_read, inside))


def _first(graph: onnx.GraphProto, values: Mapping[str, Any], bad: str) -> tuple[str, onnx.NodeProto | None]:
    """The first value on the way to `bad` that is not finite, and the node that made it, if one did."""
    makers = {name: node for node in graph.node for name in node.output if name}
    while (node := makers.get(bad)) and (worse := _worst(node, values)):
        bad = worse
    return bad, makers.get(bad)


def _worst(node: onnx.NodeProto, values: Mapping[str, Any]) -> str | None:
    """The input of a node that is to blame: one with NaN, or else one with an infinity, or none."""
    bad = [name for name in node.input if _bad(values.get(name))]
    return next((name for name in bad if np.isnan(values[name]).any()), bad[0] if bad else None)


def _bad(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all()


def _describe(name: str, node: onnx.NodeProto | None, values: Mapping[str, Any], samples: range) -> Offender:
    value = values[name]
    place = tuple(int(k) for k in np.argwhere(~np.isfinite(value))[0])
    if node is None:
        kind, _, rest = name.partition(".")
        what = {"state": f"{rest} as the step began", "batch": f"{rest} in the batch"}.get(kind, name)
        return Offender(what, float(value[place]), place, value.shape, None, None, samples)
    floats = [v for n in node.input if isinstance(v := values.get(n), np.ndarray) and v.dtype.kind == "f" and v.size]
    read = (min(float(v.min()) for v in floats), max(float(v.max()) for v in floats)) if floats else None
    source = next((p.value for p in node.metadata_props if p.key == SOURCE), None)
    return Offender(f"{node.op_type} {node.name!r}", float(value[place]), place, value.shape, read, source, samples)
