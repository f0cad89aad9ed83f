"""Distillation: a trained model inside the step of a smaller one, as constants that no gradient goes through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxmx.builder.arguments import CheckedArguments, plain_numbers
from onnxmx.builder.graph import GraphBuilder, Value, describe
from onnxmx.builder.literals import is_finite, is_number
from onnxmx.builder.metadata import PREPROCESSING
from onnxmx.builder.model import Model
from onnxmx.builder.surgery import find
from onnxmx.builder.values import dims, show_shape
from onnxmx.errors import DataError, ShapeError, UsageError
from onnxmx.files import sha256
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.forward import copy_model
from onnxmx.trainer.logits import before_activations
from onnxmx.trainer.losses import SoftmaxCrossEntropy, class_axis
from onnxmx.trainer.losses.base import Values
from onnxmx.trainer.objective import Objective, Task, outputs_of


@dataclass(frozen=True, eq=False)
class Teacher(CheckedArguments):
    """What a model learns from besides its labels: (1 - alpha) loss + alpha T^2 KL(teacher || model) + features.

    model: the teacher, which stays as it is; it runs in its inference form.
    temperature: T, by which both logits are divided before the softmax.   alpha: the share of the soft targets.
    Beside another loss than softmax_cross_entropy the soft part is the mean squared difference of the outputs. Of
    several losses each output has its soft part, by the teacher's output of its name and the weight of its loss.
    features: {value of the student: value of the teacher} whose mean squared difference is added, `feature_weight`
    times; values or layers by name. Images of the same size and other channels are compared by their attention maps.
    Source: Hinton et al. 2015, section 2; Romero et al. 2015, eq. 3; Zagoruyko & Komodakis 2017, eq. 2.
    """

    model: Model
    temperature: float = 4.0
    alpha: float = 0.5
    features: Mapping[str, str] = field(default_factory=dict)
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.model, Model):
            raise UsageError(
                f"a teacher expected a model; found {type(self.model).__name__}", mend="mx.load('teacher.onnx')"
            )
        plain_numbers(self)
        if not (is_finite(self.temperature) and self.temperature > 0):
            raise UsageError(f"temperature expected a finite number above 0; found {self.temperature!r}")
        if not (is_number(self.alpha) and 0 <= self.alpha <= 1):
            raise UsageError(f"alpha expected a share from 0 to 1; found {self.alpha!r}")
        weight = self.feature_weight
        if not (is_finite(weight) and weight >= 0):
            raise UsageError(f"feature_weight expected a finite number of at least 0; found {weight!r}")

    def __str__(self) -> str:
        """As `step.json` keeps it."""
        kept = {"temperature": self.temperature, "alpha": self.alpha, "features": dict(self.features)}
        return json.dumps({"digest": sha256(self.model.to_bytes()), **kept, "feature_weight": self.feature_weight})

    def check(self, data: Dataset) -> None:
        """Raises DataError where the teacher learned from inputs that were prepared otherwise."""
        text = self.model.metadata.get(PREPROCESSING)
        if text is not None and json.loads(text) != data.preprocessing.to_dict():
            raise DataError(
                f"the teacher expected inputs prepared by {text}; found {json.dumps(data.preprocessing.to_dict())} "
                f"in {data.name}",
                mend="Train both on data of one preprocessing.",
            )

    def seen_in(self, student: Model) -> Model:
        """The student with the values that are compared among its outputs."""
        return _with_outputs(student, list(self.features))[0]

    def guide(
        self, g: GraphBuilder, student: Model, objective: Objective, own: ir.Value, outputs: Values, inputs: Values
    ) -> Value:
        """The loss to train by. own: that of the labels.   outputs: of `seen_in`, logits.   inputs: of a batch.

        Raises UsageError for a loss of several outputs, ShapeError where student and teacher do not fit each other.
        """
        wide, theirs = _with_outputs(self.model, list(self.features.values()))
        known = copy_model(g, wide, self._fed(inputs))
        soft = g.sum(*(self._soft_part(g, task, outputs, known) for task in objective.tasks))
        loss = g.add(g.mul(own, np.float32(1 - self.alpha)), g.mul(soft, np.float32(self.alpha)))
        mine = _with_outputs(student, list(self.features))[1]
        for ours, their in zip(mine, theirs, strict=True):
            loss = g.add(loss, g.mul(compared(g, outputs[ours], known[their]), np.float32(self.feature_weight)))
        return loss

    def _soft_part(self, g: GraphBuilder, task: Task, outputs: Values, known: Values) -> Value:
        """How far an output is from the teacher's, times the weight of its loss. known: the teacher's outputs."""
        if len(task.outputs) != 1:
            raise UsageError(
                f"a teacher expected losses of one output each; found {task.loss.name} of {list(task.outputs)}",
                mend="Compare them by features={...}, with a loss for each output.",
            )
        rule, (ours,) = task.loss, task.outputs
        name = self._answering(ours)
        objective = Objective.of(rule, {name: outputs_of(self.model)[name]})
        z, target = outputs[ours], before_activations(g, self.model, objective, {name: known[name]})[name]
        _check_alike(z, target, "output")
        soft = self._soft_targets(g, z, target) if isinstance(rule, SoftmaxCrossEntropy) else _difference(g, z, target)
        return soft if rule.weight == 1.0 else g.mul(soft, np.float32(rule.weight))

    def _answering(self, ours: str) -> str:
        """The teacher's output that goes with the student's of this name: that of the same name, or the only one."""
        names = list(self.model.outputs)
        if ours not in names and len(names) > 1:
            raise UsageError(
                f"the teacher expected to have an output {ours!r}, or one alone; found {names}",
                mend=f"Rename one of them: teacher.rename({{{names[0]!r}: {ours!r}}}), or cut the teacher to it.",
            )
        return ours if ours in names else names[0]

    def _fed(self, inputs: Values) -> dict[str, ir.Value]:
        """The teacher's inputs: by name, or the only one by the only one."""
        names = list(self.model.inputs)
        if len(names) == len(inputs) == 1:
            inputs = {names[0]: next(iter(inputs.values()))}
        if missing := [name for name in names if name not in inputs]:
            raise ShapeError(
                f"the teacher expected the inputs {names}; found {list(inputs)}",
                mend=f"Rename one of them: teacher.rename({{{missing[0]!r}: ...}}).",
            )
        for name, port in self.model.inputs.items():
            (size, *rest), found = port.shape or [None], dims(inputs[name].shape or ir.Shape([]))
            if isinstance(size, int) and found[:1] != (size,):
                raise ShapeError(
                    f"the teacher expected {name!r} of {show_shape(port.shape)}; found {show_shape(found)}",
                    mend=f"Free its batch, for example: teacher.resize({name}={('batch', *rest)}).",
                )
        return {name: inputs[name] for name in names}

    def _soft_targets(self, g: GraphBuilder, z: ir.Value, target: ir.Value) -> Value:
        """T^2 KL(softmax(target / T) || softmax(z / T)), the mean over all that is classified."""
        axis, t = class_axis(z), float(self.temperature)
        ours = g.op("LogSoftmax", g.div(z, t), axis=axis)
        theirs = g.op("LogSoftmax", g.div(target, t), axis=axis)
        lost = g.reduce_sum(g.mul(g.exp(theirs), g.sub(theirs, ours)), [axis], keepdims=False)
        return g.mul(g.reduce_mean(lost, keepdims=False), t * t)


def compared(g: GraphBuilder, x: ir.Value, target: ir.Value) -> Value:
    """How much two features differ: their mean square, or that of their attention maps where channels differ.

    An attention map is the mean square over the channels of an image, of unit norm.
    """
    a, b = x.shape, target.shape
    images = a is not None and b is not None and len(a) == len(b) == 4
    if images and a is not None and b is not None and a[1] != b[1] and list(a[2:]) == list(b[2:]):
        return _difference(g, _attention(g, x), _attention(g, target), axes=[1])
    _check_alike(x, target, "feature")
    return _difference(g, x, target)


def _attention(g: GraphBuilder, x: ir.Value) -> Value:
    flat = g.reshape(g.reduce_mean(g.mul(x, x), [1]), [0, -1])
    norm = g.sqrt(g.add(g.reduce_sum_square(flat, [1]), np.float32(1e-12)))
    return g.div(flat, norm)


def _difference(g: GraphBuilder, x: ir.Value, y: ir.Value, axes: list[int] | None = None) -> Value:
    """The mean square of x - y, or the mean of its sums over `axes`."""
    d = g.sub(x, y)
    square = g.mul(d, d) if axes is None else g.reduce_sum_square(d, axes)
    return g.reduce_mean(square, keepdims=False)


def _check_alike(x: ir.Value, target: ir.Value, what: str) -> None:
    """Raises ShapeError where a student's value and a teacher's cannot be compared."""
    a, b = x.shape, target.shape
    if a is None or b is None or list(a[1:]) != list(b[1:]):
        raise ShapeError(
            f"the student's {what} {x.name!r} expected the teacher's shape, {describe(target)}; found {describe(x)}",
            mend="Choose values of one size; images may differ in their channels.",
        )


def _with_outputs(model: Model, names: list[str]) -> tuple[Model, list[str]]:
    """The model with further outputs, and their names. names: of values or layers."""
    copy = model._copy()
    values = [find(copy.graph, name) for name in names]
    for value in values:
        if not value.is_graph_output():
            copy.graph.outputs.append(value)
    return Model(copy), [value.name or "" for value in values]
