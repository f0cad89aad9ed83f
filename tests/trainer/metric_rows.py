"""One row a metric and form of label: what it is compared on with scikit-learn. Of numpy alone, as loss_rows.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """A metric as text, the loss beside it, which says what labels mean, and how many columns an output has.

    sizes: batches of different sizes, over which a mean of batches would be wrong.
    """

    metric: str
    loss: str
    columns: int = 4
    sizes: tuple[int, ...] = (40, 7, 53)

    def __str__(self) -> str:
        return f"{self.metric} {self.loss} {self.columns}"

    def arrays(self) -> tuple[Array, Array]:
        """The output and the label of all samples."""
        random = np.random.default_rng(sum(map(ord, str(self))))
        n = sum(self.sizes)
        if self.loss.startswith("softmax"):
            # The last class is never a label, though it is chosen; the first is rare.
            label = np.minimum(random.integers(0, self.columns + 2, n), max(self.columns - 2, 1))
            output = random.normal(size=(n, self.columns)) + 1.2 * (label[:, None] == np.arange(self.columns))
            return output.astype(np.float32), label
        if self.loss == "sigmoid_bce":
            label = (random.uniform(size=(n, self.columns)) < np.linspace(0.3, 0.6, self.columns)).astype(np.int64)
            return (random.normal(size=label.shape) + 1.5 * label - 0.7).astype(np.float32), label
        label = 1000.0 + 3.0 * random.normal(size=(n, self.columns))  # far from 0, as a year or a price
        return (label + random.normal(size=label.shape)).astype(np.float32), label.astype(np.float32)


COUNTED = ("precision", "recall", "f_beta", "f_beta:beta=2", "f_beta:beta=0.5", "iou")
CLASSES, BINARY, NUMBERS = "softmax_cross_entropy", "sigmoid_bce", "mean_squared_error"
ROWS = [
    Row("accuracy", CLASSES),
    Row("accuracy", BINARY),
    Row("top_k:k=2", CLASSES),
    Row("top_k:k=3", CLASSES, 9),
    *(Row(m, CLASSES) for m in COUNTED),
    *(Row(f"{m}{',' if ':' in m else ':'}average={a}", CLASSES) for m in COUNTED for a in ("micro", "weighted")),
    *(Row(f"{m}:average=binary", CLASSES, 2) for m in ("precision", "recall", "f_beta", "iou")),
    *(Row(m, BINARY, k) for m in ("precision", "recall", "f_beta", "iou") for k in (1, 4)),
    Row("mcc", CLASSES),
    Row("mcc", CLASSES, 2),
    Row("mcc", BINARY, 1),
    Row("confusion_matrix", CLASSES),
    Row("confusion_matrix", BINARY, 1),
    Row("auc", BINARY, 1),
    Row("auc", BINARY, 4),
    Row("auc", CLASSES, 2),
    Row("auc", CLASSES, 4),
    *(Row(m, NUMBERS, k)
      for m in ("mean_absolute_error", "mean_squared_error", "root_mean_squared_error", "r2", "pearson")
      for k in (1, 3)),
    Row("perplexity", CLASSES),
]  # fmt: skip
