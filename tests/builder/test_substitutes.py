"""What stands in for operators without a CUDA kernel computes what they do, on the CPU's kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.session import open_session
from onnxmx.builder.substitutes import SUBSTITUTES

Array = np.ndarray[Any, Any]


@dataclass
class Row:
    """An operator on inputs of these shapes, or on these arrays.   kept: whether CUDA runs this form as it is."""

    operator: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.operator} {self.attributes}"


def up(kept: bool = False, image: tuple[int, ...] = (2, 4, 5, 6), **attributes: Any) -> Row:
    kernel = (4, 2, 3, 2) if len(image) == 4 else (4, 2, 3)
    bias = np.ones(2 * attributes.get("group", 1), np.float32)
    return Row("ConvTranspose", (image, kernel, bias), attributes, kept)


def padded(pads: list[int], *value: Any, dtype: type = np.int64, kept: bool = False, **attributes: Any) -> Row:
    x = np.arange(12).reshape(3, 4).astype(dtype)
    return Row("Pad", (x, np.array(pads), *(np.array(v, dtype) for v in value)), attributes, kept)


BITS = np.array([[0, 1, 2**31, 2**32 - 1], [127, 128, 12345, 2**30 + 77]], np.uint32)
ROWS = [
    up(pads=[0, 1, 2, 0]),
    up(pads=[0, 0, 1, 1], strides=[2, 3]),
    up(pads=[1, 0, 0, 0], strides=[2, 2], output_padding=[1, 1], dilations=[2, 1], group=2),
    up(image=(2, 4, 7), pads=[0, 2]),
    up(auto_pad="SAME_UPPER", strides=[2, 1]),
    up(auto_pad="SAME_LOWER", strides=[2, 1]),
    up(auto_pad="SAME_UPPER", strides=[1, 2], output_padding=[0, 1]),
    up(kept=True, pads=[1, 0, 1, 0]),
    up(kept=True, auto_pad="VALID"),
    up(kept=True),
    Row("Celu", ((3, 4),)),
    Row("Celu", ((3, 4),), {"alpha": 0.6}),
    Row("Mean", ((3, 4), (4,), (3, 1))),
    Row("Mean", ((3, 4),)),
    Row("Tan", ((3, 4),)),
    Row("BitShift", (BITS, np.array(7, np.uint32)), {"direction": "RIGHT"}),
    Row("BitShift", (BITS, np.array(7, np.uint32)), {"direction": "LEFT"}),
    Row("BitShift", (BITS, np.arange(4, dtype=np.uint32)), {"direction": "RIGHT"}),
    padded([1, 0, 2, 3]),
    padded([1, 0, 2, 3], 7),
    padded([-1, 1, 1, 0], mode="reflect"),
    padded([1, 1, 1, 1], mode="edge", dtype=np.int32),
    padded([1, 1, 1, 1], kept=True, dtype=np.float32),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_substitute_computes_the_same(row: Row) -> None:
    random = np.random.default_rng(1)
    arrays = [x if isinstance(x, np.ndarray) else random.normal(size=x).astype(np.float32) for x in row.inputs]
    found = []
    for device in SUBSTITUTES:
        g = GraphBuilder()
        g.device = device
        inputs = [g.input(f"x{k}", a.shape, ir.DataType.from_numpy(a.dtype)) for k, a in enumerate(arrays)]
        rest = row.inputs[1:] if row.operator in ("BitShift", "Pad") else inputs[1:]
        y = g.op(row.operator, inputs[0], *rest, **row.attributes)
        g.output(y, "y")
        data = ir.to_proto(g.model()).SerializeToString()
        same = [n.op_type for n in onnx.load_from_string(data).graph.node] == [row.operator]
        assert same == (device == "cpu" or row.kept)
        feeds = {v.name: a for v, a in zip(g.graph.inputs, arrays, strict=True)}
        found.append((open_session(data, threads=1).run(None, feeds)[0], y.shape))
    (expected, _), (made, shape) = found
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    assert made.dtype == expected.dtype
    assert tuple(shape or ()) == made.shape


@pytest.mark.parametrize("row", [r for r in ROWS if r.operator == "ConvTranspose"], ids=str)
def test_pads_are_the_same_at_both_ends(row: Row) -> None:
    g = GraphBuilder()
    g.device = "cuda"
    inputs = [g.input(f"x{k}", x if isinstance(x, tuple) else x.shape) for k, x in enumerate(row.inputs)]
    g.output(g.op(row.operator, *inputs, **row.attributes), "y")
    (node,) = (n for n in g.graph if n.op_type == "ConvTranspose")
    pads = list(node.attributes["pads"].value) if "pads" in node.attributes else []
    assert pads[: len(pads) // 2] == pads[len(pads) // 2 :]
    assert ("auto_pad" in node.attributes) == (row.attributes.get("auto_pad") == "VALID")
    assert ("Slice" in {n.op_type for n in g.graph}) == (not row.kept)


def test_every_substitute_has_a_row() -> None:
    assert {row.operator for row in ROWS} == {name for table in SUBSTITUTES.values() for name in table}
