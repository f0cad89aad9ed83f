"""onnxmx: define, train, compress and serve models in one graph format.

    import onnxmx as mx
    from onnxmx import layers as L

    net = L.Sequential(L.Conv2D(20, 5, activation="relu"), L.MaxPool2D(2), L.Flatten(), L.Dense(10))
    model = net.build(image=("batch", 1, 28, 28))
    run = mx.fit(model, mx.data.mnist("train"), validation=mx.data.mnist("test"), epochs=3)
    run.model.save("lenet.onnx")

The names below are imported when they are first used, so that `import onnxmx` and `onnxmx --help` stay quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxmx.errors import OnnxmxError, OnnxmxWarning

if TYPE_CHECKING:
    from onnxmx import callbacks as callbacks
    from onnxmx import data as data
    from onnxmx import gan as gan
    from onnxmx import init as init
    from onnxmx import layers as layers
    from onnxmx import losses as losses
    from onnxmx import metrics as metrics
    from onnxmx import models as models
    from onnxmx import optimizers as optimizers
    from onnxmx import schedules as schedules
    from onnxmx.builder.functions import function as function
    from onnxmx.builder.model import Input as Input
    from onnxmx.builder.model import Model as Model
    from onnxmx.builder.model import build as build
    from onnxmx.builder.model import load as load
    from onnxmx.exporter import quantize as quantize
    from onnxmx.exporter import quantize_aware as quantize_aware
    from onnxmx.serve import serve as serve
    from onnxmx.trainer.autodiff import gradient as gradient
    from onnxmx.trainer.averages import EMA as EMA
    from onnxmx.trainer.averages import SWA as SWA
    from onnxmx.trainer.averages import Target as Target
    from onnxmx.trainer.callbacks import Callback as Callback
    from onnxmx.trainer.callbacks import EarlyStopping as EarlyStopping
    from onnxmx.trainer.callbacks import KeepBest as KeepBest
    from onnxmx.trainer.clipping import Centralize as Centralize
    from onnxmx.trainer.clipping import GradientNoise as GradientNoise
    from onnxmx.trainer.clipping import clip_adaptive as clip_adaptive
    from onnxmx.trainer.clipping import clip_global_norm as clip_global_norm
    from onnxmx.trainer.clipping import clip_norm as clip_norm
    from onnxmx.trainer.clipping import clip_value as clip_value
    from onnxmx.trainer.evaluate import evaluate as evaluate
    from onnxmx.trainer.finders import find_batch_size as find_batch_size
    from onnxmx.trainer.finders import find_lr as find_lr
    from onnxmx.trainer.fit import distill as distill
    from onnxmx.trainer.fit import fit as fit
    from onnxmx.trainer.fit import resume as resume
    from onnxmx.trainer.gan import fit_gan as fit_gan
    from onnxmx.trainer.grad import grad as grad
    from onnxmx.trainer.grad import gradients as gradients
    from onnxmx.trainer.joint import Joint as Joint
    from onnxmx.trainer.mixing import CutMix as CutMix
    from onnxmx.trainer.mixing import Mixup as Mixup
    from onnxmx.trainer.optimizers import FTRL as FTRL
    from onnxmx.trainer.optimizers import LAMB as LAMB
    from onnxmx.trainer.optimizers import LARS as LARS
    from onnxmx.trainer.optimizers import NAG as NAG
    from onnxmx.trainer.optimizers import SGD as SGD
    from onnxmx.trainer.optimizers import AdaBelief as AdaBelief
    from onnxmx.trainer.optimizers import Adadelta as Adadelta
    from onnxmx.trainer.optimizers import Adagrad as Adagrad
    from onnxmx.trainer.optimizers import Adam as Adam
    from onnxmx.trainer.optimizers import Adamax as Adamax
    from onnxmx.trainer.optimizers import AdamW as AdamW
    from onnxmx.trainer.optimizers import ByName as ByName
    from onnxmx.trainer.optimizers import Group as Group
    from onnxmx.trainer.optimizers import Lion as Lion
    from onnxmx.trainer.optimizers import Momentum as Momentum
    from onnxmx.trainer.optimizers import Muon as Muon
    from onnxmx.trainer.optimizers import NAdam as NAdam
    from onnxmx.trainer.optimizers import RMSProp as RMSProp
    from onnxmx.trainer.optimizers import Signum as Signum
    from onnxmx.trainer.outputs import predict as predict
    from onnxmx.trainer.regularizers import L1 as L1
    from onnxmx.trainer.regularizers import L2 as L2
    from onnxmx.trainer.regularizers import MaxNorm as MaxNorm
    from onnxmx.trainer.schedules import Cosine as Cosine
    from onnxmx.trainer.schedules import CosineRestarts as CosineRestarts
    from onnxmx.trainer.schedules import Cyclic as Cyclic
    from onnxmx.trainer.schedules import Exponential as Exponential
    from onnxmx.trainer.schedules import InverseSqrt as InverseSqrt
    from onnxmx.trainer.schedules import Linear as Linear
    from onnxmx.trainer.schedules import MultiStep as MultiStep
    from onnxmx.trainer.schedules import OneCycle as OneCycle
    from onnxmx.trainer.schedules import Polynomial as Polynomial
    from onnxmx.trainer.schedules import ReduceOnPlateau as ReduceOnPlateau
    from onnxmx.trainer.schedules import Step as Step
    from onnxmx.trainer.schedules import WarmupCosine as WarmupCosine
    from onnxmx.trainer.step import compile_step as compile_step
    from onnxmx.trainer.teacher import Teacher as Teacher
    from onnxmx.trainer.trainer import Trainer as Trainer
    from onnxmx.trainer.update import Update as Update

__version__ = "0.1.0"

_MODULES = (
    "callbacks", "data", "gan", "init", "layers", "losses", "metrics", "models", "optimizers", "schedules", "serve"
)  # fmt: skip
"""Modules of this package: `import onnxmx.layers` works too. `serve` is one that is callable."""
_NAMES = {
    "AdaBelief": "onnxmx.trainer.optimizers",
    "Adadelta": "onnxmx.trainer.optimizers",
    "Adagrad": "onnxmx.trainer.optimizers",
    "Adam": "onnxmx.trainer.optimizers",
    "AdamW": "onnxmx.trainer.optimizers",
    "Adamax": "onnxmx.trainer.optimizers",
    "ByName": "onnxmx.trainer.optimizers",
    "Callback": "onnxmx.trainer.callbacks",
    "Centralize": "onnxmx.trainer.clipping",
    "Cosine": "onnxmx.trainer.schedules",
    "CosineRestarts": "onnxmx.trainer.schedules",
    "Cyclic": "onnxmx.trainer.schedules",
    "EMA": "onnxmx.trainer.averages",
    "EarlyStopping": "onnxmx.trainer.callbacks",
    "Exponential": "onnxmx.trainer.schedules",
    "FTRL": "onnxmx.trainer.optimizers",
    "GradientNoise": "onnxmx.trainer.clipping",
    "Group": "onnxmx.trainer.optimizers",
    "Input": "onnxmx.builder.model",
    "InverseSqrt": "onnxmx.trainer.schedules",
    "CutMix": "onnxmx.trainer.mixing",
    "Joint": "onnxmx.trainer.joint",
    "L1": "onnxmx.trainer.regularizers",
    "L2": "onnxmx.trainer.regularizers",
    "KeepBest": "onnxmx.trainer.callbacks",
    "LAMB": "onnxmx.trainer.optimizers",
    "LARS": "onnxmx.trainer.optimizers",
    "Linear": "onnxmx.trainer.schedules",
    "Lion": "onnxmx.trainer.optimizers",
    "MaxNorm": "onnxmx.trainer.regularizers",
    "Mixup": "onnxmx.trainer.mixing",
    "Model": "onnxmx.builder.model",
    "Momentum": "onnxmx.trainer.optimizers",
    "MultiStep": "onnxmx.trainer.schedules",
    "Muon": "onnxmx.trainer.optimizers",
    "NAG": "onnxmx.trainer.optimizers",
    "NAdam": "onnxmx.trainer.optimizers",
    "OneCycle": "onnxmx.trainer.schedules",
    "Polynomial": "onnxmx.trainer.schedules",
    "RMSProp": "onnxmx.trainer.optimizers",
    "ReduceOnPlateau": "onnxmx.trainer.schedules",
    "SGD": "onnxmx.trainer.optimizers",
    "SWA": "onnxmx.trainer.averages",
    "Signum": "onnxmx.trainer.optimizers",
    "Step": "onnxmx.trainer.schedules",
    "Teacher": "onnxmx.trainer.teacher",
    "Trainer": "onnxmx.trainer.trainer",
    "Target": "onnxmx.trainer.averages",
    "Update": "onnxmx.trainer.update",
    "WarmupCosine": "onnxmx.trainer.schedules",
    "build": "onnxmx.builder.model",
    "clip_adaptive": "onnxmx.trainer.clipping",
    "clip_global_norm": "onnxmx.trainer.clipping",
    "clip_norm": "onnxmx.trainer.clipping",
    "clip_value": "onnxmx.trainer.clipping",
    "compile_step": "onnxmx.trainer.step",
    "distill": "onnxmx.trainer.fit",
    "evaluate": "onnxmx.trainer.evaluate",
    "find_batch_size": "onnxmx.trainer.finders",
    "find_lr": "onnxmx.trainer.finders",
    "fit": "onnxmx.trainer.fit",
    "fit_gan": "onnxmx.trainer.gan",
    "function": "onnxmx.builder.functions",
    "grad": "onnxmx.trainer.grad",
    "gradient": "onnxmx.trainer.autodiff",
    "gradients": "onnxmx.trainer.grad",
    "load": "onnxmx.builder.model",
    "predict": "onnxmx.trainer.outputs",
    "quantize": "onnxmx.exporter",
    "quantize_aware": "onnxmx.exporter",
    "resume": "onnxmx.trainer.fit",
}

__all__ = ["OnnxmxError", "OnnxmxWarning", "__version__", *_MODULES, *sorted(_NAMES)]


if not TYPE_CHECKING:  # a type checker finds what is missing by itself

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"onnxmx.{name}")
        if name in _NAMES:
            return getattr(importlib.import_module(_NAMES[name]), name)
        from onnxmx.builder.elsewhere import TOP, hint, missing
        from onnxmx.builder.layers import __all__ as layers

        said = f"; layers are in mx.layers: mx.layers.{name}" if name in layers else hint(name, TOP, __all__)
        raise missing("onnxmx", name, said)


def __dir__() -> list[str]:
    return __all__
