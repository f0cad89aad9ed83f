"""The official ONNX backend node tests as an oracle for gradients.

They ship inside the `onnx` package: 1,884 small models with data, most of them one node. `check` differentiates one of
them and compares with central differences: in float64 on onnx.reference where that gives the test's own outputs, in
float32 on ONNX Runtime otherwise. Where the inputs of a test lie on a kink (the corners of Clip, equal maxima) they are
moved a little. `python -m tests.trainer.node_tests NAME...` checks those, `make node-tests` all of them.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx.version_converter
from onnx.backend.test.case.node import collect_testcases

from onnxmx.builder.inference import OPSET
from onnxmx.errors import GradientError
from onnxmx.trainer.autodiff.registry import RULES
from tests.trainer.node_compare import FAILED, NEWER, NOT_SMOOTH, UNCHECKED, compare
from tests.trainer.node_models import Differentiated, Unfit, data_of, is_float

Array = np.ndarray[Any, Any]


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
    inputs, outputs = data_of(case)
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
        return result(*compare(Differentiated(case)))
    except GradientError as error:
        return result(UNCHECKED, error.problem)
    except Unfit as error:
        return result(UNCHECKED, str(error))


def _known(operator: str) -> bool:
    try:
        return bool(onnx.defs.get_schema(operator, OPSET, ""))
    except onnx.defs.SchemaError:
        return False


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
