"""Rules of normalization and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import DOMAIN, GraphBuilder, Value
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.shapes import rank, static, unbroadcast


@gradient("Dropout")
def dropout_at_inference(g: GraphBuilder, node: ir.Node, dy: ir.Value, *_: Any) -> Any:
    """dx = dy: without a training step's random numbers dropout passes its input on"""
    return dy


@gradient("Dropout", domain=DOMAIN)
def dropout(g: GraphBuilder, node: ir.Node, dy: ir.Value | None, *_: Any) -> Any:
    """dx = dy * mask, from the saved mask, which does not depend on x"""
    return None if dy is None else g.mul(dy, node.outputs[1])


@gradient("BatchNormalization")
def batch_norm_at_inference(g: GraphBuilder, node: ir.Node, dy: ir.Value | None, *dstatistics: Any) -> Any:
    """dx = dy scale / std;  dscale = sum(dy (x - mean)) / std;  dbias = sum(dy)

    dmean = -scale / std sum(dy);  dvar = -1/2 scale / var dscale.  With training_mode=1 mean and var are the batch's.
    """
    x, scale, _bias, mean, var = (v for v in node.inputs if v is not None)
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    if node.attributes.get_int("training_mode", 0):
        return _batch_norm_in_training(g, node, epsilon, dy, *dstatistics)
    assert dy is not None
    inverse_std = g.div(1.0, g.sqrt(g.add(var, epsilon)))
    slope = g.mul(scale, inverse_std)
    dscale = g.mul(_over_batch(g, g.mul(dy, g.sub(x, _by_channel(g, mean, x)))), inverse_std)
    dbias = _over_batch(g, dy)
    dvar = g.mul(g.mul(g.mul(slope, inverse_std), dscale), -0.5)
    return g.mul(dy, _by_channel(g, slope, x)), dscale, dbias, g.neg(g.mul(slope, dbias)), dvar


def _batch_norm_in_training(
    g: GraphBuilder,
    node: ir.Node,
    epsilon: float,
    dy: ir.Value | None,
    dmean: ir.Value | None = None,
    dvar: ir.Value | None = None,
) -> tuple[Any, ...]:
    """As BatchNorm below; and the running statistics are momentum * what they were + (1 - momentum) * the batch's."""
    x, scale, *_ = (v for v in node.inputs if v is not None)
    momentum = node.attributes.get_float("momentum", 0.9)
    axes = [k for k in range(rank(x)) if k != 1]
    xh, inverse_std = _standardized(g, x, axes, node)
    parts: list[Value] = []
    dscale = dbias = None
    if dy is not None:
        dscale, dbias = _over_batch(g, g.mul(dy, xh)), _over_batch(g, dy)
        parts.append(_through_statistics(g, g.mul(dy, _by_channel(g, scale, x)), xh, inverse_std, axes))
    share = g.div(1.0 - momentum, g.count(x, axes))
    if dmean is not None:
        parts.append(g.expand_like(_by_channel(g, g.mul(dmean, share), x), x))
    if dvar is not None:
        centered = g.div(xh, inverse_std)
        parts.append(g.mul(_by_channel(g, g.mul(dvar, g.mul(share, 2.0)), x), centered))
    before = [None if d is None else g.mul(d, momentum) for d in (dmean, dvar)]
    return g.sum(*parts), dscale, dbias, *before


@gradient("BatchNorm", "BatchNorm2D", domain=DOMAIN)
def batch_norm(
    g: GraphBuilder,
    node: ir.Node,
    dy: ir.Value | None,
    dmean: ir.Value | None = None,
    dvar: ir.Value | None = None,
    dinv: ir.Value | None = None,
    dcentered: ir.Value | None = None,
) -> Any:
    """dx = scale / std * (dy - mean(dy) - xh * mean(dy * xh));  dscale = sum(dy * xh);  dbias = sum(dy)

    xh = (x - mean) / std, where mean and std are the batch's own and so depend on x. Where the statistics are read too,
    as the gradient itself does: dx = dmean / n + (x - mean) (2 dvar - dinv / std^3) / n + dc - mean(dc), dinv that of
    1 / std and dc that of x - mean.
    Source: Ioffe & Szegedy 2015, section 3.
    """
    x, scale, _bias = (v for v in node.inputs if v is not None)
    _y, _mean, _var, inverse_std, centered = node.outputs
    count = g.count(x, [k for k in range(rank(x)) if k != 1])
    parts: list[ir.Value] = []
    dscale = dbias = None
    if dy is not None:
        dbias = _over_batch(g, dy)
        dscale = g.mul(_over_batch(g, g.mul(dy, centered)), inverse_std)
        slope = g.div(g.mul(dscale, inverse_std), count)
        inner = g.sub(g.sub(dy, _by_channel(g, g.div(dbias, count), x)), g.mul(centered, _by_channel(g, slope, x)))
        parts.append(g.mul(inner, _by_channel(g, g.mul(scale, inverse_std), x)))
    if dmean is not None:
        parts.append(g.expand_like(_by_channel(g, g.div(dmean, count), x), x))
    if dvar is not None:
        parts.append(g.mul(centered, _by_channel(g, g.div(g.mul(dvar, 2.0), count), x)))
    if dinv is not None:
        cube = g.mul(g.mul(inverse_std, inverse_std), inverse_std)
        parts.append(g.neg(g.mul(centered, _by_channel(g, g.div(g.mul(dinv, cube), count), x))))
    if dcentered is not None:
        parts.append(g.sub(dcentered, _by_channel(g, g.div(_over_batch(g, dcentered), count), x)))
    return g.sum(*parts), dscale, dbias


@gradient("LayerNormalization")
def layer_norm(
    g: GraphBuilder, node: ir.Node, dy: ir.Value | None, dmean: ir.Value | None = None, dinv: ir.Value | None = None
) -> Any:
    """dx as of xh, dxh = dy * scale;  dscale = sum(dy * xh);  dbias = sum(dy);  xh = (x - mean) / std of each sample

    Where the mean and 1 / std are read too: dx = dmean / n - dinv xh / (n std^2).
    """
    x, scale, *bias = node.inputs
    assert x is not None
    assert scale is not None
    axes = list(range(node.attributes.get_int("axis", -1) % rank(x), rank(x)))
    xh, inverse_std = _standardized(g, x, axes, node)
    parts: list[Value] = []
    dscale = dbias = None
    if dy is not None:
        dscale = unbroadcast(g, g.mul(dy, xh), scale)
        dbias = unbroadcast(g, dy, bias[0]) if bias and bias[0] is not None else None
        parts.append(_through_statistics(g, g.mul(dy, scale), xh, inverse_std, axes))
    if dmean is not None:
        parts.append(g.expand_like(g.div(dmean, g.count(x, axes)), x))
    if dinv is not None:
        slope = g.div(g.mul(dinv, g.mul(inverse_std, inverse_std)), g.count(x, axes))
        parts.append(g.neg(g.mul(xh, slope)))
    return g.sum(*parts), dscale, dbias


@gradient("MeanVarianceNormalization")
def mean_variance_norm(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As LayerNormalization without a scale, over the axes that it names"""
    x = node.inputs[0]
    assert x is not None
    axes = [a % rank(x) for a in node.attributes.get_ints("axes", (0, 2, 3))]
    centered = g.sub(x, g.reduce_mean(x, axes))
    var = g.reduce_mean(g.mul(centered, centered), axes)
    inverse_std = g.div(1.0, g.add(g.sqrt(var), 1e-9))  # the operator's own epsilon
    return _through_statistics(g, dy, g.mul(centered, inverse_std), inverse_std, axes)


@gradient("LpNormalization")
def lp_norm(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """y = x / n:  dx = (dy - s sum(dy y)) / n, s = sign(x) for p = 1 and y for p = 2; 0 where all x are 0"""
    x = node.inputs[0]
    assert x is not None
    p, axis = node.attributes.get_int("p", 2), node.attributes.get_int("axis", -1)
    norm = g.op("ReduceL1" if p == 1 else "ReduceL2", x, np.array([axis], np.int64))
    nothing = g.cast_like(g.equal(norm, 0.0), x)
    y = g.div(x, g.add(norm, nothing))
    along = g.mul(g.sign(x) if p == 1 else y, g.reduce_sum(g.mul(dy, y), [axis]))
    return g.mul(g.sub(dy, along), g.div(g.sub(1.0, nothing), g.add(norm, nothing)))


@gradient("InstanceNormalization")
def instance_norm(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """As LayerNormalization, over the space of each channel of each sample"""
    x, scale, _bias = (v for v in node.inputs if v is not None)
    axes = list(range(2, rank(x)))
    xh, inverse_std = _standardized(g, x, axes, node)
    dx = _through_statistics(g, g.mul(dy, _by_channel(g, scale, x)), xh, inverse_std, axes)
    return dx, _over_batch(g, g.mul(dy, xh)), _over_batch(g, dy)


@gradient("LRN")
def local_response_norm(g: GraphBuilder, node: ir.Node, dy: ir.Value) -> Any:
    """dx = dy s^-beta - 2 alpha beta / size * x * sum(dy * x * s^(-beta - 1)),  s = bias + alpha / size * sum(x^2)

    y = x s^-beta, the sums over neighbouring channels. ONNX Runtime takes odd sizes alone: who is near is mutual.
    """
    x = node.inputs[0]
    assert x is not None
    size = node.attributes["size"].as_int()
    alpha, beta = node.attributes.get_float("alpha", 1e-4), node.attributes.get_float("beta", 0.75)
    channels = static(x, 1)
    # A product with this matrix sums over neighbours.
    distance = np.abs(np.arange(channels)[None, :] - np.arange(channels)[:, None])
    near = g.cast_like((distance <= size // 2).astype(np.float32) * (alpha / size), x)
    rows, d = (g.reshape(v, [0, channels, -1]) for v in (x, dy))
    s = g.add(g.matmul(near, g.mul(rows, rows)), node.attributes.get_float("bias", 1.0))
    power = g.mul(d, g.pow(s, -beta))
    back = g.matmul(near, g.div(g.mul(power, rows), s))
    return g.reshape_like(g.sub(power, g.mul(g.mul(rows, 2.0 * beta), back)), x)


def _standardized(g: GraphBuilder, x: ir.Value, axes: list[int], node: ir.Node) -> tuple[Value, Value]:
    """(x - mean) / std, and 1 / std, over `axes`."""
    centered = g.sub(x, g.reduce_mean(x, axes))
    var = g.reduce_mean(g.mul(centered, centered), axes)
    inverse_std = g.div(1.0, g.sqrt(g.add(var, node.attributes.get_float("epsilon", 1e-5))))
    return g.mul(centered, inverse_std), inverse_std


def _through_statistics(g: GraphBuilder, dxh: ir.Value, xh: Value, inverse_std: Value, axes: list[int]) -> Value:
    """dx = (dxh - mean(dxh) - xh * mean(dxh * xh)) / std   Source: Ioffe & Szegedy 2015, section 3."""
    along = g.mul(xh, g.reduce_mean(g.mul(dxh, xh), axes))
    return g.mul(g.sub(g.sub(dxh, g.reduce_mean(dxh, axes)), along), inverse_std)


def _over_batch(g: GraphBuilder, dy: ir.Value) -> Value:
    """The sum over everything but the channels.   (n, c, ...) -> (c,)"""
    return g.reduce_sum(dy, [k for k in range(rank(dy)) if k != 1], keepdims=False)


def _by_channel(g: GraphBuilder, v: ir.Value, x: ir.Value) -> ir.Value | Value:
    """A value for each channel, as it broadcasts against x.   (c,) -> (c, 1, ...)"""
    return v if rank(x) == 2 else g.reshape(v, [-1] + [1] * (rank(x) - 2))
