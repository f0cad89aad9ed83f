"""One net, two questions about a digit: which one is it, and is it odd? Beside it, a net for each question alone.

python examples/multi_task.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

import onnxmx as mx
from onnxmx import layers as L

LOSSES = {"digit": "softmax_cross_entropy", "odd": "sigmoid_bce"}


def net(image: L.Value) -> dict[str, L.Value]:
    """Two heads on one trunk.   image: (batch, 1, 8, 8)   digit: (batch, 10) logits   odd: (batch, 1), a logit"""
    trunk = L.Sequential(
        L.Conv2D(32, 3, padding="same", activation="relu"),
        L.Conv2D(32, 3, activation="relu"),
        L.MaxPool2D(2),
        L.Flatten(),
        L.Dense(128, activation="relu"),
        L.Dropout(0.2),
        name="trunk",
    )
    x = trunk(image)
    return {"digit": L.Dense(10, name="digit")(x), "odd": L.Dense(1, name="odd")(x)}


def two_labels(split: str) -> mx.data.Dataset:
    """The digits with a label for each head: digit (n,), a class; odd (n,), 0 or 1."""
    digits = mx.data.digits(split)
    digit = digits.labels["label"]
    return replace(digits, labels={"digit": digit, "odd": digit % 2})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="nets of each kind, whose accuracies are averaged")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    train, test = two_labels("train"), two_labels("test")
    for loss in (LOSSES, {"digit": LOSSES["digit"]}, {"odd": LOSSES["odd"]}):
        found = [accuracies(loss, train, test, seed, options) for seed in range(options.seeds)]
        means = "  ".join(f"{name} {np.mean([f[name] for f in found]):.4f}" for name in found[0])
        print(f"trained on {' and '.join(loss):<16}{means}")


def accuracies(
    loss: dict[str, str], train: mx.data.Dataset, test: mx.data.Dataset, seed: int, options: argparse.Namespace
) -> dict[str, float]:
    """On the test digits, of a net with a head for each loss."""
    run = mx.fit(
        mx.build(net, seed=seed, image=("batch", 1, 8, 8)).cut(*loss),
        train,
        loss=loss,
        optimizer=mx.Adam(lr=mx.WarmupCosine(3e-3, warmup=20)),
        seed=seed,
        epochs=options.epochs,
        threads=options.threads,
        progress=False,
    )
    return {name: value for name, value in mx.evaluate(run.last, test).items() if name.endswith("accuracy")}


if __name__ == "__main__":
    main()
