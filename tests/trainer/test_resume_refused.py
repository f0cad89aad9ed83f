"""Runs that cannot go on: a damaged checkpoint, other settings, data or files. Each stays as it was found."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import CheckpointError, DataError, OnnxmxError
from onnxmx.trainer import state
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.run import resume_run, train
from tests.trainer.runs import state_of
from tests.trainer.stopped_runs import change_config


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "cut in the length": lambda b: b[:5],
    "cut in the header": lambda b: b[:200],
    "cut in the data": lambda b: b[:-1000],
    "cut by a byte": lambda b: b[:-1],
    "longer by a byte": lambda b: b + b"0",
    "altered length": lambda b: flipped(b, 2),
    "altered header": lambda b: flipped(b, b.index(b"position") + 3),
    "altered digest": lambda b: flipped(b, b.index(b'"onnxmx":"') + 20),
    "altered first number": lambda b: flipped(b, 8 + int.from_bytes(b[:8], "little")),
    "altered last number": lambda b: flipped(b, len(b) - 1),
    "another file": lambda b: b"not a checkpoint at all" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint(stopped_run: Path, damage: str) -> None:
    path = max((stopped_run / "checkpoints").iterdir(), key=lambda p: int(p.stem[5:]))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    before = state_of(stopped_run)
    with pytest.raises(CheckpointError) as caught:
        resume_run(stopped_run, progress=False)
    assert path.name in str(caught.value)
    assert "altered" in str(caught.value)
    assert "Delete it, and --resume goes on from the checkpoint before it." in str(caught.value)
    assert state_of(stopped_run) == before


def test_no_byte_of_a_checkpoint_can_change_unseen(tmp_path: Path) -> None:
    """Each byte of a small file in turn: an error, or the same content."""
    arrays = {"a": np.arange(3, dtype=np.float32), "step": np.array(7)}
    header = {"position": {"epoch": 1}}
    path = tmp_path / "c.safetensors"
    state.save(path, arrays, header)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(flipped(data, place))
        try:
            found, said = state.load(path)
        except CheckpointError:
            continue
        assert said == header, place
        assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in found.items()} == {
            k: (v.dtype, v.shape, v.tobytes()) for k, v in arrays.items()
        }, place


# --- other settings, other files
SETTINGS = [
    ("seed = 5", "seed = 6", r"differs in seed \(expected 5, found 6\)"),
    ("batch_size = 8", "batch_size = 9", r"batch_size \(expected 8, found 9\)"),
    ("threads = 2", "threads = 1", r"threads \(expected 2, found 1\)"),
    ("epochs = 12", "epochs = 11", r"epochs \(expected 12, found 11\)"),
    ("clip = 1.0", "clip = 2.0", r"clip \(expected ClipGlobalNorm\(max_norm=1.0\), found .*2.0"),
    ('optimizer = "adam"', 'optimizer = "sgd"', r"optimizer \(expected Adam.*, found SGD"),
    ("patience = 0", "patience = 1", "optimizer"),
    ('average = "ema"', 'average = "swa"', "average"),
    ('loss = "softmax_cross_entropy"', 'loss = "mean_squared_error"', "loss"),
    ('average = "ema"\n', "", r"average \(expected EMA.*, found None\)"),
    ("clip = 1.0", 'clip = 1.0\nregularize = { name = "l1", strength = 1 }', r"regularize \(expected None, found .*L1"),
    ("micro_batches = 1", "micro_batches = 2", r"micro_batch \(expected None, found 4\)"),
    ('engine = "ort"', 'engine = "ort-training"', r"engine \(expected ort, found ort-training\)"),
]


@pytest.mark.parametrize("begun", [True, False], ids=["from a checkpoint", "from the start"])
@pytest.mark.parametrize(("line", "other", "text"), SETTINGS, ids=[row[1] for row in SETTINGS])
def test_other_settings_are_refused(stopped_run: Path, line: str, other: str, text: str, begun: bool) -> None:
    if not begun:
        shutil.rmtree(stopped_run / "checkpoints")
    change_config(stopped_run, line, other)
    before = state_of(stopped_run)
    with pytest.raises(CheckpointError, match=text) as caught:
        resume_run(stopped_run, progress=False)
    assert "start a new run" in str(caught.value)
    assert state_of(stopped_run) == before


def test_another_onnxruntime_is_refused(stopped_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could end in other bytes without a word."""
    made = onnxruntime.__version__
    monkeypatch.setattr(onnxruntime, "__version__", "9.9.9")
    with pytest.raises(CheckpointError, match=rf"onnxruntime \(expected '{made}', found '9.9.9'\)") as caught:
        resume_run(stopped_run, progress=False)
    assert f"Install onnxruntime {made}" in str(caught.value)


def test_other_data_is_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    write = lambda x: np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])  # noqa: E731
    write(x)
    run = tmp_path / "run"
    settings = {"model": "mlp", "data": str(tmp_path / "d.npz"), "epochs": 2, "batch_size": 8}
    train(TrainConfig(**settings), run, progress=False)  # type: ignore[arg-type]
    write(x + 1)
    with pytest.raises(CheckpointError, match="differs in data_digest"):
        resume_run(run, progress=False)
    write(x[:, :2])
    with pytest.raises(DataError, match=r"expected samples of shape \(3,\); found \(2,\)"):
        resume_run(run, progress=False)
    (tmp_path / "d.npz").unlink()
    with pytest.raises(DataError):
        resume_run(run, progress=False)


def test_other_metrics_are_refused(tmp_path: Path) -> None:
    data, run = mx.data.digits("train").take(32), tmp_path / "run"
    model = L.Sequential(L.Flatten(), L.Dense(10)).build(image=("batch", 1, 8, 8))
    mx.fit(model, data, measure=["accuracy", "top_k:k=3"], out=run, progress=False)
    before = state_of(run)
    for measure in (None, ["accuracy"], ["accuracy", "top_k:k=3", "mcc"]):
        with pytest.raises(CheckpointError, match=r"began with, \['accuracy', 'top_3'\]; found(.|\n)*measure=\["):
            mx.resume(run, data, measure=measure, progress=False)
    assert state_of(run) == before
    mx.resume(run, data, measure=["accuracy", "top_k:k=3"], progress=False)


def test_a_checkpoint_of_another_model_is_named_part_by_part(tmp_path: Path) -> None:
    for name, model in (("a", "mlp"), ("b", "lenet")):
        settings = TrainConfig(model, "digits", epochs=1, batch_size=512, threads=1)
        train(settings, tmp_path / name, progress=False)
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    with pytest.raises(
        CheckpointError, match=r"step-\d+\.safetensors belongs to another model; \d+ differ: "
    ) as caught:
        resume_run(tmp_path / "a", progress=False)
    assert re.search(r"0\.weight \(.*float32 \(20, 1, 5, 5\)\)", str(caught.value))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda run: append(run / "step.onnx"), r"step\.onnx expected the digest"),
        (lambda run: (run / "step.onnx").unlink(), r"expected step\.onnx and step\.json"),
        (lambda run: (run / "step.json").write_text("{"), r"expected step\.onnx and step\.json"),
        (lambda run: (run / "last.onnx").write_bytes(b"what"), r"last\.onnx"),
        (lambda run: (run / "last.onnx").unlink(), r"last\.onnx"),
        (lambda run: (run / "config.toml").unlink(), r"found no config\.toml"),
        (lambda run: [shutil.rmtree(run / "checkpoints"), append(run / "state.safetensors")], "Start the run again"),
        (lambda run: [shutil.rmtree(run / "checkpoints"), (run / "state.safetensors").unlink()], "found none"),
    ],
)
def test_files_that_are_missing_or_altered(stopped_run: Path, spoil: Callable[[Path], Any], text: str) -> None:
    spoil(stopped_run)
    before = state_of(stopped_run)
    with pytest.raises(OnnxmxError, match=text):
        resume_run(stopped_run, progress=False)
    assert state_of(stopped_run) == before
