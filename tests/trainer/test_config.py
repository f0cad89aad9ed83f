"""config.toml: read, checked, written, and every field of it used."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxmx as mx
from onnxmx.builder.session import cores
from onnxmx.cli.train import train
from onnxmx.errors import DataError, OnnxmxError, UsageError
from onnxmx.trainer import losses, metrics, run
from onnxmx.trainer.clipping import ClipGlobalNorm
from onnxmx.trainer.config import _COMMANDS, TrainConfig
from onnxmx.trainer.gan.refused import NOT_OF_A_GAN
from onnxmx.trainer.optimizers import OPTIMIZERS, SGD, Adam, AdamW
from onnxmx.trainer.schedules import SCHEDULES, Constant, Warmup, WarmupCosine
from onnxmx.trainer.tables import listed, override, parse_setting
from onnxmx.trainer.update import Update

OTHER: dict[str, Any] = {
    "model": "nets.py:net",
    "data": 'a "quoted" näme.npz',
    "data_dir": "some/where",
    "epochs": 7,
    "batch_size": 9,
    "seed": 2**63 - 1,
    "loss": "mean_squared_error",
    "out": "somewhere",
    "micro_batches": 3,
    "mix": {"name": "cutmix", "alpha": 0.5},
    "tune": "off",
    "precision": "float16",
    "measure": ["mean_squared_error", "r2"],
    "optimizer": {"name": "sgd", "momentum": 0.5, "groups": [{"match": "*.bias", "lr": 2.0}]},
    "lr": 0.25,
    "schedule": "constant",
    "warmup": 3,
    "clip": [{"name": "noise"}, {"name": "value", "limit": 0.5}],
    "regularize": {"name": "l1", "strength": 1e-4},
    "average": {"name": "ema", "decay": 0.9},
    "threads": cores() + 1,
    "provider": "cuda",
    "engine": "ort-training",
    "checkpoint_s": 0.5,
    "log_every": 7,
    "patience": 4,
    "min_delta": 0.25,
    "keep_best": 2,
    "time_budget_s": 60.0,
    "logs": ["csv"],
    "gan": {"k": 3, "samples": 9},
    "teacher": {"model": "teacher.onnx", "alpha": 0.3},
    "profile": True,
    "fast_dev_run": True,
    "overfit_one_batch": True,
}
"""A value for each field that is not its default."""


def test_every_field_has_another_value() -> None:
    fields = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    assert set(OTHER) == set(fields)
    assert all(OTHER[name] != default for name, default in fields.items())


@pytest.mark.parametrize("values", [OTHER, {"model": "mlp", "data": "digits"}], ids=["all", "least"])
def test_round_trip(tmp_path: Path, values: dict[str, Any]) -> None:
    config = TrainConfig(**values)
    config.save(tmp_path / "config.toml")
    assert TrainConfig.load(tmp_path / "config.toml") == dataclasses.replace(config, out=None)


@pytest.mark.parametrize("field", sorted(set(OTHER) - {"model", "data", "data_dir", "out", "gan", "teacher"}))
def test_every_field_changes_the_run(field: str) -> None:
    """model, data, data_dir, gan and teacher are run.py's, out the command line's; others go into update or plan."""

    def made(config: TrainConfig) -> tuple[Any, ...]:
        return config.make_update(), config.make_plan()

    config = TrainConfig("mlp", "digits", batch_size=OTHER["batch_size"] * (2 if field == "batch_size" else 1))
    config = dataclasses.replace(config, patience=1)  # min_delta needs it
    assert made(config) != made(dataclasses.replace(config, **{field: OTHER[field]}))


def test_what_it_makes() -> None:
    config = TrainConfig("mlp", "digits")
    assert config.make_optimizer() == Adam(lr=WarmupCosine(1e-3, None))
    assert config.make_clip() == [ClipGlobalNorm(1.0)]
    assert dataclasses.replace(config, clip=0).make_clip() == []
    assert dataclasses.replace(config, optimizer="adamw", lr=1).make_optimizer() == AdamW(lr=WarmupCosine(1, None))
    config = TrainConfig("mlp", "digits", optimizer="sgd", schedule="constant")
    assert config.make_optimizer() == SGD(lr=Constant(1e-2))
    assert config.make_plan().epochs == 3
    assert TrainConfig("mlp", "digits", optimizer={"beta1": 0.5}).make_optimizer() == Adam(
        WarmupCosine(1e-3, None), 0.5
    )


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ({"optimizer": "sgd:lr=0.1,momentum=0.9"}, {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}),
        ({"optimizer": "adamw:beta1=0.8", "lr": 0.1}, {"optimizer": {"name": "adamw", "beta1": 0.8}, "lr": 0.1}),
        (
            {"schedule": "multi_step:at=[3,5],warmup=2"},
            {"schedule": {"name": "multi_step", "at": [3, 5], "warmup": 2}},
        ),
        (
            {"clip": ["centralize", "value:limit=0.5"]},
            {"clip": [{"name": "centralize"}, {"name": "value", "limit": 0.5}]},
        ),
        ({"regularize": "l2:strength=0.1"}, {"regularize": {"name": "l2", "strength": 0.1}}),
        ({"average": "ema:decay=0.9"}, {"average": {"name": "ema", "decay": 0.9}}),
        ({"mix": "mixup:alpha=0.3"}, {"mix": {"name": "mixup", "alpha": 0.3}}),
    ],
)
def test_a_table_as_text(text: dict[str, Any], table: dict[str, Any]) -> None:
    made = [TrainConfig("mlp", "digits", **found) for found in (text, table)]
    assert made[0].make_update() == made[1].make_update()
    assert made[0].make_plan() == made[1].make_plan()


def test_a_part_of_a_table_that_is_text_is_set() -> None:
    settings = {"model": "mlp", "data": "digits", "optimizer": "sgd:lr=0.1,momentum=0.9", "optimizer.lr": 0.2}
    assert TrainConfig.of_settings(settings).optimizer == {"name": "sgd", "lr": 0.2, "momentum": 0.9}


@pytest.mark.parametrize("measure", ["r2", ["r2"], ["r2", "pearson"]])
def test_one_metric_or_several(tmp_path: Path, measure: Any) -> None:
    TrainConfig("mlp", "digits", measure=measure).save(tmp_path / "config.toml")
    config = TrainConfig.load(tmp_path / "config.toml", {"loss": "l2"})
    found = metrics.chosen(config.make_plan().measure, losses.get(config.loss))
    assert [m.name for m in found] == listed(measure)


def test_metrics_by_output() -> None:
    config = TrainConfig.of_settings({"model": "mlp", "data": "digits", "measure.odd": "auc"})
    assert config.measure == {"odd": "auc"}


BAD = [
    ('measure = 3', "measure to be text or a table or a list; found 3", ""),
    ('epoch = 3', "unknown key 'epoch'", "Did you mean 'epochs'"),
    ('qqq = 3', "unknown key 'qqq'", "There are: model, data"),
    ('epochs = "3"', "epochs to be an integer; found '3'", ""),
    ('epochs = 3.0', "epochs to be an integer; found 3.0", ""),
    ('epochs = true', "epochs to be an integer; found True", ""),
    ('lr = "fast"', "lr to be a number; found 'fast'", ""),
    ('lr = [1.0]', "lr to be a number", ""),
    ('loss = 3', "loss to be text; found 3", ""),
    ('threads = 1.5', "threads to be an integer", ""),
    ('overwrite = true', "settings of a run; found 'overwrite'", "on the command line: --overwrite"),
    ('find_lr = "lr.png"', "settings of a run; found 'find_lr'", "--find-lr"),
    ('[model2]', "unknown key 'model2'", "Did you mean 'model'"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "text", "mend"), BAD)
def test_a_bad_key_or_type(tmp_path: Path, line: str, text: str, mend: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'model = "mlp"\ndata = "digits"\n{line}\n')
    with pytest.raises(UsageError) as caught:
        TrainConfig.load(path)
    assert str(path) in str(caught.value)
    assert text in str(caught.value)
    assert mend in str(caught.value)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"model = ", DataError, "expected TOML"),
        (b"\xff\xfe", DataError, "expected TOML"),
        (b"", UsageError, "expected 'model'; found none"),
        (b'model = "mlp"', UsageError, "expected 'data'; found none"),
        (None, DataError, "cannot read .*: No such file"),
    ],
)
def test_a_bad_file(tmp_path: Path, content: bytes | None, error: type[OnnxmxError], text: str) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=text):
        TrainConfig.load(path)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"optimizer": "adm"}, "no optimizer named 'adm'\n  Did you mean 'adam'"),
        ({"schedule": "warmup_cosin"}, "Did you mean 'warmup_cosine'"),
        ({"lr": -1.0}, "Adam's lr expected a finite number of at least 0; found -1.0"),
        ({"optimizer": {"name": "sgd", "lr": -1.0}}, "SGD's lr expected a finite number of at least 0; found -1.0"),
        ({"optimizer": {"name": "sgd", "lr": 0.1}, "lr": 0.1}, "expected lr or optimizer.lr; found both"),
        (
            {"optimizer": {"name": "adam", "beta": 0.1}},
            "optimizer 'adam' has an unknown key 'beta'\n  Did you mean 'beta2'",
        ),
        ({"optimizer": {"name": "adam", "amsgrad": 1}}, "expected optimizer.amsgrad to be true or false; found 1"),
        ({"optimizer": {"name": "adam", "groups": ["*.bias"]}}, "optimizer.groups.0 expected a table"),
        ({"optimizer": {"name": "adam", "groups": [{"match": "b", "rate": 2}]}}, "has an unknown key 'rate'"),
        ({"optimizer": {"name": "adam", "groups": {"lr": 2}}}, "optimizer.groups.0 expected 'match'"),
        ({"schedule": {"name": "step"}}, "schedule expected 'every' for 'step'; found none"),
        ({"schedule": {"name": "cosine", "warmup": -1}}, "a warm-up expected updates of at least 0 updates"),
        ({"schedule": []}, "schedule expected at least one"),
        ({"schedule": {"name": "cosine", "updates": 4}}, "schedule expected updates in all but the last .* found 4"),
        ({"schedule": [{"name": "linear"}, {"name": "cosine"}]}, "schedule.0 expected updates in all but the last"),
        ({"clip": {"name": "globl_norm", "max_norm": 1.0}}, "no clipping named 'globl_norm'"),
        ({"regularize": {"name": "l2"}}, "regularize expected 'strength' for 'l2'"),
        ({"regularize": {"name": "l2", "strength": -1.0}}, "L2 expected a finite number above 0; found -1.0"),
        ({"average": "emma"}, "no average named 'emma'\n  Did you mean 'ema'"),
        ({"micro_batches": 3}, "batch_size expected a multiple of its 3 micro-batches; found 64\n  Take 66"),
        ({"micro_batches": 0}, "micro_batches expected an integer of at least 1; found 0"),
        ({"warmup": -3}, "warmup of at least 0 updates"),
        ({"clip": -1.0}, "clip_global_norm expected a finite number above 0"),
        ({"clip": float("nan")}, "clip_global_norm expected"),
        ({"epochs": 0}, "epochs expected an integer of at least 1; found 0"),
        ({"batch_size": 0}, "batch_size expected an integer of at least 1; found 0"),
        ({"seed": -1}, "seed expected an integer of at least 0; found -1"),
        ({"seed": 2**63}, "seed expected an integer below"),
        ({"threads": 0}, "threads expected an integer of at least 1; found 0"),
        ({"checkpoint_s": -0.1}, "checkpoint_s expected a number of at least 0"),
        ({"checkpoint_s": float("nan")}, "checkpoint_s expected a number"),
        ({"provider": "gpu"}, "provider"),
        ({"provider": "cuda", "engine": "ort-training"}, "'ort-training' expected the provider 'cpu'; found 'cuda'"),
        ({"precision": "float16", "engine": "ort-training"}, "precision"),
        ({"log_every": 0}, "log_every expected an integer of at least 1; found 0"),
        ({"keep_best": -1}, "keep_best expected an integer of at least 0; found -1"),
        ({"patience": 0}, "patience expected a number of epochs of at least 1; found 0"),
        ({"min_delta": 0.1}, "min_delta expected patience; found 0.1 without it"),
        ({"time_budget_s": 0}, "time_budget_s expected a number of seconds above 0; found 0"),
        ({"logs": ["csv", "cvs"]}, "no log named 'cvs'"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], text: str) -> None:
    config = TrainConfig("mlp", "digits", **values)
    with pytest.raises(UsageError, match=text):
        (config.make_update(), config.make_plan())


def test_tables(tmp_path: Path) -> None:
    """All that `fit` takes can stand in a file."""
    (tmp_path / "c.toml").write_text("""
        model = "mlp"
        data = "digits"
        micro_batches = 2
        clip = [{ name = "centralize" }, { name = "global_norm", max_norm = 2 }]
        regularize = [{ name = "l2", strength = 1e-3, match = "*.weight" }, { name = "max_norm", strength = 3.0 }]
        average = { name = "swa", start = 20, use = false }

        [optimizer]
        name = "muon"
        lr = 0.01
        adam = ["head.*"]
        [[optimizer.groups]]
        match = "*.bias"
        decay = 0.0

        [[schedule]]
        name = "linear"
        updates = 30
        warmup = 5
        warmup_kind = "exponential"
        [[schedule]]
        name = "multi_step"
        at = [10, 20]
    """)
    config = TrainConfig.load(tmp_path / "c.toml")
    schedule = mx.Linear(0.01).warmed_up(5, kind="exponential").then(mx.MultiStep(0.01, at=(10, 20)), at=30)
    assert config.make_update() == Update.of(
        mx.Muon(schedule, adam=("head.*",), groups=(mx.Group("*.bias", decay=0.0),)),
        clip=[mx.Centralize(), mx.clip_global_norm(2)],
        regularize=[mx.L2(1e-3, "*.weight"), mx.MaxNorm(3.0)],
        average=mx.SWA(start=20, use=False),
    )
    config.save(tmp_path / "again.toml")
    assert TrainConfig.load(tmp_path / "again.toml") == config


def test_schedules_that_follow_one_another() -> None:
    """Each begins where those before it end; the warm-up in short is of the first."""
    chain = [{"name": "constant", "updates": 5}, {"name": "linear", "updates": 7}, {"name": "cosine"}]
    config = TrainConfig("mlp", "digits", optimizer="sgd", lr=0.1, warmup=2, schedule=chain)
    first = Constant(0.1).warmed_up(2)
    assert config.make_optimizer().lr == first.then(mx.Linear(0.1), at=5).then(mx.Cosine(0.1), at=12)


def test_a_setting_of_a_table_that_a_file_has_in_short(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "mlp"\ndata = "digits"\nclip = 2.0\n')
    config = TrainConfig.load(tmp_path / "c.toml", {"clip.max_norm": 3.0})
    assert config.make_clip() == [ClipGlobalNorm(3.0)]


def test_what_a_gan_s_name_brings(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "dcgan"\ndata = "digits"\nepochs = 2\naverage = "ema"\n')
    for config in (
        TrainConfig.load(tmp_path / "c.toml"),
        TrainConfig.of_settings({"model": "dcgan", "data": "digits", "epochs": 2, "average": "ema"}),
    ):
        assert (config.epochs, config.loss, config.schedule, config.clip) == (2, "non_saturating_gan", "constant", 0.0)
        assert config.make_optimizer() == Adam(Constant(2e-4), beta1=0.5)
        assert config.samples == inspect.signature(mx.fit_gan).parameters["samples"].default
        assert config.make_update().average == mx.EMA()
        assert config.make_update(average=False).average is None
    for config in (
        TrainConfig.load(tmp_path / "c.toml", {"optimizer.lr": 1e-3}),
        TrainConfig.of_settings({"model": "dcgan", "data": "digits", "optimizer.lr": 1e-3}),
    ):
        assert config.make_optimizer() == Adam(Constant(1e-3), beta1=0.5)
    config = dataclasses.replace(config, loss="wasserstein_gan", gan={"k": 5, "samples": 9})
    assert config.make_game() == mx.gan.Game("wasserstein_gan", k=5)
    assert TrainConfig("mlp", "digits").make_game() is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"gan": {"samples": -1}, "loss": "wasserstein_gan"}, "gan.samples expected a number of at least 0; found -1"),
        ({"gan": {"k": 0}, "loss": "wasserstein_gan"}, "k expected a number of steps"),
        ({"epochs": 0}, "epochs expected"),
        ({"lr": -1.0}, "lr expected"),
    ],
)
def test_all_of_it_is_checked_before_a_run(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        TrainConfig("mlp", "digits", **values).check()


def test_curves_are_drawn_where_matplotlib_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, logs in ((object(), ["curves"]), (None, [])):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        monkeypatch.setattr("onnxmx.trainer.plan.make_logs", lambda names: [])
        assert TrainConfig("mlp", "digits").make_plan().logs == logs


def test_a_teacher_that_is_no_file() -> None:
    for table in ({}, {"model": 3}):
        with pytest.raises(UsageError, match=r"teacher\.model expected an ONNX file; found"):
            TrainConfig("mlp", "digits", teacher=table).make_teacher()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_by_name(name: str) -> None:
    config = TrainConfig("mlp", "digits", optimizer=name, lr=0.5, schedule="constant")
    assert config.make_optimizer() == OPTIMIZERS[name](lr=Constant(0.5))


NEEDED: dict[str, dict[str, Any]] = {
    "cosine_restarts": {"period": 5},
    "cyclic": {"up": 5},
    "exponential": {"decay": 0.9},
    "inverse_sqrt": {"timescale": 5},
    "multi_step": {"at": [5]},
    "step": {"every": 5},
}


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"warmup_cosine"}))
def test_every_schedule_by_name(name: str) -> None:
    table = {"name": name, **NEEDED.get(name, {})}
    config = TrainConfig("mlp", "digits", lr=0.5, schedule=table)
    assert config.make_optimizer().lr == SCHEDULES[name](0.5, **NEEDED.get(name, {}))  # type: ignore[call-arg]
    warmed = dataclasses.replace(config, warmup=7).make_optimizer().lr
    inner = warmed.rate if isinstance(warmed, mx.ReduceOnPlateau) else warmed
    assert isinstance(inner, Warmup)
    assert inner.updates == 7


@pytest.mark.parametrize(
    ("before", "settings", "after"),
    [
        ({}, ["optimizer.lr=3e-4"], {"optimizer": {"lr": 3e-4}}),
        ({"optimizer": "sgd"}, ["optimizer.lr=1"], {"optimizer": {"name": "sgd", "lr": 1}}),
        ({"optimizer": {"name": "sgd", "lr": 2}}, ["lr=1"], {"optimizer": {"name": "sgd"}, "lr": 1}),
        ({"lr": 2}, ["optimizer.name=sgd", "optimizer.lr=1"], {"optimizer": {"name": "sgd", "lr": 1}}),
        ({"clip": 1.0}, ["clip.max_norm=2"], {"clip": {"name": "global_norm", "max_norm": 2}}),
        ({"clip": [{"name": "norm"}]}, ["clip.0.max_norm=2"], {"clip": [{"name": "norm", "max_norm": 2}]}),
        ({}, ["model = my model.onnx"], {"model": "my model.onnx"}),
        ({}, ['model="3"', "average={name = 'ema'}"], {"model": "3", "average": {"name": "ema"}}),
        ({"epochs": 1}, ["epochs=2", "epochs=3"], {"epochs": 3}),
    ],
)  # fmt: skip
def test_settings(before: dict[str, Any], settings: list[str], after: dict[str, Any]) -> None:
    kept = copy.deepcopy(before)
    assert override(before, dict(map(parse_setting, settings)), {"clip": "global_norm"}) == after
    assert before == kept


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("epochs", "expected KEY=VALUE; found 'epochs'"),
        ("=3", "expected KEY=VALUE"),
        ("epoch=3", "unknown key 'epoch'\n  Did you mean 'epochs'"),
        ("optimizer.=3", "expected a key such as optimizer.lr; found 'optimizer.'"),
        ("epochs.x=3", "epochs expected a table to set a part of; found 3"),
        ("optimizer.lrr=3", "has an unknown key 'lrr'\n  Did you mean 'lr'"),
        ("schedule.3.every=2", "schedule 'warmup_cosine' has an unknown key '3'"),
        ("epochs=many", "expected epochs to be an integer; found 'many'"),
    ],
)
def test_bad_settings(setting: str, text: str) -> None:
    def made() -> None:
        key, value = parse_setting(setting)
        TrainConfig.of_settings({"model": "mlp", "data": "digits", "epochs": 3, key: value}).check()

    with pytest.raises(UsageError, match=text):
        made()


def test_every_option_of_train_is_a_key() -> None:
    """What an option can say, config.toml can say too; the rest are no settings of a run, and it says so of them."""
    options = {p.name for p in train.params if isinstance(p, click.Option)}
    assert options - {"settings", "form", "debug", None} - _COMMANDS <= set(OTHER)
    assert options > _COMMANDS


def test_every_option_of_fit_is_a_key() -> None:
    """But for what no file can hold: callbacks, and whether to show progress or to delete a run."""
    arguments = set(inspect.signature(mx.fit).parameters) - {"model", "data", "validation", "callbacks", "progress"}
    assert {"teacher" if name == "teach" else name for name in arguments} - _COMMANDS <= set(OTHER)


@pytest.mark.parametrize("field", sorted(NOT_OF_A_GAN.keys() & OTHER.keys() - {"tune"}))
def test_a_gan_says_what_it_is_not_trained_with(field: str, tmp_path: Path) -> None:
    settings = {"model": "mlp_gan", "data": "digits", "batch_size": 9, field: OTHER[field]}
    with pytest.raises(UsageError, match=f"a GAN expected {field} to be left out") as caught:
        run.train(TrainConfig.of_settings(settings), tmp_path / "run")
    assert NOT_OF_A_GAN[field] in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_gan_measures_no_formulations() -> None:
    config = TrainConfig.of_settings({"model": "mlp_gan", "data": "digits"})
    dataclasses.replace(config, tune="off").check()
    with pytest.raises(UsageError, match="a GAN expected tune to be left out; found 'full'"):
        dataclasses.replace(config, tune="full").check()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fast_dev_run": True}, "a finder expected fast_dev_run to be left out"),
        ({"overfit_one_batch": True}, "a finder expected overfit_one_batch to be left out"),
        ({"teacher": {"model": "t.onnx"}}, "a finder expected teacher to be left out"),
        ({"micro_batches": 4}, "a batch size is found for a step that takes it at once; found 4 micro-batches"),
    ],
)
def test_a_finder_says_what_it_does_not_try(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run.find_batch_size_of(TrainConfig.of_settings({"model": "mlp", "data": "digits", **settings}))


def test_a_finder_takes_the_settings_of_the_configuration() -> None:
    """Each of them changes what it sees."""
    usual = TrainConfig.of_settings(
        {"model": "mlp", "data": "digits", "optimizer": "sgd", "schedule": "constant", "threads": 1}
    )
    changes: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"clip": 0.1}, {"regularize": {"name": "l2", "strength": 0.01}}, {"loss": "softmax_focal"},
        {"batch_size": 16}, {"mix": "mixup"}, {"optimizer": "adam"},
    ]  # fmt: skip
    found = [run.find_lr_of(dataclasses.replace(usual, **change)).losses for change in changes]
    assert all(one != other for one, other in itertools.combinations(found, 2))


@given(
    st.text(max_size=30) | st.from_regex(r"(lr|optimizer|[a-z]{1,3})(\.[a-z0-9]{1,3}){0,3} ?=.{0,9}", fullmatch=True)
)
def test_any_text_is_a_setting_or_an_error(text: str) -> None:
    """What it sets is there afterwards, and what was there before is not lost."""
    before = {"optimizer": "adam"}
    try:
        key, value = parse_setting(text)
        place: Any = override(before, {key: value}, {})
    except UsageError:
        return
    assert before == {"optimizer": "adam"}
    assert "optimizer" in place
    for part in key.split("."):
        place = place[part]
    assert place is value


def test_what_the_docs_show(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (shown,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "c.toml").write_text(shown)
    config = TrainConfig.load(
        tmp_path / "c.toml", dict(map(parse_setting, ["optimizer.lr=3e-4", "clip.1.max_norm=0.5"]))
    )
    update = config.make_update()
    schedule = mx.Cosine(3e-4).warmed_up(20, kind="exponential")
    assert update.optimizer == AdamW(schedule, groups=(mx.Group("*.bias", decay=0.0),))
    assert update.transforms == (mx.Centralize(), mx.clip_global_norm(0.5))
    for line in re.findall(r"^(mx\.(?!fit).*?)(?:  #.*)?$", text, re.MULTILINE):
        assert eval(line, {"mx": mx}) is not None
    for name in OPTIMIZERS:
        assert name in text
