"""What a configuration refuses: bad files, keys, types, values, and what does not go together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from onnxmx.errors import DataError, OnnxmxError, UsageError
from onnxmx.trainer import run
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.gan.refused import NOT_OF_A_GAN
from onnxmx.trainer.tables import parse_setting
from tests.trainer.test_config import OTHER

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
        ({"clip": ["value:limit=1", 0.0]}, "clip_global_norm expected a finite number above 0; found 0.0"),
        ({"clip": 1e39}, "clip_global_norm expected a finite number above 0; found 1e.39"),
        ({"lr": 1e308}, "lr expected a finite number of at least 0; found 1e.308"),
        ({"regularize": "l2:strength=1e39"}, "expected a finite number above 0; found 1e.39"),
        ({"clip": [True]}, "clip expected a name or a table with one; found True"),
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
        ({"patience": 0}, "patience expected an integer of at least 1; found 0"),
        ({"min_delta": 0.1}, "min_delta expected patience; found 0.1 without it"),
        ({"time_budget_s": 0}, "time_budget_s expected a number of seconds above 0; found 0"),
        ({"logs": ["csv", "cvs"]}, "no log named 'cvs'"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], text: str) -> None:
    config = TrainConfig("mlp", "digits", **values)
    with pytest.raises(UsageError, match=text):
        (config.make_update(), config.make_plan())


_GAN: dict[str, Any] = {"loss": "wasserstein_gan"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"gan": {"samples": -1}, "loss": "wasserstein_gan"}, "gan.samples expected a number of at least 0; found -1"),
        ({"gan": {"k": 0}, "loss": "wasserstein_gan"}, "k expected an integer"),
        (_GAN | {"gan": {"sample": 2}}, "the table gan has an unknown key 'sample'\n  Did you mean 'samples'"),
        (_GAN | {"gan": {"discriminator_optimizer": "adamm"}}, "no optimizer named 'adamm'"),
        (
            _GAN | {"gan": {"discriminator_optimizer": {"beta": 1}}},
            "gan.discriminator_optimizer 'adam' has an unknown key 'beta'",
        ),
        (
            _GAN | {"gan": {"discriminator_optimizer": 3}},
            "gan.discriminator_optimizer expected a name or a table with one; found 3",
        ),
        ({"model": "mlp", "gan": {}}, "the table gan expected a model that is one; found 'mlp'\n  Leave gan out"),
        ({"epochs": 0}, "epochs expected"),
        ({"lr": -1.0}, "lr expected"),
    ],
)
def test_all_of_it_is_checked_before_a_run(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        TrainConfig(**{"model": "mlp_gan", "data": "digits", **values}).check()


def test_a_teacher_that_is_no_file() -> None:
    for table in ({}, {"model": 3}):
        with pytest.raises(UsageError, match=r"teacher\.model expected an ONNX file; found"):
            TrainConfig("mlp", "digits", teacher=table).make_teacher()


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
