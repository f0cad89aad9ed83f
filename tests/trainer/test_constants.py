"""What is known of numbers that a graph computes from sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.constants import numbers


def shape(g: GraphBuilder) -> Any:
    return g.op("Shape", g.input("x", ("batch", 3, 8)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda g: g.constant([1, 2]), [1, 2]),
        (lambda g: g.slice(shape(g), [1], [3], [0]), [3, 8]),
        (lambda g: g.op("Size", g.input("x", (2, 5))), 10),
        (lambda g: g.sub(shape(g), shape(g)), [0, 0, 0]),
        (lambda g: g.range(np.int64(0), g.squeeze(g.op("Shape", shape(g)), [0]), np.int64(1)), [0, 1, 2]),
        (lambda g: g.concat([g.constant([7]), g.div(g.gather(shape(g), np.array([2])), 4)], 0), [7, 2]),
        (shape, None),  # the batch may be any
        # Two sizes that are not known may be two; those of one name are one.
        (lambda g: g.sub(*(g.op("Shape", g.input(n, (None,))) for n in "ab")), None),
        (lambda g: g.sub(*(g.op("Shape", g.input(n, ("batch",))) for n in "ab")), [0]),
        (lambda g: g.min(g.gather(shape(g), np.array([0])), 5), None),
        (lambda g: g.input("x", (2,)), None),
        (lambda g: g.op("RandomUniform", shape=[2], seed=1.0), None),
    ],
)  # fmt: skip
def test_numbers(make: Any, expected: Any) -> None:
    found = numbers(make(GraphBuilder()))
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found, expected)
