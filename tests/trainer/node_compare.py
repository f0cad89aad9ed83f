"""The gradients of a node test against central differences, on onnx.reference and on ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx.reference
import onnx_ir as ir

from onnxmx.builder.session import open_session
from tests.trainer.node_models import Differentiated, as_typed, is_float
from tests.trainer.oracle import BETTER

Array = np.ndarray[Any, Any]

PASSED, FAILED, UNCHECKED, NEWER, NOT_SMOOTH = "passed", "failed", "unchecked", "newer", "no float to float"

Run = Callable[[Sequence[Array]], dict[str, Array]]


def compare(test: Differentiated) -> tuple[str, str]:
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
    arrays = [as_typed(a, ir.DataType.DOUBLE) for a in test.inputs]
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
