"""The configuration of a run: what `onnxmx train` was asked for, as `config.toml` keeps it."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from onnxmx.errors import DataError, UsageError, nearest, unknown_name
from onnxmx.files import write_atomic
from onnxmx.trainer.clipping import ClipGlobalNorm
from onnxmx.trainer.optimizers import OPTIMIZERS, Optimizer
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.schedules import Constant, Schedule, WarmupCosine

SCHEDULES = ("warmup_cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """All that is needed to repeat a run. A field that may be absent is None then.

    model: a name of the zoo, `path.py:function`, or an ONNX file.   data: a name, or an .npz file.
    lr: by default the optimizer's own.   warmup: updates; by default a twentieth of the run.
    clip: the largest global norm of the gradients; 0 for no clipping.
    """

    model: str
    data: str
    data_dir: str | None = None
    epochs: int = 3
    batch_size: int = 64
    seed: int = 0
    loss: str = "softmax_cross_entropy"
    optimizer: str = "adam"
    lr: float | None = None
    schedule: str = "warmup_cosine"
    warmup: int | None = None
    clip: float = 1.0
    threads: int | None = None
    provider: str = "cpu"
    engine: str = "ort"
    checkpoint_s: float = 15.0

    def make_optimizer(self) -> Optimizer:
        """The optimizer with its schedule. Raises UsageError for unknown names and rates out of range."""
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        kind = OPTIMIZERS[self.optimizer]
        rate = kind().lr if self.lr is None else self.lr
        assert isinstance(rate, (int, float))  # the default of an optimizer is a number
        schedule: Schedule = Constant(rate) if self.schedule == "constant" else WarmupCosine(rate, self.warmup)
        made: Optimizer = kind(lr=schedule)
        return made

    def make_clip(self) -> ClipGlobalNorm | None:
        """The clipping, or None."""
        return ClipGlobalNorm(self.clip) if self.clip else None

    def make_plan(self) -> Plan:
        """How the run goes."""
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=self.seed,
            loss=self.loss,
            threads=self.threads,
            provider=self.provider,
            engine=self.engine,
            checkpoint_s=self.checkpoint_s,
        )

    def check(self) -> None:
        """Raises UsageError for an unknown name, or a number outside its range."""
        self.make_optimizer()
        self.make_clip()
        self.make_plan()

    def save(self, path: Path) -> None:
        """Write as TOML."""
        import tomli_w

        write_atomic(path, tomli_w.dumps({k: v for k, v in dataclasses.asdict(self).items() if v is not None}).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainConfig:
        """Read TOML. Raises DataError for a file that is missing or not TOML, UsageError for a key or type that is not
        expected; an unknown key is answered with the nearest one."""
        try:
            values = tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path} expected TOML; found {error}") from error
        return cls.from_dict(values, str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], what: str = "the configuration") -> TrainConfig:
        """Check names and types of `values`. `what` names their origin in errors."""
        hints = get_type_hints(cls)
        for key, value in values.items():
            if key not in hints:
                near = nearest(key, hints)
                raise UsageError(
                    f"{what} has an unknown key {key!r}",
                    mend=f"Did you mean {near!r}?" if near else f"There are: {', '.join(hints)}.",
                )
            if not _fits(value, hints[key]):
                raise UsageError(f"{what} expected {key} to be {_show(hints[key])}; found {value!r}")
        for key in ("model", "data"):
            if key not in values:
                raise UsageError(f"{what} expected {key!r}; found none", mend=f'Add, for example: {key} = "..."')
        return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    kinds = getattr(hint, "__args__", (hint,))
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def _show(hint: Any) -> str:
    names = {str: "text", int: "an integer", float: "a number"}
    return " or ".join(names[kind] for kind in getattr(hint, "__args__", (hint,)) if kind in names)
