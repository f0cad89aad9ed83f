"""A batch in micro-batches: the same gradients in the memory of a smaller batch, still in one pure step.

The step takes the whole batch and goes through it in a Loop, so the activations of one micro-batch are all that is
held at a time. The number of rounds follows the batch, so the smaller batch at the end of an epoch needs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxmx.builder.body import Body
from onnxmx.builder.control import add_loop
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.ops import BOOL, FLOAT, INT64
from onnxmx.errors import UsageError

Values = Mapping[str, ir.Value]


class Pass(NamedTuple):
    """What one pass over a batch gives: scalars such as the loss, gradients, and the next running statistics.

    sums: of what metrics count, which are added where the others are means.
    """

    scalars: Sequence[ir.Value]
    gradients: Sequence[ir.Value]
    running: Mapping[str, ir.Value]
    sums: Sequence[ir.Value] = ()


MakePass = Callable[[GraphBuilder, Values, ir.Value, Values, ir.Value | None], Pass]
"""(builder, samples, seed, running statistics, share) -> the pass over those samples.

share: how much of the whole batch they are, a float32 scalar; None where they are all of it.
"""

_SEED_OF_NEXT = 1 << 40
"""How far the seeds of two micro-batches lie apart: in their upper words, which random numbers depend on too."""


def in_micro_batches(
    g: GraphBuilder, make: MakePass, batch: Values, seed: ir.Value, running: Values, size: int
) -> Pass:
    """The pass over a batch, `size` samples at a time: means over the batch, as a single pass gives them.

    batch: (batch, ...) each.   Batch normalization takes the statistics of each micro-batch for itself.
    Raises UsageError where the batch has a fixed size.
    """
    for name, value in batch.items():
        if value.shape is None or isinstance(value.shape[0], int):
            raise UsageError(
                f"micro-batches expected a model that takes batches of any size; {name!r} has a fixed one",
                mend='Build it with a symbolic batch: layer.build(x=("batch", ...)).',
            )
    count = g.op("Shape", next(iter(batch.values())), start=0, end=1)
    body = Body(g, "micro_batch")
    index, going = body.entry("index", ir.TensorType(INT64), ()), body.entry("going", ir.TensorType(BOOL), ())
    start = body.reshape(body.mul(index, np.int64(size)), [1])
    end = body.min(body.add(start, np.int64(size)), count)
    parts = {name: _part(body, value, start, end) for name, value in batch.items()}
    former = {name: body.entry(name, value.type, value.shape) for name, value in running.items()}
    share = body.reshape(body.div(body.cast(body.sub(end, start), FLOAT), body.cast(count, FLOAT)), [])
    found = make(body, parts, body.add(seed, body.mul(index, np.int64(_SEED_OF_NEXT))), former, share)
    means = [*found.scalars, *found.gradients]
    totals = [body.entry("sum", value.type, value.shape) for value in (*means, *found.sums)]
    body.result(going)
    for name in running:
        body.result(found.running.get(name, former[name]))
    shares = [*(body.mul(value, share) for value in means), *found.sums]
    for total, value in zip(totals, shares, strict=True):
        body.result(body.add(total, value))
    zeros = [_zeros(g, value) for value in (*means, *found.sums)]
    rounds = g.reshape(g.div(g.add(count, np.int64(size - 1)), np.int64(size)), [])
    results = list(add_loop(g, body, rounds, None, [*running.values(), *zeros]))
    after, whole = results[: len(running)], results[len(running) :]
    split = len(found.scalars)
    following = {name: value for name, value in zip(running, after, strict=True) if name in found.running}
    return Pass(whole[:split], whole[split : len(means)], following, whole[len(means) :])


def _part(body: Body, value: ir.Value, start: ir.Value, end: ir.Value) -> Value:
    """The samples from `start` to `end`."""
    part = body.op("Slice", value, start, end, np.array([0], np.int64))
    assert value.shape is not None
    part.shape = ir.Shape(["micro_batch", *list(value.shape)[1:]])
    return part


def _zeros(g: GraphBuilder, like: ir.Value) -> ir.Value:
    assert like.shape is not None
    sizes = [int(d) for d in like.shape if isinstance(d, int)]
    assert len(sizes) == len(like.shape)
    assert like.dtype is not None
    zero = np.zeros(1, like.dtype.numpy())
    return g.op("ConstantOfShape", np.array(sizes, np.int64), value=ir.Tensor(zero)) if sizes else g.constant(zero[0])
