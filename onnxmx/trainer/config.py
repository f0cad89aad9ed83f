"""The configuration of a run: what `onnxmx train` was asked for, as `config.toml` keeps it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from onnxmx.builder.literals import is_number
from onnxmx.builder.model import load
from onnxmx.errors import DataError, UsageError
from onnxmx.files import write_atomic
from onnxmx.models import MODELS
from onnxmx.trainer.averages import AVERAGES, Average
from onnxmx.trainer.clipping import CLIPS, ClipGlobalNorm, Transform
from onnxmx.trainer.gan.refused import NOT_OF_A_GAN
from onnxmx.trainer.gan.steps import Game
from onnxmx.trainer.mixing import MIXES
from onnxmx.trainer.optimizers import OPTIMIZERS, Group, Optimizer
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.regularizers import REGULARIZERS, Regularizer
from onnxmx.trainer.schedules import SCHEDULES, ReduceOnPlateau, Schedule, as_schedule
from onnxmx.trainer.tables import Table, as_table, check_type, listed, make, override, unknown_key
from onnxmx.trainer.teacher import Teacher
from onnxmx.trainer.update import Update

Many = str | dict[str, Any] | list[Any]
"""One or several: a name, a table, or a list of those."""


@dataclass(frozen=True)
class TrainConfig:
    """All that is needed to repeat a run. A field that may be absent is None then.

    model: a name of the zoo, `path.py:function`, or an ONNX file.   data: a name, or an .npz file.
    optimizer: a name, or text or a table of a name and its options, `groups` of {match, lr, decay} among them.
    lr: optimizer.lr in short; by default the optimizer's own.
    schedule: a name or a table of a name, its options, and `warmup`, `warmup_kind`, `warmup_start`; several in a list
    follow one another, each but the last with its `updates`.
    warmup: schedule.warmup in short; by default a twentieth of the run for warmup_cosine, and none for others.
    clip: the largest global norm of the gradients, 0 for no clipping; or a table of CLIPS, or a list of both.
    regularize: a table of REGULARIZERS, or a list of them.   average: ema or swa, or a table of one.
    micro_batches: in how many parts a step goes through its batch.
    mix: mixup or cutmix, or a table of one.   precision: float32, float16 or bfloat16.
    measure: metrics beside the loss, one or several in a list, by output where there are several losses; by default
    that which goes with the loss.
    log_every, patience, min_delta, keep_best, time_budget_s, profile, fast_dev_run, overfit_one_batch: as in `fit`.
    logs: csv, tensorboard, curves, or several in a list; by default curves, where matplotlib is installed.
    gan: of a GAN, a table of k, smoothing, penalty, samples and discriminator_optimizer, as in `fit_gan`: the
    latter an optimizer, or a table of what it has otherwise than `optimizer`, with the same schedule at its own rate.
    teacher: a table of model (a file), temperature, alpha, features and feature_weight, as in `mx.Teacher`.
    out: the run's folder.
    """

    model: str
    data: str
    data_dir: str | None = None
    out: str | None = None
    epochs: int = 3
    batch_size: int = 64
    micro_batches: int = 1
    mix: str | dict[str, Any] | None = None
    precision: str = "float32"
    measure: Many | None = None
    seed: int = 0
    loss: str = "softmax_cross_entropy"
    optimizer: str | dict[str, Any] = "adam"
    lr: float | None = None
    schedule: Many = "warmup_cosine"
    warmup: int | None = None
    clip: float | Many = 1.0
    regularize: Many | None = None
    average: str | dict[str, Any] | None = None
    threads: int | None = None
    provider: str = "cpu"
    engine: str = "ort"
    tune: str = "cached"
    checkpoint_s: float = 15.0
    log_every: int = 50
    patience: int | None = None
    min_delta: float = 0.0
    keep_best: int = 0
    gan: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None
    time_budget_s: float | None = None
    logs: str | list[str] | None = None
    profile: bool = False
    fast_dev_run: bool = False
    overfit_one_batch: bool = False

    def make_optimizer(self) -> Optimizer:
        """The optimizer with its schedule. Raises UsageError for unknown names and rates out of range."""
        return self._optimizer("optimizer", self.optimizer, self.lr)

    def _optimizer(self, what: str, found: Any, lr: float | None = None) -> Optimizer:
        table = _with_twin(what, as_table(what, found, "adam"), "lr", lr)
        groups = [_group(f"{what}.groups.{k}", group) for k, group in enumerate(listed(table.pop("groups", [])))]
        plain: Optimizer = make(what, table, OPTIMIZERS, "optimizer")
        assert isinstance(plain.lr, (int, float))  # the default of an optimizer is a number
        return dataclasses.replace(plain, lr=self._schedule(plain.lr), groups=tuple(groups))

    def _schedule(self, rate: float) -> Schedule:
        tables = [dict(as_table("schedule", found, "warmup_cosine")) for found in listed(self.schedule)]
        if not tables:
            raise UsageError("schedule expected at least one; found an empty list")
        tables[0] = _with_twin("schedule", tables[0], "warmup", self.warmup)
        chain: Schedule | None = None
        begin = 0
        for k, table in enumerate(tables):
            what = f"schedule.{k}" if len(tables) > 1 else "schedule"
            updates = table.pop("updates", None)
            if (updates is None) != (k == len(tables) - 1):
                raise UsageError(f"{what} expected updates in all but the last of a list; found {updates!r}")
            made = _make_schedule(what, table, rate)
            chain = made if chain is None else chain.then(made, begin)
            begin += updates if isinstance(updates, int) else 0
        assert chain is not None
        return chain

    def make_clip(self) -> list[Transform]:
        """The clipping and whatever else changes gradients, in order."""
        if self.clip == 0:
            return []
        return [ClipGlobalNorm(t) if is_number(t) else make("clip", t, CLIPS, "clipping") for t in listed(self.clip)]

    def make_regularizers(self) -> list[Regularizer]:
        """The regularizers."""
        found = [] if self.regularize is None else listed(self.regularize)
        return [make("regularize", table, REGULARIZERS, "regularizer") for table in found]

    def make_average(self) -> Average | None:
        """The average of the weights, or None."""
        made: Average | None = None if self.average is None else make("average", self.average, AVERAGES)
        return made

    def make_update(self) -> Update:
        """All that changes the parameters. Raises UsageError for unknown names, options, and values out of range."""
        return Update.of(self.make_optimizer(), self.make_clip(), self.make_regularizers(), self.make_average())

    def make_updates(self) -> tuple[Update, Update]:
        """Those of a GAN's generator and discriminator: what is averaged are the weights of the first."""
        generator, own = self.make_update(), (self.gan or {}).get("discriminator_optimizer")
        if isinstance(own, dict) and "name" not in own:  # what it has otherwise than the generator's
            own = _with_twin("optimizer", as_table("optimizer", self.optimizer, "adam"), "lr", self.lr) | own
        found = generator.optimizer if own is None else self._optimizer("gan.discriminator_optimizer", own)
        return generator, dataclasses.replace(generator, optimizer=found, average=None)

    def make_plan(self) -> Plan:
        """How the run goes."""
        return Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            micro_batches=self.micro_batches,
            precision=self.precision,
            mix=None if self.mix is None else make("mix", self.mix, MIXES),
            measure=self.measure,
            seed=self.seed,
            loss=self.loss,
            threads=self.threads,
            provider=self.provider,
            engine=self.engine,
            tune=self.tune,
            checkpoint_s=self.checkpoint_s,
            log_every=self.log_every,
            patience=self.patience,
            min_delta=self.min_delta,
            keep_best=self.keep_best,
            time_budget_s=self.time_budget_s,
            profile=self.profile,
            fast_dev_run=self.fast_dev_run,
            overfit_one_batch=self.overfit_one_batch,
            logs=_default_logs() if self.logs is None else listed(self.logs),
        )

    def make_teacher(self) -> Teacher | None:
        """Whom to learn from besides the labels, or None. Raises ModelFileError where its file cannot be used."""
        if self.teacher is None:
            return None
        table = dict(self.teacher)
        file = table.pop("model", None)
        if not isinstance(file, str):
            raise UsageError(f"teacher.model expected an ONNX file; found {file!r}", mend="Such as runs/a/model.onnx.")
        made: Teacher = make("teacher", {"name": "teacher", **table}, {"teacher": Teacher}, model=load(file))
        return made

    def make_game(self) -> Game | None:
        """The rules of a GAN; None of another model. Raises UsageError for what a GAN is not trained with."""
        made: Game | None = None
        if self.gan is not None:
            defaults = {f.name: f.default for f in dataclasses.fields(self)}
            for name, why in NOT_OF_A_GAN.items():
                value = getattr(self, name, None)
                if name in defaults and value != defaults[name] and (name, value) != ("tune", "off"):
                    raise UsageError(f"a GAN expected {name} to be left out; found {value!r}", mend=why)
            keys = [*(f.name for f in dataclasses.fields(Game) if f.name != "loss"), *_BESIDE_THE_GAME]
            if strange := [key for key in self.gan if key not in keys]:
                raise unknown_key("the table gan", strange[0], dict.fromkeys(keys))
            table = {k: v for k, v in self.gan.items() if k not in _BESIDE_THE_GAME}
            made = make("gan", {"name": "gan", **table}, {"gan": Game}, loss=self.loss)
        return made

    @property
    def samples(self) -> int:
        """How many the picture of a GAN's epoch shows. Raises UsageError for no number of at least 0."""
        found = (self.gan or {}).get("samples", 64)
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise UsageError(f"gan.samples expected a number of at least 0; found {found!r}")
        return found

    def check(self) -> None:
        """Raises UsageError for an unknown name, or a number outside its range."""
        if self.gan is not None and self.model in MODELS and self.model not in DEFAULTS:
            raise UsageError(
                f"the table gan expected a model that is one; found {self.model!r}",
                mend=f"Leave gan out, or take {' or '.join(DEFAULTS)}.",
            )
        self.make_game()
        _ = self.samples
        self.make_updates()
        self.make_plan()

    def save(self, path: Path) -> None:
        """Write as TOML."""
        import tomli_w

        values = {k: v for k, v in dataclasses.asdict(self).items() if v is not None and k != "out"}
        write_atomic(path, tomli_w.dumps(values).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None) -> TrainConfig:
        """Read TOML; `settings` has values for dotted keys in place of the file's.

        A model of the zoo among them that is a GAN, in a file of one that is none, or the other way round, comes with
        its own defaults: what the file has as those of its own kind goes, a run's config.toml holds them all.
        Raises DataError for a file that is missing or not TOML, UsageError for a key or type that is not expected; an
        unknown key is answered with the nearest one.
        """
        try:
            values = tomllib.loads(Path(path).read_text())
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path} expected TOML; found {error}") from error
        settings = settings or {}
        model = str(settings.get("model", values.get("model")))
        if "model" in settings and ".py:" not in model:  # what a file of Python makes is not known yet
            values = _of_another_kind(values, model)
        values = override(DEFAULTS.get(model, {}), values, _SHORTHANDS)  # of whose tables a setting may change one key
        return cls.from_dict(override(values, settings, _SHORTHANDS), str(path))

    @classmethod
    def from_dict(cls, values: dict[str, Any], what: str = "the configuration") -> TrainConfig:
        """Check names and types of `values`. `what` names their origin in errors."""
        hints = get_type_hints(cls)
        for key, value in values.items():
            if key in _COMMANDS:
                raise UsageError(
                    f"{what} expected settings of a run; found {key!r}, which says what to do with one",
                    mend=f"Give it on the command line: --{key.replace('_', '-')}",
                )
            if key not in hints:
                raise unknown_key(what, key, hints)
            check_type(f"{what} expected {key}", value, hints[key])
        for key in ("model", "data"):
            if key not in values:
                raise UsageError(f"{what} expected {key!r}; found none", mend=f'Add, for example: {key} = "..."')
        return cls(**override(DEFAULTS.get(values["model"], {}), values, _SHORTHANDS))

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Of dotted keys alone: {"model": "lenet", "data": "digits", "optimizer.lr": 3e-4}."""
        return cls.from_dict(override(DEFAULTS.get(str(settings.get("model")), {}), settings, _SHORTHANDS))


_GAN: dict[str, Any] = {
    "gan": {},
    "loss": "non_saturating_gan",
    "optimizer": {"name": "adam", "lr": 2e-4, "beta1": 0.5},
    "schedule": "constant",
    "clip": 0.0,
}
DEFAULTS = {"mlp_gan": _GAN, "dcgan": _GAN}
"""By model, other values than those of all models."""
_BESIDE_THE_GAME = ("samples", "discriminator_optimizer")
"""What the table `gan` holds besides the rules."""
_SHORTHANDS = {"clip": "global_norm"}
_COMMANDS = frozenset({"resume", "overwrite", "find_lr", "find_batch_size"})
"""Options of `onnxmx train` that are no settings, and so no keys."""


def _of_another_kind(values: Table, model: str) -> Table:
    """Of the values beside one model those that stand beside `model` too, in the place of it."""
    was, now = "gan" in values or values.get("model") in DEFAULTS, model in DEFAULTS
    if was == now:
        return values
    usual = {f.name: f.default for f in dataclasses.fields(TrainConfig)} | (_GAN if was else {})
    return {k: v for k, v in values.items() if not (k == "gan" or (k in _GAN and v == usual[k]))}


def _default_logs() -> list[str]:
    return ["curves"] if importlib.util.find_spec("matplotlib") else []


def _make_schedule(what: str, table: Table, rate: float) -> Schedule:
    if table["name"] == "warmup_cosine":  # which has a warm-up of its own
        open_end = {} if "warmup" in table else {"warmup": None}
        made: Schedule = make(what, table, SCHEDULES, "schedule", peak=rate, **open_end)
        return made
    warmup = {
        key.removeprefix("warmup_"): table.pop(key) for key in ("warmup", "warmup_kind", "warmup_start") if key in table
    }
    made = make(what, table, SCHEDULES, "schedule", rate=rate)
    if not warmup:
        return made
    options = {"updates": warmup.pop("warmup", None), **warmup}
    if isinstance(made, ReduceOnPlateau):  # it holds others, and none holds it
        return dataclasses.replace(made, rate=as_schedule(rate).warmed_up(**options))
    return made.warmed_up(**options)


def _group(what: str, found: Any) -> Group:
    if not isinstance(found, dict):
        raise UsageError(f"{what} expected a table; found {found!r}", mend='Such as {match = "*.bias", decay = 0.0}.')
    made: Group = make(what, {"name": "group", **found}, {"group": Group})
    return made


def _with_twin(what: str, table: Table, key: str, short: Any) -> Table:
    """The table with the value that stands outside it in short."""
    if short is not None and key in table:
        raise UsageError(f"expected {key} or {what}.{key}; found both", mend="Leave one of them out.")
    return dict(table) if short is None else {**table, key: short}
