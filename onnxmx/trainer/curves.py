"""Pictures of a run: its curves, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from onnxmx.errors import MissingExtraError

Lines = Sequence[Mapping[str, Any]]
_VALIDATION = "validation_"


def matplotlib_figure() -> Any:
    """matplotlib's Figure, which needs no display. Raises MissingExtraError without it."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "Drawing curves") from None
    return Figure


def draw_curves(lines: Lines, steps_per_epoch: int) -> bytes:
    """A panel for each measure over the epochs, as PNG: of the steps thinly, of epochs and validation with dots.

    lines: those of metrics.jsonl; those of steps hold `batch`, and what they say of a batch alone is drawn thin.
    """
    steps = [line for line in lines if "batch" in line]
    epochs = [line for line in lines if "batch" not in line]
    names = dict.fromkeys(
        name.removeprefix(_VALIDATION)
        for line in [*epochs, *steps]
        for name, value in line.items()
        if isinstance(value, float)
    )
    columns = min(len(names), 3) or 1
    rows = -(-len(names) // columns) or 1
    figure = matplotlib_figure()(figsize=(4.2 * columns, 3.0 * rows), layout="constrained")
    for k, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, k + 1)
        _draw(axes, [(s["epoch"] - 1 + s["batch"] / steps_per_epoch, s[name]) for s in steps if name in s],
              "steps", color="C0", linewidth=0.6, alpha=0.5)  # fmt: skip
        style: dict[str, Any] = {"marker": "o", "markersize": 3}
        _draw(axes, [(e["epoch"], e[name]) for e in epochs if name in e], "training", color="C0", **style)
        checked = _VALIDATION + name
        _draw(axes, [(e["epoch"], e[checked]) for e in epochs if checked in e], "validation", color="C1", **style)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return png(figure)


def png(figure: Any) -> bytes:
    """The bytes of a figure; the same for the same figure."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100, metadata={"Software": None})
    return data.getvalue()


def _draw(axes: Any, points: Sequence[tuple[float, float]], label: str, **style: Any) -> None:
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
