"""docs/operators.md, written from the registry, the table of rows and the results of the node tests.

`python -m tests.trainer.operators_page docs/operators.md` writes it with the results that are there; `make node-tests`
checks all node tests anew first.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmx.trainer.autodiff.choice import CHOICES
from onnxmx.trainer.autodiff.registry import RULES, Refusal
from tests.trainer.node_compare import FAILED, NEWER, NOT_SMOOTH, PASSED
from tests.trainer.node_tests import Result, check_all
from tests.trainer.test_rules import CASES

RESULTS = Path(__file__).with_name("node_tests.json")
_HEAD = """\
# Operators

Written by `make node-tests`; a test fails when it is stale.

Every operator of `ai.onnx` at opset 20, and the functions of `ai.onnxmx`, with what training does with it: a **rule**
turns the gradients of its outputs into those of its inputs; **zero** means that small changes of its inputs change no
output; **refused** means that a gradient must not be asked for, and says why.

A rule is proved by rows of a table (`tests/trainer/test_rules.py`), each compared with central differences and run on
ONNX Runtime, and by the official node tests that ship with the `onnx` package (`tests/trainer/node_tests.py`): each is
differentiated with respect to all its float inputs, and compared with central differences in float64 on onnx.reference
where that gives the test's own outputs, in float32 on ONNX Runtime otherwise. Inputs on a kink are moved off it.

**Formulations**: where there are several, a heuristic takes one, or `--tune full` measures which is fastest here
(`onnxmx/trainer/tune.py`); each is proved by all rows of its operator (`tests/trainer/test_tune.py`).

**Again**: the same rows prove that the gradient has a gradient (`tests/trainer/test_second_order.py`), on either side
of a kink where there is one.
"""


@dataclass(frozen=True)
class Summary:
    """What came of the node tests.

    by_operator: how many passed, of how many from float to float.   hows: what those that passed rest on.
    exceptions: by test, why it did not pass.   newer, not_smooth: how many tests are of later operators, or of whole
    numbers alone.
    """

    by_operator: dict[str, list[int]]
    hows: dict[str, int]
    exceptions: dict[str, str]
    newer: int
    not_smooth: int

    @classmethod
    def of(cls, results: Iterable[Result]) -> Summary:
        results = list(results)
        by_operator: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for r in (r for r in results if r.verdict not in (NEWER, NOT_SMOOTH)):
            for operator in r.operators:
                by_operator[operator][0] += r.verdict == PASSED
                by_operator[operator][1] += 1
        verdicts = Counter(r.verdict for r in results)
        return cls(
            dict(sorted(by_operator.items())),
            dict(sorted(Counter(r.how for r in results if r.verdict == PASSED).items())),
            {r.name: _reason(r) for r in results if r.verdict not in (PASSED, NEWER, NOT_SMOOTH)},
            verdicts[NEWER],
            verdicts[NOT_SMOOTH],
        )

    @classmethod
    def load(cls) -> Summary:
        return cls(**json.loads(RESULTS.read_text(encoding="utf-8")))

    def save(self) -> None:
        RESULTS.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")


def _reason(result: Result) -> str:
    why = result.how.splitlines()[0]
    return f"FAILED: {why}" if result.verdict == FAILED else why


_COLUMNS = ("operator", "status", "formula, or why not", "formulations", "again", "rows", "node tests that pass")


def render(summary: Summary) -> str:
    """The whole page."""
    passed, failed = sum(summary.hows.values()), len(summary.exceptions)
    everything = passed + failed + summary.newer + summary.not_smooth
    figures = (
        f"Of {everything:,} node tests {summary.newer} are of operators that came after opset 20 and "
        f"{summary.not_smooth} have no float input and output. Of the other {passed + failed:,}, **{passed:,} pass**: "
        + ", ".join(f"{n} ({how})" for how, n in sorted(summary.hows.items(), key=lambda t: -t[1]))
        + f". The {failed} exceptions are listed below, each with its reason.\n"
    )
    rows = Counter(case.operator for case in CASES)
    lines = []
    for name in sorted(RULES, key=lambda n: ("." in n, n)):
        status, what = _described(RULES[name])
        good, total = summary.by_operator.get(name, (0, 0))
        tests = f"{good} of {total}" if total else ""
        again = "yes" if rows[name] else ""
        forms = "; ".join(f"{c.of}: {', '.join(c.forms)}" for c in CHOICES if c.operator == name)
        lines.append((f"`{name}`", status, what, forms, again, str(rows[name] or ""), tests))
    counts = Counter(line[1] for line in lines)
    said = f"{counts['rule']} have a rule, {counts['zero']} are zero, {counts['refused']} are refused.\n"
    table = _table(_COLUMNS, lines)
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for test, why in summary.exceptions.items():
        by_reason[why].append(test.removeprefix("test_"))
    reasons = sorted(by_reason.items(), key=lambda t: (-len(t[1]), t[0]))
    exceptions = _table(("reason", "tests"), [(why, ", ".join(tests)) for why, tests in reasons])
    return "\n".join([_HEAD, figures, said, table, "## Node tests that are not checked\n", exceptions])


def _described(rule: Any) -> tuple[str, str]:
    if isinstance(rule, Refusal):
        return "refused", rule.why
    if rule.__name__ == "_zero":
        return "zero", ""
    return "rule", (inspect.getdoc(rule) or "").splitlines()[0]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    page, *how = sys.argv[1:]
    if "--check" in how:
        Summary.of(check_all()).save()
    Path(page).write_text(render(Summary.load()), encoding="utf-8")
