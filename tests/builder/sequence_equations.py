"""The equations of the layers over sequences, in numpy; parameters by name, without the layer's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests import recurrent
from tests.builder.layer_table import Array

Parameters = dict[str, Array]


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(
    p: Parameters, query: Array, key: Array, value: Array, heads: int, mask: Array | None = None, causal: bool = False,
    rotate: bool = False,
) -> Array:  # fmt: skip
    """One head after another, each on its own columns of the weights."""

    def project(x: Array, name: str) -> Array:
        return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0.0)

    q, k, v = project(query, "query"), project(key, "key"), project(value, "value")
    size, parts = q.shape[-1] // heads, []
    for h in range(heads):
        qh, kh, vh = (a[..., h * size : (h + 1) * size] for a in (q, k, v))
        if rotate:
            qh, kh = rotary(qh), rotary(kh)
        scores = np.einsum("bqd,bkd->bqk", qh, kh) / np.sqrt(size)
        allowed = np.ones(scores.shape, bool)
        if mask is not None:
            allowed &= (mask[:, h] if mask.ndim == 4 else mask[:, None] if mask.ndim == 2 else mask).astype(bool)
        if causal:
            allowed &= np.tri(scores.shape[1], scores.shape[2], dtype=bool)
        parts.append(softmax(np.where(allowed, scores, -1e9)) @ vh)
    return project(np.concatenate(parts, -1), "output")


def rotary(x: Array) -> Array:
    """Each pair as a complex number, turned by its angle."""
    n = x.shape[-1]
    angle = np.arange(x.shape[-2])[:, None] * 10000.0 ** (-np.arange(0, n, 2) / n)
    turned = (x[..., : n // 2] + 1j * x[..., n // 2 :]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def sinusoidal(x: Array) -> Array:
    place, n = np.zeros(x.shape[1:]), x.shape[2]
    for t in range(x.shape[1]):
        for i in range(n // 2):
            place[t, 2 * i], place[t, 2 * i + 1] = np.sin(t / 1e4 ** (2 * i / n)), np.cos(t / 1e4 ** (2 * i / n))
    return x + place


def inner(p: Parameters, name: str) -> Parameters:
    return {key.removeprefix(f"{name}."): a for key, a in p.items() if key.startswith(f"{name}.")}


def norm(p: Parameters, x: Array, name: str) -> Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def transformer(
    heads: int, first: bool, causal: bool = False, activation: Any = None, rotate: bool = False
) -> Callable[..., Array]:
    activation = activation or (lambda x: np.maximum(x, 0))

    def compute(
        p: Parameters, x: Array, memory: Array | None = None, mask: Array | None = None, memory_mask: Any = None
    ) -> Array:
        def feed_forward(x: Array) -> Array:
            h = activation(x @ p["linear1.weight"] + p["linear1.bias"])
            return h @ p["linear2.weight"] + p["linear2.bias"]

        parts = [lambda x: attend(inner(p, "attention"), x, x, x, heads, mask, causal, rotate)]
        if memory is not None:
            parts.append(lambda x: attend(inner(p, "cross_attention"), x, memory, memory, heads, memory_mask))
        for k, part in enumerate([*parts, feed_forward], 1):
            x = x + part(norm(p, x, f"norm{k}")) if first else norm(p, x + part(x), f"norm{k}")
        return x

    return compute


def stack(
    step: recurrent.Step, layers: int = 1, directions: int = 1, states: int = 1, last: bool = False
) -> Callable[..., Array]:
    """Layers above each other; each in numpy, one step and sample at a time."""
    direction = "bidirectional" if directions == 2 else "forward"

    def compute(
        p: Parameters, x: Array, lengths: Any = None, mask: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> Array:
        lengths = mask.sum(1).astype(int) if mask is not None else lengths
        x = x.transpose(1, 0, 2)
        for k in range(layers):
            starts = [
                None if s is None else s.reshape(layers, directions, *s.shape[-2:])[k] for s in (initial_h, initial_c)
            ]
            y, h, *_ = recurrent.run(
                step, x, p[f"{k}.weight"], p[f"{k}.recurrent_weight"], p.get(f"{k}.bias"), lengths, starts[:states],
                direction,
            )  # fmt: skip
            x = np.concatenate(list(y.transpose(1, 0, 2, 3)), -1)
        return np.concatenate(list(h), -1) if last else x.transpose(1, 0, 2)

    return compute


def embed(p: Parameters, x: Array) -> Array:
    return p["weight"][x]


def unrolled(step: recurrent.Step, states: int = 1, last: bool = False, reverse: bool = False) -> Callable[..., Array]:
    """As the operators' equations, whose weights are the transposed ones of a cell."""

    def compute(p: Parameters, x: Array) -> Array:
        b, rb = p.get("cell.bias"), p.get("cell.recurrent_bias")
        both = None if b is None else np.concatenate([b, np.zeros_like(b) if rb is None else rb])[None]
        y, *_ = recurrent.run(
            step, x.transpose(1, 0, 2), p["cell.weight"].T[None], p["cell.recurrent_weight"].T[None], both, None,
            [None] * states, "reverse" if reverse else "forward",
        )  # fmt: skip
        return y[-1, 0] if last else y[:, 0].transpose(1, 0, 2)

    return compute
