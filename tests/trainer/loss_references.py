"""What PyTorch says of the rows of loss_rows.py: `python -m tests.trainer.loss_references` where torch is installed.

Writes loss_references.json, each loss and its gradients with respect to the outputs, computed in float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
import torch.nn.functional as F  # type: ignore[import-not-found,unused-ignore]

from tests.trainer.loss_rows import ROWS, Row

FILE = Path(__file__).with_name("loss_references.json")
T = Any


def classes_second(x: T) -> T:
    """PyTorch has the classes on axis 1 always."""
    return x.movedim(-1, 1) if x.ndim == 3 else x


def cross_entropy(x: T, t: T, smoothing: float = 0.0, class_weight: T = None, ignore_index: int = -12345) -> T:
    weight = None if class_weight is None else torch.tensor(class_weight, dtype=x.dtype)
    x, t = classes_second(x), classes_second(t) if t.is_floating_point() else t
    return F.cross_entropy(x, t, weight=weight, label_smoothing=smoothing, ignore_index=ignore_index)


def softmax_focal(x: T, t: T, gamma: float) -> T:
    loss = F.cross_entropy(x, t, reduction="none")
    return ((1 - torch.exp(-loss)) ** gamma * loss).mean()


def kl(x: T, t: T) -> T:
    summed = F.kl_div(F.log_softmax(x, 1), t, reduction="none").sum(1)
    return summed.mean()


def dice(x: T, t: T, smooth: float = 1.0) -> T:
    x = classes_second(x)
    if not t.is_floating_point():
        t = F.one_hot(t, x.shape[1]).movedim(-1, 1).to(x)
    p, t = torch.softmax(x, 1).flatten(2), t.flatten(2)
    return (1 - (2 * (p * t).sum(2) + smooth) / (p.sum(2) + t.sum(2) + smooth)).mean()


def sigmoid_bce(x: T, t: T, positive: float = 1.0, smoothing: float = 0.0) -> T:
    t = t.to(x) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.tensor(positive, dtype=x.dtype))


def focal(x: T, t: T, alpha: float = 0.25, gamma: float = 2.0) -> T:
    t = t.to(x)
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    right = torch.sigmoid(x) * t + (1 - torch.sigmoid(x)) * (1 - t)
    return ((alpha * t + (1 - alpha) * (1 - t)) * (1 - right) ** gamma * loss).mean()


def signed(t: T, x: T) -> T:
    return torch.where(t > 0, 1.0, -1.0).to(x)


def hinge(x: T, t: T, margin: float = 1.0) -> T:
    return torch.relu(margin - signed(t, x) * x).mean()


def wasserstein(x: T, t: T = None, real: bool = True) -> T:
    return (-(signed(t, x) if t is not None else (1 if real else -1)) * x).mean()


def non_saturating(x: T, t: T = None, real: bool = True) -> T:
    wanted = (t > 0).to(x) if t is not None else torch.full_like(x, float(real))
    return F.binary_cross_entropy_with_logits(x, wanted)


def contrastive(a: T, b: T, t: T, margin: float = 1.0) -> T:
    d = F.pairwise_distance(a, b, eps=0.0)
    y = (t > 0).to(a)
    return (0.5 * y * d**2 + 0.5 * (1 - y) * torch.relu(margin - d) ** 2).mean()


def ctc(x: T, t: T, frames: T = None, lengths: str = "") -> T:
    frames = torch.full((len(x),), x.shape[1]) if frames is None else frames
    logp = torch.log_softmax(x, -1).transpose(0, 1)
    loss = F.ctc_loss(logp, t.clamp(min=0), frames, (t >= 0).sum(1), reduction="none", zero_infinity=True)
    return loss.mean()


LOSSES: dict[str, Callable[..., T]] = {
    "softmax_cross_entropy": cross_entropy,
    "softmax_focal": softmax_focal,
    "kl": kl,
    "dice": dice,
    "sigmoid_bce": sigmoid_bce,
    "focal": focal,
    "hinge": hinge,
    "squared_hinge": lambda x, t: (torch.relu(1 - signed(t, x) * x) ** 2).mean(),
    "logistic": lambda x, t: F.soft_margin_loss(x, signed(t, x)),
    "wasserstein_gan": wasserstein,
    "non_saturating_gan": non_saturating,
    "mean_squared_error": lambda x, t, weight=1.0: weight * F.mse_loss(x, t.to(x)),
    "mean_absolute_error": lambda x, t: F.l1_loss(x, t.to(x)),
    "huber": lambda x, t, delta=1.0: F.huber_loss(x, t.to(x), delta=delta),
    "log_cosh": lambda x, t: torch.log(torch.cosh(x - t)).mean(),
    "poisson": lambda x, t: F.poisson_nll_loss(x, t.to(x)),
    "contrastive": contrastive,
    "cosine_embedding": lambda a, b, t, margin=0.0: F.cosine_embedding_loss(a, b, signed(t, a), margin=margin),
    "triplet": lambda a, p, n, margin=1.0: F.triplet_margin_loss(a, p, n, margin=margin),
    "ctc": ctc,
}


def reference(row: Row) -> dict[str, Any]:
    """The loss of a row, and its gradients."""
    name, _, options = row.loss.partition(":")
    words = {"true": True, "false": False, "frames": "frames"}
    outputs, labels = row.arrays()
    xs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in outputs]
    ts = [torch.tensor(t, dtype=torch.float64 if t.dtype.kind == "f" else torch.int64) for t in labels.values()]
    loss = LOSSES[name](*xs, *ts, **eval(f"dict({options})", dict(words)))
    gradients = torch.autograd.grad(loss, xs)
    return {"loss": float(loss), "gradients": [[float(f"{v:.8g}") for v in g.flatten().tolist()] for g in gradients]}


if __name__ == "__main__":
    FILE.write_text(json.dumps({str(row): reference(row) for row in ROWS}, indent=0) + "\n")
