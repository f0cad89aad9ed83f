"""Gradients as a public function: of a model, which gives a model, and of values while a model is built."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.body import reads
from onnxmx.builder.foreign import check
from onnxmx.builder.graft import free, value_names
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.metadata import AS_INFERRED
from onnxmx.builder.model import Model
from onnxmx.builder.resize import infer_anew
from onnxmx.builder.source import user_line
from onnxmx.builder.surgery import find
from onnxmx.builder.values import dims
from onnxmx.errors import GradientError, ShapeError, UsageError
from onnxmx.trainer import losses
from onnxmx.trainer.autodiff.backward import depending_on, pull_back
from onnxmx.trainer.forward import REWRITTEN, open_called, without_functions
from onnxmx.trainer.logits import before_activations
from onnxmx.trainer.losses import LossLike
from onnxmx.trainer.objective import Objective


@checked_arguments
def grad(
    model: Model,
    *,
    of: str | None = None,
    wrt: str | Sequence[str],
    loss: LossLike | None = None,
    label: str = "label",
) -> Model:
    """The model with the gradients of one of its values as further outputs: an ordinary model, in its inference form.

        slopes = mx.grad(model, of="loss", wrt=["x", "dense.weight"])
        slopes(x=x)["grad.x"]

    of: an output, or any other value. A scalar has a gradient. For any other one the result is a vector-Jacobian
    product: the model takes one more input, `cotangent.<of>`, of the shape of the value, and gives the sum over the
    value's elements of cotangent times gradient. By default the loss, or the model's only output.
    wrt: inputs, parameters, or any values between, each of a floating-point type: `grad.<name>` has its shape. A layer
    stands for the last value that it computes. A name that is taken gets a number: `grad.x_1`.
    loss: a loss of the model's outputs, as `fit` takes it, which is computed first, from one more input for each label;
    `label` names that of a single one.
    Raises UsageError for a name that is not there, GradientError where there is no gradient, each at the user's line.
    Source: Baydin et al. 2018, section 3.2.
    """
    names = [wrt] if isinstance(wrt, str) else list(wrt) if isinstance(wrt, Sequence) else []
    if not names or not all(isinstance(n, str) for n in names):
        raise UsageError(
            f"grad expected wrt as the names of one or more values; found {wrt!r}",
            at=user_line(),
            mend=f"For example wrt={list(model.inputs)[:1]}.",
        )
    names = list(dict.fromkeys(names))
    copy = without_functions(ir.from_proto(ir.to_proto(model.ir)), ruled=True)
    if model.ir.functions:
        copy = infer_anew(copy)
    g = GraphBuilder.on(copy)
    if loss is not None:
        _add_loss(g, model, loss, label)
        of = of or g.graph.outputs[-1].name
    y = _floating(find(g.graph, of or _only(model)), "of")
    xs = [_floating(find(g.graph, name, parameters=True), "with respect to") for name in names]
    cotangent = None if y.shape == () else _cotangent(g, y)
    for name, dx in zip(names, gradients(y, xs, cotangent, builder=g), strict=True):
        g.output(dx, _free(g, f"grad.{name}"))
    if g.functions:  # those of the loss
        copy.functions.update({f.identifier(): f for f in g.functions.values()})
    open_called(copy)
    passes.RemoveUnusedNodesPass()(copy)
    passes.CommonSubexpressionEliminationPass()(copy)
    return Model(ir.from_proto(check(ir.to_proto(copy), "the model with its gradients")))


@checked_arguments
def gradients(
    of: ir.Value, wrt: Sequence[ir.Value], cotangent: ir.Value | None = None, *, builder: GraphBuilder | None = None
) -> list[Value]:
    """The gradients of a graph value with respect to others, while a model is built; they can be part of a loss.

        def penalty(x):
            (slope,) = mx.gradients(x.builder.reduce_sum(critic(x), keepdims=False), [x])

    of: a scalar; or any value, together with a `cotangent` of its shape, for a vector-Jacobian product.
    Raises GradientError where `of` does not depend on a value of `wrt`, or an operator between has no rule.
    """
    g = builder or getattr(of, "builder", None)
    if g is None or not all(isinstance(v, ir.Value) for v in (of, *wrt)):
        raise UsageError(
            f"gradients expected values of a graph that is being built; found {of!r} and {wrt!r}",
            at=user_line(),
            mend="For a finished model use grad(model, of=..., wrt=[...]).",
        )
    if cotangent is None:
        if of.shape is None or len(of.shape):
            raise GradientError(
                f"a gradient is taken of a scalar; found {of.name!r}, {describe(of)}",
                at=user_line(),
                mend="Sum it first, g.reduce_sum(y, keepdims=False), or give a cotangent of its shape.",
            )
        cotangent = g.cast_like(np.float32(1.0), of)
    nodes = list(g.graph)
    _note_inference_form(nodes, of, wrt)
    found = pull_back(g, nodes, {of: cotangent}, wrt)  # type: ignore[dict-item]
    if missing := [x.name for x, dx in zip(wrt, found, strict=True) if dx is None]:
        raise GradientError(
            f"{of.name!r} expected to depend on {missing[0]!r} in a way that has a gradient; it does not",
            at=user_line(),
            mend="Leave it out: its gradient is zero.",
        )
    return [dx for dx in found if dx is not None]


def _note_inference_form(nodes: Sequence[ir.Node], of: ir.Value, wrt: Sequence[ir.Value]) -> None:
    """Mark what the gradient goes through and training would change: a training step then refuses the model."""
    varying, needed = depending_on(nodes, wrt), {of}
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(x for x in reads(node) if x is not None)
            if node.op_type in REWRITTEN and not varying.isdisjoint(node.outputs):
                node.metadata_props[AS_INFERRED] = "1"


def _add_loss(g: GraphBuilder, model: Model, loss: LossLike, label: str) -> None:
    """The loss as one more output, from one more input for each label. What is named "label" is named `label`."""
    outputs = {v.name or "": v for v in g.graph.outputs}
    objective = Objective.of(losses.get(loss), outputs, measure=None)
    given = {}
    for name, spec in objective.labels.items():
        own = label if name == "label" else name
        if _free(g, own) != own:
            raise UsageError(
                f"the label and a value of the model are both named {own!r}",
                at=user_line(),
                mend="Give the label another name: grad(..., label='target').",
            )
        given[name] = g.input(own, *spec)
    with g.scope("loss"):
        computed, _ = objective.compute(g, before_activations(g, model, objective, outputs), given)
    g.output(computed, _free(g, "loss"))


def _only(model: Model) -> str:
    """The name of the only output. Raises ShapeError where there are several."""
    names = list(model.outputs)
    if len(names) != 1:
        raise ShapeError(
            f"a gradient expected a model of one output; found {names}",
            at=user_line(),
            mend=f"Say of which: of={names[0]!r}.",
        )
    return names[0]


def _cotangent(g: GraphBuilder, y: ir.Value) -> Value:
    if y.shape is None or y.dtype is None:
        raise ShapeError(
            f"grad expected a value of known rank; found {y.name!r}, {describe(y)}",
            at=user_line(),
            mend="Take another.",
        )
    return g.input(_free(g, f"cotangent.{y.name}"), dims(y.shape), y.dtype)


def _free(g: GraphBuilder, name: str) -> str:
    return free(name, value_names(g.graph))


def _floating(x: ir.Value, what: str) -> ir.Value:
    if x.dtype is None or not x.dtype.is_floating_point():
        raise GradientError(
            f"a gradient {what} a value expected one of a floating-point type; found {x.name!r}, {describe(x)}",
            at=user_line(),
            mend="For whole numbers take what is computed from them, such as the output of an Embedding.",
        )
    return x
