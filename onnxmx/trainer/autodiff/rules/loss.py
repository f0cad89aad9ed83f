"""Rules of the two loss operators, and of CTC."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import DOMAIN, GraphBuilder, Value
from onnxmx.trainer.autodiff.backward import through
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import rank
from onnxmx.trainer.losses.ctc import CTCLoss


@gradient("NegativeLogLikelihoodLoss")
def negative_log_likelihood(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = -sum(w q x) / d, q = 1 at the label and 0 elsewhere:  dx = -dy w q / d;  dw = -dy q (x + y) / d

    d = sum(w q) and the y in dw are there for the mean alone. Labels that are ignored have no q at all.
    """
    x, labels, weight = [*node.inputs, None][:3]
    assert x is not None
    assert labels is not None
    dx, dweight = _through(g, node, x, labels, weight, dy)
    return dx, None, dweight


@gradient("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(g: GraphBuilder, node: ir.Node, dy: ir.Value | None, dlog: ir.Value | None = None) -> Any:
    """As NegativeLogLikelihoodLoss of l = log softmax(x):  dx = dl - softmax(x) sum(dl)"""
    x, labels, weight = [*node.inputs, None][:3]
    assert x is not None
    assert labels is not None
    dweight = None
    if dy is not None:
        dl, dweight = _through(g, node, g.op("LogSoftmax", x, axis=1), labels, weight, dy)
        dlog = dl if dlog is None else g.add(dl, dlog)
    dx = g.sub(dlog, g.mul(g.op("Softmax", x, axis=1), g.reduce_sum(dlog, [1])))
    return dx, None, dweight


@gradient("SoftmaxCrossEntropyRows", "SoftmaxCrossEntropyImages", domain=DOMAIN)
def cross_entropy_of_each(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = -sum(t log softmax(x)) over the classes:  dx = dy (softmax(x) sum(t) - t);  dt = -dy log softmax(x)"""
    x, t = (v for v in node.inputs if v is not None)
    axis = -1 if node.op_type == "SoftmaxCrossEntropyRows" else 1
    each = g.unsqueeze(dy, [axis])
    short = g.sub(g.mul(g.op("Softmax", x, axis=axis), g.reduce_sum(t, [axis])), t)
    return g.mul(each, short), g.neg(g.mul(each, g.op("LogSoftmax", x, axis=axis)))


@gradient("CTCLoss", domain=DOMAIN)
def ctc(g: GraphBuilder, node: ir.Node, dy: ir.Value | None, dslope: ir.Value | None = None) -> Any:
    """dlogp = dy * slope, from the saved slope; where that is read too, through the recursions that gave it"""
    if dslope is not None:
        blank = node.attributes["blank"].value
        return through(g, node, [dy, dslope], functools.partial(CTCLoss.trace, blank=blank))
    return None if dy is None else g.mul(g.reshape(dy, [-1, 1, 1]), node.outputs[1])


def _through(
    g: GraphBuilder, node: ir.Node, x: ir.Value, labels: ir.Value, weight: ir.Value | None, dy: ir.Value
) -> tuple[Value, Value | None]:
    """The gradients of the log-probabilities x, (n, classes, ...), and of the weights, (classes,)."""
    labels = g.cast(labels, ir.DataType.INT64)
    by_class = [1, -1] + [1] * (rank(x) - 2)
    classes = g.range(np.int64(0), g.squeeze(g.op("Shape", x, start=1, end=2), [0]), np.int64(1))
    hot = g.cast_like(g.equal(g.unsqueeze(labels, [1]), g.reshape(classes, by_class)), x)
    if "ignore_index" in node.attributes:
        counts = g.op("Not", g.equal(labels, node.attributes["ignore_index"].as_int()))
        hot = g.mul(hot, g.unsqueeze(g.cast_like(counts, x), [1]))
    share = hot if weight is None else g.mul(hot, g.reshape(weight, by_class))
    reduction = node.attributes.get_string("reduction", "mean")
    slope: ir.Value = g.unsqueeze(dy, [1]) if reduction == "none" else dy
    if reduction == "mean":
        slope = g.div(slope, g.reduce_sum(share, keepdims=False))
    dx = g.neg(g.mul(share, slope))
    if weight is None:
        return dx, None
    value = g.add(x, node.outputs[0]) if reduction == "mean" else x
    others = [k for k in range(rank(x)) if k != 1]
    return dx, g.neg(g.reduce_sum(g.mul(g.mul(hot, slope), value), others, keepdims=False))
