"""A random order that is the same on every machine and under every NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shuffled(n: int, seed: int, stream: int = 0) -> npt.NDArray[np.int64]:
    """A permutation of n samples, int64 (n,), which depends on n, seed and stream alone, both in [0, 2**64).

    Sorting the raw output of Philox, and not Generator.permutation: NumPy promises the stream of a bit generator for
    ever but not what a Generator makes of it (NEP 19), and a resumed run, or an evaluation, may meet another NumPy.
    """
    raw = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int64, copy=False)
