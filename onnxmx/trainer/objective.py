"""What a model is trained for and measured by: a loss, or one for each of its outputs, and the metrics beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.model import Model
from onnxmx.errors import DataError, ShapeError, UsageError, unknown_name
from onnxmx.trainer import metrics
from onnxmx.trainer.losses import Custom, Loss, MultiTask, Spec, Specs
from onnxmx.trainer.losses.base import Values
from onnxmx.trainer.metrics import LossValue, Metric, MetricLike

Measure = Sequence[MetricLike] | Mapping[str, Sequence[MetricLike]] | None
Counts = Sequence[ir.Value | None]
_WIDTH = 2
"""The sums of a loss: a total and a count."""


@dataclass(frozen=True)
class Task:
    """A loss with the outputs and label columns that it reads, and the metrics beside it.

    prefix: what the names of its figures begin with: "" of the only one, else the output and a point.
    """

    prefix: str
    loss: Loss
    outputs: tuple[str, ...]
    columns: tuple[str, ...]
    metrics: tuple[Metric, ...]

    def of(self, outputs: Values, labels: Values) -> tuple[Values, Values]:
        """The outputs and labels that it reads."""
        return {name: outputs[name] for name in self.outputs}, {name: labels[name] for name in self.columns}


@dataclass(frozen=True)
class Objective:
    """Tasks whose losses are added up. labels: what a batch must bring, by name."""

    tasks: tuple[Task, ...]
    labels: Specs

    @classmethod
    def of(
        cls, loss: Loss | MultiTask, outputs: Values, found: Specs | None = None, measure: Measure = None
    ) -> Objective:
        """The objective of a model with these outputs.

        found: the label columns of the data; None where there is no data yet.
        Raises ShapeError where loss and outputs do not fit, DataError where a label column is missing, UsageError.
        """
        whole, measure = isinstance(loss, Loss), _by_output(measure)
        parts = [("", loss)] if isinstance(loss, Loss) else list(loss.tasks)
        if isinstance(measure, Mapping):
            if whole:
                raise UsageError(
                    f"measure expected the metrics of one loss; found them by output, {sorted(map(str, measure))}",
                    mend="For example measure=['accuracy'].",
                )
            if strange := [name for name in measure if name not in dict(parts)]:
                raise unknown_name("loss to measure beside", strange[0], dict(parts))
        elif measure and not whole:
            raise UsageError(
                f"measure expected metrics by output, as there are several losses; found {measure!r}",
                mend="For example measure={'digit': ['accuracy']}, or 'digit=accuracy'.",
            )
        tasks: list[Task] = []
        labels: dict[str, Spec] = {}
        for key, part in parts:
            read = _outputs(key, part, outputs)
            asked = measure.get(key) if isinstance(measure, Mapping) else measure
            beside = metrics.chosen(asked, part)
            if not whole:
                beside = [LossValue(of=part), *(m for m in beside if m.name != "loss")]
            columns = _columns(key, part, found)
            specs = {name: None if found is None else found[name] for name in columns}
            labels |= part.labels({name: outputs[name] for name in read}, specs)
            tasks.append(Task(f"{key}." if key else "", part, read, columns, tuple(beside)))
        return cls(tuple(tasks), labels)

    @property
    def outputs(self) -> list[str]:
        """The outputs that are read, each once."""
        return list(dict.fromkeys(name for task in self.tasks for name in task.outputs))

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by the name of their figures, first what tells the best epoch."""
        return {task.prefix + m.name: m for task in self.tasks for m in task.metrics}

    @property
    def best_by(self) -> tuple[str, bool]:
        """The figure that tells which of two models is better, and whether larger is better.

        The first metric of a single loss; else, or where that does not say which is better, the sum of the losses.
        """
        scalar = [(name, m.larger_is_better) for name, m in self.metrics.items() if m.scalar]
        name, larger = scalar[0] if scalar and len(self.tasks) == 1 else ("loss", False)
        return (name, larger) if larger is not None else ("loss", False)

    def counts(self, g: GraphBuilder, outputs: Values, labels: Values) -> Counts:
        """What a batch's labels count for each task where they weigh unlike, else None. Of outputs it reads shapes."""
        return [task.loss.count(g, *task.of(outputs, labels)) for task in self.tasks]

    def compute(
        self, g: GraphBuilder, outputs: Values, labels: Values, counts: Counts | None = None
    ) -> tuple[Value, dict[str, Value]]:
        """The loss of a batch, a float32 scalar, and the sums of `loss` and each metric, by name.

        counts: for each task what to divide by in place of what the labels here count.
        """
        values, sums, found = [], [], {}
        for task, count in zip(self.tasks, counts or [None] * len(self.tasks), strict=True):
            read, columns = task.of(outputs, labels)
            value, total = task.loss.compute(g, read, columns, count)
            values.append(value)
            sums.append(total)
            for m in task.metrics:
                found[task.prefix + m.name] = m.sums(g, task.loss, read, columns)
        together = g.concat(sums, 0) if len(sums) > 1 else sums[0]
        return g.sum(*values), {"loss": together} | found

    def compute_mixed(
        self,
        g: GraphBuilder,
        outputs: Values,
        labels: Values,
        partner: ir.Value,
        share: ir.Value,
        counts: Counts | None = None,
    ) -> tuple[Value, dict[str, Value]]:
        """As `compute`, where only `share` of a sample is its own and the rest that of its partner.

        partner: the sample's, int64 (batch,).   share: a float32 scalar. Metrics see the sample's own label.
        """
        own, sums = self.compute(g, outputs, labels, counts)
        others = {name: g.gather(label, partner) for name, label in labels.items()}
        other, part = self.compute(g, outputs, others, counts)
        loss = g.add(other, g.mul(g.sub(own, other), share))
        shares = g.cast_like(share, sums["loss"])
        mixed = g.add(part["loss"], g.mul(g.sub(sums["loss"], part["loss"]), shares))
        return loss, sums | {"loss": mixed}

    def finish(self, g: GraphBuilder, name: str, sums: ir.Value) -> Value:
        """What added sums come to, float64: the loss, or the metric of that name."""
        if name != "loss":
            return self.metrics[name].finish(g, sums)
        starts = range(0, _WIDTH * len(self.tasks), _WIDTH)
        parts = [g.slice(sums, [k], [k + _WIDTH], [0]) for k in starts] if len(self.tasks) > 1 else [sums]
        return g.sum(*(task.loss.finish(g, part) for task, part in zip(self.tasks, parts, strict=True)))

    def check(self, arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], outputs: Values) -> None:
        """Raises SampleError where a label holds a value that its loss does not take."""
        for task in self.tasks:
            for name in task.columns:
                task.loss.check(name, arrays[name], {o: outputs[o] for o in task.outputs})


def _by_output(measure: Measure) -> Measure:
    """Metrics that are all text of the form `digit=accuracy`, as a mapping; any others as they are."""
    texts = [measure] if isinstance(measure, str) else measure
    if not isinstance(texts, (list, tuple)) or not all(
        isinstance(m, str) and "=" in m.partition(":")[0] for m in texts
    ):
        return measure
    found: dict[str, list[MetricLike]] = {}
    for text in texts:
        output, _, metric = text.partition("=")
        found.setdefault(output, []).append(metric)
    return found or measure


def outputs_of(model: Model) -> dict[str, ir.Value]:
    """A model's outputs by name."""
    return {v.name or "": v for v in model.ir.graph.outputs}


def _outputs(key: str, loss: Loss, outputs: Values) -> tuple[str, ...]:
    """The names of the outputs that a loss reads."""
    names = key.split(",") if key else list(outputs)
    for name in names:
        if name not in outputs:
            raise unknown_name("output of the model", name, outputs)
    if not isinstance(loss, Custom) and len(names) != loss.reads:
        wanted = "one output" if loss.reads == 1 else f"{loss.reads} outputs"
        raise ShapeError(
            f"the loss {loss.name} expected a model of {wanted}; found {names}",
            mend="Say which by loss={'digit': 'softmax_cross_entropy'}, or build the model with that alone.",
        )
    return tuple(names)


def _columns(key: str, loss: Loss, found: Specs | None) -> tuple[str, ...]:
    """The names of the label columns that a loss reads."""
    if isinstance(loss, Custom) and found is not None and not key:
        return tuple(found)
    wanted = loss.columns(None)
    if not wanted:
        return ()
    columns = tuple(name or _main(key, found, wanted) for name in wanted)
    if found is not None and (missing := [name for name in columns if name not in found]):
        raise DataError(
            f"the loss {loss.name} expected a label {missing[0]!r}; found {sorted(found)}",
            mend="Give the dataset that label: Dataset.from_arrays(x, {'digit': ..., 'odd': ...}).",
        )
    return columns


def _main(key: str, found: Specs | None, wanted: Sequence[str | None]) -> str:
    """The column of the label itself: the one named as the output, or the only one there is."""
    if found is None:
        return key or "label"
    if key in found:
        return key
    others = [name for name in found if name not in wanted]
    if not key and (len(others) == 1 or "label" not in found):
        if len(others) != 1:
            raise DataError(
                f"the loss expected one label; found {sorted(others)}",
                mend="Name it 'label', or give a loss for each output that has a label of its name.",
            )
        return others[0]
    return key or "label"
