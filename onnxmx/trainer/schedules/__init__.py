"""Learning-rate schedules: functions of the step, inside the graph."""

from onnxmx.trainer.schedules.base import (
    Constant,
    Custom,
    Rate,
    Scaled,
    Schedule,
    Then,
    Warmup,
    as_schedule,
    check_rate,
)
from onnxmx.trainer.schedules.cycles import CosineRestarts, Cyclic, OneCycle
from onnxmx.trainer.schedules.decay import Cosine, Exponential, InverseSqrt, Linear, MultiStep, Polynomial, Step
from onnxmx.trainer.schedules.plateau import ReduceOnPlateau
from onnxmx.trainer.schedules.warmup_cosine import WarmupCosine

SCHEDULES: dict[str, type[Schedule]] = {
    "warmup_cosine": WarmupCosine,
    "constant": Constant,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "cyclic": Cyclic,
    "exponential": Exponential,
    "inverse_sqrt": InverseSqrt,
    "linear": Linear,
    "multi_step": MultiStep,
    "one_cycle": OneCycle,
    "plateau": ReduceOnPlateau,
    "polynomial": Polynomial,
    "step": Step,
}
"""By the name that the command line and `config.toml` use. The first argument of each is the rate."""

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Custom",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Rate",
    "ReduceOnPlateau",
    "Scaled",
    "Schedule",
    "Step",
    "Then",
    "Warmup",
    "WarmupCosine",
    "as_schedule",
    "check_rate",
]
