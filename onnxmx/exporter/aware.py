"""Quantization-aware training: calibrated as any quantization, and then still trained."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir

from onnxmx.builder import weights
from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.metadata import QUANTIZATION
from onnxmx.builder.model import Model
from onnxmx.exporter import qdq
from onnxmx.exporter.calibrate import Ranges, calibrate, check_batch, check_samples, fit_samples, work_folder
from onnxmx.exporter.prepare import prepare
from onnxmx.trainer.data import Dataset
from onnxmx.trainer.qat import trainable_form

_FOLDED = re.compile(r"^ConvBnFusion_(?:W|BN_B)_")
"""What ONNX Runtime puts before the name of a weight into which it folds a BatchNormalization."""


@checked_arguments
def quantize_aware(
    model: Model, calibration: Dataset, *, ranges: str = "tracked", calibration_samples: int = 512
) -> Model:
    """The model in 8 bits as it would be quantized, but with weights that are still to be trained.

        qat = mx.quantize_aware(model, mx.data.mnist("train"))
        run = mx.fit(qat, mx.data.mnist("train"), validation=mx.data.mnist("test"), optimizer=mx.Adam(1e-4))
        run.model.save("lenet.int8.onnx")

    `fit` and `onnxmx train` train it as any model; what they give and save as the best model holds integers, the same
    file that `onnxmx quantize` writes. `run.last` is this form again. BatchNormalization is folded into convolutions
    and Dropout is gone: it is meant for a model that is trained already.

    calibration: inputs from which the ranges of activations are taken; its labels are not used.
    ranges: "tracked", by a moving average that is part of the state (of weights: by what they are), or "learned", as
    parameters. Both move the scale; the zero point stays as it was calibrated.
    calibration_samples: how many samples are used, spread evenly over `calibration`.
    Raises UsageError for an unknown kind of ranges, GraphError for a model that cannot be quantized, DataError for
    data that does not fit it, MissingExtraError without onnxruntime.   Source: Jacob et al. 2018, section 3.
    """
    check_samples(calibration_samples)
    check_batch(model)
    samples = fit_samples(model, calibration)
    with work_folder() as folder:
        proto = prepare(model, folder)
        used = min(calibration_samples, len(samples))
        extremes = calibrate(proto, samples, used, list(qdq.OPERATORS), folder)
    origin = {
        "weights": "int8 per channel",
        "activations": qdq.activation_type(proto),
        "ranges": ranges,
        "samples": used,
        "data": calibration.digest(),
        "kept_float": [],
    }
    metadata = dict(model.metadata) | {QUANTIZATION: json.dumps(origin)}
    return trainable(model, proto, extremes.min_max(), metadata, ranges)


def trainable(
    model: Model, proto: onnx.ModelProto, found: Ranges, metadata: dict[str, str], ranges: str = "tracked"
) -> Model:
    """The form of `model` that is trained.

    proto: the model as `prepare` leaves it.   found: the calibrated ranges.   metadata: that of the 8-bit file.
    """
    eight = qdq.finish(qdq.quantized(proto, found), model.to_proto(), metadata)
    floats = {t.name: np.array(onnx.numpy_helper.to_array(t)) for t in proto.graph.initializer}
    return trainable_form(ir.from_proto(eight), floats, _trainable(model, proto), ranges)


def _trainable(model: Model, proto: onnx.ModelProto) -> set[str]:
    """What training changes of the prepared model: all but what was frozen before."""
    frozen = set(model.parameters()) - set(model.trainable)
    names = weights.trainable(ir.from_proto(proto).graph, None)
    return {name for name in names if _FOLDED.sub("", name) not in frozen}
