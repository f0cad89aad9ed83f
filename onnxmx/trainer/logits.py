"""Models that end in the activation which a loss on logits has in itself: Softmax under softmax_cross_entropy.

Training takes the logits before it, and the model keeps it: the same function, and stable. What a finished model gives
is measured as it is, by the logarithm of its probabilities.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.model import Model
from onnxmx.trainer.forward import without_functions
from onnxmx.trainer.losses import Loss, class_axis
from onnxmx.trainer.losses.base import Values
from onnxmx.trainer.objective import Objective, outputs_of

_ROUNDED = ("Identity", "DequantizeLinear", "QuantizeLinear")
"""What may stand behind the activation in a file; the last two where it is quantized."""
_TINY = np.finfo(np.float32).tiny
"""The least probability whose logarithm is told from that of zero: a loss of 87."""


def before_activations(g: GraphBuilder, model: Model, objective: Objective, outputs: Values) -> dict[str, ir.Value]:
    """The outputs of a model in training, those that an activation ends as what it was applied to."""
    ends = _endings(model, objective)
    return {name: before_activation(g, v, ends[name]) if name in ends else v for name, v in outputs.items()}


def as_logits(g: GraphBuilder, model: Model, objective: Objective, outputs: Values) -> dict[str, ir.Value]:
    """What a finished model gives, probabilities as logits of them."""
    ends = _endings(model, objective)
    return {name: logits_of(g, v, ends[name]) if name in ends else v for name, v in outputs.items()}


def _endings(model: Model, objective: Objective) -> dict[str, Loss]:
    """By output, the loss that has in itself the activation which it ends in."""
    reads = [(name, task.loss) for task in objective.tasks for name in task.outputs]
    return {name: loss for name, loss in reads if loss.activation and ends_in_activation(model, loss, name)}


def ends_in_activation(model: Model, loss: Loss, name: str | None = None) -> bool:
    """Whether an output, by default the first, is probabilities, made by the activation that `loss` has in itself."""
    outputs = outputs_of(Model(without_functions(model.ir)))
    output: ir.Value | None = outputs[name or next(iter(outputs))]
    while output is not None and (node := output.producer()) is not None and node.op_type in _ROUNDED:
        output = node.inputs[0]
    return output is not None and _before(output, loss) is not None


def before_activation(g: GraphBuilder, output: ir.Value, loss: Loss) -> ir.Value:
    """The logits whose activation is `output`: those in the graph, or else what has that activation."""
    node = output.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        output = node.inputs[0]
        node = output.producer()
    return _before(output, loss) or logits_of(g, output, loss)


def logits_of(g: GraphBuilder, probabilities: ir.Value, loss: Loss) -> ir.Value:
    """log p, of which Softmax is p; or log p - log(1 - p), of which Sigmoid is p."""

    def log(x: ir.Value) -> ir.Value:
        return g.log(g.max(x, float(_TINY)))

    if loss.activation == "Softmax":
        return log(probabilities)
    return g.sub(log(probabilities), log(g.sub(1.0, probabilities)))


def _before(output: ir.Value, loss: Loss) -> ir.Value | None:
    """What `loss.activation` was applied to, over the classes where it is Softmax; None where another operator is."""
    node = output.producer()
    if node is None or loss.activation is None or (node.domain, node.op_type) != ("", loss.activation):
        return None
    if loss.activation == "Softmax":
        rank = len(output.shape) if output.shape is not None else 1
        if node.attributes.get_int("axis", -1) % rank != class_axis(output) % rank:
            return None
    return node.inputs[0]
