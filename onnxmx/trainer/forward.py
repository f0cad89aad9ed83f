"""A model's graph inside another one: as it infers, or as it trains.

A model file holds the inference form alone, so any ONNX file can be trained. Operators that behave otherwise in
training (Dropout, BatchNormalization) are rewritten here while the graph is copied.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.body import constant_tensor, subgraphs, with_numbers
from onnxmx.builder.control import rebuild
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.metadata import AS_INFERRED, CHECKPOINT, SOURCE
from onnxmx.builder.model import Model
from onnxmx.errors import GraphError
from onnxmx.trainer.autodiff.registry import is_users_own
from onnxmx.trainer.autodiff.rules.kept import keeps_steps, with_steps_kept
from onnxmx.trainer.functions import BatchNorm, BatchNorm2D, Dropout
from onnxmx.trainer.precision import PRECISIONS, Precision
from onnxmx.trainer.qat import observe

Values = Mapping[str, ir.Value]
Known = MutableMapping[ir.Value | None, ir.Value | None]
"""By value of the model, what stands for it."""


@dataclass
class Training:
    """What operators need to know in training.

    seed, step: int64 scalars that random numbers are drawn from.
    running: by name, the next value of each running statistic met so far.
    streams: how many nodes have drawn random numbers so far.
    rules: whether the gradients come from this package's rules: then functions with a rule of the user's own stay
        functions, until `open_called`, and an LSTM keeps what its rule reads.
    precision: what its products are computed in.
    home: where the nodes of the model's own graph go; those of its subgraphs go into bodies, in float32.
    frozen: the names of parameters that training leaves alone though it could change them.
    """

    seed: ir.Value
    step: ir.Value
    running: dict[str, ir.Value] = field(default_factory=dict)
    streams: int = 0
    rules: bool = True
    precision: Precision = PRECISIONS["float32"]
    home: GraphBuilder | None = None
    frozen: frozenset[str] = frozenset()

    def cast(self, g: GraphBuilder, node: ir.Node, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
        """The inputs of a node in the type that it computes in."""
        if not self.precision.mixed:
            return inputs
        parent = (node.name or "").rpartition(".")[0]
        with g.scope(parent, source=node.metadata_props.get(SOURCE), absolute=True):
            return self.precision.cast(g, node, inputs) if g is self.home else self.precision.widen(g, inputs)


CALLED = "differentiated"
"""The overload of functions of a model that stay functions until they are differentiated."""

Rewrite = Callable[[GraphBuilder, Training, ir.Node, Sequence[ir.Value | None]], Sequence[ir.Value]]

# max(f(a), f(b)) = f(max(a, b)) for an f that never falls: pooling first leaves f and its gradient a quarter of the
# work after a 2x2 window.
_NEVER_FALLING = frozenset({"Relu", "Sigmoid", "Tanh", "Softplus", "Elu"})


def copy_model(g: GraphBuilder, model: Model, values: Values, training: Training | None = None) -> dict[str, ir.Value]:
    """Copy the nodes of `model` into `g`, the bodies of its functions in place of the nodes that call them.

    values: what stands for the model's inputs and for those of its parameters that are not to be constants.
    training: given, the copy is the training form.
    Returns the outputs by name. Raises GraphError where a node cannot be copied.
    """
    opened = without_functions(model.ir, ruled=training is not None and training.rules)
    graph = opened.graph
    g.functions |= {f"{f.domain}.{f.name}.{f.overload}": f for f in opened.functions.values()}
    if training is not None:
        training.home = g
        _check_gradients(graph)
    known: Known = {None: None}
    for name, value in graph.initializers.items():
        if name in values:
            known[value] = values[name]
        elif value.const_value is not None:
            known[value] = g.constant(value.const_value.numpy())
    for value in graph.inputs:
        if value not in known:  # an old file lists its initializers among the inputs
            known[value] = values[value.name or ""]
    _copy_nodes(g, graph, known, training)
    return dict(zip([v.name or "" for v in graph.outputs], _results(g, graph, known, training), strict=True))


def _results(g: GraphBuilder, graph: ir.Graph, known: Known, training: Training | None) -> list[ir.Value]:
    """What became of the outputs of a graph, in the types that they have outside."""
    found = [_known(known, v, None) for v in graph.outputs]
    wide = found if training is None else training.precision.widen(g, found)
    return [v for v in wide if v is not None]


def _copy_nodes(g: GraphBuilder, graph: ir.Graph, known: Known, training: Training | None) -> None:
    delayed: dict[ir.Value | None, ir.Node] = {}
    for node in graph:
        _check_copyable(node)
        inputs = [_known(known, x, node) for x in node.inputs]
        if training is not None and _may_follow_its_pool(node):
            known[node.outputs[0]], delayed[node.outputs[0]] = inputs[0], node
            continue
        with g.checkpoint(node.metadata_props.get(CHECKPOINT)):
            outputs = _copied(g, node, inputs, known, training)
            if node.op_type == "MaxPool" and (activation := delayed.get(node.inputs[0])) is not None:
                outputs = g.copy(activation, training.cast(g, activation, outputs) if training else outputs)
        for y, out in zip(node.outputs, outputs, strict=False):
            _keep_sizes(y, out)
        known.update(zip(node.outputs, outputs, strict=False))


def _copied(
    g: GraphBuilder, node: ir.Node, inputs: Sequence[ir.Value | None], known: Known, training: Training | None
) -> Sequence[ir.Value]:
    if (tensor := constant_tensor(node)) is not None:
        return [g.constant(tensor.numpy())]
    if training is not None:
        inputs = training.cast(g, node, inputs)
    if subgraphs(node):
        return _copied_control(g, node, inputs, known, training)
    if node.overload == CALLED:
        return g.again(node, inputs).outputs
    rewrite = _REWRITES.get(node.op_type)
    if rewrite is None or training is None:
        return g.copy(node, with_numbers(g, node, inputs))
    parent = (node.name or "").rpartition(".")[0]  # a profile and an error tell by it whose nodes these are
    with g.scope(parent, source=node.metadata_props.get(SOURCE), absolute=True):
        return rewrite(g, training, node, inputs)


def _copied_control(
    g: GraphBuilder,
    node: ir.Node,
    inputs: Sequence[ir.Value | None],
    known: Known,
    training: Training | None,
) -> Sequence[ir.Value]:
    """An If, Scan or Loop with copies of the graphs inside."""

    def build(b: GraphBuilder, graph: ir.Graph, entries: Sequence[ir.Value]) -> list[ir.Value]:
        inside: Known = ChainMap(dict(zip(graph.inputs, entries, strict=True)), known)
        for value in graph.initializers.values():
            if value.const_value is not None:
                inside[value] = b.constant(value.const_value.numpy())
        _copy_nodes(b, graph, inside, training)
        return _results(b, graph, inside, training)

    return rebuild(g, node, inputs, build)


def without_functions(model: ir.Model, *, ruled: bool = False) -> ir.Model:
    """The model with the bodies of its functions in place of the nodes that call them: operators have gradients.

    ruled: functions with a gradient rule of the user's own stay.
    """
    if not model.functions:
        return model
    copy = ir.from_proto(ir.to_proto(model))
    passes.InlinePass(lambda f: not (ruled and is_users_own(f.domain, f.name)))(copy)
    for node in (*copy.graph.all_nodes(), *(n for f in copy.functions.values() for n in f.all_nodes())):
        node.overload = CALLED if node.op_identifier() in copy.functions else node.overload
    kept = list(copy.functions.values())
    copy.functions.clear()
    for function in kept:
        function.overload = CALLED
        copy.functions[function.identifier()] = function
    return copy


def open_called(model: ir.Model) -> None:
    """Put the bodies of those functions in place that stayed for the sweep."""
    if any(f.overload == CALLED for f in model.functions.values()):
        passes.InlinePass(lambda f: f.overload == CALLED)(model)


def _check_gradients(graph: ir.Graph) -> None:
    """Raises GraphError where the graph holds the gradient of a node as it infers, and training changes that node."""
    nodes = list(graph.all_nodes())
    fixed = next((n for n in nodes if AS_INFERRED in n.metadata_props), None)
    if fixed is not None and any((n.name or "").startswith("grad.") for n in nodes):  # else it was cut off again
        raise GraphError(
            f"training expected no gradient in the model that goes through {fixed.op_type}, which training changes; "
            f"found that of {fixed.name!r}",
            at=fixed.metadata_props.get(SOURCE),
            mend="Leave it out, or use a layer that is the same in training, such as LayerNorm.",
        )


def _check_copyable(node: ir.Node) -> None:
    """Raises GraphError for what neither a copy nor a gradient can be made of."""
    source = node.metadata_props.get(SOURCE)
    if node.domain not in ("", "ai.onnx") and node.overload != CALLED:
        raise GraphError(
            f"training expected operators of ai.onnx; found {node.domain}.{node.op_type} in {node.name!r}",
            at=source,
            mend="Export the model with standard operators.",
        )


def _known(
    known: Mapping[ir.Value | None, ir.Value | None], value: ir.Value | None, node: ir.Node | None
) -> ir.Value | None:
    """What stands for `value`, which `node` reads; for an output of the model node is None."""
    if value not in known:
        reader = f"{node.op_type} {node.name!r}" if node else "an output of the model"
        made = value.producer() if value is not None else None
        raise GraphError(
            f"{reader} reads {value.name if value else None!r}, "
            f"which {made.op_type if made else 'no node'} does not give in training",
            mend="Take the first output alone.",
        )
    return known[value]


def _keep_sizes(y: ir.Value, out: ir.Value) -> None:
    """Give `out`, the copy of `y`, the sizes that the model knows of it where inference found none.

    A layer knows that Range(Shape(x)[1]) is as long as x; with that, no gradient asks at run time what was broadcast.
    """
    if y.shape is not None and out.shape is None:
        out.shape = ir.Shape(y.shape)  # of an If whose branches differ in what they know
    elif y.shape is not None and out.shape is not None and len(y.shape) == len(out.shape):
        unknown = ir.SymbolicDim(None)
        out.shape = ir.Shape([b if a == unknown else a for a, b in zip(out.shape, y.shape, strict=True)])


def _may_follow_its_pool(node: ir.Node) -> bool:
    """Whether `node` is an activation that only a max pooling reads, so that the two may change places."""
    if node.op_type not in _NEVER_FALLING or node.outputs[0].is_graph_output():
        return False
    if node.attributes.get_float("alpha", 1.0) < 0:  # of Elu, which then falls below 0
        return False
    readers = [use.node for use in node.outputs[0].uses()]
    alone = len(readers) == 1 and readers[0].graph is node.graph
    return alone and readers[0].op_type == "MaxPool" and len(readers[0].outputs) == 1


def _dropout(
    g: GraphBuilder, training: Training, node: ir.Node, inputs: Sequence[ir.Value | None]
) -> Sequence[ir.Value]:
    """Dropout at inference passes its input on; in training it draws a mask, inside a Scan the same for all steps.

    Source for the latter: Gal & Ghahramani 2016.
    """
    x = inputs[0]
    assert x is not None
    ratio = 0.5
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[1])
        if tensor is None:
            raise GraphError(
                f"Dropout {node.name!r} expected a constant ratio; found a computed one",
                at=node.metadata_props.get(SOURCE),
                mend="Give the ratio as a number.",
            )
        ratio = float(tensor.numpy())
    if ratio == 0.0:
        return [x]
    training.streams += 1
    outputs: Sequence[ir.Value] = Dropout(g, x, training.seed, training.step, ratio=ratio, stream=training.streams)
    return outputs[:1]


def _batch_norm(
    g: GraphBuilder, training: Training, node: ir.Node, inputs: Sequence[ir.Value | None]
) -> Sequence[ir.Value]:
    """Normalize by the batch's own statistics, and move the running ones towards them; frozen, as it infers.

    What a frozen layer gives would otherwise differ between training and inference.
    """
    if {v.name for v in node.inputs[1:3] if v is not None} <= training.frozen:
        return g.copy(node, inputs)
    if g is not training.home:
        raise GraphError(
            f"training expected BatchNormalization {node.name!r} outside of If, Scan and Loop, where its running "
            "statistics move once a step",
            at=node.metadata_props.get(SOURCE),
            mend="Normalize by LayerNormalization there, or move it out.",
        )
    x, scale, bias, running_mean, running_var = inputs
    assert x is not None
    normalize = BatchNorm2D if x.shape is not None and len(x.shape) == 4 else BatchNorm
    y, mean, var, *_ = normalize(g, x, scale, bias, epsilon=node.attributes.get_float("epsilon", 1e-5))
    momentum = node.attributes.get_float("momentum", 0.9)
    for source, running, batch in ((node.inputs[3], running_mean, mean), (node.inputs[4], running_var, var)):
        assert source is not None
        name = source.name or ""
        former = training.running.get(name, running)  # a layer that is called twice moves them twice
        training.running[name] = g.add(g.mul(former, momentum), g.mul(batch, 1.0 - momentum))
    return [y]


def _recurrent(
    g: GraphBuilder, training: Training, node: ir.Node, inputs: Sequence[ir.Value | None]
) -> Sequence[ir.Value]:
    """LSTM and GRU do not say what a gradient reads."""
    if training.rules and keeps_steps(node):
        return with_steps_kept(g, node, inputs)
    return g.copy(node, inputs)


_REWRITES: dict[str, Rewrite] = {
    "Dropout": _dropout,
    "BatchNormalization": _batch_norm,
    "QuantizeLinear": observe,
    "LSTM": _recurrent,
    "GRU": _recurrent,
}
REWRITTEN = frozenset(_REWRITES)
"""The operators that compute something else in training."""
