"""Model: saved and loaded, called, summarized, given other parameters; damaged and hostile files."""

from __future__ import annotations

import copy
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import onnxmx.builder.layers as L
from onnxmx.builder.model import Input, Model, Port, build, from_bytes, load
from onnxmx.errors import DataError, GraphError, ModelFileError, UsageError


def lenet() -> Model:
    return L.Sequential(
        L.Conv2D(20, 5, activation="relu"),
        L.MaxPool2D(2),
        L.Conv2D(50, 5, activation="relu"),
        L.MaxPool2D(2),
        L.Flatten(),
        L.Dense(500, activation="relu"),
        L.Dense(10),
    ).build(image=("batch", 1, 28, 28))


SMALL = L.Sequential(
    L.Conv2D(2, 3, activation="relu"), L.BatchNorm(), L.MaxPool2D(2), L.Dropout(0.1), L.Flatten(), L.Dense(3)
).build(x=("batch", 1, 8, 8))
BYTES = SMALL.to_bytes()


def foreign(opset: int = 13, **model: Any) -> onnx.ModelProto:
    """A file of another maker: an old opset, its weight among the inputs, a scalar parameter, names of its own."""
    weight, scale = np.arange(12, dtype=np.float32).reshape(4, 3), np.array(2.0, np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="/first/MatMul"),
        helper.make_node("Mul", ["h", "s"], ["m"]),
        helper.make_node("ReduceMax", ["m"], ["y"], axes=[1], keepdims=1),  # axes became an input at opset 18
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scale, "s")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7, **model)


# --- saved and loaded
def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    SMALL.save(path)
    loaded = load(path)
    assert loaded.to_bytes() == path.read_bytes() == BYTES
    assert loaded.trainable == SMALL.trainable
    assert loaded.inputs == SMALL.inputs == {"x": Port("x", ("batch", 1, 8, 8), np.dtype(np.float32))}
    assert loaded.outputs == SMALL.outputs
    assert str(loaded.summary()) == str(SMALL.summary())
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8)).astype(np.float32)
    assert (loaded(x) == SMALL(x)).all()
    onnx.checker.check_model(str(path), full_check=True)


def test_metadata_travels() -> None:
    model = from_bytes(BYTES)
    model.metadata["onnxmx.labels"] = '["a", "b", "c"]'
    assert from_bytes(model.to_bytes()).metadata["onnxmx.labels"] == '["a", "b", "c"]'


def test_a_file_of_an_older_opset_is_converted() -> None:
    model = from_bytes(foreign().SerializeToString())
    assert list(model.inputs) == list(model.summary().inputs) == ["x"]
    assert model.trainable == list(model.parameters()) == ["w"]  # a scalar is a setting, not a weight
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    expected = 2 * (x @ model.parameters()["w"]).max(1, keepdims=True)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)
    assert onnx.load_from_string(model.to_bytes()).opset_import[0].version == 20


def test_the_long_name_of_the_standard_domain() -> None:
    proto = foreign()
    proto.opset_import[0].domain = "ai.onnx"
    model = from_bytes(proto.SerializeToString())
    assert model.outputs["y"].shape == ("n", 1)
    assert {o.version for o in model.to_proto().opset_import} == {20}
    assert model(np.zeros((2, 4), np.float32)).shape == (2, 1)


def test_batch_statistics_of_a_foreign_file_are_not_trainable() -> None:
    model = from_bytes(BYTES)
    del model.metadata["onnxmx.trainable"]
    assert model.trainable == SMALL.trainable
    assert set(model.parameters()) - set(model.trainable) == {"1.running_mean", "1.running_var"}


# --- parameters
def test_with_parameters_is_a_copy() -> None:
    bias = np.array([1, 2, 3], np.float64)
    model = SMALL.with_parameters({"5.bias": bias})
    bias += 1
    assert model.parameters()["5.bias"].tolist() == [1, 2, 3]
    assert SMALL.parameters()["5.bias"].tolist() == [0, 0, 0]
    assert SMALL.to_bytes() == BYTES
    scalar = build(lambda x: x * x.builder.parameter("s", (), "ones"), x=(2,)).with_parameters({"s": np.float32(3.0)})
    assert scalar.parameters()["s"].shape == ()
    assert scalar(np.ones(2)).tolist() == [3, 3]


def test_a_model_is_pickled_as_its_file() -> None:
    for copied in (pickle.loads(pickle.dumps(SMALL)), copy.deepcopy(SMALL)):
        assert copied.to_bytes() == BYTES
        assert copied.trainable == SMALL.trainable


def test_parameters_are_read_only() -> None:
    """What is written to one would be in the file, and not in what an open session computes."""
    for model in (SMALL, from_bytes(BYTES)):
        for array in model.parameters().values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"5.bia": np.zeros(3)}, r"no parameter named '5.bia'\n  Did you mean '5.bias'\?"),
        ({"5.bias": np.zeros(4)}, r"parameter '5.bias' expected float32 \(3,\); found float64 \(4,\)"),
        ({"5.bias": np.array(["a", "b", "c"])}, r"expected float32 \(3,\); found <U1 \(3,\)"),
    ],
)
def test_parameters_that_do_not_fit(arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        SMALL.with_parameters(arrays)


# --- called
def test_called_by_place_and_by_name() -> None:
    model = build(lambda a, b: {"sum": a + b, "difference": a - b}, a=("n", 2), b=("n", 2))
    a, b = np.ones((3, 2), np.float32), np.full((3, 2), 2, np.float32)
    for found in (model(a, b), model(b=b, a=a), model(a, b=b), model(a.tolist(), b.astype(np.int64))):
        assert {name: v[0, 0] for name, v in found.items()} == {"sum": 3.0, "difference": -1.0}


X = np.zeros((2, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, r"expected the inputs \['x'\]; found 0 by position and \[\]"),
        ((X, X), {}, "found 2 by position"),
        ((X,), {"x": X}, r"found 1 by position and \['x'\]"),
        ((), {"y": X}, r"found 0 by position and \['y'\]"),
        ((X[0],), {}, r"input 'x' expected shape \(batch, 1, 8, 8\); found \(1, 8, 8\)"),
        ((X[..., :7],), {}, r"expected shape \(batch, 1, 8, 8\); found \(2, 1, 8, 7\)"),
        ((X.astype(complex),), {}, "expected float32; found complex128"),
        ((np.full(X.shape, "a"),), {}, "expected float32; found <U1"),
        ((np.ma.masked_equal(X, 0),), {}, "expected a value everywhere; found some under a mask"),
        (([[1], [1, 2]],), {}, "expected an array; found list"),
    ],
)
def test_inputs_that_do_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        SMALL(*args, **kwargs)
    assert caught.value.mend


def test_named_dimensions_agree() -> None:
    model = build(lambda a, b: a + b, a=("n", 2), b=("n", 2))
    with pytest.raises(DataError, match="input 'b' expected n = 3, as before it; found 1"):
        model(np.zeros((3, 2)), np.zeros((1, 2)))


def test_values_that_cannot_be_computed() -> None:
    model = build(lambda i: i.builder.gather(np.arange(3.0, dtype=np.float32), i), i=Input(("n",), "int64"))
    with pytest.raises(DataError, match=r"ONNX Runtime found: .*Gather"):
        model(np.array([7]))
    with pytest.raises(DataError, match="expected int64; found float64"):
        model(np.array([0.5]))


def test_a_graph_that_onnx_runtime_refuses() -> None:
    model = build(lambda x: x.builder.op("Erf", x.builder.cast(x, 11)), x=(2,))
    model.ir.graph.node(1).domain = "nowhere"
    with pytest.raises((GraphError, ModelFileError)):
        model(np.zeros(2))


# --- summarized
def test_summary_of_lenet() -> None:
    summary = lenet().summary()
    assert [(r.layer, r.operators, r.output, r.parameters) for r in summary.rows] == [
        ("0", ["Conv", "Relu"], "(batch, 20, 24, 24)", 520),
        ("1", ["MaxPool"], "(batch, 20, 12, 12)", 0),
        ("2", ["Conv", "Relu"], "(batch, 50, 8, 8)", 25_050),
        ("3", ["MaxPool"], "(batch, 50, 4, 4)", 0),
        ("4", ["Flatten"], "(batch, 800)", 0),
        ("5", ["Gemm", "Relu"], "(batch, 500)", 400_500),
        ("6", ["Gemm"], "(batch, 10)", 5_010),
    ]
    assert (summary.parameters, summary.trainable, summary.parameter_bytes) == (431_080, 431_080, 4 * 431_080)
    products = 2 * (20 * 24 * 24 * 25 + 50 * 8 * 8 * 500 + 800 * 500 + 500 * 10)
    others = 20 * 24 * 24 + 20 * 12 * 12 + 50 * 8 * 8 + 50 * 4 * 4 + 500  # relus and pools, one an element
    assert summary.flops == products + others
    values = 2 * 20 * 24 * 24 + 20 * 12 * 12 + 2 * 50 * 8 * 8 + 2 * 50 * 4 * 4 + 2 * 500 + 10
    assert summary.activation_bytes == 4 * values
    assert summary.to_dict()["parameters"] == 431_080
    assert "parameters 431,080 (431,080 trainable), 1.72 MB" in str(summary)


def test_summary_counts_shared_parameters_once_and_statistics_beside_them() -> None:
    head = L.Dense(3)
    summary = build(lambda x: L.BatchNorm()(head(head(x))), x=("batch", 3)).summary()
    assert (summary.parameters, summary.trainable, summary.statistics) == (12 + 6, 12 + 6, 6)
    assert (sum(r.parameters for r in summary.rows), sum(r.statistics for r in summary.rows)) == (18, 6)
    assert summary.parameter_bytes == 4 * (18 + 6)
    assert "parameters 18 (18 trainable) and running statistics 6, 0.00 MB" in str(summary)
    matmul = build(lambda x: L.Dense(5, bias=False)(x), x=("batch", 7, 3)).summary()
    assert matmul.flops == 2 * 7 * 5 * 3


def test_a_deep_net_is_built_quickly() -> None:
    """150 residual blocks, as many convolutions as resnet152 has; 0.15 s on two busy cores of 2024."""

    def block() -> L.Layer:
        return L.Residual(L.Sequential(L.Conv2D(16, 3, padding="same"), L.BatchNorm(), L.Activation("relu")))

    net = L.Sequential(*[block() for _ in range(150)])
    start = time.process_time()
    model = net.build(image=("batch", 16, 32, 32))
    assert time.process_time() - start < 1.5
    assert len(model.ir.graph) == 600


# --- damaged and hostile files
def bad(data: bytes) -> str:
    with pytest.raises(ModelFileError) as caught:
        from_bytes(data, "file.onnx")
    assert caught.value.mend
    return str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none.onnx", "nothing"), (tmp_path, "a folder")):
        with pytest.raises(ModelFileError, match=f"expected a model file at {path}; found {found}"):
            load(path)
    assert "file.onnx is not an ONNX file: it holds no graph" in bad(b"")
    assert "file.onnx is not an ONNX file" in bad(b"# A text\n\nof some lines\n" * 20)
    assert "file.onnx is not an ONNX file" in bad(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))


def test_truncated_at_any_place() -> None:
    for end in range(0, len(BYTES), 37):
        bad(BYTES[:end])


def test_an_opset_that_is_not_known_yet() -> None:
    assert "file.onnx" in bad(foreign(opset=99).SerializeToString())


def test_damaged_metadata_shows_when_loaded() -> None:
    for text in ("{", "3", "[1]"):
        model = from_bytes(BYTES)
        model.metadata["onnxmx.trainable"] = text
        assert "onnxmx.trainable expected a list of names" in bad(model.to_bytes())


def test_text_that_is_not_utf8_is_refused() -> None:
    """The checker passes it, and no one could save the model again."""
    assert "file.onnx cannot be read" in bad(BYTES.replace(b"onnxmx.source", b"onnxmx.sourc\x80"))


@settings(max_examples=300, deadline=5000)  # milliseconds; one takes 2
@given(
    source=st.sampled_from([BYTES, foreign().SerializeToString()]),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_altered_bytes_are_refused_or_still_a_model(source: bytes, flips: list[tuple[int, int]]) -> None:
    data = bytearray(source)
    for place, value in flips:
        data[place % len(data)] = value
    try:
        model = from_bytes(bytes(data))
    except ModelFileError:
        return
    onnx.checker.check_model(model.to_proto(), full_check=True)


def external(tmp_path: Path, location: str, **entries: str) -> Path:
    """A model whose weight lies in another file."""
    proto = foreign()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=value)
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "file.onnx").write_bytes(proto.SerializeToString())
    return folder / "file.onnx"


def test_weights_beside_the_file_are_read_into_it(tmp_path: Path) -> None:
    path = external(tmp_path, "data/weights.bin", offset="8", length="48")
    numbers = np.arange(14, dtype=np.float32)
    (path.parent / "data").mkdir()
    (path.parent / "data" / "weights.bin").write_bytes(numbers.tobytes())
    model = load(path)
    assert model.parameters()["w"].ravel().tolist() == numbers[2:].tolist()
    assert from_bytes(model.to_bytes()).parameters()["w"].shape == (4, 3)
    with pytest.raises(ModelFileError, match="expected to lie beside it; found bytes alone"):
        from_bytes(path.read_bytes())


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(48))
    for location in ("../secret.bin", str(secret), "link.bin", "", "a\0b", "folder/../../secret.bin"):
        path = external(tmp_path, location)
        if location == "link.bin":
            (path.parent / location).symlink_to(secret)
        with pytest.raises(ModelFileError, match="'w' in another file and expected one in its own folder; found"):
            load(path)


def test_weights_that_are_missing_or_short(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin", length="48")
    with pytest.raises(ModelFileError, match=r"cannot be read from 'weights\.bin': .*No such file"):
        load(path)
    (path.parent / "weights.bin").write_bytes(bytes(47))
    with pytest.raises(ModelFileError, match=r"expected 48 bytes in 'weights\.bin'; found 47"):
        load(path)
    for entries in ({"offset": "x"}, {"offset": "-1"}, {"length": "many"}):
        with pytest.raises(ModelFileError, match="cannot be read from"):
            load(external(tmp_path, "weights.bin", **entries))
