"""One row a loss and form of label: what PyTorch is asked too. Of numpy alone, since PyTorch's side reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """A loss as text, the shape of each output, and the labels by column.

    kind: classes, probabilities, binary, soft, signed, numbers, counts, ctc, ctc_lengths, or none.
    """

    loss: str
    kind: str
    shape: tuple[int, ...] = (6, 5)
    outputs: int = 1
    ignore: int | None = None

    def __str__(self) -> str:
        return f"{self.loss} {self.kind} {'x'.join(map(str, self.shape))}"

    def arrays(self) -> tuple[list[Array], dict[str, Array]]:
        """The outputs and the labels."""
        random = np.random.default_rng(sum(map(ord, str(self))))
        outputs = [(1.5 * random.normal(size=self.shape)).astype(np.float32) for _ in range(self.outputs)]
        return outputs, self._labels(random)

    def _labels(self, random: np.random.Generator) -> dict[str, Array]:
        shape, images = self.shape, len(self.shape) > 3
        classes = shape[1] if images else shape[-1]
        rows = (shape[0], *shape[2:]) if images else shape[:-1]
        if self.outputs == 2:
            shape = shape[:1]
        if self.kind == "classes":
            label = random.integers(0, classes, rows)
            if self.ignore is not None:
                label[::3] = self.ignore
            return {"label": label}
        if self.kind == "probabilities":
            p = random.gamma(0.7, size=shape)
            return {"label": (p / p.sum(1 if images else -1, keepdims=True)).astype(np.float32)}
        if self.kind.startswith("ctc"):
            return _sequences(random, shape, lengths=self.kind == "ctc_lengths")
        return {
            "binary": lambda: {"label": random.integers(0, 2, shape)},
            "soft": lambda: {"label": random.uniform(size=shape).astype(np.float32)},
            "signed": lambda: {"label": (2 * random.integers(0, 2, shape) - 1).astype(np.float32)},
            "numbers": lambda: {"label": random.normal(size=shape).astype(np.float32)},
            "counts": lambda: {"label": random.poisson(2.0, shape).astype(np.float32)},
            "none": dict,
        }[self.kind]()


def _sequences(random: np.random.Generator, shape: tuple[int, ...], *, lengths: bool) -> dict[str, Array]:
    """Labels of 0 to 4 numbers, a repeat among them, filled up with -1; class 0 is the blank."""
    batch, time, classes = shape
    label = np.full((batch, 4), -1)
    for k in range(batch):
        label[k, : k % 5] = random.integers(1, classes, k % 5)
    label[3, :2] = 1
    found: dict[str, Array] = {"label": label}
    if lengths:
        # The last of them is as short as its label allows, and one has more labels than steps.
        found["frames"] = np.array([time, time - 1, 4, time - 2, 4 + (label[4, 1:] == label[4, :-1]).sum(), 2])[:batch]
    return found


WEIGHTS = "class_weight=[0.5,1,2,0.25,3]"
ROWS = [
    Row("softmax_cross_entropy", "classes"),
    Row("softmax_cross_entropy", "classes", (2, 3, 5)),
    Row("softmax_cross_entropy", "classes", (2, 5, 2, 3)),
    Row("softmax_cross_entropy", "probabilities"),
    Row("softmax_cross_entropy", "probabilities", (2, 5, 2, 3)),
    Row("softmax_cross_entropy:smoothing=0.1", "classes"),
    Row("softmax_cross_entropy:smoothing=0.1", "probabilities"),
    Row(f"softmax_cross_entropy:{WEIGHTS}", "classes"),
    Row(f"softmax_cross_entropy:{WEIGHTS}", "classes", (2, 5, 2, 3)),
    Row(f"softmax_cross_entropy:{WEIGHTS}", "probabilities"),
    Row("softmax_cross_entropy:ignore_index=-100", "classes", ignore=-100),
    Row("softmax_cross_entropy:ignore_index=2", "classes", (2, 5, 2, 3), ignore=2),
    Row(f"softmax_cross_entropy:{WEIGHTS},ignore_index=255,smoothing=0.2", "classes", (2, 5, 2, 3), ignore=255),
    Row(f"softmax_cross_entropy:{WEIGHTS},ignore_index=1,smoothing=0.2", "classes", ignore=1),
    Row("softmax_focal:gamma=1.5", "classes"),
    Row("kl", "probabilities"),
    Row("kl", "probabilities", (2, 5, 2, 3)),
    Row("dice", "classes", (2, 5, 2, 3)),
    Row("dice:smooth=0.1", "classes", (2, 3, 5)),
    Row("dice", "probabilities", (2, 5, 2, 3)),
    Row("sigmoid_bce", "binary"),
    Row("sigmoid_bce", "soft", (3, 1, 2, 2)),
    Row("sigmoid_bce:positive=2.5", "soft"),
    Row("sigmoid_bce:smoothing=0.2", "binary"),
    Row("focal", "binary"),
    Row("focal:alpha=0.6,gamma=0.5", "binary"),
    Row("hinge", "signed"),
    Row("hinge:margin=0.5", "binary"),
    Row("squared_hinge", "signed"),
    Row("logistic", "signed"),
    Row("logistic", "binary"),
    Row("wasserstein_gan", "binary", (6, 1)),
    Row("wasserstein_gan:real=true", "none", (6, 1)),
    Row("non_saturating_gan", "binary", (6, 1)),
    Row("non_saturating_gan:real=false", "none", (6, 1)),
    Row("mean_squared_error", "numbers"),
    Row("mean_squared_error:weight=0.3", "numbers"),
    Row("mean_absolute_error", "numbers"),
    Row("huber", "numbers"),
    Row("huber:delta=0.5", "numbers", (2, 3, 2, 2)),
    Row("log_cosh", "numbers"),
    Row("poisson", "counts"),
    Row("contrastive", "binary", outputs=2),
    Row("contrastive:margin=4", "signed", outputs=2),
    Row("cosine_embedding", "signed", outputs=2),
    Row("cosine_embedding:margin=0.2", "binary", outputs=2),
    Row("triplet", "none", outputs=3),
    Row("triplet:margin=0.2", "none", outputs=3),
    Row("ctc", "ctc", (6, 7, 5)),
    Row("ctc:lengths=frames", "ctc_lengths", (6, 7, 5)),
]
