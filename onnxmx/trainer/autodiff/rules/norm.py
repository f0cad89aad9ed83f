"""Rules of normalization and dropout."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxmx.builder.graph import DOMAIN, GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import rank


@gradient("Dropout")
def dropout_at_inference(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy: without a training step's random numbers dropout passes its input on"""
    return dy


@gradient("Dropout", domain=DOMAIN)
def dropout(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy * mask, from the saved mask"""
    return g.mul(dy, node.outputs[1])


@gradient("BatchNormalization")
def batch_norm_at_inference(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy * scale / std;  dscale = sum(dy * (x - mean)) / std;  dbias = sum(dy), the statistics being constants"""
    x, scale, _bias, mean, var = (v for v in node.inputs if v is not None)
    inverse_std = g.div(1.0, g.sqrt(g.add(var, node.attributes.get_float("epsilon", 1e-5))))
    dx = g.mul(dy, _by_channel(g, g.mul(scale, inverse_std), x))
    dscale = g.mul(_over_batch(g, g.mul(dy, g.sub(x, _by_channel(g, mean, x)))), inverse_std)
    return dx, dscale, _over_batch(g, dy)


@gradient("BatchNorm", domain=DOMAIN)
def batch_norm(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = scale / std * (dy - mean(dy) - xh * mean(dy * xh));  dscale = sum(dy * xh);  dbias = sum(dy)

    xh = (x - mean) / std, where mean and std are the batch's own and so depend on x.
    Source: Ioffe & Szegedy 2015, section 3.
    """
    x, scale, _bias = (v for v in node.inputs if v is not None)
    _y, mean, _var, inverse_std = node.outputs
    count = g.count(x, [k for k in range(rank(x)) if k != 1])
    centered = g.sub(x, _by_channel(g, mean, x))
    dbias = _over_batch(g, dy)
    dscale = g.mul(_over_batch(g, g.mul(dy, centered)), inverse_std)
    slope = g.div(g.mul(dscale, inverse_std), count)
    inner = g.sub(g.sub(dy, _by_channel(g, g.div(dbias, count), x)), g.mul(centered, _by_channel(g, slope, x)))
    return g.mul(inner, _by_channel(g, g.mul(scale, inverse_std), x)), dscale, dbias


def _over_batch(g: GraphBuilder, dy: ir.Value) -> Value:
    """The sum over everything but the channels.   (n, c, ...) -> (c,)"""
    return g.reduce_sum(dy, [k for k in range(rank(dy)) if k != 1], keepdims=False)


def _by_channel(g: GraphBuilder, v: ir.Value, x: ir.Value) -> ir.Value | Value:
    """A value for each channel, as it broadcasts against x.   (c,) -> (c, 1, ...)"""
    return v if rank(x) == 2 else g.reshape(v, [-1] + [1] * (rank(x) - 2))
