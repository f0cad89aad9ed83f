"""Control flow in training: what rows of the table of rules do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import onnxmx as mx
from onnxmx.builder.body import Body, captured
from onnxmx.builder.control import Track, add_loop, add_scan
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.model import from_bytes
from onnxmx.builder.ops import BOOL, INT64
from onnxmx.errors import GradientError, GraphError
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.step import initial_state


def test_a_state_that_grows_is_an_error() -> None:
    """What goes into the steps cannot be stacked; the error says how to mend it."""
    g = GraphBuilder()
    x, body = g.input("x", (3,)), Body(g)
    _, going = (body.entry(n, ir.TensorType(t), ()) for n, t in (("number", INT64), ("going", BOOL)))
    state = body.entry("state", x.type, (None,))
    for y in (going, body.concat([state, body.sin(body.mul(state, state))], 0)):
        body.result(y)
    (last,) = add_loop(g, body, g.constant(np.array(3)), None, [x])
    with pytest.raises(GradientError, match="Loop in 'Loop' expected states of one size in all steps") as caught:
        gradients(g, g.reduce_sum(last, keepdims=False), [x])
    assert caught.value.mend is not None
    assert "as an output of the loop" in caught.value.mend
    assert caught.value.at is not None


def test_the_way_back_computes_only_what_is_asked_for() -> None:
    """No gradient of a sequence of data, none of what only data reads; and one output more for each state, not two."""
    g = GraphBuilder()
    x, h, w, v = g.input("x", (5, 3)), g.input("h", (3,)), g.input("w", (3,)), g.input("v", (3,))
    body = Body(g)
    state, element = body.entry("state", h.type, (3,)), body.entry("element", x.type, (3,))
    new = body.op("Tanh", body.add(body.mul(state, w), body.mul(element, v)))
    body.result(new)
    (last,) = add_scan(g, body, [h], [(x, Track())], [])
    node = last.producer()
    assert node is not None
    assert captured(node) == [w, v]
    loss = g.reduce_sum(last, keepdims=False)
    for _ in range(2):
        (dw,) = gradients(g, loss, [w])
        assert dw is not None
        back: Any = dw.producer()
        assert len(node.outputs) == 2
        # States: dh and the sum of dw. Sequences: what h was, and x.
        assert (len(back.inputs), len(back.outputs)) == (4, 2)


# --- files of other makers
INPUTS, H, OUT = 3, 4, 2
X, LABEL = np.random.default_rng(0).normal(size=(6, 5, INPUTS)).astype(np.float32), np.array([0, 1, 1, 0, 1])
node = helper.make_node


def port(name: str, shape: list[Any] | None, dtype: int = onnx.TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def file(nodes: list[onnx.NodeProto], arrays: dict[str, Any], shape: list[Any], classes: int = OUT) -> mx.Model:
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", [port("x", shape)], [port("y", ["n", classes])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return from_bytes(model.SerializeToString())


def cell(x: str) -> list[onnx.NodeProto]:
    """One step of an LSTM in single operators."""
    gates = [
        node("MatMul", [x, "wt"], ["from_x"]), node("MatMul", ["h", "rt"], ["from_h"]),
        node("Sum", ["from_x", "from_h", "b"], ["z"]),
        node("Split", ["z"], ["zi", "zo", "zf", "za"], axis=1, num_outputs=4),
        node("Sigmoid", ["zi"], ["i"]), node("Sigmoid", ["zo"], ["o"]), node("Sigmoid", ["zf"], ["f"]),
        node("Tanh", ["za"], ["a"]),
    ]  # fmt: skip
    return [
        *gates, node("Mul", ["f", "c"], ["fc"]), node("Mul", ["i", "a"], ["ia"]), node("Add", ["fc", "ia"], ["c1"]),
        node("Tanh", ["c1"], ["t"]), node("Mul", ["o", "t"], ["h1"]),
    ]  # fmt: skip


STATES = [port("h", [None, H]), port("c", [None, H])]
NEXT = [port("h1", [None, H]), port("c1", [None, H])]
NUMBERS = [port("step", [], onnx.TensorProto.INT64), port("going", [], onnx.TensorProto.BOOL)]
OPERATOR = [
    node("Transpose", ["wt"], ["w2"], perm=[1, 0]), node("Transpose", ["rt"], ["r2"], perm=[1, 0]),
    node("Unsqueeze", ["w2", "zero"], ["w3"]), node("Unsqueeze", ["r2", "zero"], ["r3"]),
    node("Concat", ["b", "no_b"], ["b1"], axis=0), node("Unsqueeze", ["b1", "zero"], ["b2"]),
    node("LSTM", ["x", "w3", "r3", "b2"], ["", "last3"], hidden_size=H), node("Squeeze", ["last3", "zero"], ["last"]),
]  # fmt: skip
STARTS = [
    node("Shape", ["x"], ["n"], start=1, end=2), node("Concat", ["n", "units"], ["size"], axis=0),
    node("ConstantOfShape", ["size"], ["h0"]), node("ConstantOfShape", ["size"], ["c0"]),
]  # fmt: skip
SCAN = [*STARTS, node(
    "Scan", ["h0", "c0", "x"], ["last", "last_c"], num_scan_inputs=1,
    body=helper.make_graph(cell("row"), "cell", [*STATES, port("row", [None, INPUTS])], NEXT))]  # fmt: skip
LOOP = [*STARTS, node("Shape", ["x"], ["steps1"], start=0, end=1), node("Squeeze", ["steps1"], ["steps"]), node(
    "Loop", ["steps", "", "h0", "c0"], ["last", "last_c"], body=helper.make_graph(
        [node("Gather", ["x", "step"], ["row"], axis=0), *cell("row"), node("Identity", ["going"], ["still"])], "cell",
        [*NUMBERS, *STATES], [port("still", [], onnx.TensorProto.BOOL), *NEXT]))]  # fmt: skip


def trained(model: mx.Model, batch: dict[str, Any], steps: int = 8) -> tuple[dict[str, Any], list[float]]:
    """The parameters after some steps, and the losses."""
    optimizer = mx.SGD(lr=0.5)
    compiled = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    assert all(n.domain in ("", "ai.onnxmx") for n in onnx.load_from_string(compiled.data).graph.node)
    engine = OrtEngine(compiled, initial_state(model, optimizer, 0), threads=1)
    losses = [engine.step(batch)["loss"] for _ in range(steps)]
    return engine.state(), losses


def test_a_recurrent_cell_as_operator_scan_or_loop() -> None:
    """Three makers' forms of one LSTM learn the same: the gradients of the operator are an oracle for the others."""
    random = np.random.default_rng(1)
    weights = {
        name: random.normal(size=size).astype(np.float32) * 0.5
        for name, size in (("wt", (INPUTS, 4 * H)), ("rt", (H, 4 * H)), ("b", (4 * H,)), ("v", (H, OUT)))
    }
    others = {"zero": np.array([0]), "units": np.array([H]), "no_b": np.zeros(4 * H, np.float32)}
    found = []
    for nodes in (OPERATOR, SCAN, LOOP):
        model = file([*nodes, node("MatMul", ["last", "v"], ["y"])], weights | others, ["time", "n", INPUTS])
        model = model.freeze("no_b") if nodes is OPERATOR else model
        state, losses = trained(model, {"x": X, "label": LABEL})
        assert losses[-1] < losses[0] - 0.05
        found.append({name: state[name] for name in weights})
    for name in weights:
        assert not np.allclose(found[0][name], weights[name], atol=1e-3)
        for other in found[1:]:
            np.testing.assert_allclose(other[name], found[0][name], rtol=1e-4, atol=1e-5)


def operators_of(model: mx.Model) -> set[str]:
    data = mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD()).data
    return {n.op_type for n in onnx.load_from_string(data).graph.node}


def branch(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [port(nodes[-1].output[0], None)])


SQUEEZED = {
    "then_branch": branch(node("Squeeze", ["z", "two"], ["s"])),
    "else_branch": branch(node("Identity", ["z"], ["same"])),
}
SIZE = [node("Shape", ["z"], ["shape"]), node("Gather", ["shape", "two0"], ["size"])]
NUMBERS_OF_SIZE = {"two": np.array([2]), "two0": np.array(2), "one": np.array(1), "many": np.array(1000)}
CONDITIONS = [
    ([node("Equal", ["size", "one"], ["c"])], True),
    ([node("Unsqueeze", ["size", "zero"], ["s1"]), node("Concat", ["s1", "one1"], ["s2"], axis=0),
      node("ReduceProd", ["s2"], ["p"], keepdims=0), node("Cast", ["p"], ["c"], to=onnx.TensorProto.BOOL)], True),
    ([node("Size", ["shape"], ["rank"]), node("Greater", ["rank", "two0"], ["c"])], True),
    ([node("Gather", ["shape", "zero0"], ["batch"]), node("Less", ["batch", "many"], ["c"])], False),  # any batch
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "known"), CONDITIONS, ids=[str(n[-1].input[0]) for n, _ in CONDITIONS])
def test_an_if_that_sizes_decide_is_gone(nodes: list[onnx.NodeProto], known: bool) -> None:
    """As exporters write a Squeeze. The branch not taken need not even fit the sizes."""
    start = [node("Unsqueeze", ["x", "two"], ["u"]), node("Mul", ["u", "w"], ["z"]), *SIZE]
    taken = node("If", ["c"], ["d"], **SQUEEZED)
    arrays = NUMBERS_OF_SIZE | {
        "w": np.ones((4, 1), np.float32), "zero": np.array([0]), "zero0": np.array(0), "one1": np.array([1])
    }  # fmt: skip
    model = file([*start, *nodes, taken, node("Identity", ["d"], ["y"])], arrays, ["n", 4], classes=4)
    assert ("If" in operators_of(model)) != known
    assert "If" not in operators_of(model.resize(x=(5, 4)))


def test_a_rank_that_is_not_known_is_an_error_that_says_how_to_mend_it() -> None:
    nodes = [
        node("Unsqueeze", ["x", "two"], ["u"]), node("Mul", ["u", "w"], ["z"]), *SIZE,
        node("Gather", ["shape", "zero0"], ["batch"]), node("Less", ["batch", "many"], ["c"]),
        node("If", ["c"], ["d"], **SQUEEZED), node("Sin", ["d"], ["s"]), node("MatMul", ["s", "v"], ["y"]),
    ]  # fmt: skip
    arrays = NUMBERS_OF_SIZE | {
        "w": np.ones((4, 1), np.float32),
        "v": np.ones((4, 2), np.float32),
        "zero0": np.array(0),
    }
    model = file(nodes, arrays, ["n", 4])
    with pytest.raises(GradientError, match="needs the rank of 'Sin', which is unknown") as caught:
        operators_of(model)
    assert "model.resize" in str(caught.value.mend)
    assert "If" not in operators_of(model.resize(x=(5, 4)))


def test_an_input_that_is_fixed_decides() -> None:
    """Two models in one file, as for two sample rates: the other one's parameters are not asked for."""
    halves = {
        "then_branch": branch(node("MatMul", ["x", "w"], ["s"])),
        "else_branch": branch(node("MatMul", ["x", "v"], ["same"])),
    }
    nodes = [node("Equal", ["rate", "wide"], ["c"]), node("If", ["c"], ["y"], **halves)]
    arrays = {"w": np.ones((4, 2), np.float32), "v": np.ones((4, 2), np.float32), "wide": np.array(16000)}
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    inputs = [port("x", ["n", 4]), port("rate", [], onnx.TensorProto.INT64)]
    graph = helper.make_graph(nodes, "g", inputs, [port("y", ["n", 2])], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = from_bytes(proto.SerializeToString())
    assert "If" in operators_of(model)
    x, label = np.ones((3, 4), np.float32), np.zeros(3, np.int64)
    both, _ = trained(model, {"x": x, "label": label, "rate": np.array(8000)})
    np.testing.assert_array_equal(both["w"], arrays["w"])
    assert not np.array_equal(both["v"], arrays["v"])
    fixed = model.fix(rate=16000).freeze("v")
    assert "If" not in operators_of(fixed)
    one, losses = trained(fixed, {"x": x, "label": label})
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(one["v"], arrays["v"])


@pytest.mark.parametrize(("operator", "more"), [("Dropout", ["half"]), ("BatchNormalization", ["s", "z", "z", "s"])])
def test_operators_that_train_otherwise_in_a_step(operator: str, more: list[str]) -> None:
    """A mask is the same in all steps; running statistics have no place in one."""
    body = helper.make_graph(
        [node(operator, ["row", *more], ["d"]), node("Add", ["h", "d"], ["h1"]), node("Identity", ["d"], ["out"])],
        "step", [port("h", [None, 4]), port("row", [None, 4])], [port("h1", [None, 4]), port("out", [None, 4])],
    )  # fmt: skip
    arrays = {
        "steps": np.array([3, 1, 1]), "zero": np.array([0]), "half": np.float32(0.5), "w": np.ones(4, np.float32),
        "s": np.ones(4, np.float32), "z": np.zeros(4, np.float32),
    }  # fmt: skip
    nodes = [
        node("Mul", ["x", "w"], ["xw"]), node("Unsqueeze", ["xw", "zero"], ["x1"]),
        node("Expand", ["x1", "steps"], ["rows"]),
        node("Scan", ["xw", "rows"], ["last", "outs"], body=body, num_scan_inputs=1),
        node("ReduceMax", ["outs", "zero"], ["most"], keepdims=0),
        node("ReduceMin", ["outs", "zero"], ["least"], keepdims=0), node("Sub", ["most", "least"], ["y"]),
    ]  # fmt: skip
    model = file(nodes, arrays, ["n", 4], classes=4)
    if operator == "BatchNormalization":
        with pytest.raises(GraphError, match="expected BatchNormalization 'd' outside of If, Scan and Loop"):
            operators_of(model)
    else:
        _, (loss, *_) = trained(model, {"x": np.ones((8, 4), np.float32), "label": np.zeros(8, np.int64)})
        assert loss == pytest.approx(np.log(4))  # the masks of all steps are the same, so y is 0
