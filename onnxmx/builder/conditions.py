"""Numbers that are the same in every run: constants, and what follows from those sizes that are known.

Exporters write an If where a size may be 1 (a Squeeze) or where a setting is a constant, and compute pads and shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]

_DEPTH = 30
# These move numbers: what is not known stays beside what is.
_MOVES = frozenset({"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"})
_COMPUTES = frozenset(
    {"Abs", "Add", "And", "ConstantOfShape", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max",
     "Min", "Mod", "Mul", "Neg", "Not", "Or", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Sub", "Transpose",
     "Where", "Xor"}
)  # fmt: skip


def decided(condition: ir.Value) -> bool | None:
    """Whether `condition`, one truth value, is true in every run or false in every run; None where it depends."""
    found = fixed(condition)
    return None if found is None or found.size != 1 else bool(found.reshape(-1)[0])


def fixed(x: ir.Value) -> Array | None:
    """The numbers of `x` where all of them are the same in every run, else None."""
    found = _numbers(x, _DEPTH)
    return found[0] if found is not None and found[1].all() else None


def _numbers(x: ir.Value | None, depth: int) -> tuple[Array, Array] | None:
    """The numbers of `x`, and for each whether it is known; None where nothing is."""
    if x is None or depth == 0:
        return None
    if (constant := ir.convenience.get_const_tensor(x)) is not None and constant.size <= 64:
        return constant.numpy(), np.ones(tuple(constant.shape), bool)
    node = x.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Shape", "Size"):
        return _sizes(node)
    if node.op_type not in _MOVES | _COMPUTES:
        return None
    parts = [_numbers(v, depth - 1) for v in node.inputs if v is not None]
    values, known = [p[0] for p in parts if p is not None], [p[1] for p in parts if p is not None]
    moved = len(parts) if node.op_type == "Concat" else 1 if node.op_type in _MOVES else 0
    if len(values) < len(parts) or not all(k.all() for k in known[moved:]):
        return None
    found = _run(node, values)
    if found is None or not moved:
        return None if found is None else (found, np.ones(found.shape, bool))
    masks = [k.astype(v.dtype) for k, v in zip(known[:moved], values, strict=False)]
    mask = _run(node, [*masks, *values[moved:]])
    return None if mask is None else (found, mask.astype(bool))


def _sizes(node: ir.Node) -> tuple[Array, Array] | None:
    x = node.inputs[0]
    if x is None or x.shape is None:
        return None
    sizes = [d if isinstance(d, int) else -1 for d in x.shape]
    if node.op_type == "Size":
        return np.array(np.prod(sizes), np.int64), np.array(min(sizes, default=0) >= 0)
    part = slice(node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes)))
    found = np.array(sizes, np.int64)[part]
    return found, found >= 0


def _run(node: ir.Node, values: list[Array]) -> Array | None:
    import onnx.reference  # takes a while, and most models have no conditions

    names = [v.name or "" for v in node.inputs if v is not None]
    try:
        (found,) = onnx.reference.ReferenceEvaluator(ir.serde.serialize_node(node)).run(
            None, dict(zip(names, values, strict=True))
        )
    except Exception:  # whatever the reference raises: then nothing is known
        return None
    return np.asarray(found)
