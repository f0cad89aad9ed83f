"""docs/layers.md says what the layers say, of every layer."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxmx.builder.layers as L
from onnxmx.builder import reference
from onnxmx.builder.layers.base import Layer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "layers.md"
NAMES = [name for name, x in vars(L).items() if isinstance(x, type) and issubclass(x, Layer) and x is not Layer]


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.render(), (
        "run: python -m onnxmx.builder.reference docs/layers.md"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_there_with_what_it_does(name: str) -> None:
    assert f"\n### {name}\n" in PAGE.read_text(encoding="utf-8"), "give it an example, and its module a section"
    layer = getattr(L, name)
    assert layer.__doc__ is not None
    assert not layer.__doc__.startswith(f"{name}("), "it has no docstring of its own: dataclasses wrote one"
    assert name in reference.EXAMPLES[name][0] or name == "Cell"  # a Cell of no kind computes nothing


def test_every_activation_has_a_formula() -> None:
    for name, function in L.ACTIVATIONS.items():
        assert function.__doc__, name
        assert f"| `{name}` |" in PAGE.read_text(encoding="utf-8")


def test_signatures_leave_out_types_and_names() -> None:
    assert reference.signature(L.Dropout) == "Dropout(ratio=0.5)"
    assert reference.signature(L.AvgPool1D) == (
        "AvgPool1D(size=2, *, stride=None, padding='valid', ceil=False, count_include_pad=False)"
    )
    assert reference.signature(L.Conv2DTranspose).startswith("Conv2DTranspose(channels, kernel, *, stride=1, ")
    assert reference.signature(L.Reshape) == "Reshape(*shape)"
    assert reference.signature(L.Concat) == "Concat(*branches, axis=1)"
    assert reference.signature(L.Parallel) == "Parallel(**branches)"
    assert reference.signature(L.PReLU) == "PReLU(*, shared=False, weight_init=None)"
