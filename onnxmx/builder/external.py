"""Weights that an ONNX file keeps in other files, read into it; only from beside the file."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxmx.builder.guard import MAX_BYTES, tensor_bytes, tensors
from onnxmx.errors import ModelFileError


def read_external(proto: onnx.ModelProto, what: str, folder: Path | None) -> None:
    """Put the numbers of every external tensor into `proto`.

    what: names the model file in errors. folder: where it lies.
    Raises ModelFileError where a tensor points outside `folder`, as a hostile file might, or at nothing; and where
    all of them are more than one file can hold, whatever they point at: ten tensors may claim the same gigabyte.
    """
    outside = [t for t in tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    if (total := sum(tensor_bytes(t, what) for t in outside)) > MAX_BYTES:
        raise ModelFileError(
            f"{what} expected at most {MAX_BYTES} bytes of weights; found {total} in other files",
            mend="Export it in half precision, or in parts.",
        )
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        what_tensor = f"{what} keeps {tensor.name!r} in another file and"
        tensor.raw_data = _read(entries, what_tensor, folder, tensor_bytes(tensor, what))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _read(entries: dict[str, str], what: str, folder: Path | None, expected: int) -> bytes:
    """expected: how many bytes the tensor's shape asks for."""
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
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
        if file.exists() and not file.is_file():
            raise ValueError("it is not a file")  # a pipe would be waited for without end
        with open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(max(0, min(length, expected)))
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{what} cannot be read from {location!r}: {error}", mend="Copy that file too, to the same folder."
        ) from error
    if length != expected:
        raise ModelFileError(
            f"{what} expected {expected} bytes for its shape; found {length} in the entry 'length'",
            mend="The file may be damaged: copy or export it again.",
        )
    if len(data) < expected:
        raise ModelFileError(
            f"{what} expected {expected} bytes in {location!r}; found {len(data)}", mend="Copy that file again."
        )
    return data
