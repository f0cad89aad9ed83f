"""The examples run and reach the figures that docs/results.md gives; those that take longer, shortened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(name: str, *options: str) -> dict[str, list[float]]:
    """The figures of each line that an example prints, by the line's first words."""
    words = [sys.executable, str(ROOT / "examples" / name), *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (re.match(r"(.*?)  +(.*)", line) for line in done.stdout.splitlines())
    return {row[1]: [float(x) for x in re.findall(r"\d+\.\d+", row[2])] for row in rows if row}


def test_a_gru_forecasts_better_than_what_learns_nothing() -> None:
    error = {name: figures[0] for name, figures in run("forecast.py").items()}
    assert error["GRU"] < 0.27 < error["last value + change a year ago"] < error["last value"]


def test_one_net_for_two_tasks() -> None:
    digit, odd = run("multi_task.py", "--epochs", "8", "--seeds", "1")["trained on digit and odd"]
    assert digit >= 0.95
    assert odd >= 0.95


def test_a_language_model_learns_to_spell() -> None:
    figures = run("char_rnn.py", "--epochs", "1", "--stride", "100")
    assert figures["counts, 1 characters before"] == [11.70]
    assert figures["char_rnn"][0] < 15
