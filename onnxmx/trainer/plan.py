"""How a run goes: what `fit` takes besides a model, data and what is compiled into the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxmx.builder.arguments import integer, plain_numbers
from onnxmx.builder.literals import is_number
from onnxmx.builder.session import check_provider, check_threads
from onnxmx.errors import UsageError, unknown_name
from onnxmx.trainer import mixing
from onnxmx.trainer.callbacks import Callback, EarlyStopping, KeepBest
from onnxmx.trainer.engine import ENGINES
from onnxmx.trainer.logs import make_logs
from onnxmx.trainer.losses import LossLike
from onnxmx.trainer.mixing import Mixup
from onnxmx.trainer.objective import Measure
from onnxmx.trainer.precision import check_precision
from onnxmx.trainer.profile import Profile
from onnxmx.trainer.teacher import Teacher
from onnxmx.trainer.tune import MODES, Tuner


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run goes, besides what is compiled into its step.

    micro_batches: in how many parts a step goes through its batch, to use less memory.
    mix: of the samples of a batch.   teach: whom to learn from besides the labels.
    precision: a name of PRECISIONS (trainer/precision.py).
    threads: worker threads inside an operator; by default the cores that this process may use.
    tune: "off", "cached" or "full": whether formulations of a gradient are picked by measuring (trainer/tune.py).
    engine: "ort" for stock ONNX Runtime, or "ort-training" for the retired onnxruntime-training.
    checkpoint_s: seconds between checkpoints; one is written at the end of every epoch too.
    log_every: steps between the lines of metrics.jsonl.
    patience: epochs without a better one, by more than min_delta, after which the run ends; by default it does not.
    keep_best: how many of the best epochs' models to keep besides the best one.
    logs: what to write besides metrics.jsonl, of csv, tensorboard, curves.
    time_budget_s: seconds after which the run stops, saved so that it can go on; by default there is no such limit.
    profile: whether to time the operators of a step before the run.
    fast_dev_run: two steps, validation and every file, in a folder that is deleted: whether all of it works.
    overfit_one_batch: all steps on the first batch, without validation, files and callbacks: whether its loss falls.
    """

    epochs: int = 1
    batch_size: int = 64
    micro_batches: int = 1
    mix: Mixup | None = None
    teach: Teacher | None = None
    precision: str = "float32"
    tune: str = "cached"
    seed: int = 0
    loss: LossLike = "softmax_cross_entropy"
    measure: Measure = None
    threads: int | None = None
    provider: str = "cpu"
    engine: str = "ort"
    checkpoint_s: float = 15.0
    log_every: int = 50
    patience: int | None = None
    min_delta: float = 0.0
    keep_best: int = 0
    time_budget_s: float | None = None
    logs: Sequence[str] = ()
    profile: bool = False
    fast_dev_run: bool = False
    overfit_one_batch: bool = False

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name, low in _LEAST.items():
            object.__setattr__(self, name, integer(name, getattr(self, name), low))
        object.__setattr__(self, "mix", mixing.get(self.mix))
        if self.teach is not None and not isinstance(self.teach, Teacher):
            raise UsageError(f"teach expected mx.Teacher; found {self.teach!r}", mend="Such as mx.Teacher(model).")
        if self.batch_size % self.micro_batches:
            raise UsageError(
                f"batch_size expected a multiple of its {self.micro_batches} micro-batches; found {self.batch_size}",
                mend=f"Take {self.batch_size + -self.batch_size % self.micro_batches}, or other micro_batches.",
            )
        integer("seed", self.seed, 0, 2**63)
        object.__setattr__(self, "threads", check_threads(self.threads))
        check_provider(self.provider)
        if self.tune not in MODES:
            raise unknown_name("tune", self.tune, MODES)
        if self.engine not in ENGINES:
            raise unknown_name("engine", self.engine, ENGINES)
        if self.engine == "ort-training" and self.provider != "cpu":
            raise UsageError(
                f"the engine 'ort-training' expected the provider 'cpu'; found {self.provider!r}",
                mend="Its last GPU release is of CUDA 11: take the default engine.",
            )
        check_precision(self.precision, self.provider, self.engine)
        if not (is_number(self.checkpoint_s) and self.checkpoint_s >= 0):  # not NaN either
            raise UsageError(f"checkpoint_s expected a number of at least 0; found {self.checkpoint_s!r}")
        if not (self.time_budget_s is None or (is_number(self.time_budget_s) and self.time_budget_s > 0)):
            raise UsageError(f"time_budget_s expected a number of seconds above 0; found {self.time_budget_s!r}")
        if self.fast_dev_run and self.overfit_one_batch:
            raise UsageError("expected fast_dev_run or overfit_one_batch; found both", mend="Do one after the other.")
        self.callbacks()  # they check patience, min_delta and logs

    @property
    def trial(self) -> bool:
        """Whether it leaves no run behind."""
        return self.fast_dev_run or self.overfit_one_batch

    def callbacks(self) -> list[Callback]:
        """Those that the plan asks for, each run with new ones. Raises UsageError for options out of their range."""
        if self.patience is None and self.min_delta:
            raise UsageError(
                f"min_delta expected patience; found {self.min_delta!r} without it",
                mend="Add, for example, patience=5.",
            )
        made: list[Callback] = make_logs(self.logs)
        if self.profile:
            made.append(Profile())
        if self.keep_best:
            made.append(KeepBest(self.keep_best))
        if self.patience is not None:
            made.append(EarlyStopping(self.patience, self.min_delta))
        return made

    @property
    def micro_batch(self) -> int | None:
        """Samples a micro-batch; None where the batch goes through at once."""
        return None if self.micro_batches == 1 else self.batch_size // self.micro_batches

    def tuner(self, report: Callable[[str], None]) -> Tuner | None:
        """Who picks among formulations, and says what it measures; the second engine makes gradients without ours."""
        if self.engine != "ort":
            return None
        assert self.threads is not None
        return Tuner(self.tune, self.micro_batch or self.batch_size, self.threads, self.provider, report=report)


_LEAST = {"epochs": 1, "batch_size": 1, "micro_batches": 1, "seed": 0, "log_every": 1, "keep_best": 0}
