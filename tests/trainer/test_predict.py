"""Predictions: what is read from files and lines, how it reaches the model, and what comes back."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from onnxmx.builder.model import Model, from_bytes
from onnxmx.errors import DataError, ModelFileError, ShapeError
from onnxmx.trainer.predict import Predictor
from onnxmx.trainer.samples import read_file, read_lines

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
Shape = list[int | str]


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, tuple[int, Shape]],
    metadata: dict[str, str] | None = None,
    constants: list[onnx.TensorProto] | None = None,
) -> Model:
    """A model of these nodes, as if it came from elsewhere."""
    ports = [[helper.make_tensor_value_info(n, *p) for n, p in group.items()] for group in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *ports, constants or [])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(proto, metadata or {})
    return from_bytes(proto.SerializeToString())


def identity(shape: Shape, kind: int = FLOAT, **metadata: object) -> Model:
    """y = x, so that a prediction shows what reached the model. metadata: by its name after `onnxmx.`, as JSON."""
    props = {f"onnxmx.{k}": v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    return model([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, shape)}, {"y": (kind, shape)}, props)


def outputs(predictor: Predictor, *paths: Path) -> list[object]:
    return [prediction["output"] for prediction in predictor.files(paths)]


def save(path: Path, array: object) -> Path:
    np.save(path, np.asarray(array))
    return path


@pytest.mark.parametrize(
    ("shape", "array", "samples"),
    [
        ((2, 3), (2, 3), 1),
        ((2, 3), (4, 2, 3), 4),
        ((2, 3), (6,), 1),
        ((2, 3), (5, 6), 5),
        ((1, 2, 3), (2, 3), 1),
        ((1, 2, 3), (4, 2, 3), 4),
        ((3,), (3,), 1),
        ((3,), (3, 3), 3),
        ((3,), (0, 3), 0),
        (("n", 3), (7, 3), 1),
        (("n", 3), (2, 7, 3), 2),
        ((), (4,), 4),
        ((), (), 1),
        ((2, 3), (3, 2), None),
        ((2, 3), (4, 3, 2), None),
        ((2, 3), (7,), None),
        (("n", 3), (6,), None),
    ],
)
def test_an_array_is_a_sample_or_a_batch(
    shape: tuple[int | str, ...], array: tuple[int, ...], samples: int | None, tmp_path: Path
) -> None:
    x = np.arange(math.prod(array), dtype=np.float32).reshape(array)
    path = save(tmp_path / "x.npy", x)
    predictor = Predictor(identity(["batch", *shape]))
    if not samples:
        with pytest.raises(DataError, match="found none" if samples == 0 else "expected a sample of shape"):
            outputs(predictor, path)
        return
    found = outputs(predictor, path)
    assert len(found) == samples
    np.testing.assert_array_equal(np.concatenate([np.ravel(y) for y in found]), x.ravel())


def test_raw_values_are_prepared_as_the_metadata_says(tmp_path: Path) -> None:
    predictor = Predictor(identity(["batch", 2], preprocessing={"scale": 0.5, "shift": -1.0}))
    rows = [[4, 6], [0, 255]]
    (tmp_path / "x.csv").write_text("a,b\n4,6\n\n0,255\n")
    expected = [[1.0, 2.0], [-1.0, 126.5]]
    assert outputs(predictor, tmp_path / "x.csv") == expected
    assert outputs(predictor, save(tmp_path / "x.npy", np.uint8(rows))) == expected
    assert [p["output"] for p in predictor.stream(map(json.dumps, rows))] == expected
    names = [p["input"] for p in predictor.files([tmp_path / "x.csv", tmp_path / "x.npy"])]
    assert names == [f"{tmp_path}/x.csv:2", f"{tmp_path}/x.csv:4", f"{tmp_path}/x.npy[0]", f"{tmp_path}/x.npy[1]"]


def test_integer_inputs_are_left_as_they_are(tmp_path: Path) -> None:
    predictor = Predictor(identity(["batch", 2], INT64, preprocessing={"scale": 0.5, "shift": 0.0}))
    assert [p["output"] for p in predictor.stream(["[3, -4]"])] == [[3, -4]]
    (tmp_path / "x.csv").write_text(f"{2**53 + 1},2\n")
    assert outputs(predictor, tmp_path / "x.csv") == [[2**53 + 1, 2]]  # not by way of a float
    with pytest.raises(DataError, match=r"expected int64; found float64"):
        list(predictor.stream(["[1.5, 2]"]))
    with pytest.raises(DataError, match="beyond its range"):
        list(Predictor(identity(["batch", 2], UINT8)).stream(["[256, 2]"]))


@pytest.mark.parametrize(
    ("preprocessing", "white", "expected"),
    [
        ({"scale": 1 / 255, "shift": 0.0}, None, 1.0),
        ({"scale": 1 / 16, "shift": 0.0}, None, 1.0),  # as the digits: white is 16
        ({"scale": 1 / 255, "shift": -0.5}, None, 0.5),
        ({"scale": 1.0, "shift": 0.0}, None, 255.0),
        ({"scale": 1 / 16, "shift": 0.0}, 255, 255 / 16),
        ({"scale": 1.0, "shift": 0.0}, 1, 1.0),
    ],
)
def test_white_is_what_the_preprocessing_says_or_the_caller(
    preprocessing: dict[str, float], white: float | None, expected: float, tmp_path: Path
) -> None:
    Image.new("L", (2, 2), 255).save(tmp_path / "white.png")
    predictor = Predictor(identity(["batch", 1, 2, 2], preprocessing=preprocessing), white=white)
    np.testing.assert_allclose(outputs(predictor, tmp_path / "white.png")[0], expected, rtol=1e-6)


def test_an_image_of_the_models_own_form_arrives_bit_for_bit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = outputs(Predictor(identity(["batch", 3, 4, 5])), tmp_path / "a.png")
    np.testing.assert_array_equal(found[0], pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("shape", "mode", "found"),
    [
        ([1, 4, 6], "RGB", (1, 4, 6)),
        ([3, 4, 6], "L", (3, 4, 6)),
        ([4, 4, 6], "RGB", (4, 4, 6)),
        ([4, 6], "P", (4, 6)),
        ([3, "h", "w"], "CMYK", (3, 8, 9)),
        ([1, "h", 6], "1", (1, 8, 6)),
    ],
)
def test_an_image_is_brought_to_the_models_channels_and_size(
    shape: Shape, mode: str, found: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (9, 8)).save(path)
    assert np.shape(outputs(Predictor(identity(["batch", *shape])), path)[0]) == found


@pytest.mark.parametrize(
    ("shape", "says"), [([2, 4, 4], "1, 3 or 4 channels"), ([4], "channels"), (["c", 4, 4], "channels")]
)
def test_a_model_that_takes_no_images(shape: Shape, says: str, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=says):
        outputs(Predictor(identity(["batch", *shape])), tmp_path / "a.png")


def test_an_image_of_more_than_8_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 60_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="8 bits"):
        outputs(Predictor(identity(["batch", 1, 4, 4])), tmp_path / "deep.png")


def test_a_classifier_answers_with_classes() -> None:
    net = identity(["batch", 4], loss="softmax_cross_entropy", classes=["a", "b", "c", "d"])
    (found,) = Predictor(net).stream(["[1, 1000, 2, 999]"])  # which overflows in a careless softmax
    e = 1 / (1 + math.exp(-1))
    assert found["class"] == "b"
    assert found["probability"] == pytest.approx(e)
    assert [name for name, _ in found["top"]] == ["b", "d", "a"]
    assert found["top"][1][1] == pytest.approx(1 - e)
    (found,) = Predictor(identity(["batch", 2], loss="softmax_cross_entropy")).stream(["[0, 0]"])
    assert found["top"] == [["0", 0.5], ["1", 0.5]]


PAIR = ["batch", 2]


def sum_and_difference() -> Model:
    """Of inputs a and b."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    port = (FLOAT, PAIR)
    return model(nodes, {"a": port, "b": port}, {"sum": port, "difference": port})


def test_several_inputs_and_outputs_come_by_name(tmp_path: Path) -> None:
    net = sum_and_difference()
    (found,) = Predictor(net).stream(['{"b": [1, 2], "a": [[3, 5]]}'])
    assert found["outputs"] == {"sum": [4.0, 7.0], "difference": [2.0, 3.0]}
    np.savez(tmp_path / "one.npz", b=[1, 2], a=[[3, 5]])
    assert list(Predictor(net).files([tmp_path / "one.npz"])) == [{**found, "input": str(tmp_path / "one.npz")}]
    with pytest.raises(DataError, match=r"expected an object with \['a', 'b'\]; found list"):
        list(Predictor(net).stream(["[1, 2]"]))
    with pytest.raises(DataError, match=r"one input(.|\n)*Give an .npz file or JSON lines"):
        list(Predictor(net).files(["x.npy"]))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_holds_an_array_for_each_input(write: Callable[..., None], order: Any, tmp_path: Path) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 2))
    write(tmp_path / "x.npz", b=np.asarray(b, np.float32, order=order), a=np.asarray(a, order=order))
    found = list(Predictor(sum_and_difference(), batch_size=2).files([tmp_path / "x.npz"]))
    assert [p["input"] for p in found] == [f"{tmp_path}/x.npz[{k}]" for k in range(5)]
    np.testing.assert_allclose([p["outputs"]["sum"] for p in found], a + b, rtol=1e-5, atol=1e-6)


def test_an_archive_is_read_a_row_at_a_time(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((100_000, 1_000), np.uint8))  # 100 MB, in a file of 0.1 MB
    tracemalloc.start()
    samples = read_file(tmp_path / "x.npz", identity(["batch", 1_000]).inputs)
    assert sum(1 for _ in itertools.islice(samples, 2_000)) == 2_000
    samples.close()  # type: ignore[attr-defined]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": np.ones(2)}, r"expected arrays named \['a', 'b'\]; found \['a'\]\n  Give an array for each"),
        ({"a": np.ones(2), "B": np.ones(2)}, r"found \['B', 'a'\]\n  Did you mean 'b'"),
        ({"arr_0": np.ones(2)}, r"found \['arr_0'\]"),
        ({"a": np.ones((3, 2)), "b": np.ones((4, 2))}, "as many samples of one input as of another; found 3 of 'a', 4"),
        ({"a": np.ones((3, 2)), "b": np.ones(2)}, "or a batch of each; found one sample of 'b' alone"),
        ({"a": np.ones((3, 2)), "b": np.ones((3, 5))}, r"'b': expected a sample .* found \(3, 5\)"),
        ({"a": np.ones((3, 2)), "b": np.full((3, 2), np.nan)}, r"x.npz\[0\]: 'b': expected finite numbers; found nan"),
        ({"a": np.ones(2), "b": np.array(["u", "v"])}, "'b': expected numbers"),
        ({"a": np.ones(2), "b": np.array([{}, {}])}, "plain arrays; found: an array of Python objects"),
        ({"a": np.ones((0, 2)), "b": np.ones((0, 2))}, "expected at least one sample"),
    ],
)
def test_an_archive_that_does_not_fit(arrays: dict[str, Any], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=says):
        list(Predictor(sum_and_difference()).files([tmp_path / "x.npz"]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), compressed=st.booleans())
def test_a_damaged_archive_is_an_error_or_numbers(data: st.DataObject, compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=np.arange(12.0).reshape(6, 2))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    with contextlib.suppress(DataError):
        for _, arrays in itertools.islice(read_file(path, identity(PAIR).inputs), 20):
            assert arrays["x"].shape == (2,)


def test_batches_are_bounded_and_of_one_shape(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    predictor = Predictor(identity(["batch", "n"]), batch_size=3)
    seen: list[tuple[int, ...]] = []
    run = predictor._session.run

    class Session:
        def run(self, names: list[str], feeds: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> object:
            seen.append(feeds["x"].shape)
            return run(names, feeds)

    monkeypatch.setattr(predictor, "_session", Session())
    long, short = save(tmp_path / "long.npy", np.ones((7, 5))), save(tmp_path / "short.npy", np.ones((2, 4)))
    assert len(outputs(predictor, long, short)) == 9
    assert seen == [(3, 5), (3, 5), (1, 5), (2, 4)]


def test_a_fixed_batch_is_filled_up() -> None:
    predictor = Predictor(identity([4, 2]))
    samples = [(str(k), {"x": np.full(2, k, np.float32)}) for k in range(6)]
    assert [p["output"] for p in predictor.samples(samples)] == [[k, k] for k in range(6)]
    assert [p["output"] for p in predictor.stream(["[1, 2]"])] == [[1.0, 2.0]]


def test_each_line_is_answered_before_the_next_is_read() -> None:
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for k in range(3):
            read += 1
            yield json.dumps([k])

    for count, found in enumerate(Predictor(identity(["batch", 1]), batch_size=64).stream(lines()), 1):
        assert (found["input"], read) == (f"line {count}", count)


def test_a_model_whose_output_has_no_row_a_sample() -> None:
    net = model(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": (FLOAT, ["batch", 2])}, {"y": (FLOAT, [])}
    )
    with pytest.raises(ShapeError, match="a row for each of 1 samples"):
        list(Predictor(net).stream(["[1, 2]"]))


def test_a_model_without_a_batch_axis() -> None:
    with pytest.raises(DataError, match="first dimension that counts samples"):
        Predictor(identity([]))


def test_an_output_that_is_not_finite_names_its_sample() -> None:
    net = model([helper.make_node("Log", ["x"], ["y"])], {"x": (FLOAT, ["batch", 1])}, {"y": (FLOAT, ["batch", 1])})
    with pytest.raises(DataError, match=r"^line 2: expected a finite output"):
        list(Predictor(net).stream(["[1]", "[-1]"]))


def test_values_that_the_model_cannot_compute() -> None:
    table = helper.make_tensor("table", FLOAT, [3], [1, 2, 3])
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    net = model(nodes, {"x": (INT64, ["batch", 1])}, {"y": (FLOAT, ["batch", 1])}, constants=[table])
    with pytest.raises(DataError, match="line 1: expected samples that the model can compute"):
        list(Predictor(net).stream(["[3]"]))


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("preprocessing", "{", "expected JSON"),
        ("preprocessing", "[1]", "expected an object"),
        ("classes", '"abc"', "expected a list of names"),
        ("classes", '["a", 1]', "expected a list of names"),
        ("classes", '["a"]', "expected 2 names, one an output; found 1"),
    ],
)
def test_metadata_that_is_damaged(key: str, text: str, says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        list(Predictor(identity(["batch", 2], loss="softmax_cross_entropy", **{key: text})).stream(["[1, 2]"]))


def test_an_archive_under_a_wrong_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones(2))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(DataError, match="found several"):
        list(read_file(tmp_path / "x.npy", identity(["batch", 2]).inputs))


def test_lines_that_are_no_text() -> None:
    with pytest.raises(DataError, match="line 1: expected one JSON value"):
        list(read_lines([b"\xff\xfe\x81"], identity(["batch", 2]).inputs))
