"""The random numbers: known answers, the same bits everywhere, and no relation between streams, steps or neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from onnxmx.builder import random
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.session import open_session

N = 50_000
Array = np.ndarray[Any, Any]


def graph(stream: int, ratio: float, device: str = "cpu") -> bytes:
    g = GraphBuilder()
    g.device = device
    seed, step, x = g.input("seed", (), ir.DataType.INT64), g.input("step", (), ir.DataType.INT64), g.input("x", ("n",))
    word = random.key(g, seed, step, stream)
    g.output(random.uniform_int31(g, g.op("Size", x), word), "draws")
    g.output(random.keep_mask(g, x, ratio, word), "mask")
    data: bytes = ir.to_proto(g.model()).SerializeToString()
    return data


def draw(seed: int = 1, step: int = 0, stream: int = 0, n: int = N, ratio: float = 0.3) -> tuple[Array, Array]:
    draws, mask = open_session(graph(stream, ratio), threads=1).run(None, feeds(seed, step, n))
    return draws, mask


def feeds(seed: int, step: int, n: int) -> dict[str, Array]:
    return {"seed": np.array(seed), "step": np.array(step), "x": np.zeros(n, np.float32)}


def lowbias32(x: int, between: int = 0) -> int:
    """Chris Wellons's hash in Python's own integers; `between` is added between its rounds."""
    x = (x ^ x >> 16) * 0x7FEB352D + between & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def expected(seed: int, step: int, stream: int, n: int) -> list[int]:
    key = lowbias32(seed >> 32 & 0xFFFFFFFF)
    for part in (seed, step, stream):
        key = lowbias32(key * 0x9E3779B9 + (part & 0xFFFFFFFF) & 0xFFFFFFFF)
    return [lowbias32(i + key & 0xFFFFFFFF, key * 0x9E3779B9) >> 1 for i in range(n)]


def test_known_answers() -> None:
    assert [lowbias32(x) for x in (1, 2, 0xFFFFFFFF)] == [1753845952, 3507691905, 1734902346]
    for seed, step, stream in ((0, 0, 0), (1, 2, 3), (2**40 + 7, 10**6, 12), (-5, 3, 1)):
        assert draw(seed, step, stream, n=40)[0].tolist() == expected(seed, step, stream, 40)


def test_the_same_bits_in_every_run_and_in_the_reference() -> None:
    first, second = draw(step=3, n=1000), draw(step=3, n=1000)
    reference = ReferenceEvaluator(graph(0, 0.3)).run(None, feeds(1, 3, 1000))
    for a, b, c in zip(first, second, reference, strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7, -5])
def test_the_same_bits_without_bitwise_kernels(seed: int) -> None:
    """CUDA has none: there the hash is arithmetic and look-ups."""
    data = graph(3, 0.3, "cuda")
    assert not {"BitShift", "BitwiseXor"} & {n.op_type for n in onnx.load_from_string(data).graph.node}
    found = open_session(data, threads=1).run(None, feeds(seed, 10**6, N))
    same = open_session(graph(3, 0.3), threads=1).run(None, feeds(seed, 10**6, N))
    assert [a.tobytes() for a in found] == [a.tobytes() for a in same]


def test_draws_are_uniform() -> None:
    draws = draw()[0] / 2**31
    assert draws.min() >= 0
    assert draws.max() < 1
    # Each figure within four standard errors of what it estimates.
    assert abs(draws.mean() - 0.5) < 4 * (1 / 12 / N) ** 0.5
    assert abs(draws.var() - 1 / 12) < 4 * (1 / 180 / N) ** 0.5
    counts = np.bincount((draws * 64).astype(int), minlength=64)
    assert ((counts - N / 64) ** 2 / (N / 64)).sum() < 63 + 4 * (2 * 63) ** 0.5


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"step": 1}, {"stream": 1}, {"seed": 2**31 + 1}, {"seed": 2**32 + 1}],
    ids=lambda o: "-".join(o),
)
def test_draws_of_different_keys_are_unrelated(other: dict[str, int]) -> None:
    a, b = draw()[0] / 2**31, draw(**other)[0] / 2**31
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / N**0.5
    assert abs(np.corrcoef(a[1:], b[:-1])[0, 1]) < 4 / N**0.5


def test_neighbours_are_unrelated() -> None:
    a = draw()[0] / 2**31
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(a[:-lag], a[lag:])[0, 1]) < 4 / N**0.5


def test_keys_that_are_neighbours_do_not_draw_the_same_numbers_shifted() -> None:
    g = GraphBuilder()
    word = g.input("word", (), ir.DataType.UINT32)
    g.output(random.uniform_int31(g, g.constant(1000), word), "draws")
    session = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1)
    a, b = (session.run(None, {"word": np.array(word, np.uint32)})[0] for word in (77, 82))
    assert len(np.intersect1d(a, b)) < 3


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9])
def test_a_mask_keeps_the_mean(ratio: float) -> None:
    mask = draw(ratio=ratio)[1]
    kept = np.float32(1) / (np.float32(1) - np.float32(ratio))
    assert mask.dtype == np.float32
    assert set(mask.tolist()) <= {0.0, float(kept)}
    assert abs((mask == 0).mean() - ratio) <= 4 * (ratio * (1 - ratio) / N) ** 0.5


def test_a_mask_has_the_shape_of_its_value() -> None:
    g = GraphBuilder()
    x = g.input("x", ("batch", 3, 2))
    mask = random.keep_mask(g, x, 0.5, g.constant(np.uint32(7)))
    assert mask.shape == x.shape
