"""Steps that draw their batches from data held where they run: the same bits as batches made beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmx as mx
from onnxmx.builder.model import from_bytes
from onnxmx.builder.session import open_session
from onnxmx.errors import DataError, DivergedError, GraphError
from onnxmx.trainer.data import Dataset, Loader, Preprocessing
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.engine.resident import INDICES, arrays_of, drawing, fits
from onnxmx.trainer.placement import fallbacks
from onnxmx.trainer.step import compile_step, initial_state
from tests.trainer.nets import blob_net
from tests.trainer.runs import QUICK, TEST, TRAIN

Array = np.ndarray[Any, Any]
INDEX = np.array([3, 0, 7, 7, 5], np.int64)

STORED = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
]
RULES = [(1.0, 0.0), (1 / 255, 0.0), (1 / 127.5, -1.0), (-0.3, 0.1), (1.0, 0.7)]


def stored(dtype: str) -> Array:
    """Values over the whole range of a type, extremes and zeros of both signs included."""
    kind = np.dtype(dtype)
    random = np.random.default_rng(0)
    if kind.kind == "f":
        array = random.standard_normal((8, 2, 3)).astype(kind)
        array[3, 0] = [-0.0, np.finfo(kind).tiny, 6e4]
        return array
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(kind).min, np.iinfo(kind).max)
    array = random.integers(low, high, (8, 2, 3), dtype=np.int64 if dtype == "bool" else kind, endpoint=True)
    array[3, 0] = low, 0, high
    return array.astype(kind)


def passing(ports: dict[str, tuple[int, list[int | str]]], *more: onnx.NodeProto) -> bytes:
    """A step whose outputs are its batch."""
    graph = helper.make_graph(
        [*(helper.make_node("Identity", [f"batch.{name}"], [name]) for name in ports), *more],
        "step",
        [helper.make_tensor_value_info(f"batch.{name}", *port) for name, port in ports.items()],
        [helper.make_tensor_value_info(name, *port) for name, port in ports.items()],
    )
    opset = helper.make_opsetid("", 20)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())


def drawn(step: bytes, data: Dataset) -> dict[str, Array]:
    session = open_session(drawing(step, data), threads=1, integer=False)
    names = [port.name for port in session.get_outputs()]
    return dict(zip(names, session.run(names, {INDICES: INDEX, **arrays_of(data)}), strict=True))


def same_bits(found: dict[str, Array], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(("scale", "shift"), RULES)
@pytest.mark.parametrize("dtype", STORED)
def test_a_batch_has_the_bits_that_numpy_gives_it(dtype: str, scale: float, shift: float) -> None:
    labels = {"label": np.arange(8), "value": np.linspace(0, 1, 8, dtype=np.float32)}
    data = Dataset("arrays", "train", {"x": stored(dtype)}, labels, preprocessing=Preprocessing(scale, shift))
    ports: dict[str, tuple[int, list[int | str]]] = {
        "x": (TensorProto.FLOAT, ["batch", 2, 3]),
        "label": (TensorProto.INT64, ["batch"]),
        "value": (TensorProto.FLOAT, ["batch"]),
    }
    step = passing(ports)
    same_bits(drawn(step, data), data.batch(INDEX))
    assert (b"DequantizeLinear" in drawing(step, data)) is (dtype in ("uint8", "int8") and scale > 0)
    # Where a step quantizes, bytes are brought to float another way.
    one = helper.make_node("Constant", [], ["one"], value_float=1.0)
    quantizing = passing(ports, one, helper.make_node("QuantizeLinear", ["batch.value", "one"], ["unread"]))
    assert b"DequantizeLinear" not in drawing(quantizing, data)
    same_bits(drawn(quantizing, data), data.batch(INDEX))


@pytest.mark.parametrize(("kept", "wanted"), [("uint8", "int64"), ("int64", "int32"), ("bool", "bool")])
def test_an_input_that_is_given_as_it_is(kept: str, wanted: str) -> None:
    data = Dataset("a", "train", {"x": stored(kept)}, preprocessing=Preprocessing(0.5, 1.0)).typed({"x": wanted})
    element = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
    same_bits(drawn(passing({"x": (element, ["batch", 2, 3])}), data), data.batch(INDEX))


def test_what_cannot_stay_is_not_held(tmp_path: Path) -> None:
    array = np.zeros((4, 6), np.float32)
    np.save(tmp_path / "x.npy", array)
    for given, expected in [
        (array, True),
        (array[1:3], True),
        (array[:, ::2], False),
        (array.astype(">f4"), False),
        (np.load(tmp_path / "x.npy", mmap_mode="r"), False),
        (np.load(tmp_path / "x.npy", mmap_mode="r")[1:3], False),
        (np.asarray(np.load(tmp_path / "x.npy", mmap_mode="r")).view(), False),
    ]:
        assert fits(Dataset.from_arrays(given), "cpu") is expected
    for kept, wanted in (("float64", "float16"), ("float32", "float16"), ("float64", "float64")):
        typed = Dataset("a", "train", {"x": array.astype(kept)}).typed({"x": wanted})
        assert fits(typed, "cpu") is ((kept, wanted) != ("float64", "float16"))  # which would be rounded twice
    large = Dataset.from_arrays(np.zeros((1 << 20, 1 << 10), np.uint8))  # untouched pages: nothing is taken
    assert fits(large, "cuda")
    assert not fits(Dataset.from_arrays(large.inputs["x"], np.zeros(1 << 20, np.int64)), "cuda")
    assert fits(Dataset.from_arrays(large.inputs["x"], np.zeros(1 << 20, np.int64)), "cpu")


def in_a_file(data: Dataset, folder: Path) -> Dataset:
    """The same data, its first input read from a file as it is asked for, so that a loader makes its batches."""
    name, array = next(iter(data.inputs.items()))
    np.save(folder / f"{data.split}.npy", array)
    mapped = np.load(folder / f"{data.split}.npy", mmap_mode="r")
    return Dataset(data.name, data.split, {name: mapped}, dict(data.labels), data.classes, data.preprocessing)


def test_fit_ends_in_the_same_bytes_with_batches_of_a_loader(tmp_path: Path) -> None:
    held = mx.fit(blob_net(), TRAIN, validation=TEST, **QUICK)
    loaded = mx.fit(blob_net(), in_a_file(TRAIN, tmp_path), validation=TEST, **QUICK)
    assert held.model.to_bytes() == loaded.model.to_bytes()
    assert held.history == loaded.history


def digits(n: int) -> Dataset:
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (n, 1, 12, 12), dtype=np.uint8)
    return Dataset.from_arrays({"x": images}, random.integers(0, 10, n), scale=1 / 255, shift=-0.1)


@pytest.mark.parametrize("aware", [False, True])
def test_images_through_blocked_and_quantizing_steps(aware: bool, tmp_path: Path) -> None:
    net = mx.layers.Sequential(mx.layers.Conv2D(16, 3, activation="relu"), mx.layers.Flatten(), mx.layers.Dense(10))
    model = net.build(x=("batch", 1, 12, 12))
    data = digits(70)
    model = mx.quantize_aware(model, data) if aware else model
    runs = [mx.fit(model, d, **QUICK) for d in (data, in_a_file(data, tmp_path))]
    assert runs[0].model.to_bytes() == runs[1].model.to_bytes()


def test_a_gan_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def train(data: Dataset) -> bytes:
        g = mx.models.build("mlp_gan_generator", output=(1, 12, 12))
        d = mx.models.build("mlp_gan_discriminator", input=(1, 12, 12))
        return mx.fit_gan(g, d, mx.gan.centred(data), epochs=2, batch_size=16, k=2, progress=False).model.to_bytes()

    assert train(digits(40)) == train(in_a_file(digits(40), tmp_path))


def test_onnx_runtime_adds_no_quantization_of_its_own(tmp_path: Path) -> None:
    model, optimizer = mx.models.build("lenet"), mx.SGD(lr=0.1)
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    engine = OrtEngine(step, initial_state(model, optimizer, 0), threads=1, profile=str(tmp_path / "trace"))
    images = np.zeros((8, 1, 28, 28), np.uint8)
    assert engine.hold(Dataset.from_arrays({"image": images}, np.arange(8), scale=1 / 255))
    engine.step(INDEX)
    ran = [e["args"]["op_name"] for e in json.loads(Path(engine.end_profile()).read_bytes()) if e["cat"] == "Node"]
    assert [kind for kind in ran if "Quantize" in kind or "quantize" in kind] == ["DequantizeLinear"]


def test_steps_of_both_kinds_share_a_state() -> None:
    model, optimizer = blob_net(), mx.Adam(lr=1e-2)
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    engines = [OrtEngine(step, initial_state(model, optimizer, 7), threads=1) for _ in range(2)]
    assert engines[0].hold(TRAIN)
    batches = [indices for _, indices in Loader(TRAIN, 16).numbers(0)]
    assert len(batches[-1]) != 16
    for k, indices in enumerate(batches * 2):
        measured = engines[0].step(indices if k % 3 else TRAIN.batch(indices))
        assert measured == engines[1].step(TRAIN.batch(indices))
        assert engines[0].sums.flat.tobytes() == engines[1].sums.flat.tobytes()
    states = [engine.state() for engine in engines]
    assert states[0]["step"] == 2 * len(batches)
    for name, array in states[0].items():
        assert array.tobytes() == states[1][name].tobytes(), name


def test_other_data_takes_the_place_of_what_is_held() -> None:
    model, optimizer = blob_net(), mx.SGD(lr=0.1)
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    engines = [OrtEngine(step, initial_state(model, optimizer, 7), threads=1) for _ in range(2)]
    (x,) = TRAIN.inputs
    other = Dataset("other", "train", {x: TRAIN.inputs[x] + 1}, TRAIN.labels, preprocessing=Preprocessing(2.0))
    for data in (TRAIN, other):
        assert engines[0].hold(data)
        for _ in range(2):  # each of the two buffers of a state
            assert engines[0].step(INDEX) == engines[1].step(data.batch(INDEX))


class Dark(Dataset):
    def batch(self, indices: Any) -> dict[str, Array]:
        batch = super().batch(indices)
        return batch | {name: batch[name] * 0 for name in self.inputs}


class Shadow(Preprocessing):
    def apply(self, array: Any) -> Array:
        return super().apply(array) * 0


def test_batches_of_a_class_of_the_users_own_are_made_by_it() -> None:
    (x,) = TRAIN.inputs
    zeros = Dataset("a", "train", {x: TRAIN.inputs[x] * 0}, TRAIN.labels)
    expected = mx.fit(blob_net(), zeros, **QUICK).history
    for data in (
        Dark("a", "train", TRAIN.inputs, TRAIN.labels),
        Dataset("a", "train", TRAIN.inputs, TRAIN.labels, preprocessing=Shadow()),
    ):
        assert mx.fit(blob_net(), data, **QUICK).history == expected


def refused() -> mx.Model:
    """A model with an operator that ONNX knows and ONNX Runtime's CPU does not: shifts of 16 bits."""
    w = np.ones((4, 3), np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.UINT16),
        helper.make_node("BitShift", ["c", "one"], ["s"], direction="LEFT"),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", k]) for n, k in (("x", 4), ("y", 3))]
    held = [numpy_helper.from_array(array, n) for n, array in (("w", w), ("one", np.array(1, np.uint16)))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], held)
    opset = helper.make_opsetid("", 20)
    return from_bytes(helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())


def test_a_step_that_onnx_runtime_refuses_leaves_no_file(tmp_path: Path) -> None:
    data = Dataset.from_arrays(np.ones((8, 4), np.float32), np.zeros(8, np.int64))
    for k, source in enumerate((data, in_a_file(data, tmp_path))):
        with pytest.raises(GraphError, match="BitShift"):
            mx.fit(refused(), source, out=tmp_path / str(k), progress=False)
        assert not (tmp_path / str(k)).exists()
    with pytest.raises(GraphError, match="BitShift"):
        mx.Trainer(refused())


@pytest.mark.parametrize("turned", [False, True])
def test_both_steps_of_a_gan_are_open_before_the_first(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    first: list[int] = []

    def opens(engine: OrtEngine, data: bytes, **options: Any) -> Any:
        opened.append(len(data))
        return open_session(data, **options)

    class Look(mx.Callback):
        def begin(self, loop: Any) -> None:
            first.append(len(opened))

    monkeypatch.setattr(OrtEngine, "_open", opens)
    data = digits(40)
    if turned:  # no longer as ONNX Runtime reads arrays
        data = Dataset("turned", "train", {"x": np.asfortranarray(data.inputs["x"])})
    g = mx.models.build("mlp_gan_generator", output=(1, 12, 12))
    d = mx.models.build("mlp_gan_discriminator", input=(1, 12, 12))
    mx.fit_gan(g, d, mx.gan.centred(data), batch_size=16, progress=False, callbacks=[Look()])
    assert (first, len(opened)) == ([2], 2)


def test_numbers_are_for_an_engine_that_holds_data() -> None:
    model, optimizer = blob_net(), mx.Adam()
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=optimizer)
    with pytest.raises(DataError, match="expected a dict of arrays; found ndarray"):
        OrtEngine(step, initial_state(model, optimizer, 0), threads=1).step(INDEX)


@pytest.mark.parametrize("start", [0, 2])
def test_numbers_are_those_of_the_batches(start: int) -> None:
    loader = Loader(TRAIN, 16, seed=5)
    found, made = list(loader.numbers(1, start)), list(loader.epoch(1, start))
    assert [index for index, _ in found] == [index for index, _ in made]
    for (index, numbers), (_, batch) in zip(found, made, strict=True):
        assert numbers.tolist() == loader.indices(1, index).tolist()
        same_bits(TRAIN.batch(numbers), batch)


def test_divergence_names_the_samples_of_a_batch_that_python_never_saw() -> None:
    data = Dataset.from_arrays(np.full((20, 4), 3e38, np.float32), np.zeros(20, np.int64))
    model = mx.layers.Dense(3).build(x=("batch", 4))
    with pytest.raises(DivergedError, match="first not finite") as caught:
        mx.fit(model, data, batch_size=8, progress=False)
    assert caught.value.samples == Loader(data, 8).indices(0, 0).tolist()


@pytest.mark.parametrize("dtype", STORED)
def test_no_part_of_drawing_falls_back_from_cuda(dtype: str) -> None:
    model = mx.layers.Sequential(mx.layers.Flatten(), mx.layers.Dense(3)).build(x=("batch", 2, 3))
    step = compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD(lr=0.1), provider="cuda").data
    data = Dataset.from_arrays({"x": stored(dtype)}, np.arange(8) % 3, scale=0.5, shift=1.0)
    assert list(fallbacks(drawing(step, data))) == list(fallbacks(step))
