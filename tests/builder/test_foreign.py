"""Files in the styles of other exporters: they load, compute what they did on ONNX Runtime, and survive a save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxmx.builder.model import Model, from_bytes, load
from onnxmx.errors import GraphError, ModelFileError
from onnxmx.trainer.optimizers import SGD
from onnxmx.trainer.step import compile_step
from tests.builder.foreign_files import (
    STYLES,
    array,
    dynamo,
    file,
    folded,
    keras2onnx,
    microsoft,
    mxnet,
    node,
    paddle,
    port,
    pytorch,
    random_input,
    run,
    tf2onnx,
)


@pytest.mark.parametrize("style", STYLES, ids=lambda f: f.__name__)
def test_computes_what_it_did(style: Callable[[], onnx.ModelProto]) -> None:
    proto = style()
    x = random_input(proto)
    original = onnx.ModelProto.FromString(proto.SerializeToString())
    if style is keras2onnx:  # ONNX Runtime has no training form of that time
        del original.graph.node[0].output[1:]
    expected = run(original, x)
    model = from_bytes(proto.SerializeToString())
    saved = model.to_proto()
    assert {o.domain: o.version for o in saved.opset_import}[""] == 20
    assert list(model.inputs) == ["x"]
    assert model.outputs["y"].shape is not None
    assert len(model.outputs["y"].shape) == expected.ndim
    assert all(n.name for n in saved.graph.node)
    assert not any(n.op_type == "Constant" for n in saved.graph.node)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run(saved, x), model(x))
    np.testing.assert_array_equal(from_bytes(model.to_bytes())(x), model(x))
    assert model.trainable == STYLES[style]


def test_what_an_exporter_numbered_is_frozen_by_its_layer() -> None:
    model = from_bytes(folded().SerializeToString())
    assert model.freeze("stem.*").trainable == [n for n in STYLES[folded] if not n.startswith("stem.")]
    mine = model.rename({"stem.0.weight": "onnx::Conv_37"})  # a file that says what its parameters are called keeps it
    assert from_bytes(mine.to_bytes()).trainable == mine.trainable


@pytest.mark.parametrize("style", [mxnet, tf2onnx, paddle, dynamo, folded], ids=lambda f: f.__name__)
def test_can_be_trained(style: Callable[[], onnx.ModelProto]) -> None:
    model = from_bytes(style().SerializeToString())
    if style is paddle:
        model = model.cut("c").resize(x=("n", 3, 5, 5))  # Clip has no rule yet, and Conv needs the image's size
    step = compile_step(model, loss="mean_squared_error", optimizer=SGD(lr=0.1))
    onnx.checker.check_model(onnx.load_from_string(step.data), full_check=True)
    assert {p["name"] for p in step.spec["outputs"]} >= {f"next.{name}" for name in model.trainable}
    assert model.trainable


def test_what_runs_and_cannot_be_trained() -> None:
    proto = microsoft()
    proto.graph.initializer.append(numpy_helper.from_array(array(1), "last"))
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(node("PRelu", ["before", "last"], ["y"]))
    with pytest.raises(GraphError, match=r"operators of ai.onnx; found com.microsoft.FusedGemm in 'fused'") as caught:
        compile_step(from_bytes(proto.SerializeToString()), loss="mean_squared_error", optimizer=SGD(lr=0.1))
    assert caught.value.mend


def test_weights_in_branches_are_parameters() -> None:
    """Both branches hold one of the same name; what is no float32 array stays where it is."""

    def branch(op_type: str, value: float) -> onnx.GraphProto:
        weight = numpy_helper.from_array(np.full(4, value, np.float32), "w")
        held = [node("Constant", [], ["w"], value=weight)] if value > 0 else []
        nodes = [*held, node(op_type, ["x", "w"], ["z"]), node("ReduceSum", ["z", "axes"], ["r"])]
        axes = numpy_helper.from_array(np.array([1]), "axes")
        return helper.make_graph(nodes, op_type, [], [port("r", ["n", 1])], [axes] if held else [axes, weight])

    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0), node("Greater", ["m", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("Add", 2.0), else_branch=branch("Mul", -3.0)),
    ]  # fmt: skip
    model = from_bytes(file(20, nodes, ["n", 4], {"zero": np.float32(0)}).SerializeToString())
    assert {name: a[0] for name, a in model.parameters().items()} == {"w": 2.0, "w_1": -3.0}
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(model(x), np.full((3, 1), 12.0))
    np.testing.assert_array_equal(model(-x), np.full((3, 1), 12.0))
    np.testing.assert_array_equal(model.with_parameters({"w_1": np.zeros(4, np.float32)})(-x), np.zeros((3, 1)))


def test_layers_of_pytorch_names() -> None:
    layers = [r.layer for r in from_bytes(pytorch().SerializeToString()).summary().rows]
    assert layers[:3] == ["body.conv", "body.relu6", "up"]


def test_unknown_sizes_are_free() -> None:
    model = from_bytes(paddle().SerializeToString())
    assert model.inputs["x"].shape == (None, 3, None, None)
    assert model(np.zeros((2, 3, 5, 7), np.float32)).shape == (2, 4, 5, 7)


def test_training_mode_is_left() -> None:
    """opset 14: training_mode=1 on BatchNormalization, and on Dropout an input that is true."""
    nodes = [
        node("BatchNormalization", ["x", *"gbmv"], ["h", "m1", "v1"], training_mode=1),
        node("Dropout", ["h", "ratio", "yes"], ["y", "mask"]),
    ]
    weights = {k: array(3) for k in "gbmv"} | {"ratio": np.float32(0.5), "yes": np.array(True)}
    model = from_bytes(file(14, nodes, ["n", 3], weights).SerializeToString())
    x, w = array(5, 3), model.parameters()
    np.testing.assert_allclose(model(x), (x - w["m"]) / np.sqrt(w["v"] + 1e-5) * w["g"] + w["b"], rtol=1e-4)
    nodes.append(node("Add", ["h", "m1"], ["z"]))
    nodes[1].input[0] = "z"
    with pytest.raises(ModelFileError, match=r"expected its inference form; something reads 'm1'.*\n.*model\.eval"):
        from_bytes(file(14, nodes[:1] + nodes[2:] + nodes[1:2], ["n", 3], weights).SerializeToString())


def recurrent_file(operator: str, layout: int, outputs: Sequence[str], units: int = 4) -> onnx.ModelProto:
    """Two directions and every input but peepholes; the states are inputs of the model."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
    random = np.random.default_rng(3)
    shapes = {"w": (2, gates * units, 3), "r": (2, gates * units, units), "b": (2, 2 * gates * units)}
    weights = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    states = ["h0", "c0"][: 1 + (operator == "LSTM")]
    call = node(
        operator,
        ["x", "w", "r", "b", "lengths", *states],
        outputs,
        hidden_size=units,
        direction="bidirectional",
        **({"layout": layout} if layout else {}),
    )
    proto = file(14, [call], ["n", "t", 3], weights)
    proto.graph.input.append(port("lengths", ["n"], TensorProto.INT32))
    proto.graph.input.extend(port(name, ["n", 2, units] if layout else [2, "n", units]) for name in states)
    del proto.graph.output[:]
    proto.graph.output.extend(port(name, None) for name in outputs if name)
    return proto


@pytest.mark.parametrize("operator", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("outputs", [["y", "h"], ["", "h"], ["y"]], ids=str)
def test_a_batch_that_comes_first(operator: str, outputs: list[str]) -> None:
    """layout=1 runs on a CPU, and gives what ONNX Runtime does of layout=0 with the axes changed by hand."""
    outputs = [*outputs, "c"] if operator == "LSTM" and len(outputs) > 1 else outputs
    random = np.random.default_rng(5)
    feeds = {
        "x": random.normal(size=(3, 5, 3)),
        "h0": random.normal(size=(3, 2, 4)),
        "c0": random.normal(size=(3, 2, 4)),
    }
    feeds = {name: a.astype(np.float32) for name, a in feeds.items() if operator == "LSTM" or name != "c0"}
    lengths = np.array([5, 2, 4], np.int32)
    proto = recurrent_file(operator, 0, outputs)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    expected = session.run(names, {name: a.swapaxes(0, 1) for name, a in feeds.items()} | {"lengths": lengths})

    model = from_bytes(recurrent_file(operator, 1, outputs).SerializeToString())
    found = model(**feeds, lengths=lengths)
    found = found if isinstance(found, dict) else {names[0]: found}
    for name, there in zip(names, expected, strict=True):
        moved = np.moveaxis(there, 2, 0) if name == "y" else there.swapaxes(0, 1)
        np.testing.assert_array_equal(found[name], moved, err_msg=name)
    assert model.trainable == ["w", "r", "b"]
    assert model.outputs[names[0]].shape[0] == "n"


def test_a_batch_that_comes_first_in_branches_and_functions() -> None:
    """What is called or chosen is rewritten too."""
    call = node("GRU", ["x", "w", "r"], ["", "h"], hidden_size=4, layout=1)
    branch = helper.make_graph([call], "branch", [], [port("h", None)])
    chosen = [node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    weights = {"w": array(1, 12, 3), "r": array(1, 12, 4)}
    plain = file(20, [node("GRU", ["x", "w", "r"], ["", "y"], hidden_size=4, layout=1)], ["n", "t", 3], weights)
    inside = file(20, chosen, ["n", "t", 3], weights | {"yes": np.array(True)})
    called = file(20, [helper.make_node("Own", ["x", "w", "r"], ["y"], domain="own")], ["n", "t", 3], weights)
    called.opset_import.append(helper.make_opsetid("own", 1))
    own = helper.make_function("own", "Own", ["x", "w", "r"], ["h"], [call], [helper.make_opsetid("", 20)])
    called.functions.append(own)
    x = array(2, 5, 3)
    expected = from_bytes(plain.SerializeToString())(x)
    for proto in (inside, called):
        np.testing.assert_array_equal(from_bytes(proto.SerializeToString())(x), expected)


def test_what_cannot_be_converted_is_named() -> None:
    proto = file(23, [node("RMSNormalization", ["x", "w"], ["y"])], ["n", 3], {"w": array(3)}, ir=10)
    with pytest.raises(ModelFileError, match=r"opset 23 .* found RMSNormalization that cannot"):
        from_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="expected opset 7 or newer; found 6"):
        from_bytes(file(6, [node("Relu", ["x"], ["y"])], ["n"], {}).SerializeToString())


def test_an_output_of_unknown_rank_is_named() -> None:
    proto = microsoft()
    proto.graph.output[0].CopyFrom(port("y", None))
    with pytest.raises(ModelFileError, match="expected outputs of known type and rank; found 'y'"):
        from_bytes(proto.SerializeToString())


def test_external_weights(tmp_path: Path) -> None:
    model: Model = from_bytes(mxnet().SerializeToString())
    path = tmp_path / "model.onnx"
    onnx.save(model.to_proto(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    found = load(path).parameters()
    assert all((found[name] == x).all() for name, x in model.parameters().items())
    assert load(path)(x := array(2, 1, 8, 8)).tolist() == model(x).tolist()


def test_inputs_with_numbers_are_none() -> None:
    proto = file(20, [node("Reshape", ["x", "to"], ["y"])], [2, 3], {"to": np.array([3, 2])})
    proto.graph.input.append(port("to", [2], TensorProto.INT64))
    saved = from_bytes(proto.SerializeToString()).to_proto()
    assert [v.name for v in saved.graph.input] == ["x"]


def test_settings_are_not_weights() -> None:
    nodes = [
        node("Pow", ["x", "power"], ["p"]),
        node("Transpose", ["w"], ["wt"]),
        node("MatMul", ["p", "wt"], ["m"]),
        node("Mul", ["m", "scale"], ["y"]),
    ]
    weights = {"power": array(3), "w": array(3, 3), "scale": array(3)}
    model = from_bytes(file(20, nodes, ["n", 3], weights).SerializeToString())
    assert list(model.parameters()) == model.trainable == ["w", "scale"]
