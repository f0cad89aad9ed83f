"""The gradient of a gradient: what rules emit can be differentiated again."""

from __future__ import annotations

import pytest

from tests.trainer.oracle import second_order_error
from tests.trainer.rule_case import Case
from tests.trainer.test_rules import CASES

SLOW = ("RNN", "GRU", "LSTM", "RoiAlign")  # up to a second a row: every fourth does
ROWS = [c for c in CASES if c.operator not in SLOW]
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
