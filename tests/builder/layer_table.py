"""What the table of layers is made of: a row, how it is built, and what must hold of every one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnxmx.builder.model import Model, build

Array = np.ndarray[Any, Any]
Reference = Callable[[Array, dict[str, Array]], Array]


@dataclass
class Case:
    """A layer on a random input of `shape`. numpy: the same, from the input and the parameters by name.

    reference: False where onnx.reference 1.23 itself is wrong; the row says how.
    """

    layer: Any
    shape: tuple[int, ...]
    numpy: Reference
    out: tuple[int, ...] | None = None
    reference: bool = True

    def __str__(self) -> str:
        return re.sub(" at 0x[0-9a-f]+", "", f"{self.layer!r}{self.shape}")[:80]  # the same name in every process


def made(layer: Any, shape: tuple[int, ...]) -> Model:
    """The layer as a model with a symbolic batch, its parameters random, so that a bias of 0 hides nothing."""
    model = build(layer, x=("batch", *shape[1:]))
    random = np.random.default_rng(5)
    return model.with_parameters(
        {name: random.uniform(0.5, 1.5, a.shape).astype(np.float32) for name, a in model.parameters().items()}
    )


def check(model: Model, x: Array, expected: Array, *, reference: bool = True) -> None:
    """Valid and clean ONNX, which computes what is expected."""
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert_clean(proto.graph)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)
    if reference:
        (found,) = ReferenceEvaluator(proto).run(None, {"x": x})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def assert_clean(graph: onnx.GraphProto) -> None:
    """No node whose result nobody reads, no constant twice, no Identity."""
    read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    assert [n.name for n in graph.node if not read.intersection(n.output)] == []
    assert [i.name for i in graph.initializer if i.name not in read] == []
    constants = [(i.data_type, tuple(i.dims), i.raw_data) for i in graph.initializer if i.name.startswith("const.")]
    assert len(constants) == len(set(constants))
    assert "Identity" not in {n.op_type for n in graph.node}
