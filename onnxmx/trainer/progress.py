"""What a person sees of a run: a bar on a terminal, plain lines elsewhere, all on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Measures = Mapping[str, Any]


class Reporter(Protocol):
    """Told of a run as it goes: of a step every `every_s` seconds, and of each epoch.

    epoch: `2/10`.   steps: of the whole run.   done, samples: steps and samples so far, those before a resumption among
    them.   measures: of the epoch so far; in `step` the learning rate is among them, as `lr`.
    """

    every_s: float

    def begin(self, steps: int, done: int, samples: int) -> None: ...
    def step(self, epoch: str, done: int, samples: int, measures: Measures) -> None: ...
    def epoch(self, epoch: str, measures: Measures) -> None: ...
    def end(self, done: int) -> None: ...


class Silent:
    """Says nothing."""

    every_s = math.inf

    def begin(self, steps: int, done: int, samples: int) -> None:
        pass

    def step(self, epoch: str, done: int, samples: int, measures: Measures) -> None:
        pass

    def epoch(self, epoch: str, measures: Measures) -> None:
        pass

    def end(self, done: int) -> None:
        pass


class Lines:
    """A line every `every_s` seconds, and one an epoch."""

    def __init__(self, every_s: float = 5.0) -> None:
        self.every_s = every_s

    def begin(self, steps: int, done: int, samples: int) -> None:
        self._pace = _Pace(steps, done, samples)

    def step(self, epoch: str, done: int, samples: int, measures: Measures) -> None:
        pace = self._pace.show(done, samples)
        print(f"epoch {epoch}  step {done}/{self._pace.steps}  {show(measures)}  {pace}", file=sys.stderr)

    def epoch(self, epoch: str, measures: Measures) -> None:
        print(f"epoch {epoch}  {show(measures)}", file=sys.stderr, flush=True)

    def end(self, done: int) -> None:
        pass


class Bar:
    """A rich progress bar."""

    every_s = 0.1  # a step may take far less than a redraw

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.fields[epoch]}"),
            BarColumn(5 if console.width < 110 else 30),
            TextColumn("{task.fields[text]}", markup=False),
        )
        self._progress = Progress(*columns, console=console, refresh_per_second=8)

    def begin(self, steps: int, done: int, samples: int) -> None:
        self._pace = _Pace(steps, done, samples)
        self._task: Any = self._progress.add_task("", total=steps, completed=done, epoch="", text="")
        self._progress.start()

    def step(self, epoch: str, done: int, samples: int, measures: Measures) -> None:
        shown = {name: value for name, value in measures.items() if name != "grad_norm"}  # 80 columns hold no more
        pace = self._pace.show(done, samples)
        room = self._progress.console.width - len(epoch) - len(pace) - 9  # those, the bar, and what is between
        while len(show(shown, " ")) > room and len(shown) > 2:
            shown.pop([name for name in shown if name != "lr"][-1])  # a GAN has more
        self._progress.update(self._task, completed=done, epoch=epoch, text=f"{show(shown, ' ')} {pace}")

    def epoch(self, epoch: str, measures: Measures) -> None:
        self._progress.console.print(f"epoch {epoch}  {show(measures)}", highlight=False, markup=False)

    def end(self, done: int) -> None:
        self._progress.update(self._task, completed=done)
        self._progress.stop()


def notes(every_s: float = 2.0) -> Callable[[str], None]:
    """Writes what goes on before a run: the first note, and then one every `every_s` seconds at most."""
    said = -math.inf

    def note(text: str) -> None:
        nonlocal said
        if time.monotonic() - said >= every_s:
            said = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return note


def default_reporter() -> Reporter:
    """A bar where a person is looking, lines where not."""
    return Bar() if sys.stderr.isatty() else Lines()


def show(measures: Mapping[str, Any], gap: str = "  ") -> str:
    """`loss 0.0345  accuracy 0.9883  skipped 2`"""
    return gap.join(
        f"{name} {value:.3g}"
        if name == "lr"
        else f"{name} {value:.4f}"
        if isinstance(value, float)
        else f"{name} {value}"
        for name, value in measures.items()
        if isinstance(value, (int, float)) and name != "epoch"  # a confusion matrix is for the log
    )


class _Pace:
    """Samples a second and time left."""

    def __init__(self, steps: int, done: int, samples: int) -> None:
        self.steps, self._first, self._samples, self._start = steps, done, samples, time.monotonic()

    def show(self, done: int, samples: int) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        left = int(elapsed / max(done - self._first, 1) * (self.steps - done))
        return f"{(samples - self._samples) / elapsed:,.0f} samples/s  {left // 60}:{left % 60:02d} left"
