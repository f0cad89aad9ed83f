"""What scikit-learn says of metric_rows.py: `python -m tests.trainer.metric_references` where it is installed.

Writes metric_references.json: each figure over all samples at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics as sk  # type: ignore[import-not-found,unused-ignore]

from tests.trainer.metric_rows import BINARY, CLASSES, ROWS, Row

FILE = Path(__file__).with_name("metric_references.json")
COUNTED: dict[str, Any] = {
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "f_beta": sk.fbeta_score,
    "iou": sk.jaccard_score,
}


def softmax(x: Any) -> Any:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def figure(row: Row) -> Any:
    name, _, text = row.metric.partition(":")
    options = dict(part.split("=") for part in text.split(",")) if text else {}
    output, label = row.arrays()
    flat = label[:, 0] if label.ndim == 2 and row.columns == 1 else label
    chosen = output.argmax(1) if row.loss == CLASSES else (output > 0).astype(int).reshape(flat.shape)
    if name in COUNTED:
        average = options.get("average", "binary" if row.loss == BINARY and row.columns == 1 else "macro")
        beta = {"beta": float(options.get("beta", 1))} if name == "f_beta" else {}
        return COUNTED[name](flat, chosen, average=average, zero_division=0, **beta)
    if name == "accuracy":
        return (chosen == flat).mean()
    if name == "top_k":
        return sk.top_k_accuracy_score(label, output, k=int(options["k"]), labels=range(row.columns))
    if name == "auc":
        return auc(row, output, flat)
    if name == "perplexity":
        return np.exp(sk.log_loss(label, softmax(output), labels=range(row.columns)))
    if name == "confusion_matrix":
        return sk.confusion_matrix(flat, chosen, labels=range(max(row.columns, 2))).tolist()
    if name == "mcc":
        return sk.matthews_corrcoef(flat, chosen)
    x, y = output.astype(np.float64), label.astype(np.float64)
    if name == "pearson":
        return np.mean([np.corrcoef(x[:, k], y[:, k])[0, 1] for k in range(row.columns)])
    if name == "root_mean_squared_error":
        return sk.mean_squared_error(y, x) ** 0.5
    regression = {"mean_absolute_error": sk.mean_absolute_error, "mean_squared_error": sk.mean_squared_error}
    return (regression | {"r2": sk.r2_score})[name](y, x)


def auc(row: Row, output: Any, label: Any) -> Any:
    if row.loss == BINARY:
        return sk.roc_auc_score(label, output.reshape(label.shape))
    p = softmax(output)
    if row.columns == 2:
        return sk.roc_auc_score(label, p[:, 1])
    there = [k for k in range(row.columns) if (label == k).any()]
    return np.mean([sk.roc_auc_score(label == k, p[:, k]) for k in there])


if __name__ == "__main__":
    found = {str(row): figure(row) for row in ROWS}
    FILE.write_text(json.dumps({k: v if isinstance(v, list) else float(v) for k, v in found.items()}, indent=0) + "\n")
