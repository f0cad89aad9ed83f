"""config.toml: read, checked, written, and every field of it used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from onnxmx.builder.session import cores
from onnxmx.errors import DataError, OnnxmxError, UsageError
from onnxmx.trainer.clipping import ClipGlobalNorm
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.optimizers import SGD, Adam, AdamW
from onnxmx.trainer.schedules import Constant, WarmupCosine

OTHER: dict[str, Any] = {
    "model": "nets.py:net",
    "data": 'a "quoted" näme.npz',
    "data_dir": "some/where",
    "epochs": 7,
    "batch_size": 9,
    "seed": 2**63 - 1,
    "loss": "mean_squared_error",
    "optimizer": "sgd",
    "lr": 0.25,
    "schedule": "constant",
    "warmup": 3,
    "clip": 0.0,
    "threads": cores() + 1,
    "provider": "cuda",
    "engine": "ort-training",
    "checkpoint_s": 0.5,
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
    assert TrainConfig.load(tmp_path / "config.toml") == config


@pytest.mark.parametrize("field", sorted(set(OTHER) - {"model", "data", "data_dir"}))
def test_every_field_changes_the_run(field: str) -> None:
    """model, data and data_dir are run.py's; the others go into the optimizer, the clipping or the plan."""

    def made(config: TrainConfig) -> tuple[Any, ...]:
        return config.make_optimizer(), config.make_clip(), config.make_plan()

    config = TrainConfig("mlp", "digits")
    assert made(config) != made(dataclasses.replace(config, **{field: OTHER[field]}))


def test_what_it_makes() -> None:
    config = TrainConfig("mlp", "digits")
    assert config.make_optimizer() == Adam(lr=WarmupCosine(1e-3, None))
    assert config.make_clip() == ClipGlobalNorm(1.0)
    assert dataclasses.replace(config, clip=0).make_clip() is None
    assert dataclasses.replace(config, optimizer="adamw", lr=1).make_optimizer() == AdamW(lr=WarmupCosine(1, None))
    config = TrainConfig("mlp", "digits", optimizer="sgd", schedule="constant")
    assert config.make_optimizer() == SGD(lr=Constant(1e-2))
    assert config.make_plan().epochs == 3


BAD = [
    ('epoch = 3', "unknown key 'epoch'", "Did you mean 'epochs'"),
    ('qqq = 3', "unknown key 'qqq'", "There are: model, data"),
    ('epochs = "3"', "epochs to be an integer; found '3'", ""),
    ('epochs = 3.0', "epochs to be an integer; found 3.0", ""),
    ('epochs = true', "epochs to be an integer; found True", ""),
    ('lr = "fast"', "lr to be a number; found 'fast'", ""),
    ('lr = [1.0]', "lr to be a number", ""),
    ('loss = 3', "loss to be text; found 3", ""),
    ('threads = 1.5', "threads to be an integer", ""),
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
        ({"lr": -1.0}, "peak of WarmupCosine expected a finite number"),
        ({"lr": -1.0, "schedule": "constant"}, "a learning rate expected a finite number"),
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
    ],
)
def test_values_out_of_range(values: dict[str, Any], text: str) -> None:
    config = TrainConfig("mlp", "digits", **values)
    with pytest.raises(UsageError, match=text):
        (config.make_optimizer(), config.make_clip(), config.make_plan())
