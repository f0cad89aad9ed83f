"""Static 8-bit quantization: calibrate, quantize, measure, and where that lost too much, try gentler ways."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.metadata import QUANTIZATION, TRAINABLE
from onnxmx.builder.model import Model, load
from onnxmx.errors import OnnxmxError, UsageError
from onnxmx.exporter import qdq, report
from onnxmx.exporter.aware import trainable
from onnxmx.exporter.calibrate import (
    Extremes,
    Ranges,
    calibrate,
    check_batch,
    check_samples,
    fit_samples,
    work_folder,
)
from onnxmx.exporter.floats import split
from onnxmx.exporter.measure import Quality, latencies, machine
from onnxmx.exporter.prepare import prepare, weighted
from onnxmx.exporter.report import Attempt, Measured, Report
from onnxmx.files import write_atomic
from onnxmx.trainer import losses
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.evaluate import fit_data
from onnxmx.trainer.fit import fit
from onnxmx.trainer.optimizers import Adam
from onnxmx.trainer.qat import deployed
from onnxmx.trainer.schedules import Cosine

Progress = Callable[[str], None]

_MEASURED = 1024
"""Samples on which single layers are compared: enough to order them, and few enough to do it for each."""


@checked_arguments
def quantize(
    model: Model | str | os.PathLike[str],
    calibration: Dataset,
    evaluation: Dataset,
    out: str | os.PathLike[str],
    *,
    loss: losses.LossLike | None = None,
    max_drop: float = 0.01,
    calibration_samples: int = 512,
    finetune: int = 0,
    lr: float = 1e-4,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Write `model` with weights and activations in 8 bits to `out`, and the report to `report_path(out)`.

        report = mx.quantize("lenet.onnx", mx.data.digits("train"), mx.data.digits("test"), "lenet.int8.onnx")
        print(report)

    calibration: inputs from which the ranges of activations are taken; its labels are used for `finetune` alone.
    evaluation: inputs and labels on which the model is compared before and after.
    loss: by default that of the model's training; in a file from elsewhere softmax_cross_entropy for integer labels,
    mean_squared_error for others.
    max_drop: how much worse it may get: of 1 for accuracy, of the labels' mean absolute deviation for a regression.
    calibration_samples: how many samples are used, spread evenly over `calibration`.
    finetune: epochs of quantization-aware training on `calibration` (see `quantize_aware`), instead of what follows
    below.   lr: the rate of Adam there, falling to 0 as half a cosine.
    threads: for training and evaluation; times are always those of one thread. progress: told each stage, in words.

    Where the drop is larger than `max_drop`, narrower ranges are tried, then some layers left in float, as measured.
    Raises OnnxmxError where even that is not enough, and then writes nothing; UsageError for an argument outside its
    range, GraphError for a model that cannot be quantized, DataError for data that does not fit it,
    MissingExtraError without onnxruntime.
    """
    _check_numbers(max_drop, calibration_samples, finetune)
    tell = progress or (lambda line: None)
    target = _check_out(out, model)
    model = model if isinstance(model, Model) else load(model)
    check_batch(model)
    rules = losses.of(model, evaluation, loss)
    if not isinstance(rules, losses.Loss):
        raise UsageError(
            f"quantize expected one loss; found {rules}", mend="Name one by loss=, and cut the model to its output."
        )
    quality = Quality(fit_data(model, evaluation, rules), rules, threads)
    samples = fit_samples(model, calibration) if not finetune else fit_data(model, calibration, rules)
    with work_folder() as folder:
        proto = prepare(model, folder)
        used = min(calibration_samples, len(samples))
        tell(f"calibrating on {used} samples")
        extremes = calibrate(proto, samples, used, list(qdq.OPERATORS), folder)
    tell("measuring the model as it is")
    before = quality.of(model)
    calibrated = report.Data(calibration.name, calibration.split, used, calibration.digest())
    search = _Search(model, proto, quality, before, max_drop, calibrated, tell)
    found = search.finetuned(samples, finetune, lr, extremes) if finetune else search.run(extremes)
    tell("measuring the time of a run")
    original, data = model.to_bytes(), found.data
    old, new = latencies([original, data], quality.data)
    eight, floats = split(onnx.load_from_string(data), found.attempt.kept_float)
    result = Report(
        output=target.name,
        digest=report.digest(data),
        before=Measured(len(original), before, old),
        after=Measured(len(data), found.quality, new),
        metric=quality.metric.name,
        drop=found.attempt.drop,
        drop_is=quality.drop_is,
        max_drop=max_drop,
        attempts=tuple(search.attempts),
        eight_bit=tuple(eight),
        float_nodes=tuple(floats),
        calibration=calibrated,
        evaluation=report.Data(evaluation.name, evaluation.split, len(evaluation), evaluation.digest()),
        machine=machine(),
    )
    tell(f"writing {target}")
    write_atomic(target, data)
    write_atomic(report_path(target), result.to_json())
    return result


def report_path(out: str | os.PathLike[str]) -> Path:
    """Where the report of the model at `out` is: `report.json` beside it.

    Where that speaks of another model of the folder, `lenet.int8.report.json` for `lenet.int8.onnx`.
    """
    out = Path(out)
    plain = out.with_name("report.json")
    try:
        taken = json.loads(plain.read_bytes()).get("output") != out.name
    except FileNotFoundError:
        taken = False
    except (OSError, ValueError, AttributeError):
        taken = True  # a file of the user's own
    return out.with_name(out.name.removesuffix(".onnx") + ".report.json") if taken else plain


@dataclass(frozen=True)
class _Candidate:
    """A quantized file, how good it is, and how it came about."""

    data: bytes
    quality: dict[str, float]
    attempt: Attempt


class _Search:
    """The ladder: all that was seen, then what is usual, then the most sensitive layers in float."""

    def __init__(
        self,
        model: Model,
        proto: onnx.ModelProto,
        quality: Quality,
        before: dict[str, float],
        max_drop: float,
        calibrated: report.Data,
        tell: Progress,
    ) -> None:
        self._model, self._original, self._proto = model, model.to_proto(), proto
        self._metadata = dict(model.metadata)
        self._quality, self._before, self._max_drop = quality, before, max_drop
        self._calibrated, self._tell = calibrated, tell
        self.attempts: list[Attempt] = []

    def run(self, extremes: Extremes) -> _Candidate:
        """The first candidate that loses no more than allowed. Raises OnnxmxError where none does."""
        wide = self._try("min-max", extremes.min_max())
        if self._good(wide):
            return wide
        narrow = self._try("median of batches", extremes.median())
        if self._good(narrow):
            return narrow
        best, ranges = min(
            ((wide, extremes.min_max()), (narrow, extremes.median())), key=lambda pair: pair[0].attempt.drop
        )
        return self._layers(best.attempt.name, ranges)

    def _layers(self, name: str, ranges: Ranges) -> _Candidate:
        """Leave 1, 2, 4 ... of the most sensitive layers in float, as long as one is left for 8 bits."""
        order = self._by_sensitivity(ranges)
        count = 1
        while count < len(order):
            candidate = self._try(name, ranges, order[:count])
            if self._good(candidate):
                return candidate
            count *= 2
        raise self._failed("calibrate on more or more typical samples, or train on with finetune (--finetune)")

    def finetuned(self, data: Dataset, epochs: int, lr: float, extremes: Extremes) -> _Candidate:
        """What quantization-aware training on `data` gives. Raises OnnxmxError where it loses more than allowed."""
        time = f"{epochs} epoch{'s' * (epochs > 1)}"
        name = f"min-max, then tracked in {time} of training"
        self._tell(f"training in 8 bits: {time}")
        aware = trainable(self._model, self._proto, extremes.min_max(), self._described(name, []))
        run = fit(
            aware,
            data,
            epochs=epochs,
            loss=self._quality.loss,
            optimizer=Adam(Cosine(lr)),
            threads=self._quality.threads,
            progress=False,
        )
        candidate = self._candidate(name, [], deployed(run.last).to_proto())
        if not self._good(candidate):
            raise self._failed("train for more epochs or at another rate")
        return candidate

    def _failed(self, mend: str) -> OnnxmxError:
        best = min(self.attempts, key=lambda a: a.drop)
        return OnnxmxError(
            f"quantize expected a drop of {self._quality.metric.name} of at most {self._max_drop:.4g}; "
            f"found {best.drop:.4g} in the best of {len(self.attempts)} ways; nothing was written",
            mend=f"Allow more with max_drop (--max-drop), {mend}; or keep the float.",
        )

    def _by_sensitivity(self, ranges: Ranges) -> list[str]:
        """The layers with a weight, first the one that alone in 8 bits makes the loss largest.

        Not the one that alone in float makes it smallest: where two layers share an activation of wide range, neither
        shows itself so, since the other still rounds it.
        """
        layers = weighted(self._proto.graph)
        quality = self._quality.sample(_MEASURED)
        loss = {}
        for index, layer in enumerate(layers if len(layers) > 1 else []):
            self._tell(f"measuring layer {index + 1} of {len(layers)} alone")
            alone = qdq.finish(qdq.quantized(self._proto, ranges, only=[layer]), self._original, self._metadata)
            loss[layer] = quality.of(Model(ir.from_proto(alone)))["loss"]
        return sorted(loss, key=loss.__getitem__, reverse=True)

    def _try(self, name: str, ranges: Ranges, kept: list[str] | None = None) -> _Candidate:
        kept = kept or []
        self._tell(f"quantizing: {name}" + (f", {len(kept)} layers in float" if kept else ""))
        result = qdq.quantized(self._proto, ranges, keep_float=kept)
        return self._candidate(name, kept, qdq.finish(result, self._original, self._described(name, kept)))

    def _candidate(self, name: str, kept: list[str], proto: onnx.ModelProto) -> _Candidate:
        measured = self._quality.of(Model(ir.from_proto(proto)))
        attempt = Attempt(name, tuple(kept), self._quality.drop(self._before, measured))
        self.attempts.append(attempt)
        return _Candidate(proto.SerializeToString(deterministic=True), measured, attempt)

    def _described(self, name: str, kept: list[str]) -> dict[str, str]:
        """The model's metadata, with what was done to it."""
        origin = {
            "weights": "int8 per channel",
            "activations": qdq.activation_type(self._proto),
            "ranges": name,
            "samples": self._calibrated.samples,
            "data": self._calibrated.digest,
            "kept_float": kept,
        }
        metadata = self._metadata | {QUANTIZATION: json.dumps(origin)}
        if TRAINABLE in metadata:
            metadata[TRAINABLE] = "[]"  # the weights it named are integers now
        return metadata

    def _good(self, candidate: _Candidate) -> bool:
        # Counts of right answers divided by their number: 0.98 - 0.97 is a little more than 0.01.
        return candidate.attempt.drop <= self._max_drop + 1e-9


def _check_numbers(max_drop: float, calibration_samples: int, finetune: int) -> None:
    if not isinstance(max_drop, (int, float)) or math.isnan(max_drop) or not 0 <= max_drop < math.inf:
        raise UsageError(f"max_drop expected a number of 0 or more; found {max_drop!r}", mend="For example 0.01.")
    check_samples(calibration_samples)
    if isinstance(finetune, bool) or not isinstance(finetune, int) or finetune < 0:
        raise UsageError(f"finetune expected a number of epochs, 0 or more; found {finetune!r}", mend="For example 2.")


def _check_out(out: str | os.PathLike[str], model: Model | str | os.PathLike[str]) -> Path:
    target = Path(out)
    if target.is_dir():
        raise UsageError(f"out expected the name of a file; found the folder {target}", mend="Add a file name.")
    if not isinstance(model, Model) and target.exists() and Path(model).exists() and target.samefile(model):
        raise UsageError(
            f"out expected another file than the model's own; found {target} for both",
            mend="The float model cannot be had back from the quantized one: choose another name.",
        )
    return target
