"""The rule of Einsum."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import given, rank, unbroadcast


@gradient("Einsum")
def einsum(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx_k = Einsum of dy and the other operands, onto the letters of x_k

    Letters of x_k alone were summed over: dy is spread over them. A letter twice in x_k read its diagonal: dx_k is
    zero elsewhere.
    """
    xs = given(node)
    terms, out = _letters(node.attributes["equation"].as_string(), [rank(x) for x in xs])
    gradients = []
    for k, (x, term) in enumerate(zip(xs, terms, strict=True)):
        others = [(t, v) for j, (t, v) in enumerate(zip(terms, xs, strict=True)) if j != k]
        sources = [(out, dy), *others]
        known = set("".join(t for t, _ in sources))
        unique = list(dict.fromkeys(term))
        onto = [c for c in unique if c in known]
        equation = f"{','.join(t for t, _ in sources)}->{''.join(onto)}"
        dx: ir.Value = g.op("Einsum", *(v for _, v in sources), equation=equation)
        # Onto the letters of the operand as they stand there, ones where it alone has them.
        missing = [place for place, c in enumerate(term) if c not in known or c in term[:place]]
        dx = g.unsqueeze(dx, missing) if missing else dx
        for place, c in enumerate(term):
            if (first := term.index(c)) < place:
                dx = g.mul(dx, _diagonal(g, x, first, place))
        gradients.append(unbroadcast(g, g.expand_like(dx, x) if missing else dx, x))
    return tuple(gradients)


def _diagonal(g: GraphBuilder, x: ir.Value, a: int, b: int) -> ir.Value:
    """1 where the places along two axes of x are equal, else 0."""
    size = g.squeeze(g.op("Shape", x, start=a, end=a + 1), [0])
    places = g.range(np.int64(0), size, np.int64(1))
    row, column = (g.reshape(places, [-1 if k == axis else 1 for k in range(rank(x))]) for axis in (a, b))
    return g.cast_like(g.equal(row, column), x)


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; those behind an ellipsis get letters of their own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    free = [c for c in string.ascii_letters if c not in equation]
    widths = [n - len(t.replace("...", "")) if "..." in t else 0 for t, n in zip(left.split(","), ranks, strict=True)]
    hidden = "".join(free[: max(widths)])
    terms = [t.replace("...", hidden[len(hidden) - width :]) for t, width in zip(left.split(","), widths, strict=True)]
    if not arrow:  # the letters that stand once, in the order of the alphabet
        plain = left.replace("...", "").replace(",", "")
        return terms, hidden + "".join(sorted(c for c in set(plain) if plain.count(c) == 1))
    return terms, right.replace("...", hidden)
