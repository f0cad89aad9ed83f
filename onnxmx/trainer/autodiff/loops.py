"""Scan and Loop in the same words, and the Scan that goes back through the steps of either."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxmx.builder.body import Body, captured, copy_graph, forget, prune, subgraphs
from onnxmx.builder.control import Track, add_scan, scan_tracks
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.values import agree
from onnxmx.errors import GradientError, OnnxmxError
from onnxmx.trainer.autodiff.backward import depending_on
from onnxmx.trainer.autodiff.captures import asked_for, is_float

Values = Sequence[ir.Value]


@dataclass(frozen=True)
class Steps:
    """A Scan or a Loop.

    body: one step.   before, elements: its inputs, the states and one element of each sequence.
    counts: what else goes into a step of a Loop: its number, and the condition.
    after, made: its results, the next states and an element of each output.
    starts, sequences: where states and elements come from.   reading, writing: how sequences and outputs lie.
    """

    node: ir.Node
    body: ir.Graph
    counts: Values
    before: Values
    elements: Values
    after: Values
    made: Values
    starts: Values
    sequences: Values
    reading: Sequence[Track]
    writing: Sequence[Track]

    @classmethod
    def of(cls, node: ir.Node) -> Steps:
        """Of a Scan or Loop node."""
        body = subgraphs(node)["body"]
        loop = node.op_type == "Loop"
        entries, results = list(body.inputs), list(body.outputs)[loop:]
        inputs = [x for x in node.inputs[2 * loop :] if x is not None]
        reading, writing = ([], [Track()] * (len(node.outputs) - len(inputs))) if loop else scan_tracks(node)
        n, skip = len(inputs) - len(reading), 2 * loop
        return cls(
            node, body, entries[:skip], entries[skip:][:n], entries[skip:][n:], results[:n], results[n:], inputs[:n],
            inputs[n:], reading, writing,
        )  # fmt: skip

    def carried(self) -> list[int]:
        """The places of the states through which gradients go that are asked for."""
        around = asked_for(self.node, captured(self.node))
        for entry, x in zip(self.elements, self.sequences, strict=True):
            around += [entry] if asked_for(self.node, [x]) else []
        found = {k for k, x in enumerate(self.starts) if asked_for(self.node, [x])}
        while True:
            varying = depending_on(list(self.body), [*around, *(self.before[k] for k in found)])
            more = found | {k for k, y in enumerate(self.after) if y in varying and is_float(y)}
            if more == found:
                return sorted(found)
            found = more

    def inputs_of_all_steps(self, g: GraphBuilder, entry: ir.Value) -> ir.Value:
        """What went into each step in the place of `entry`, the first step first: one more output of the node."""
        first = len(self.node.outputs) - len(self.writing)
        for k, (y, track) in enumerate(zip(self.made, self.writing, strict=True)):
            through = y.producer()
            if (
                track == Track()
                and through is not None
                and through.op_type == "Identity"
                and through.inputs[0] is entry
            ):
                return self.node.outputs[first + k]
        self._check_size(g, entry)
        return self._give_out(g, entry)

    def _give_out(self, g: GraphBuilder, entry: ir.Value) -> ir.Value:
        node, name = self.node, g._claim(f"{self.node.name}.{entry.name}")
        same = ir.Node("", "Identity", [entry], num_outputs=1, name=g._claim(f"{name}.element"))
        element = same.outputs[0]
        element.name, element.type, element.shape = same.name, entry.type, entry.shape
        self.body.append(same)
        self.body.outputs.append(element)
        for kind in ("scan_output_axes", "scan_output_directions"):
            if known := node.attributes.get_ints(kind, ()):
                node.attributes[kind] = ir.AttrInt64s(kind, [*known, 0])
        node.resize_outputs(len(node.outputs) + 1)
        out = node.outputs[-1]
        shape = self.sequences[0].shape if self.sequences else None
        length = None if shape is None else shape[self.reading[0].axis]
        out.name, out.type = name, entry.type
        out.shape = None if entry.shape is None else ir.Shape([length, *entry.shape])
        return out

    def _check_size(self, g: GraphBuilder, entry: ir.Value) -> None:
        """Raises GradientError where a state has another size in each step: those do not fit into one tensor."""
        if entry in self.counts:
            return
        place = list(self.before).index(entry)
        start = self.starts[place]
        if entry.shape is None or not isinstance(entry.type, ir.TensorType) or self._grows(g, place):
            raise GradientError(
                f"the gradient of {self.node.op_type} in {self.node.name!r} expected states of one size in all steps; "
                f"found one of {describe(entry)} that starts as {describe(start)}",
                mend="Give out what a step adds as an output of the loop, which stacks them, in place of a state that "
                "grows.",
            )

    def _grows(self, g: GraphBuilder, place: int) -> bool:
        """Whether a first step, of the sizes that the states start with, ends with another size."""
        start, entry = self.starts[place].shape, self.before[place].shape
        if start is None or entry is None or all(isinstance(d, int) for d in entry):
            return False
        trial = Body(g)
        known: dict[ir.Value, ir.Value] = {v: trial.entry("first", v.type, v.shape) for v in self.body.inputs}
        for v, x in zip(self.before, self.starts, strict=True):
            known[v].shape = x.shape
        try:
            copy_graph(trial, self.body, known)
            shape = known.get(self.after[place], self.after[place]).shape
            return shape is not None and not agree(start, shape)
        except OnnxmxError:
            return True
        finally:
            for node in reversed(trial.graph):
                forget(node)


@dataclass
class Backwards:
    """The Scan that goes back: states, sequences and outputs are said one by one, and `run` makes a node of them."""

    g: GraphBuilder
    body: Body = field(init=False)
    states: list[tuple[Value, ir.Value, ir.Value]] = field(default_factory=list)
    sequences: list[tuple[Value, Callable[[], ir.Value], Track]] = field(default_factory=list)
    outputs: list[tuple[ir.Value, Track]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.body = Body(self.g)

    def element(self, like: ir.Value, sequence: Callable[[], ir.Value], forward: Track) -> Value:
        """An element of a sequence that the steps read or wrote as `forward` says; it is asked for where it is used."""
        entry = self.body.entry("element", like.type, like.shape)
        self.sequences.append((entry, sequence, Track(forward.axis, not forward.reverse)))
        return entry

    def run(self) -> tuple[list[Value], list[Value]]:
        """The last states, and the outputs."""
        for _, _, following in self.states:
            self.body.result(following)
        for value, _ in self.outputs:
            self.body.result(value)
        prune(self.body.graph)
        used = [s for s in self.sequences if s[0].uses()] or self.sequences[:1]  # one says how many steps there are
        self.body.graph.inputs.clear()
        self.body.graph.inputs.extend([*(s[0] for s in self.states), *(s[0] for s in used)])
        sequences = [(sequence(), track) for _, sequence, track in used]
        outputs = [Track(track.axis, not track.reverse) for _, track in self.outputs]
        made = list(add_scan(self.g, self.body, [start for _, start, _ in self.states], sequences, outputs))
        return made[: len(self.states)], made[len(self.states) :]
