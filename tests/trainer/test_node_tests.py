"""A sample of the official node tests, one or two for each operator; `make node-tests` checks all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from onnxmx.trainer.autodiff import RULES
from tests.trainer import node_tests
from tests.trainer.node_compare import FAILED, NEWER, NOT_SMOOTH, PASSED
from tests.trainer.node_models import is_float
from tests.trainer.operators_page import RESULTS, Summary, render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operators.md"
SLOW = {"Conv", "MaxPool", "AveragePool", "LpPool", "GridSample"}  # loops in Python, in the reference


def sample(each: int = 2) -> list[str]:
    """The first tests of each operator that are of it alone."""
    taken: Counter[str] = Counter()
    names = []
    exceptions = Summary.load().exceptions
    for name, case in node_tests.cases().items():
        operators = node_tests.operators(case)
        known = len(operators) == 1 and operators[0] in RULES and name not in exceptions
        if known and taken[operators[0]] < (1 if operators[0] in SLOW else each):
            inputs, outputs = case.data_sets[0]
            if any(map(is_float, inputs)) and any(map(is_float, outputs)):
                taken[operators[0]] += 1
                names.append(name)
    return names


@pytest.mark.filterwarnings("ignore")  # numpy's, of the numbers that the tests are about
def test_a_sample_passes() -> None:
    results = node_tests.check_all(sample())
    assert len(results) > 150
    assert [r for r in results if r.verdict not in (PASSED, NEWER, NOT_SMOOTH)] == []


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "Tanh", lambda g, node, dy: g.mul(dy, node.outputs[0]))
    result = node_tests.check(node_tests.cases()["test_tanh"])
    assert result.verdict == FAILED
    assert "differs" in result.how


@pytest.mark.filterwarnings("ignore")
def test_a_missing_gradient_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """None counts as zero, and zero is compared as well."""
    monkeypatch.setitem(RULES, "Mul", lambda g, node, dy: (g.mul(dy, node.inputs[1]), None))
    assert node_tests.check(node_tests.cases()["test_mul"]).verdict == FAILED


@pytest.mark.filterwarnings("ignore")
def test_inputs_on_a_kink_are_moved() -> None:
    """The grid of this test lies on pixels, where the way up and the way down differ."""
    result = node_tests.check(node_tests.cases()["test_gridsample_aligncorners_true"])
    assert result.verdict == PASSED
    assert "moved" in result.how


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(Summary.load()), (
        "run: python -m tests.trainer.operators_page docs/operators.md"
    )


def test_no_exception_is_a_wrong_gradient() -> None:
    assert RESULTS.exists()
    assert [name for name, why in Summary.load().exceptions.items() if why.startswith("FAILED")] == []
