"""The gradient of a gradient: what rules emit can be differentiated again."""

from __future__ import annotations

import pytest

from onnxmx.errors import GradientError
from tests.trainer.oracle import second_order_error
from tests.trainer.rule_case import Case
from tests.trainer.test_rules import CASES

EXCEPTIONS = {"If": "yes, but for branches of different ranks"}
SLOW = ("RNN", "GRU", "LSTM", "RoiAlign")  # up to a second a row: every fourth does
REFUSED = [c for c in CASES if c.operator == "If" and c.label.startswith("ranks")]
ROWS = [c for c in CASES if c.operator not in SLOW and c not in REFUSED]
for name in SLOW:
    ROWS += [c for c in CASES if c.operator == name][::4]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_finite_differences(case: Case) -> None:
    arrays = case.arrays()
    if case.distinct:  # nor are elements of two arrays equal: at a tie the gradient itself jumps
        arrays = [a + 0.03 * k for k, a in enumerate(arrays)]
    if case.step is None:
        assert second_order_error(case.build, arrays, None) < 1e-5
    else:
        assert second_order_error(case.build, arrays, min(case.step, 0.005)) < 5e-3


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_exceptions(case: Case) -> None:
    with pytest.raises(GradientError, match="rank"):
        second_order_error(case.build, case.arrays(), None)
