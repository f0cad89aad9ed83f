"""Rules of If, Scan and Loop.

What a graph inside computes is computed once more on the way back: a branch from the values around it, a step from the
states that went into it. The forward node gives those out as well; it is the sweep's own copy.
"""

from __future__ import annotations

import functools

import onnx_ir as ir

from onnxmx.builder.body import Body, captured, copy_graph, prune, subgraphs
from onnxmx.builder.control import Track, add_if
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.trainer.autodiff.backward import pull_back
from onnxmx.trainer.autodiff.captures import asked_for, in_order, seeds
from onnxmx.trainer.autodiff.loops import Backwards, Steps
from onnxmx.trainer.autodiff.registry import gradient
from onnxmx.trainer.autodiff.rules.indexing import zeros_like

Gradients = tuple[Value | None, ...]


@gradient("If")
def branch(g: GraphBuilder, node: ir.Node, *dys: ir.Value | None) -> Gradients:
    """dx = what the branch that was taken makes of dy, as an If;  0 where that branch does not read x"""
    wanted = asked_for(node, captured(node))
    condition = node.inputs[0]
    assert condition is not None
    bodies, found = [], []
    for graph in (subgraphs(node)[name] for name in ("then_branch", "else_branch")):
        body = Body(g)
        ys = copy_graph(body, graph, {})
        found.append(pull_back(body, list(body.graph), seeds(body, ys, dys), wanted))
        bodies.append(body)
    given = [k for k in range(len(wanted)) if any(dxs[k] is not None for dxs in found)]
    if not given:
        return ()
    for body, dxs in zip(bodies, found, strict=True):
        for k in given:
            body.result(dxs[k] or zeros_like(body, wanted[k]))
        prune(body.graph)
    return in_order(node, {wanted[k]: dx for k, dx in zip(given, add_if(g, condition, *bodies), strict=True)})


@gradient("Scan", "Loop")
def steps(g: GraphBuilder, node: ir.Node, *dys: ir.Value | None) -> Gradients:
    """The steps in the opposite order: dstate, dx from dstate, dy of each;  what is captured adds up over all"""
    loop, back = Steps.of(node), Backwards(g)
    b, known = back.body, _step_again(g, loop, back)
    nodes, carried, n = list(b.graph), loop.carried(), len(loop.before)
    dstates = [b.entry("dstate", loop.before[k].type, loop.before[k].shape) for k in carried]
    read = [(y, t, dy) for y, t, dy in zip(loop.made, loop.writing, dys[n:], strict=False) if dy is not None]
    slices = [back.element(y, functools.partial(_itself, dy), t) for y, t, dy in read]
    ys = [*(loop.after[k] for k in carried), *(y for y, _, _ in read)]
    states = [loop.before[k] for k in carried]
    through = [k for k, x in enumerate(loop.sequences) if asked_for(node, [x])]
    around = asked_for(node, captured(node))
    wrt = [*(known[v] for v in states), *(known[loop.elements[k]] for k in through), *around]
    found = pull_back(b, nodes, seeds(b, [known.get(y, y) for y in ys], [*dstates, *slices]), wrt)

    for k, entry in zip(carried, dstates, strict=True):
        start = dys[k] or zeros_like(g, node.outputs[k])
        back.states.append((entry, start, found.pop(0) or zeros_like(b, entry)))
    elements = [(k, dx) for k in through if (dx := found.pop(0)) is not None]
    back.outputs += [(dx, loop.reading[k]) for k, dx in elements]
    sums = [(x, dx) for x, dx in zip(around, found, strict=True) if dx is not None]
    for x, dx in sums:
        total = b.entry("sum", x.type, x.shape)
        back.states.append((total, zeros_like(g, x), b.add(total, dx)))
    last, made = back.run()
    dxs = list(in_order(node, dict(zip([x for x, _ in sums], last[len(carried) :], strict=True))))
    inputs = len(node.inputs) - len(loop.starts) - len(loop.sequences)
    for k, dx in zip(carried, last, strict=False):
        dxs[inputs + k] = dx
    for (k, _), dx in zip(elements, made, strict=True):
        dxs[inputs + n + k] = dx
    return tuple(dxs)


def _step_again(g: GraphBuilder, loop: Steps, back: Backwards) -> dict[ir.Value, ir.Value]:
    """Copy one step, and return what became of each of its values."""
    known: dict[ir.Value, ir.Value] = {}
    for v, x, track in zip(loop.elements, loop.sequences, loop.reading, strict=True):
        known[v] = back.element(v, functools.partial(_itself, x), track)
    for v in (*loop.counts, *loop.before):
        known[v] = back.element(v, functools.partial(loop.inputs_of_all_steps, g, v), Track())
    copy_graph(back.body, loop.body, known)
    return known


def _itself(x: ir.Value) -> ir.Value:
    return x
