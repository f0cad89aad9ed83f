"""Samples to predict, from images, .npy and .csv files and JSON lines: raw numbers in the shape of a model's inputs."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.builder.model import Port
from onnxmx.builder.values import agree, show_shape
from onnxmx.errors import DataError, MissingExtraError, nearest

Array = np.ndarray[Any, Any]
Sample = tuple[str, dict[str, Array]]
"""What to call it, and an array by input name, without a batch axis."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PIXEL_MAX = 255


def read_file(path: str | os.PathLike[str], ports: Mapping[str, Port], white: float = _PIXEL_MAX) -> Iterator[Sample]:
    """The samples in an image, .npy or .csv file, read as they are asked for.

    ports: the model's inputs, of which a file can fill one.   white: the raw value of an image's white pixel.
    Raises DataError for a file that is missing, damaged, of another kind, or does not fit the model.
    """
    path = Path(path)
    if len(ports) != 1:
        raise DataError(
            f"{path}: expected a model of one input; found {sorted(ports)}",
            mend="Give JSON lines on stdin, with an array for each input.",
        )
    port = next(iter(ports.values()))
    kind = path.suffix.lower()
    if kind not in (*IMAGES, ".npy", ".csv"):
        raise DataError(
            f"{path}: expected an image, .npy or .csv file; found {f'the ending {kind!r}' if kind else 'no ending'}",
            mend=f"Images end in {', '.join(IMAGES)}. JSON lines are read from stdin: give - as the input.",
        )
    if not path.is_file():
        raise DataError(
            f"expected a file at {path}; found {'a folder' if path.is_dir() else 'nothing'}", mend="Check the path."
        )
    if kind == ".npy":
        yield from _npy(path, port)
    elif kind == ".csv":
        yield from _csv(path, port)
    else:
        yield str(path), {port.name: _image(path, port, white)}


def read_lines(lines: Iterable[bytes | str], ports: Mapping[str, Port], first: int = 1) -> Iterator[Sample]:
    """A sample a line, each named after its line: a JSON list, flat or nested, or an object of lists by input name.

    first: the number of the first line.
    Raises DataError for a line that is not JSON or does not fit the model. Empty lines are passed over.
    """
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        name = f"line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # of both bytes that are no text and text that is no JSON
            raise DataError(
                f"{name}: expected one JSON value; found {error}", mend="Write each sample on one line."
            ) from error
        yield name, {key: _fitting(f"{name}: {key!r}", x, ports[key]) for key, x in _by_input(name, value, ports)}


def sample_shape(port: Port) -> tuple[int | str | None, ...]:
    """The shape of one sample of an input. Raises DataError where the input has no batch axis."""
    if not port.shape:
        raise DataError(
            f"the model's input {port.name!r} expected a first dimension that counts samples; found none",
            mend="Run such a model from Python: onnxmx.load(file)(array).",
        )
    return port.shape[1:]


def _by_input(name: str, value: Any, ports: Mapping[str, Port]) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        if len(ports) != 1:
            raise DataError(f"{name}: expected an object with {sorted(ports)}; found {type(value).__name__}")
        return [(next(iter(ports)), value)]
    if set(value) != set(ports):
        strange = next((key for key in value if key not in ports), None)
        near = nearest(strange, ports) if strange else None
        raise DataError(
            f"{name}: expected an object with {sorted(ports)}; found {sorted(value)}",
            mend=f"Did you mean {near!r}?" if near else "Give an array for each input.",
        )
    return list(value.items())


def _npy(path: Path, port: Port) -> Iterator[Sample]:
    """One sample, or a batch of them."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # OSError, EOFError, ValueError, SyntaxError: by what is wrong
        raise DataError(
            f"{path}: expected an .npy file of numbers; found: {error}", mend="Write it with numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):  # an archive under the wrong name
        raise DataError(f"{path}: expected one array; found several, as in an .npz file", mend="Write numpy.save(x).")
    if _shaped(array, port) is not None or array.ndim == 0:
        yield str(path), {port.name: _fitting(str(path), array, port)}
        return
    if len(array) and _shaped(array[0], port) is None:
        raise _misfit(str(path), array, port, "or a batch of such")
    for row, sample in enumerate(array):
        name = f"{path}[{row}]"
        yield name, {port.name: _fitting(name, sample, port)}


def _csv(path: Path, port: Port) -> Iterator[Sample]:
    """A row a sample; a first row without any number is a head."""
    kind = port.dtype if port.dtype.kind in "iu" else np.dtype(np.float64)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            for first, row in enumerate(rows):
                if not any(cell.strip() for cell in row) or (first == 0 and not any(map(_is_number, row))):
                    continue
                name = f"{path}:{rows.line_num}"
                yield name, {port.name: _fitting(name, _numbers(name, row, kind), port)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: expected rows of numbers with commas between them; found: {error}", mend="Save it as CSV, UTF-8."
        ) from error


def _numbers(name: str, row: list[str], kind: np.dtype[Any]) -> Array:
    try:
        return np.asarray(row, kind)
    except (ValueError, OverflowError):
        wrong = next(((n, c) for n, c in enumerate(row, 1) if not _is_number(c)), (1, row[0]))
        raise DataError(
            f"{name}: expected a number ({kind}) in column {wrong[0]}; found {wrong[1]!r}",
            mend="A head may stand in the first row alone.",
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _image(path: Path, port: Port, white: float) -> Array:
    """An image as (channels, height, width) or (height, width), from 0 to `white`."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtraError("Pillow", "data", "Reading an image") from None
    shape = sample_shape(port)
    *channels, height, width = shape if len(shape) in (2, 3) else (0, 0, 0)
    mode = _MODES.get(channels[0]) if channels and isinstance(channels[0], int) else None if channels else "L"
    if mode is None:
        raise DataError(
            f"{path}: expected a model that takes images of 1, 3 or 4 channels; "
            f"found an input {port.name!r} with samples of shape {show_shape(shape)}",
            mend="Give this model .npy, .csv or JSON lines.",
        )
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise ValueError(f"{file.mode} pixels of more than 8 bits")
            picture = ImageOps.exif_transpose(file).convert(mode)
    except Exception as error:  # Pillow's plugins raise what they meet
        raise DataError(
            f"{path}: expected an image of 8 bits a channel; found: {error}", mend="Save it again, as PNG for example."
        ) from error
    own = picture.size
    size = (width if isinstance(width, int) else own[0], height if isinstance(height, int) else own[1])
    if size != own:
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    pixels = pixels if pixels.ndim == 2 and not channels else np.atleast_3d(pixels).transpose(2, 0, 1)
    # Left as bytes where nothing is to be done: the same bits as those of the dataset.
    return pixels if math.isclose(white, _PIXEL_MAX) else pixels * np.float32(white / _PIXEL_MAX)


def _fitting(name: str, x: Any, port: Port) -> Array:
    """`x` in the shape of a sample and in a type that the input takes. Raises DataError."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise DataError(f"{name}: expected an array; found lists of different lengths", mend="Fill them up.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected numbers; found {'other values' if array.dtype.kind == 'O' else array.dtype}")
    shaped = _shaped(array, port)
    if shaped is None:
        raise _misfit(name, array, port)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: expected finite numbers; found {array[~np.isfinite(array)].flat[0]}")
    if port.dtype.kind in "iu":
        limits = np.iinfo(port.dtype)
        if array.dtype.kind == "f" or (array.size and (array.min() < limits.min or array.max() > limits.max)):
            raise DataError(f"{name}: expected {port.dtype}; found {array.dtype} or values beyond its range")
        return shaped.astype(port.dtype)
    return shaped


def _shaped(array: Array, port: Port) -> Array | None:
    """`array` as one sample: of its shape, or flat, or without its dimensions of 1; None where it is not one."""
    shape = sample_shape(port)
    if agree(shape, array.shape):
        return array
    sizes = [d for d in shape if isinstance(d, int)]
    if len(sizes) < len(shape) or array.size != math.prod(sizes):
        return None
    bare = [n for n in array.shape if n != 1] == [n for n in sizes if n != 1]
    return array.reshape(sizes) if array.ndim == 1 or bare else None


def _misfit(name: str, array: Array, port: Port, more: str = "") -> DataError:
    shape = sample_shape(port)
    flat = (
        f" or {math.prod(d for d in shape if isinstance(d, int))} numbers"
        if all(isinstance(d, int) for d in shape)
        else ""
    )
    expected = " ".join(filter(None, [f"a sample of shape {show_shape(shape)}{flat}", more]))
    return DataError(
        f"{name}: expected {expected}; found {show_shape(array.shape)}", mend=f"Reshape it for the input {port.name!r}."
    )
