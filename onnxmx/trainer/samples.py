"""Samples to predict, from files of images and arrays and JSON lines: raw numbers in the shape of a model's inputs."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxmx.builder.model import Port
from onnxmx.builder.values import agree, show_shape
from onnxmx.errors import DataError, MissingExtraError, OnnxmxError, nearest
from onnxmx.trainer.archive import Member, open_archive

Array = np.ndarray[Any, Any]
Sample = tuple[str, dict[str, Array]]
"""What to call it, and an array by input name, without a batch axis."""

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PIXEL_MAX = 255


def read_file(path: str | os.PathLike[str], ports: Mapping[str, Port], white: float = _PIXEL_MAX) -> Iterator[Sample]:
    """The samples in an image, .npy, .npz or .csv file, read as they are asked for.

    ports: the model's inputs, of which an .npz file can fill several, any other one.
    white: the raw value of an image's white pixel.
    Raises DataError for a file that is missing, damaged, of another kind, or does not fit the model.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if len(ports) != 1 and kind != ".npz":
        raise DataError(
            f"{path}: expected a model of one input; found {sorted(ports)}",
            mend="Give an .npz file or JSON lines on stdin, with an array for each input.",
        )
    if kind not in (*IMAGES, ".npy", ".npz", ".csv"):
        raise DataError(
            f"{path}: expected an image, .npy, .npz or .csv file; found "
            + (f"the ending {kind!r}" if kind else "no ending"),
            mend=f"Images end in {', '.join(IMAGES)}. JSON lines are read from stdin: give - as the input.",
        )
    if not path.is_file():
        raise DataError(
            f"expected a file at {path}; found {'a folder' if path.is_dir() else 'nothing'}", mend="Check the path."
        )
    if kind == ".npz":
        yield from _npz(path, ports)
        return
    port = next(iter(ports.values()))
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
    _check_names(f"{name}: expected an object with", value, ports)
    return list(value.items())


def _check_names(expected: str, found: Collection[str], ports: Mapping[str, Port]) -> None:
    """Raises DataError unless `found` are the names of the inputs. expected: how the error begins."""
    if set(found) != set(ports):
        strange = next((key for key in found if key not in ports), None)
        near = nearest(strange, ports) if strange else None
        raise DataError(
            f"{expected} {sorted(ports)}; found {sorted(found)}",
            mend=f"Did you mean {near!r}?" if near else "Give an array for each input.",
        )


def _npy(path: Path, port: Port) -> Iterator[Sample]:
    """The samples of one array."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # OSError, EOFError, ValueError, SyntaxError: by what is wrong
        raise DataError(
            f"{path}: expected an .npy file of numbers; found: {error}", mend="Write it with numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):  # an archive under the wrong name
        raise DataError(f"{path}: expected one array; found several, as in an .npz file", mend="Write numpy.save(x).")
    yield from _split(str(path), {port.name: array}, {port.name: port})


def _npz(path: Path, ports: Mapping[str, Port]) -> Iterator[Sample]:
    """The samples of an array for each input, by its name."""
    try:
        with open_archive(path) as arrays:
            _check_names(f"{path}: expected arrays named", arrays, ports)
            yield from _split(str(path), arrays, ports)
    except OnnxmxError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise what they meet
        raise DataError(
            f"{path}: expected an .npz file of plain arrays; found: {error}",
            mend="Write it with numpy.savez(file, input=...), an array for each input.",
        ) from error


def _split(path: str, arrays: Mapping[str, Array | Member], ports: Mapping[str, Port]) -> Iterator[Sample]:
    """One sample of all inputs, or a batch of them."""

    def fitting(place: str, values: Iterable[Any]) -> Sample:
        named = zip(arrays, values, strict=True)
        return place, {k: _fitting(_called(place, k, ports), x, ports[k]) for k, x in named}

    single = [name for name, a in arrays.items() if _as_sample(a.shape, ports[name]) is not None]
    if len(single) == len(arrays):
        yield fitting(path, arrays.values())
        return
    for name, array in arrays.items():
        if not array.shape or _as_sample(array.shape[1:], ports[name]) is None:
            if name in single:
                raise DataError(
                    f"{path}: expected a sample of each input, or a batch of each; found one sample of {name!r} alone",
                    mend=f"Give {name!r} a first dimension that counts samples.",
                )
            raise _misfit(_called(path, name, ports), array.shape, ports[name], "or a batch of such")
    if len({a.shape[0] for a in arrays.values()}) > 1:
        found = ", ".join(f"{a.shape[0]} of {name!r}" for name, a in arrays.items())
        raise DataError(f"{path}: expected as many samples of one input as of another; found {found}")
    for row, values in enumerate(zip(*arrays.values(), strict=True)):
        yield fitting(f"{path}[{row}]", values)


def _called(place: str, name: str, ports: Mapping[str, Port]) -> str:
    """How an error calls an input's part of a sample."""
    return f"{place}: {name!r}" if len(ports) > 1 else place


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
    shape = _as_sample(array.shape, port)
    if shape is None:
        raise _misfit(name, array.shape, port)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{name}: expected finite numbers; found {array[~np.isfinite(array)].flat[0]}")
    if port.dtype.kind in "iu":
        limits = np.iinfo(port.dtype)
        if array.dtype.kind == "f" or (array.size and (array.min() < limits.min or array.max() > limits.max)):
            raise DataError(f"{name}: expected {port.dtype}; found {array.dtype} or values beyond its range")
        array = array.astype(port.dtype)
    return array.reshape(shape)


def _as_sample(found: tuple[int, ...], port: Port) -> tuple[int, ...] | None:
    """The shape in which an array is one sample: its own, or, where it is flat or lacks dimensions of 1, the input's.

    None where it is no sample.
    """
    shape = sample_shape(port)
    if agree(shape, found):
        return found
    sizes = [d for d in shape if isinstance(d, int)]
    if len(sizes) < len(shape) or math.prod(found) != math.prod(sizes):
        return None
    bare = [n for n in found if n != 1] == [n for n in sizes if n != 1]
    return tuple(sizes) if len(found) == 1 or bare else None


def _misfit(name: str, found: tuple[int, ...], port: Port, more: str = "") -> DataError:
    shape = sample_shape(port)
    flat = (
        f" or {math.prod(d for d in shape if isinstance(d, int))} numbers"
        if all(isinstance(d, int) for d in shape)
        else ""
    )
    expected = " ".join(filter(None, [f"a sample of shape {show_shape(shape)}{flat}", more]))
    return DataError(
        f"{name}: expected {expected}; found {show_shape(found)}", mend=f"Reshape it for the input {port.name!r}."
    )
