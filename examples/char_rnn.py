"""A language model of characters, trained on Alice in Wonderland, beside one that only counts.

    python examples/char_rnn.py

It learns the first eleven chapters and is measured on the twelfth. A perplexity of 5 is as unsure as a choice among
five characters.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

import onnxmx as mx

LENGTH, STRIDE = 100, 25  # characters of a sample; how far apart samples begin


def read_text() -> tuple[np.ndarray, np.ndarray, str]:
    """Chapters 1 to 11 and chapter 12, each character as its place in the third value, the alphabet."""
    text = gzip.decompress((Path(__file__).parent / "data/alice.txt.gz").read_bytes()).decode()
    alphabet = "".join(sorted(set(text)))
    numbers = np.array([alphabet.index(c) for c in text])
    cut = text.index("CHAPTER XII")
    return numbers[:cut], numbers[cut:], alphabet


def samples(text: np.ndarray, stride: int) -> mx.data.Dataset:
    """Stretches of a text, and for each character the one after it."""
    rows = np.lib.stride_tricks.sliding_window_view(text, LENGTH + 1)[::stride]
    return mx.data.Dataset.from_arrays({"tokens": rows[:, :-1]}, rows[:, 1:])


def perplexity_of_counts(train: np.ndarray, test: np.ndarray, size: int, before: int) -> float:
    """Of p(character | the `before` characters before it), counted in `train`; each count starts at 0.05."""
    counts = np.full((size,) * (before + 1), 0.05)
    np.add.at(counts, tuple(train[k : len(train) - before + k] for k in range(before + 1)), 1)
    p = counts / counts.sum(-1, keepdims=True)
    return float(np.exp(-np.log(p[tuple(test[k : len(test) - before + k] for k in range(before + 1))]).mean()))


def write(model: mx.Model, start: str, length: int, alphabet: str) -> str:
    """Go on with `start`, a character at a time, drawn from what the model gives at a temperature of 0.7."""
    random = np.random.default_rng(0)
    text = start
    for _ in range(length):
        tokens = np.array([[alphabet.index(c) for c in text[-LENGTH:]]])
        logits = model(tokens)[0, -1].astype(np.float64) / 0.7
        p = np.exp(logits - logits.max())
        text += alphabet[random.choice(len(alphabet), p=p / p.sum())]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--stride", type=int, default=STRIDE, help="characters between the starts of two samples")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    train, test, alphabet = read_text()
    for before in (0, 1, 2):
        found = perplexity_of_counts(train, test, len(alphabet), before)
        print(f"counts, {before} characters before   perplexity {found:.2f}", flush=True)
    model = mx.models.build("char_rnn", vocabulary=len(alphabet), layers=1, dropout=0.0)
    run = mx.fit(
        model,
        samples(train, options.stride),
        measure=["perplexity"],
        optimizer=mx.AdamW(lr=mx.WarmupCosine(4e-3, warmup=50)),
        batch_size=16,
        clip=mx.clip_global_norm(1.0),
        epochs=options.epochs,
        threads=options.threads,
    )
    found = mx.evaluate(run.last, samples(test, LENGTH), measure=["perplexity"])
    print(f"char_rnn                      perplexity {found['perplexity']:.2f}")
    print(write(run.last, "Alice ", 200, alphabet))


if __name__ == "__main__":
    main()
