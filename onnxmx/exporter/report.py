"""What a compression cost and gained: one object, written as JSON beside the model and printed as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from onnxmx.files import sha256


@dataclass(frozen=True)
class FloatNode:
    """A node that stayed in float: its name and operator, and why."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds a run of one batch, over many runs: half took less than the median, 95 in 100 less than p95."""

    median_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Measured:
    """One model, measured. quality: loss and metric by name. latency: by batch size."""

    size_bytes: int
    quality: dict[str, float]
    latency: dict[int, Latency]


@dataclass(frozen=True)
class Attempt:
    """One way that was tried: its name, which nodes it left in float on purpose, and how much it lost."""

    name: str
    kept_float: tuple[str, ...]
    drop: float


@dataclass(frozen=True)
class Data:
    """Which samples were used: of which dataset, how many, and the digest of the whole dataset."""

    name: str
    split: str
    samples: int
    digest: str


@dataclass(frozen=True)
class Machine:
    """What the times were measured on. threads: those of one run."""

    cpu: str
    onnxruntime: str
    threads: int


@dataclass(frozen=True)
class Report:
    """What quantization did to a model, both sides measured on this machine.

    output, digest: name and SHA-256 of the file that this is the report of.
    metric: what `drop` and `max_drop` are about; drop_is says in words how a drop is counted.
    attempts: every way that was tried, in order; the last one is the file.
    eight_bit: names of the nodes that compute in 8 bits. float_nodes: those that compute in float, and why.
    """

    output: str
    digest: str
    before: Measured
    after: Measured
    metric: str
    drop: float
    drop_is: str
    max_drop: float
    attempts: tuple[Attempt, ...]
    eight_bit: tuple[str, ...]
    float_nodes: tuple[FloatNode, ...]
    calibration: Data
    evaluation: Data
    machine: Machine

    @property
    def size_ratio(self) -> float:
        """Size after / size before."""
        return self.after.size_bytes / self.before.size_bytes

    def latency_ratio(self, batch: int) -> float:
        """Median time after / median time before, for one batch size: below 1 is faster."""
        return self.after.latency[batch].median_ms / self.before.latency[batch].median_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON file, with the ratios after / before."""
        ratios = {
            "size": self.size_ratio,
            "latency": {str(b): self.latency_ratio(b) for b in self.before.latency},
        }
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self) | {"ratio": ratios}))
        return plain

    def to_json(self) -> bytes:
        """The bytes of the JSON file."""
        return (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode()

    def __str__(self) -> str:
        """A table before / after / change (x: a ratio), then what stayed in float and what all this was measured on."""
        return "\n".join([*_table(self), "", *_nodes(self), *_sources(self)])


def digest(data: bytes) -> str:
    """What `Report.digest` holds for a file of these bytes."""
    return sha256(data)


def _table(report: Report) -> list[str]:
    before, after = report.before, report.after
    rows = [("", "before", "after", "change")]
    rows.append(("size", _size(before.size_bytes), _size(after.size_bytes), f"x {report.size_ratio:.3f}"))
    for name, value in before.quality.items():
        # A loss near 0 makes any ratio meaningless, and an accuracy is compared by its difference.
        change = after.quality[name] - value
        rows.append((name.replace("_", " "), f"{value:.4f}", f"{after.quality[name]:.4f}", f"{change:+.4f}"))
    for batch in before.latency:
        for key in ("median", "p95"):
            old, new = (getattr(m.latency[batch], f"{key}_ms") for m in (before, after))
            rows.append((f"batch of {batch}, {key}", f"{old:.3f} ms", f"{new:.3f} ms", f"x {new / old:.3f}"))
    left = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{left}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]


def _nodes(report: Report) -> list[str]:
    eight, floats = len(report.eight_bit), report.float_nodes
    if not floats:
        return [f"all {eight} nodes compute in 8 bits"]
    lines = [f"{eight} of {eight + len(floats)} nodes compute in 8 bits; in float:"]
    return lines + [f"  {node.op} {node.name!r}: {node.reason}" for node in floats]


def _sources(report: Report) -> list[str]:
    last, calibration, evaluation, machine = (
        report.attempts[-1],
        report.calibration,
        report.evaluation,
        report.machine,
    )
    return [
        f"ranges: {last.name}, from {calibration.samples} samples of {calibration.name} ({calibration.split})",
        f"{report.metric.replace('_', ' ')}: on {evaluation.samples} samples of {evaluation.name} ({evaluation.split})",
        f"times: {machine.threads} thread of {machine.cpu}, onnxruntime {machine.onnxruntime}",
    ]


def _size(size: int) -> str:
    return f"{size / 1024:.1f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"
