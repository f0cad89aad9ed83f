"""Mixed precision: the same training in 16 bits, and steps that change nothing where 16 bits did not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

import onnxmx as mx
from onnxmx.builder import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.model import Model
from onnxmx.builder.session import open_session
from onnxmx.errors import DivergedError, OnnxmxError, UsageError
from onnxmx.trainer.data import Dataset, digits
from onnxmx.trainer.engine import OrtEngine
from onnxmx.trainer.placement import fallbacks
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.precision import FOLLOWING, LOW, PRECISIONS, DynamicLossScale, get_precision
from onnxmx.trainer.step import StepGraph, compile_step, initial_state
from tests.trainer.nets import run_graph

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).normal(size=(6, 4, 4, 4)).astype(np.float32)


def compiled(model: Model, precision: str, optimizer: Any, **options: Any) -> tuple[StepGraph, dict[str, Array]]:
    step = compile_step(model, loss=options.pop("loss", "mse"), optimizer=optimizer, precision=precision, **options)
    return step, initial_state(model, optimizer, 3, precision=precision)


def gradients(model: Model, precision: str, batch: dict[str, Array], **options: Any) -> dict[str, Array]:
    """Of each parameter: SGD with a rate of 1 takes it away."""
    optimizer = mx.SGD(1.0)
    step, state = compiled(model, precision, optimizer, **options)
    if precision == "float16":
        state["loss_scale"] = np.array(64, np.float32)  # so that none of these is skipped
    engine = OrtEngine(step, state, threads=1)
    engine.step(batch)
    after = engine.state()
    assert after.get("skipped", 0) == 0
    return {name: state[name] - after[name] for name in model.trainable}


def types(step: StepGraph) -> dict[str, set[str]]:
    """By operator, the float types that its nodes compute in."""
    model = onnx.inliner.inline_local_functions(onnx.load_from_string(step.data))
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    names = {onnx.TensorProto.FLOAT: "32", onnx.TensorProto.FLOAT16: "16", onnx.TensorProto.BFLOAT16: "b16"}
    found: dict[str, set[str]] = {}
    for node in graph.node:
        if (kind := names.get(known.get(node.output[0], 0))) is not None:
            found.setdefault(node.op_type, set()).add(kind)
    return found


def close(found: dict[str, Array], expected: dict[str, Array], share: float = 0.02) -> None:
    assert found.keys() == expected.keys()
    largest = max(np.abs(array).max() for array in expected.values())
    for name, array in expected.items():
        atol = share * max(np.abs(array).max(), 0.01 * largest)
        np.testing.assert_allclose(found[name], array, atol=atol, err_msg=name)


def two(g: Any, op: str, x: Any) -> Any:
    return g.op(op, x, g.mul(x, 0.5))


# Each takes what a convolution gives, (batch, 4, 4, 4) in 16 bits.
ROWS: dict[str, Callable[[Any, Any], Any]] = {
    "Conv": lambda g, x: x,
    "ConvTranspose": lambda g, x: L.Conv2DTranspose(3, 3)(x),
    "Einsum": lambda g, x: g.op("Einsum", x, x, equation="nchw,nchv->nwv"),
    "Gemm": lambda g, x: L.Dense(5)(L.Flatten()(x)),
    "MatMul": lambda g, x: g.matmul(x, x),
    "Abs": lambda g, x: g.op("Abs", x),
    "Add": lambda g, x: two(g, "Add", x),
    "LeakyRelu": lambda g, x: g.op("LeakyRelu", x, alpha=0.1),
    "Mul": lambda g, x: two(g, "Mul", x),
    "Neg": lambda g, x: g.neg(x),
    "Relu": lambda g, x: L.Activation("relu")(x),
    "Sigmoid": lambda g, x: L.Activation("sigmoid")(x),
    "Sub": lambda g, x: two(g, "Sub", x),
    "Tanh": lambda g, x: L.Activation("tanh")(x),
    "Concat": lambda g, x: g.concat([x, x], 1),
    "DepthToSpace": lambda g, x: g.op("DepthToSpace", x, blocksize=2),
    "Expand": lambda g, x: g.expand(g.slice(x, [0], [1], [1]), [1, 3, 4, 4]),
    "Flatten": lambda g, x: L.Flatten()(x),
    "Identity": lambda g, x: g.op("Identity", x),
    "Pad": lambda g, x: g.pad(x, [0, 0, 1, 1, 0, 0, 0, 0]),
    "Reshape": lambda g, x: g.reshape(x, [0, 16, 4]),
    "Slice": lambda g, x: g.slice(x, [1], [3], [2]),
    "SpaceToDepth": lambda g, x: g.op("SpaceToDepth", x, blocksize=2),
    "Split": lambda g, x: g.mul(*g.ops("Split", x, outputs=2, axis=1, num_outputs=2)),
    "Squeeze": lambda g, x: g.squeeze(g.slice(x, [0], [1], [1]), [1]),
    "Tile": lambda g, x: g.op("Tile", x, np.array([1, 2, 1, 1], np.int64)),
    "Transpose": lambda g, x: g.transpose(x, [0, 2, 1, 3]),
    "Unsqueeze": lambda g, x: g.unsqueeze(x, [1]),
    # Whose gradients compare: in 32 bits, and right too.
    "Clip": lambda g, x: g.op("Clip", x, -0.5, 0.5),
    "Max": lambda g, x: two(g, "Max", x),
    "MaxPool": lambda g, x: L.MaxPool2D(2)(x),
    "Min": lambda g, x: two(g, "Min", x),
    "Where": lambda g, x: g.where(g.greater(x, 0.1), x, g.mul(x, 2.0)),
}


COMPARED = ("Clip", "Max", "MaxPool", "Min")


def net_of(op: str) -> Model:
    return mx.build(lambda x: ROWS[op](x.builder, L.Conv2D(4, 3, padding="same")(x)), x=("batch", 4, 4, 4), seed=2)


@pytest.mark.parametrize(("named", "here"), [
    ("fp16", "float16"), ("16-mixed", "float16"), ("bf16", "bfloat16"), ("mixed_bfloat16", "bfloat16"),
    ("fp32", "float32"), ("float_16", "float16"),
])  # fmt: skip
def test_names_of_other_libraries(named: str, here: str) -> None:
    with pytest.raises(UsageError, match=f"no precision named '{named}'\n  Did you mean '{here}'"):
        get_precision(named)


@pytest.mark.parametrize("op", sorted(ROWS))
def test_an_operator_in_16_bits_has_the_gradients_of_32(op: str) -> None:
    model = net_of(op)
    batch = {"x": X, "label": np.random.default_rng(1).normal(size=model(X).shape).astype(np.float32)}
    close(gradients(model, "float16", batch), gradients(model, "float32", batch))
    step, _ = compiled(model, "float16", mx.SGD(1.0))
    assert ("16" in types(step)[op]) == (op not in COMPARED)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", sorted(ROWS))
def test_cuda_has_kernels_for_it_and_its_gradient(op: str, precision: str) -> None:
    def net(x: Any) -> Any:  # a product that both types have
        g = x.builder
        return ROWS[op](g, g.matmul(x, g.parameter("w", (4, 4), "uniform")))

    model = mx.build(net, x=("batch", 4, 4, 4))
    step = compile_step(model, loss="mse", optimizer=mx.SGD(1.0), precision=precision, provider="cuda")
    assert fallbacks(step.data) == []
    assert types(step)["MatMul"] & {"16", "b16"}


@pytest.mark.parametrize("wide", ["a constant", "computed"])
def test_numbers_beyond_16_bits_are_added_in_32(wide: str) -> None:
    """-1e9 in the scores of a masked row would be minus infinity in float16, and the row's Softmax NaN."""

    def net(x: Any) -> Any:
        g = x.builder
        low = -1e9 if wide == "a constant" else g.mul(g.exp(g.mul(x, 0.0)), -1e9)
        scores = g.add(g.matmul(x, g.parameter("w", (4, 4), "uniform")), low)
        return g.op("Softmax", scores)

    model = mx.build(net, x=("batch", 4, 4, 4))
    step, state = compiled(model, "float16", mx.SGD(1.0))
    engine = OrtEngine(step, state, threads=1)
    measured = engine.step({"x": X, "label": np.ones_like(X)})
    assert np.isfinite(measured["loss"])
    assert measured["skipped"] == 0
    assert types(step)["Add"] == {"32"}


def test_every_operator_of_the_table_has_a_row() -> None:
    assert ROWS.keys() == LOW | FOLLOWING | set(COMPARED)


def classifier(*more: L.Layer) -> Model:
    net = L.Sequential(
        *(L.Conv2D(8, 3, padding="same"), L.BatchNorm(), L.Activation("relu"), L.MaxPool2D(2)),
        *(L.Flatten(), L.Dense(16, activation="gelu"), L.LayerNorm(), *more, L.Dense(10)),
    )
    return net.build(image=("batch", 1, 8, 8), seed=1)


def batch_of(size: int = 32) -> dict[str, Array]:
    return digits("train").batch(slice(size))


SEQUENCES: dict[str, Callable[[], Model]] = {
    "lstm": lambda: L.Sequential(L.LSTM(8), L.Lambda(lambda x: x[:, -1]), L.Dense(4)).build(x=("batch", 5, 3)),
    "scan": lambda: L.Sequential(L.Dense(6), L.Unroll(L.GRUCell(8)), L.Dense(4)).build(x=("batch", 5, 3)),
    "attention": lambda: L.Sequential(L.Dense(8), L.TransformerEncoderLayer(2, 16), L.Dense(4)).build(
        x=("batch", 5, 3)
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_have_the_gradients_of_32_bits(name: str) -> None:
    model = SEQUENCES[name]()
    x = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    batch = {"x": x, "label": np.random.default_rng(1).normal(size=model(x).shape).astype(np.float32)}
    close(gradients(model, "float16", batch), gradients(model, "float32", batch), 0.03)


@pytest.mark.parametrize("options", [{}, {"micro_batch": 8}, {"mix": mx.Mixup(0.3)}], ids=str)
def test_a_step_is_that_of_32_bits(options: dict[str, Any]) -> None:
    model, batch = classifier(L.Dropout(0.3)), batch_of()
    options["loss"] = "softmax_cross_entropy"
    close(gradients(model, "float16", batch, **options), gradients(model, "float32", batch, **options), 0.03)


def test_what_is_delicate_stays_in_32_bits() -> None:
    step, _ = compiled(classifier(L.Dropout(0.3)), "float16", mx.Adam(), loss="softmax_cross_entropy")
    found = types(step)
    assert found["Conv"] == {"16"}
    assert "16" in found["Gemm"]  # another one is in the gradient of MaxPool
    delicate = ("ReduceMean", "Sqrt", "Exp", "Log", "Erf", "LayerNormalization", "LogSoftmax", "Softmax", "Pow")
    for op in delicate:
        assert found.get(op, {"32"}) == {"32"}, op
    floats = [p for p in step.spec["inputs"] + step.spec["outputs"] if "float" in p["dtype"]]
    assert {p["dtype"] for p in floats} <= {"float32", "float64"}  # master weights; sums are float64


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_onnx_itself_computes_the_same_step(precision: str) -> None:
    """ONNX Runtime's CPU has no kernels of bfloat16; ONNX's own evaluator has them all."""
    net = L.Sequential(L.Flatten(), L.Dense(16, activation="relu"), L.Dense(10))
    model, batch = net.build(image=("batch", 1, 8, 8), seed=1), batch_of(16)
    step, state = compiled(model, precision, mx.SGD(0.1), loss="softmax_cross_entropy")
    assert types(step)["Gemm"] == {"16" if precision == "float16" else "b16"}
    feeds = {f"state.{name}": array for name, array in state.items()}
    feeds |= {f"batch.{name}": array for name, array in batch.items()}
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(step.data))
    found = dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
    plain, before = compiled(model, "float32", mx.SGD(0.1), loss="softmax_cross_entropy")
    engine = OrtEngine(plain, before, threads=1)
    assert float(found["loss"]) == pytest.approx(engine.step(batch)["loss"], rel=0.01)
    after = engine.state()
    close(
        {name: found[f"next.{name}"] - state[name] for name in model.trainable},
        {name: after[name] - before[name] for name in model.trainable},
        0.03,
    )
    assert ("state.loss_scale" in feeds) == (precision == "float16")


def test_a_step_whose_gradients_are_not_finite_is_skipped_and_counted() -> None:
    model, batch = classifier(), batch_of()
    step, state = compiled(model, "float16", mx.Adam(1e-2), loss="softmax_cross_entropy")
    engine = OrtEngine(step, state, threads=1)
    engine.load({**state, "loss_scale": np.array(1e30, np.float32)})
    measured = engine.step(batch)
    assert (measured["skipped"], measured["grad_norm"]) == (1, 0)
    assert measured["loss_scale"] == pytest.approx(1e30)
    after = engine.state()
    changed = {name for name, array in state.items() if not np.array_equal(array, after[name])}
    assert changed == {"step", "skipped", "loss_scale"}
    assert (after["step"], after["skipped"]) == (1, 1)
    assert after["loss_scale"] == pytest.approx(5e29)
    # The next one is the first update: Adam's corrections count updates.
    engine.load({**after, "loss_scale": state["loss_scale"]})
    assert engine.step(batch)["skipped"] == 1
    late = engine.state()
    engine.load(state)
    engine.step(batch)
    first = engine.state()
    for name in set(state) - {"step", "skipped"}:
        np.testing.assert_array_equal(late[name], first[name], err_msg=name)
    assert (late["step"], first["step"]) == (2, 1)


@pytest.mark.parametrize(
    ("scale", "steps", "finite", "expected"),
    [
        (1024.0, 5, True, (1024.0, 6)),
        (1024.0, 1999, True, (2048.0, 0)),
        (1024.0, 1999, False, (512.0, 0)),
        (1.0, 3, False, (1.0, 0)),
        (2.0**24, 1999, True, (2.0**24, 0)),
    ],
)
def test_the_scale_halves_at_once_and_doubles_after_2000_steps(
    scale: float, steps: int, finite: bool, expected: tuple[float, int]
) -> None:
    g = GraphBuilder()
    inputs = {"scale": np.array(scale, np.float32), "steps": np.array(steps, np.int64), "finite": np.array(finite)}
    values = [g.input(name, (), ir.DataType.from_numpy(array.dtype)) for name, array in inputs.items()]
    limits = {"interval": 2000, "smallest": 1.0, "largest": 2.0**24}
    for name, value in zip(("next_scale", "next_steps"), DynamicLossScale(g, *values, **limits), strict=True):
        g.output(value, name)
    found = open_session(ir.to_proto(g.model()).SerializeToString(), threads=1).run(None, inputs)
    assert tuple(found) == expected


@pytest.mark.parametrize(
    ("norm", "scale", "steps", "expected"),
    [
        (3.0, 1024.0, 5, (3.0, 2.0, 0, 1024.0, 6)),
        (np.inf, 1024.0, 5, (0.0, 1.0, 1, 512.0, 0)),
        (np.nan, 1024.0, 5, (0.0, 1.0, 1, 512.0, 0)),
        (np.inf, 2.0, 5, (0.0, 1.0, 1, 1.0, 0)),
        (np.inf, 1.0, 5, (np.inf, 1.0, 1, 1.0, 0)),  # no smaller scale would mend it
        (3.0, 2.0**24, 1999, (3.0, 2.0, 0, 2.0**24, 0)),
        (3.0, 2.0**23, 1999, (3.0, 2.0, 0, 2.0**24, 0)),
        (3.0, 1024.0, 1998, (3.0, 2.0, 0, 1024.0, 1999)),
    ],
)
def test_nothing_follows_on_what_is_not_finite(
    norm: float, scale: float, steps: int, expected: tuple[float, ...]
) -> None:
    """The norm that is shown, a weight of 1 or 2 after it, steps skipped, the scale and its steps."""

    def guarded(g: GraphBuilder) -> list[Any]:
        states = {"step": np.int64(7), "skipped": np.int64(0), "w": np.float32(1)}
        states |= {"loss_scale": np.float32(scale), "loss_scale_steps": np.int64(steps)}
        values = {name: g.constant(value) for name, value in states.items()}
        shown, kept, _ = PRECISIONS["float16"].guard(g, g.input("norm", ()), values, {"w": g.constant(np.float32(2))})
        return [shown, *(kept[name] for name in ("w", "skipped", "loss_scale", "loss_scale_steps", "step"))]

    *found, step = run_graph(guarded, norm=np.array(norm, np.float32))
    assert tuple(found) == expected
    assert step == 8


def test_gradients_that_no_scale_mends_end_the_run() -> None:
    """Those of a root at 0: 16 steps are skipped until the scale is 1, and the next one says what is wrong."""

    def root(y: Any, label: Any) -> Any:
        return y.builder.sqrt(y.builder.reduce_sum(y * 0.0, keepdims=False))

    said = r"grad_norm expected a finite number; found nan at step 17, .*\n  first not finite: inf of Div"
    with pytest.raises(DivergedError, match=said):
        mx.fit(classifier(), digits("train"), loss=root, precision="float16", progress=False)


def _tiny(y: Any, label: Any) -> Any:
    g = y.builder
    return g.mul(g.reduce_sum(g.mul(y, label), keepdims=False), np.float32(1e-9))


def _expected_norm(x: Array) -> float:
    """Of dW = x^T (x + 1) 1e-9 and db = the sum of x + 1 over the batch."""
    dy = (x + 1) * 1e-9
    return float(np.sqrt(np.square(x.T @ dy).sum() + np.square(dy.sum(0)).sum()))


def test_small_gradients_need_the_scale() -> None:
    """6e-8 is the least number of float16: gradients of the output of 1e-9 vanish without a scale.

    By ONNX's own evaluator: ONNX Runtime's CPU, which computes in float32 between, keeps some.
    """
    model = L.Dense(4).build(x=("batch", 4))
    x = np.eye(4, dtype=np.float32)
    step, state = compiled(model, "float16", mx.SGD(1.0), loss=_tiny)
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load_from_string(step.data))
    norms = []
    for scale in (1.0, 65536.0):
        feeds = {f"state.{name}": array for name, array in {**state, "loss_scale": np.float32(scale)}.items()}
        (norm,) = evaluator.run(["grad_norm"], {**feeds, "batch.x": x, "batch.label": x + np.float32(1)})
        norms.append(float(norm))
    assert norms[0] == 0
    assert norms[1] == pytest.approx(_expected_norm(x), rel=0.01)


def test_a_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    data = digits("train")
    model = classifier(L.Dropout(0.3))
    run = mx.fit(
        model, data, out=tmp_path, epochs=3, precision="float16", checkpoint_s=1000.0, log_every=8, progress=False
    )
    assert run.history[-1]["skipped"] == 0
    assert run.history[-1]["loss"] < 0.8 * run.history[0]["loss"]
    assert {a.dtype.name for a in run.model.parameters().values()} == {"float32"}
    assert '"loss_scale": 65536.0' in (tmp_path / "metrics.jsonl").read_text()
    files = [tmp_path / name for name in ("model.onnx", "last.onnx", "metrics.jsonl")]
    whole = [file.read_bytes() for file in files]
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.stem.removeprefix("step-")))
    newest.unlink()  # as if it had been stopped in the last epoch
    mx.resume(tmp_path, data, log_every=8, progress=False)
    assert [file.read_bytes() for file in files] == whole


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"'float15'\n.*'float16'"):
        Plan(precision="float15")
    with pytest.raises(UsageError, match=r"a provider with kernels for it; found 'cpu'"):
        Plan(precision="bfloat16")
    with pytest.raises(OnnxmxError, match="the engine 'ort'; found 'ort-training'"):
        Plan(precision="float16", engine="ort-training")
    assert Plan(precision="bfloat16", provider="cuda").precision in PRECISIONS
    assert isinstance(digits("test"), Dataset)
