"""The official ONNX backend node tests as an oracle for gradients.

They ship inside the `onnx` package: 1,884 small models with data, most of them one node. `check` differentiates one of
them and compares with central differences: in float64 on onnx.reference where that gives the test's own outputs, in
float32 on ONNX Runtime otherwise. Where the inputs of a test lie on a kink (the corners of Clip, equal maxima) they are
moved a little. `python -m tests.trainer.node_tests NAME...` checks those, `make node-tests` all of them.
"""

from __future__ import annotations

import functools
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
import onnx_ir as ir
from onnx.backend.test.case.node import collect_testcases

from onnxmx.builder.graph import GraphBuilder
from onnxmx.builder.inference import OPSET
from onnxmx.builder.session import open_session
from onnxmx.errors import GradientError, OnnxmxError
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.autodiff.registry import RULES
from tests.trainer.oracle import BETTER

Array = np.ndarray[Any, Any]

PASSED, FAILED, UNCHECKED, NEWER, NOT_SMOOTH = "passed", "failed", "unchecked", "newer", "no float to float"

# Float inputs that say how and not what: they are constants of a model, like axes.
SETTINGS = {"Resize": (1, 2), "Upsample": (1,), "Range": (1,), "Dropout": (1,), "OneHot": (0, 1)}
# What no gradient could agree with.
HOPELESS = {
    **dict.fromkeys(
        ("test_training_dropout", "test_training_dropout_mask", "test_training_dropout_default",
         "test_training_dropout_default_mask"),
        "Dropout with training_mode draws random numbers; onnxmx writes it as a function of its own when it trains",
    ),
    **dict.fromkeys(
        ("test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners"),
        "the test aligns corners by a size that is no whole number; ONNX Runtime, and the rule, by the output's size",
    ),
    **dict.fromkeys(
        (f"test_bernoulli{form}{body}" for form in ("", "_double", "_seed") for body in ("", "_expanded")),
        "Bernoulli draws random numbers, from which no small change can be told",
    ),
    "test_maxunpool_export_with_output_shape":
        "ONNX Runtime counts the indices through the output_shape, and the rule does; the test through a smaller one",
    "test_averagepool_2d_ceil_last_window_starts_on_pad":
        "ONNX infers a window at opset 20 that begins behind the input; no runtime computes it",
}  # fmt: skip
EIGHTS = {ir.DataType[f"FLOAT8{form}"] for form in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ")}
FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class Result:
    """What came of one node test. operators: those of its model.   how: what the gradient was compared with."""

    name: str
    operators: tuple[str, ...]
    verdict: str
    how: str


@functools.cache
def cases() -> dict[str, Any]:
    """The node tests by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of the overflows that some tests provoke
        return {case.name: case for case in collect_testcases(None)}


def operators(case: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.op_type for node in case.model.graph.node))


def check(case: Any) -> Result:
    """Gradient-check one node test."""
    result = functools.partial(Result, case.name, operators(case))
    inputs, outputs = _data(case)
    if any(node.domain not in ("", "ai.onnx") for node in case.model.graph.node):
        return result(NOT_SMOOTH, "of another domain than ai.onnx")
    if not all(isinstance(v, np.ndarray | np.generic) for v in (*inputs, *outputs)):
        return result(UNCHECKED, "sequences and optionals have no gradient")
    if not (any(map(is_float, inputs)) and any(map(is_float, outputs))):
        return result(NOT_SMOOTH, "")
    if newer := [o for o in operators(case) if not _known(o)]:
        return result(NEWER, f"{newer[0]} came after opset {OPSET}")
    if case.name in HOPELESS:
        return result(UNCHECKED, HOPELESS[case.name])
    if missing := [o for o in operators(case) if o not in RULES]:
        return result(UNCHECKED, f"no rule for {missing[0]}")
    try:
        return result(*_compare(Differentiated(case)))
    except GradientError as error:
        return result(UNCHECKED, error.problem)
    except Unfit as error:
        return result(UNCHECKED, str(error))


def _known(operator: str) -> bool:
    try:
        return bool(onnx.defs.get_schema(operator, OPSET, ""))
    except onnx.defs.SchemaError:
        return False


def _data(case: Any) -> tuple[list[Any], list[Any]]:
    """The inputs and outputs of a test; some are given as protos."""
    inputs, outputs = (
        [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in side]
        for side in case.data_sets[0]
    )
    return inputs, outputs


class Unfit(Exception):
    """A test that cannot be run as a model of opset 20 in float32."""


class Differentiated:
    """One node test with its gradient, in float64 and in float32.

    Inputs of whole numbers, and floats that are settings, stay inputs where the rule allows it and are constants where
    it wants them constant.
    """

    def __init__(self, case: Any) -> None:
        self.inputs, self.outputs = ([np.asarray(v) for v in side] for side in _data(case))
        self.rtol = max(case.rtol, 1e-3) if all(v.dtype.itemsize >= 4 for v in self.outputs) else 2e-2
        self.model = ir.from_proto(_at_opset(case.model))
        found = self._intermediate(case.model)
        self.shapes = {name: v.shape for name, v in found.items()}
        self.passes_nan = any(is_float(v) and np.isnan(v.astype(np.float64)).any() for v in found.values())
        try:
            self.single, self.double = self._both(constant=False)
        except GradientError:
            self.single, self.double = self._both(constant=True)

    def _both(self, *, constant: bool) -> tuple[onnx.ModelProto, onnx.ModelProto | None]:
        """In float32, and in float64 where the operators take it."""
        single = self._build(ir.DataType.FLOAT, constant=constant)
        try:
            return single, self._build(ir.DataType.DOUBLE, constant=constant)
        except Unfit:
            return single, None

    @functools.cached_property
    def varied(self) -> list[int]:
        """The places of the inputs that the gradient is taken of."""
        fixed = {n.inputs[k] for n in self.model.graph for k in SETTINGS.get(n.op_type, ()) if k < len(n.inputs)}
        return [k for k, x in enumerate(self.model.graph.inputs) if is_float(self.inputs[k]) and x not in fixed]

    def _build(self, dtype: ir.DataType, *, constant: bool) -> onnx.ModelProto:
        g = GraphBuilder()
        values: dict[ir.Value | None, ir.Value | None] = {None: None}
        wrt: dict[int, ir.Value] = {}
        for k, (x, array) in enumerate(zip(self.model.graph.inputs, self.inputs, strict=True)):
            array = self.typed(array, k, dtype)
            # ONNX Runtime's Python takes no numbers of 8 bits as inputs.
            if (constant or ir.DataType.from_numpy(array.dtype) in EIGHTS) and k not in self.varied:
                values[x] = g.constant(array)
            else:  # an input may not be empty; one of unknown size may
                values[x] = g.input(f"x{k}", [d or None for d in array.shape], ir.DataType.from_numpy(array.dtype))
            if k in self.varied:
                wrt[k] = values[x]
        for x in self.model.graph.initializers.values():
            values.setdefault(x, g.constant(_as(x.const_value.numpy(), dtype)))
        try:
            for node in self.model.graph:
                _retype(node, dtype)
                copies = g.copy(node, [values[x] for x in node.inputs])
                values.update(zip(node.outputs, copies, strict=True))
                for y, copy in zip(node.outputs, copies, strict=True):
                    _note_shape(copy, self.shapes.get(y.name))
        except OnnxmxError as error:
            raise Unfit(f"not of opset 20: {error.problem}") from error
        ys = [values[y] for y in self.model.graph.outputs]
        floats = [y for y in ys if y.dtype in FLOATS]
        if not floats or any(y.dtype != dtype for y in floats):
            raise Unfit(f"its outputs are no {dtype.name.lower()}")
        loss = g.sum(*(_weighted(g, y, finite=self.finite) for y in floats))
        for k, y in enumerate(ys):
            g.output(g.op("Identity", y), f"y{k}")
        g.output(g.op("Identity", loss), "loss")
        for k, dx in zip(wrt, gradients(g, loss, list(wrt.values())), strict=True):
            if dx is not None:
                g.output(g.op("Identity", dx), f"d{k}")
        return ir.to_proto(g.model())

    @functools.cached_property
    def finite(self) -> bool:
        """Whether all outputs are finite; of others a loss takes those elements that are."""
        return all(np.isfinite(np.asarray(v, np.float64)).all() for v in self.outputs if is_float(v))

    def _intermediate(self, model: onnx.ModelProto) -> dict[str, Array]:
        """The values of the model. A file may note their shapes, which a Reshape hides."""
        feeds = {x.name: v for x, v in zip(model.graph.input, self.inputs, strict=True)}
        try:
            found = onnx.reference.ReferenceEvaluator(model).run(None, feeds, intermediate=True)
        except Exception:  # whatever an operator of the reference raises
            return {}
        return {name: v for name, v in found.items() if isinstance(v, np.ndarray)}

    def typed(self, array: Array, k: int, dtype: ir.DataType) -> Array:
        """The k-th input in the type of a graph. Scales of a Resize are float32 in all."""
        scales = k not in self.varied and any(n.op_type == "Resize" for n in self.model.graph)
        return _as(array, ir.DataType.FLOAT if scales else dtype)

    def feeds(self, arrays: Sequence[Array], model: onnx.ModelProto, dtype: ir.DataType) -> dict[str, Array]:
        named = {f"x{k}": self.typed(a, k, dtype) for k, a in enumerate(arrays)}
        return {v.name: named[v.name] for v in model.graph.input}


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its operators as they are at this product's opset."""
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    names = {node.op_type for node in model.graph.node}
    if version >= OPSET or all(
        onnx.defs.get_schema(n, version, "").since_version == onnx.defs.get_schema(n, OPSET, "").since_version
        for n in names
    ):
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception:  # RuntimeError, or what the binding makes of a failed assertion
        return model


def _note_shape(value: ir.Value, shape: tuple[int, ...] | None) -> None:
    """What inference did not find of the shape of a value."""
    if shape is not None and (value.shape is None or len(value.shape) == len(shape)):
        value.shape = ir.Shape(
            [a if isinstance(a, int) else b for a, b in zip(value.shape or shape, shape, strict=True)]
        )


def _weighted(g: GraphBuilder, y: ir.Value, *, finite: bool) -> ir.Value:
    """The sum of y times weights that differ from element to element."""
    if not finite:
        y = g.where(g.op("Or", g.op("IsInf", y), g.op("IsNaN", y)), 0.0, y)
    size = g.cast(g.op("Size", y), ir.DataType.FLOAT)
    weights = g.cast_like(g.sin(g.range(np.float32(1), size + 1.0, np.float32(1))), y)
    return g.reduce_sum(g.mul(g.reshape(y, [-1]), weights), keepdims=False)


def _retype(node: ir.Node, dtype: ir.DataType) -> None:
    """Make a node that names a floating-point type name `dtype`."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in FLOATS:
            array = _as(attribute.as_tensor().numpy(), dtype)
            node.attributes[name] = ir.AttrTensor(name, ir.Tensor(array))
        elif name in ("to", "dtype") and ir.DataType(attribute.as_int()) in FLOATS:
            node.attributes[name] = ir.AttrInt64(name, int(dtype))
    if "value_float" in node.attributes or "value_floats" in node.attributes:
        name = "value_float" if "value_float" in node.attributes else "value_floats"
        array = np.array(node.attributes.pop(name).value, dtype.numpy())
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))


def is_float(array: Any) -> bool:
    return ir.DataType.from_numpy(np.asarray(array).dtype) in FLOATS


def _as(array: Array, dtype: ir.DataType) -> Array:
    return np.asarray(array, dtype.numpy()) if is_float(array) else array


# --- comparison
Run = Callable[[Sequence[Array]], dict[str, Array]]


def _compare(test: Differentiated) -> tuple[str, str]:
    """The verdict, and what it rests on."""
    reference, runtime = _reference(test), _runtime(test)
    if reference is None and runtime is None:
        return UNCHECKED, "neither onnx.reference nor ONNX Runtime gives the outputs of the test"
    verdict = UNCHECKED, "no differences to compare with: its outputs are not finite, or jump"
    for moved in (0.0, 0.02, 0.05):
        arrays = _moved(test, moved)
        suffix = ", inputs moved off a kink" if moved else ""
        if reference is not None and (slopes := _slopes(test, reference, arrays, (1e-6, 1e-5, 1e-4), 1e-6)):
            if (error := _error(reference, arrays, slopes)) < 1e-5:
                return _agree(reference, runtime, arrays, f"float64{suffix}")
            # An operator of the gradient may be wrong in the reference: the Indices of MaxPool are.
            if runtime is not None and _error(runtime, arrays, slopes) < 1e-3:
                return PASSED, f"float64, gradient by ONNX Runtime{suffix}"
            if np.isinf(error) and test.passes_nan:
                return UNCHECKED, "a value on the way is NaN, and so is its gradient: a Softmax of minus infinities"
            verdict = FAILED, f"float64 differs by {error:.1e}"
        elif runtime is not None and (slopes := _slopes(test, runtime, arrays, (1e-3, 2e-3, 1e-2, 3e-2), 5e-3)):
            if (error := _error(runtime, arrays, slopes)) < 1e-2:
                return PASSED, f"float32{suffix}"
            verdict = FAILED, f"float32 differs by {error:.1e}"
    return verdict


def _agree(reference: Run, runtime: Run | None, arrays: Sequence[Array], how: str) -> tuple[str, str]:
    """Passed, where ONNX Runtime gives the same gradients as the reference did."""
    if runtime is None:
        return PASSED, f"{how}; ONNX Runtime does not run it"
    expected, found = reference(arrays), runtime(arrays)
    for name in (n for n in found if n.startswith("d")):
        scale = 1.0 + np.abs(expected[name]).max(initial=0.0)
        error = np.abs(found[name] - expected[name]).max(initial=0.0) / scale
        if not error < 1e-4:
            return FAILED, f"the gradients of ONNX Runtime and onnx.reference differ by {error:.1e}"
    return PASSED, how


def _reference(test: Differentiated) -> Run | None:
    if (double := test.double) is None:
        return None
    names = [v.name for v in double.graph.output]
    try:
        model = onnx.reference.ReferenceEvaluator(double, new_ops=BETTER)

        def run(arrays: Sequence[Array]) -> dict[str, Array]:
            feeds = test.feeds(arrays, double, ir.DataType.DOUBLE)
            return dict(zip(names, model.run(None, feeds), strict=True))

        return run if _as_expected(test, run(test.inputs)) else None
    except Exception:  # whatever an operator of the reference raises: it then is no oracle
        return None


def _runtime(test: Differentiated) -> Run | None:
    names = [v.name for v in test.single.graph.output]
    try:
        session = open_session(test.single.SerializeToString(), threads=1)

        def run(arrays: Sequence[Array]) -> dict[str, Array]:
            feeds = test.feeds(arrays, test.single, ir.DataType.FLOAT)
            return dict(zip(names, session.run(None, feeds), strict=True))

        return run if _as_expected(test, run(test.inputs)) else None
    except Exception:  # onnxruntime raises many kinds where it has no kernel
        return None


def _as_expected(test: Differentiated, found: dict[str, Array]) -> bool:
    return all(
        np.allclose(np.asarray(found[f"y{k}"], np.float64), np.asarray(y, np.float64), test.rtol, 1e-4, equal_nan=True)
        for k, y in enumerate(test.outputs)
        if is_float(y)
    )


def _moved(test: Differentiated, by: float) -> list[Array]:
    """The inputs, those that vary a little away; infinities and NaN, which have no differences, become 0.3."""
    random = np.random.default_rng(int(by * 100))
    arrays = [_as(a, ir.DataType.DOUBLE) for a in test.inputs]
    return [
        np.where(np.isfinite(a), a, 0.3) + by * random.uniform(0.5, 1.0, a.shape) if by and k in test.varied else a
        for k, a in enumerate(arrays)
    ]


Slopes = list[tuple[dict[int, Array], list[float]]]


def _slopes(test: Differentiated, run: Run, arrays: Sequence[Array], steps: Iterable[float], near: float) -> Slopes:
    """Three directions and central differences along each; none where they depend on the step."""
    random = np.random.default_rng(7)
    slopes: Slopes = []
    for _ in range(3):
        way = {k: random.normal(size=arrays[k].shape) for k in test.varied}
        try:
            found = [_slope(run, arrays, way, h) for h in steps]
        except Exception:  # a value that may not be moved
            return []
        settled = [b for a, b in itertools.pairwise(found) if abs(a - b) <= near * (1 + abs(a))]
        if not settled:
            return []
        slopes.append((way, settled))
    return slopes


def _slope(run: Run, arrays: Sequence[Array], way: dict[int, Array], h: float) -> float:
    up, down = ([a + s * way[k] if k in way else a for k, a in enumerate(arrays)] for s in (h, -h))
    return float((run(up)["loss"].astype(np.float64) - run(down)["loss"]) / (2 * h))


def _error(run: Run, arrays: Sequence[Array], slopes: Slopes) -> float:
    """The largest error of the directional derivatives that the gradient gives."""
    try:
        exact = run(arrays)
    except Exception:  # the gradient graph has an operator that this runtime cannot run
        return float("inf")
    worst = 0.0
    for way, settled in slopes:
        found = sum(float((exact[f"d{k}"] * d).sum()) for k, d in way.items() if f"d{k}" in exact)
        error = min(abs(found - s) / (1.0 + abs(s)) for s in settled)
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def check_all(names: Iterable[str] | None = None) -> list[Result]:
    found = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for name in names or cases():
            try:
                found.append(check(cases()[name]))
            except Exception as error:
                found.append(Result(name, operators(cases()[name]), FAILED, f"{type(error).__name__}: {error}"[:300]))
    return found


if __name__ == "__main__":  # of the tests that are named, or of all
    for result in check_all(sys.argv[1:]):
        print(result.verdict, result.name, result.how, sep="\t")
