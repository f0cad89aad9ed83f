"""config.toml: read, checked, written, and every field of it used."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import json
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
from onnxmx.errors import UsageError
from onnxmx.trainer import losses, metrics, run
from onnxmx.trainer.clipping import ClipGlobalNorm, as_transforms
from onnxmx.trainer.config import _COMMANDS, TrainConfig
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


def test_clippings_as_fit_takes_them(tmp_path: Path) -> None:
    clips = [1.0, "value:limit=0.5", 2, "centralize"]
    (tmp_path / "c.toml").write_text(f'model = "mlp"\ndata = "digits"\nclip = {json.dumps(clips)}\n')
    config = TrainConfig.load(tmp_path / "c.toml")
    assert tuple(config.make_clip()) == as_transforms(clips)
    changed = TrainConfig.load(tmp_path / "c.toml", {"clip.0.max_norm": 3.0, "clip.1.limit": 0.25, "clip.2": "noise"})
    assert tuple(changed.make_clip()) == as_transforms([3.0, "value:limit=0.25", "noise", "centralize"])
    for wrong in (0, -1.0, True, "cetnralize", [1.0]):
        with pytest.raises(UsageError, match="clip"):
            dataclasses.replace(config, clip=[1.0, wrong]).make_clip()


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
        generator, discriminator = config.make_updates()
        assert (generator.average, discriminator.average) == (mx.EMA(), None)
        assert generator.optimizer == discriminator.optimizer
    for config in (
        TrainConfig.load(tmp_path / "c.toml", {"optimizer.lr": 1e-3}),
        TrainConfig.of_settings({"model": "dcgan", "data": "digits", "optimizer.lr": 1e-3}),
    ):
        assert config.make_optimizer() == Adam(Constant(1e-3), beta1=0.5)
    config = dataclasses.replace(config, loss="wasserstein_gan", gan={"k": 5, "samples": 9})
    assert config.make_game() == mx.gan.Game("wasserstein_gan", k=5)
    assert TrainConfig("mlp", "digits").make_game() is None


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"lr": 4e-4}, Adam(Constant(4e-4), beta1=0.5)),  # what it has otherwise than the generator's
        ("adam:lr=4e-4", Adam(Constant(4e-4))),
        (
            {"name": "sgd", "groups": [{"match": "*.bias", "lr": 2.0}]},
            mx.SGD(Constant(0.01), groups=(mx.Group("*.bias", lr=2.0),)),
        ),
    ],
)
def test_an_optimizer_of_the_discriminator_s_own(own: Any, expected: Any) -> None:
    settings = {"model": "mlp_gan", "data": "digits", "gan.discriminator_optimizer": own, "clip": 2.0}
    generator, discriminator = TrainConfig.of_settings(settings).make_updates()
    assert generator.optimizer == Adam(Constant(2e-4), beta1=0.5)
    assert discriminator == dataclasses.replace(generator, optimizer=expected)


@pytest.mark.parametrize("whole", [False, True], ids=["by hand", "of a run"])
def test_another_model_comes_with_its_own_defaults(tmp_path: Path, whole: bool) -> None:
    """Of a file with the least in it, and of a run's config.toml, which holds every value."""

    def file(text: str) -> Path:
        path = tmp_path / "c.toml"
        path.write_text(f'data = "digits"\n{text}')
        if whole:
            TrainConfig.load(path).save(path)
        return path

    asked: dict[str, Any] = {"data": "digits", "epochs": 7, "optimizer.lr": 0.5}
    gan = file('model = "dcgan"\nepochs = 7')
    for path, model in ((gan, "lenet"), (gan, "mlp_gan"), (file('model = "lenet"\nepochs = 7'), "dcgan")):
        found = TrainConfig.load(path, {"model": model, "optimizer.lr": 0.5})
        expected = TrainConfig.of_settings({"model": model, **asked})
        assert (found.make_update(), found.make_plan()) == (expected.make_update(), expected.make_plan())
        assert found.gan == expected.gan
    own = file('model = "dcgan"\nloss = "wasserstein_gan"\noptimizer = "sgd:lr=0.5"\n[gan]\nk = 2')
    assert TrainConfig.load(own, {"model": "mlp_gan"}).gan == {"k": 2}
    found = TrainConfig.load(own, {"model": "lenet", "loss": "softmax_focal"})
    assert (found.gan, found.make_optimizer().lr, found.clip) == (None, WarmupCosine(0.5, None), 1.0)
    for model in ("mine.py:net", "dcgan"):
        assert TrainConfig.load(own, {"model": model}).gan == {"k": 2}


def test_curves_are_drawn_where_matplotlib_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, logs in ((object(), ["curves"]), (None, [])):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        monkeypatch.setattr("onnxmx.trainer.plan.make_logs", lambda names: [])
        assert TrainConfig("mlp", "digits").make_plan().logs == logs


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
        ({"clip": [2.0]}, ["clip.0.max_norm=3"], {"clip": [{"name": "global_norm", "max_norm": 3}]}),
        ({"clip": ["norm:max_norm=1"]}, ["clip.0.max_norm=2"], {"clip": [{"name": "norm", "max_norm": 2}]}),
        ({}, ["model = my model.onnx"], {"model": "my model.onnx"}),
        ({}, ['model="3"', "average={name = 'ema'}"], {"model": "3", "average": {"name": "ema"}}),
        ({"epochs": 1}, ["epochs=2", "epochs=3"], {"epochs": 3}),
    ],
)  # fmt: skip
def test_settings(before: dict[str, Any], settings: list[str], after: dict[str, Any]) -> None:
    kept = copy.deepcopy(before)
    assert override(before, dict(map(parse_setting, settings)), {"clip": "global_norm"}) == after
    assert before == kept


def test_every_option_of_train_is_a_key() -> None:
    """What an option can say, config.toml can say too; the rest are no settings of a run, and it says so of them."""
    options = {p.name for p in train.params if isinstance(p, click.Option)}
    assert options - {"settings", "form", "debug", None} - _COMMANDS <= set(OTHER)
    assert options > _COMMANDS


def test_every_option_of_fit_is_a_key() -> None:
    """But for what no file can hold: callbacks, and whether to show progress or to delete a run."""
    arguments = set(inspect.signature(mx.fit).parameters) - {"model", "data", "validation", "callbacks", "progress"}
    assert {"teacher" if name == "teach" else name for name in arguments} - _COMMANDS <= set(OTHER)


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
    assert update.clip == (mx.Centralize(), mx.clip_global_norm(0.5))
    for line in re.findall(r"^(mx\.(?!fit).*?)(?:  #.*)?$", text, re.MULTILINE):
        assert eval(line, {"mx": mx}) is not None
    for name in OPTIMIZERS:
        assert name in text
