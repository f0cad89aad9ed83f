"""The output sizes of windows, for any sizes, against the formulas of the textbooks."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxmx.builder.layers as L
from onnxmx.builder.model import build
from onnxmx.builder.values import Dim, agree
from onnxmx.errors import ShapeError

CONVS = {1: L.Conv1D, 2: L.Conv2D, 3: L.Conv3D}
TRANSPOSED = {1: L.Conv1DTranspose, 2: L.Conv2DTranspose, 3: L.Conv3DTranspose}
POOLS = {1: (L.MaxPool1D, L.AvgPool1D), 2: (L.MaxPool2D, L.AvgPool2D), 3: (L.MaxPool3D, L.AvgPool3D)}
QUICK = settings(max_examples=60, deadline=None)


@st.composite
def axes(draw: st.DrawFn, *, dilated: bool = True) -> list[dict[str, Any]]:
    """For one to three axes: size, kernel, stride, dilation, padding on both sides."""
    number = st.integers(1, 4)
    pads = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "size": st.integers(1, 12),
                    "kernel": number,
                    "stride": number,
                    "dilation": number if dilated else st.just(1),
                    "pads": pads,
                    "extra": st.integers(0, 3),
                }
            ),
            min_size=1,
            max_size=3,
        )
    )


def each(found: list[dict[str, Any]], name: str) -> tuple[Any, ...]:
    return tuple(axis[name] for axis in found)


def space(layer: L.Layer, found: list[dict[str, Any]], channels: int = 2) -> list[int] | None:
    """The space of the output as the graph says; None where the layer refuses its input."""
    try:
        model = build(layer, x=("batch", channels, *each(found, "size")))
    except ShapeError:
        return None
    shape = model.outputs["output"].shape
    assert shape is not None
    assert shape[0] == "batch"
    return [d for d in shape[2:] if isinstance(d, int)]


def span(axis: dict[str, Any]) -> int:
    return int((axis["kernel"] - 1) * axis["dilation"] + 1)


def slid(axis: dict[str, Any]) -> int:
    """floor((n + pads - span) / stride) + 1; none fits where that is below 1."""
    return int((axis["size"] + sum(axis["pads"]) - span(axis)) // axis["stride"] + 1)


def ceiled(axis: dict[str, Any]) -> int:
    """The same rounded up, without a window that begins behind the input."""
    count = math.ceil((axis["size"] + sum(axis["pads"]) - span(axis)) / axis["stride"]) + 1
    return count - ((count - 1) * axis["stride"] >= axis["size"] + axis["pads"][0])


@QUICK
@given(axes())
def test_convolution(found: list[dict[str, Any]]) -> None:
    layer = CONVS[len(found)](
        3, each(found, "kernel"), stride=each(found, "stride"), dilation=each(found, "dilation"),
        padding=each(found, "pads"),
    )  # fmt: skip
    expected = [slid(axis) for axis in found]
    assert space(layer, found) == (expected if min(expected) >= 1 else None)


@QUICK
@given(axes())
def test_same_padding(found: list[dict[str, Any]]) -> None:
    layer = CONVS[len(found)](
        3, each(found, "kernel"), stride=each(found, "stride"), dilation=each(found, "dilation"), padding="same"
    )
    assert space(layer, found) == [math.ceil(axis["size"] / axis["stride"]) for axis in found]


@QUICK
@given(axes())
def test_transposed_convolution(found: list[dict[str, Any]]) -> None:
    for axis in found:
        axis["extra"] %= axis["stride"]
    layer = TRANSPOSED[len(found)](
        3, each(found, "kernel"), stride=each(found, "stride"), dilation=each(found, "dilation"),
        padding=each(found, "pads"), output_padding=each(found, "extra"),
    )  # fmt: skip
    expected = [(axis["size"] - 1) * axis["stride"] + span(axis) + axis["extra"] - sum(axis["pads"]) for axis in found]
    assert space(layer, found) == (expected if min(expected) >= 1 else None)


@QUICK
@given(axes())
def test_same_transposed_convolution_undoes_the_same_convolution(found: list[dict[str, Any]]) -> None:
    layer = TRANSPOSED[len(found)](
        3, each(found, "kernel"), stride=each(found, "stride"), dilation=each(found, "dilation"), padding="same"
    )
    assert space(layer, found) == [axis["size"] * axis["stride"] for axis in found]


@QUICK
@given(axes(dilated=False), st.booleans(), st.integers(0, 1))
def test_pooling(found: list[dict[str, Any]], ceil: bool, kind: int) -> None:
    for axis in found:
        axis["pads"] = tuple(min(p, axis["kernel"] - 1) for p in axis["pads"])
    layer = POOLS[len(found)][kind](
        each(found, "kernel"), stride=each(found, "stride"), padding=each(found, "pads"), ceil=ceil
    )
    expected = [ceiled(axis) if ceil else slid(axis) for axis in found]
    assert space(layer, found) == (expected if min(slid(axis) for axis in found) >= 1 else None)


@pytest.mark.parametrize(
    ("expected", "found", "answer"),
    [
        (("batch", 3), (7, 3), True),
        (("batch", 3), (7, 4), False),
        ((None, 3), (7, "n"), True),
        ((3,), (3, 1), False),
        ((), (), True),
    ],
)
def test_shapes_that_agree(expected: tuple[Dim, ...], found: tuple[Dim, ...], answer: bool) -> None:
    assert agree(expected, found) is answer
