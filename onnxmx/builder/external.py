"""Weights that an ONNX file keeps in other files, read into it; only from beside the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from onnxmx.errors import ModelFileError


def read_external(proto: onnx.ModelProto, what: str, folder: Path | None) -> None:
    """Put the numbers of every external tensor into `proto`.

    what: names the model file in errors. folder: where it lies.
    Raises ModelFileError where a tensor points outside `folder`, as a hostile file might, or at nothing.
    """
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        tensor.raw_data = _read(entries, f"{what} keeps {tensor.name!r} in another file and", folder)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _read(entries: dict[str, str], what: str, folder: Path | None) -> bytes:
    location = entries.get("location", "")
    if folder is None:
        raise ModelFileError(f"{what} expected to lie beside it; found bytes alone", mend="Load it by its path.")
    root = folder.resolve()
    inside = bool(location) and "\0" not in location
    file = (root / location).resolve() if inside else root
    if not inside or not file.is_relative_to(root):
        raise ModelFileError(
            f"{what} expected one in its own folder; found {location!r}",
            mend="Do not trust this file; one of your own can be saved anew with its weights inside.",
        )
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        with open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{what} cannot be read from {location!r}: {error}", mend="Copy that file too, to the same folder."
        ) from error
    if len(data) < length:
        raise ModelFileError(
            f"{what} expected {length} bytes in {location!r}; found {len(data)}", mend="Copy that file again."
        )
    return data


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _in_graph(proto.graph)
    for function in proto.functions:
        yield from _in_nodes(function.node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _in_nodes(graph.node)


def _in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):
                yield attribute.t
            for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
                yield from _in_graph(graph)
