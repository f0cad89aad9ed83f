"""Random numbers as a graph: a hash of (seed, step, stream, position), with no state of its own.

The same key gives the same bits on every machine and provider, and a resumed run draws what it would have drawn.
The hash is Chris Wellons's lowbias32 (https://nullprogram.com/blog/2018/07/31/), whose output bits each flip with
probability 0.5 +- 0.0009 when an input bit does.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import FLOAT, INT32, INT64, UINT32

_GOLDEN = np.uint32(0x9E3779B9)


def hash32(g: GraphBuilder, x: ir.Value, between: ir.Value | None = None, *, few: bool = False) -> Value:
    """x: uint32, any shape.  Returns uint32 of that shape, each element hashed.

    between: a second key, a uint32 scalar added between the two rounds.   few: x is a scalar, or nearly.
    """
    x = g.mul(_fold(g, x, 16, few), np.uint32(0x7FEB352D))
    if between is not None:
        x = g.add(x, between)
    x = g.mul(_fold(g, x, 15, few), np.uint32(0x846CA68B))
    return _fold(g, x, 16, few)


def key(g: GraphBuilder, seed: ir.Value, step: ir.Value, stream: ir.Value | int) -> Value:
    """The uint32 scalar that a node draws from at one step. seed, step, stream: int64 scalars."""
    # Both words of the seed: 1 and 2^32 + 1 are two seeds.
    words = g.cast(seed, ir.DataType.UINT64)
    high = g.cast(g.op("BitShift", words, np.uint64(32), direction="RIGHT"), UINT32)
    mixed = hash32(g, g.add(g.mul(hash32(g, high, few=True), _GOLDEN), g.cast(seed, UINT32)), few=True)
    for part in (step, stream):
        word = g.cast(part, UINT32) if isinstance(part, ir.Value) else np.uint32(part)
        mixed = hash32(g, g.add(g.mul(mixed, _GOLDEN), word), few=True)
    return mixed


def uniform_int31(g: GraphBuilder, count: ir.Value, word: ir.Value) -> Value:
    """`count` (int64 scalar) integers, uniform in [0, 2^31), as int32; `word` is a `key`."""
    # Range has no uint32 kernel; int32 holds every position of a tensor below 2^31 elements.
    position = g.cast(g.range(np.int32(0), g.cast(count, INT32), np.int32(1)), UINT32)
    # The key goes in twice: added to the position alone, two keys d apart would draw the
    # same numbers, d apart.
    bits = hash32(g, g.add(position, word), g.mul(word, _GOLDEN))
    return g.cast(g.op("BitShift", bits, np.uint32(1), direction="RIGHT"), INT32)


def normal_like(g: GraphBuilder, x: ir.Value, seed: ir.Value, step: ir.Value, stream: ir.Value) -> Value:
    """Normal float32 numbers of mean 0 and variance 1 in the shape of `x`, from the streams `stream` and `stream` + 1.

    seed, step, stream: int64 scalars.   Source: Box & Muller 1958.
    """
    size = g.op("Size", x)
    first = uniform_int31(g, size, key(g, seed, step, stream))
    second = uniform_int31(g, size, key(g, seed, step, g.add(stream, np.int64(1))))
    # In (0, 1]: the logarithm of 0 would be infinite.
    share = g.mul(g.add(g.cast(first, FLOAT), np.float32(1)), np.float32(2**-31))
    angle = g.mul(g.cast(second, FLOAT), np.float32(2 * np.pi * 2**-31))
    return g.reshape_like(g.mul(g.sqrt(g.mul(g.log(share), np.float32(-2))), g.cos(angle)), x)


def keep_mask(g: GraphBuilder, x: ir.Value, ratio: ir.Value | float, word: ir.Value) -> Value:
    """A float32 mask of the shape of `x`: 1 / (1 - ratio) with probability 1 - ratio, else 0."""
    draws = uniform_int31(g, g.op("Size", x), word)
    keep = g.sub(np.float32(1.0), ratio)
    # 2^31 (1 - ratio) is exact in float64 only; rounding down to what int32 holds costs 1e-7 of probability.
    scaled = g.mul(g.cast(keep, ir.DataType.DOUBLE), np.float64(2**31))
    limit = g.cast(g.min(scaled, np.float64(2**31 - 1)), INT32)
    mask = g.cast(g.less(draws, limit), FLOAT)
    return g.reshape_like(g.div(mask, keep), x)


def _fold(g: GraphBuilder, x: ir.Value, shift: int, few: bool) -> Value:
    """x ^ x >> shift.   x: uint32."""
    if g.device == "cpu":
        return g.op("BitwiseXor", x, g.op("BitShift", x, np.uint32(shift), direction="RIGHT"))
    # CUDA has no kernel for BitwiseXor, but for the arithmetic and the look-ups that it can be written with.
    return (_fold_bits if few else _fold_limbs)(g, x, shift)


def _fold_bits(g: GraphBuilder, x: ir.Value, shift: int) -> Value:
    """x ^ x >> shift, bit by bit: a bit of a ^ b is a + b modulo 2. The least kernels, and 32 numbers for each."""
    place = np.int64(2) ** np.arange(32)
    wide = g.cast(x, INT64)
    bits = g.op("Mod", g.add(g.div(wide, place), g.div(wide, place * 2**shift)), np.int64(2))
    return g.cast(g.reduce_sum(g.mul(bits, place), [-1], keepdims=False), UINT32)


def _fold_limbs(g: GraphBuilder, x: ir.Value, shift: int) -> Value:
    """x ^ x >> shift, the bits that change in three limbs of six, whose a ^ b are looked up."""
    assert 32 - shift <= 3 * _LIMB
    base, place = np.uint32(2**_LIMB), np.uint32(2) ** (_LIMB * np.arange(3, dtype=np.uint32))
    low, high = g.op("Mod", x, np.uint32(2 ** (32 - shift))), g.div(x, np.uint32(2**shift))
    a, b = (g.op("Mod", g.div(g.unsqueeze(v, [-1]), place), base) for v in (low, high))
    at = g.add(g.add(g.mul(a, base), b), base * base * np.arange(3, dtype=np.uint32))
    changed = g.reduce_sum(g.gather(_xor_table(), g.cast(at, INT32)), [-1], keepdims=False)
    return g.add(g.sub(x, low), g.cast(changed, UINT32))


_LIMB = 6


def _xor_table() -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """a ^ b of two limbs at 64 a + b, then the same for the second and the third limb, each in its place; 48 KiB."""
    n = np.arange(2**_LIMB, dtype=np.int32)
    one = (n[:, None] ^ n).ravel()
    return np.concatenate([one << _LIMB * k for k in range(3)])
