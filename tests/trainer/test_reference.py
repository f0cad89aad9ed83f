"""docs/losses.md says what the losses and metrics say, of each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxmx.trainer import reference
from onnxmx.trainer.losses import LOSSES
from onnxmx.trainer.metrics import METRICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "losses.md"


def test_the_page_is_not_stale() -> None:
    found = PAGE.read_text(encoding="utf-8")
    assert found == reference.render(), "run: python -m onnxmx.trainer.reference docs/losses.md"


@pytest.mark.parametrize("kind", [*LOSSES.values(), *METRICS.values()])
def test_each_says_what_it_computes(kind: Any) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "it has no docstring of its own: dataclasses wrote one"
