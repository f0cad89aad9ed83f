"""Training by name: a model of the zoo, of a user's own file, or an ONNX file; and folders that are not free."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnxmx as mx
from onnxmx.errors import (
    CheckpointError,
    DataError,
    GradientError,
    MissingExtraError,
    ModelFileError,
    OnnxmxError,
    UsageError,
)
from onnxmx.trainer.autodiff import RULES
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.data import Dataset, get_dataset
from onnxmx.trainer.predict import Predictor
from onnxmx.trainer.run import resolve_model, resume_run, train

OWN = """
from __future__ import annotations

import functools
from dataclasses import dataclass

import onnxmx as mx
from beside import WIDTH
from onnxmx import init
from onnxmx import layers as L
from onnxmx.models import mlp as borrowed


@dataclass(frozen=True)
class Scale(L.Layer):
    start: float = 1.0

    def forward(self, x):
        return x * x.builder.parameter("scale", (WIDTH,), init.constant(self.start))


def bent(x):
    return x * L.sigmoid(x) + 0.1 * L.tanh(x)


@mx.function(outputs=("y",))
def Swish(g, x, *, beta: float):
    '''y = x sigmoid(beta x)'''
    return g.mul(x, g.op("Sigmoid", g.mul(x, beta)))


def net(input, classes):
    import late

    return L.Sequential(
        L.Flatten(),
        L.Dense(WIDTH, activation=bent),
        Scale(late.START),
        L.Dense(WIDTH, activation=lambda x: Swish(x.builder, x, beta=1.5)),
        L.Dense(classes),
    )


def without_parameters():
    return L.Sequential(L.Flatten(), L.Dense(10))


def whole():
    return without_parameters().build(image=("batch", 1, 8, 8))


def a_list():
    return [L.Dense(10)]


def a_class():
    return L.Dense


def raises():
    raise RuntimeError("the moon is full")


def wants(width):
    return L.Dense(width)


def misfit(input):
    return L.Sequential(L.Conv2D(4, 99), L.Dense(10))


standing = L.Sequential(L.Flatten(), L.Dense(10))


def breaks():
    return L.Sequential(
        L.Flatten(),
        L.Activation(lambda x: x.builder.sigmoyd(x)),
    )


def cannot_learn():
    return L.Sequential(L.Flatten(), L.Dense(10), L.Activation(lambda x: x.builder.op("Hardmax", x)))


part = functools.partial(borrowed, hidden=(4,))
constant = 3
"""


PAIR = """
from dataclasses import dataclass

from onnxmx import layers as L


@dataclass(frozen=True)
class Pair(L.Layer):
    def forward(self, image, side):
        return L.Dense(2)(L.concat(L.Flatten()(image), side, axis=1))


net = Pair()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("WIDTH = 12\n")
    (tmp_path / "late.py").write_text("START = 0.5\n")
    yield tmp_path / "own.py"
    for name in ("beside", "late"):
        sys.modules.pop(name, None)


def config(model: str, **options: Any) -> TrainConfig:
    return TrainConfig(model, "digits", **{"epochs": 1, "threads": 1} | options)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return get_dataset("digits", "train")


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
def test_models_of_the_zoo_are_built_for_the_data(name: str, digits: Dataset) -> None:
    model = resolve_model(name, digits)
    assert model.inputs["image"].shape == ("batch", 1, 8, 8)
    assert model.outputs["output"].shape == ("batch", 10)
    assert resolve_model(name).inputs["image"].shape != ("batch", 1, 8, 8)  # without data, the size it was made for


def test_models_that_take_something_else_than_one_image() -> None:
    pair = resolve_model("ncf")
    assert {k: (v.shape, v.dtype.name) for k, v in pair.inputs.items()} == {
        "user": (("batch",), "int64"), "item": (("batch",), "int64"),
    }  # fmt: skip
    ratings = Dataset.from_arrays({"user": np.arange(4), "item": np.arange(4)}, np.ones((4, 1), np.float32))
    assert list(resolve_model("ncf", ratings).inputs) == ["user", "item"]
    words = Dataset.from_arrays({"text": np.zeros((4, 9), np.int64)}, np.arange(4) % 3, classes=list("abc"))
    text = resolve_model("text_gru", words)
    assert [(k, v.shape, v.dtype.name) for k, v in text.inputs.items()] == [("text", ("batch", 9), "int64")]
    assert text.outputs["output"].shape == ("batch", 3)


def test_several_inputs_from_a_file(tmp_path: Path) -> None:
    """A layer of one's own, and a model of the zoo, on an .npz with an array for each input."""
    (tmp_path / "pair.py").write_text(PAIR)
    random = np.random.default_rng(0)
    arrays = {"image": random.normal(size=(60, 1, 4, 4)), "side": random.normal(size=(60, 2))}
    split = {f"x{end}.{name}": x for name, x in arrays.items() for end in ("", "_test")}
    np.savez(tmp_path / "d.npz", y=np.arange(60) % 2, y_test=np.arange(60) % 2, **split)
    settings = TrainConfig(f"{tmp_path}/pair.py:net", str(tmp_path / "d.npz"), epochs=1)
    run = train(settings, tmp_path / "run", progress=False)
    assert {name: port.shape for name, port in run.model.inputs.items()} == {
        "image": ("batch", 1, 4, 4), "side": ("batch", 2)
    }  # fmt: skip
    np.savez(tmp_path / "new.npz", image=arrays["image"][:3], side=arrays["side"][:3])
    assert len(list(Predictor(run.model).files([tmp_path / "new.npz"]))) == 3
    resume_run(tmp_path / "run", progress=False)


def test_the_seed_draws_the_parameters(digits: Dataset) -> None:
    one, same, other = (resolve_model("mlp", digits, seed) for seed in (1, 1, 2))
    assert one.to_bytes() == same.to_bytes() != other.to_bytes()


def test_layers_and_activations_of_ones_own_learn(own: Path, tmp_path: Path) -> None:
    run = train(config(f"{own}:net", epochs=3, lr=0.01), tmp_path / "r", progress=False)
    assert run.history[-1]["validation_accuracy"] > 0.5  # chance is 0.1
    before = resolve_model(f"{own}:net", get_dataset("digits", "train")).parameters()
    after = run.last.parameters()
    assert set(after) == set(before)
    assert all(not np.array_equal(after[name], before[name]) for name in before)
    assert sum("scale" in name for name in before) == 1
    assert str(own.parent.resolve()) not in sys.path


@pytest.mark.parametrize("function", ["without_parameters", "whole", "borrowed", "part"])
def test_what_a_function_may_be(own: Path, digits: Dataset, function: str) -> None:
    assert resolve_model(f"{own}:{function}", digits).outputs["output"].shape == ("batch", 10)


def test_an_onnx_file_is_trained_further(tmp_path: Path) -> None:
    first = train(config("mlp"), tmp_path / "a", progress=False)
    second = train(config(str(tmp_path / "a" / "model.onnx")), tmp_path / "b", progress=False)
    assert second.history[0]["loss"] < first.history[0]["loss"]


BAD = [
    ("lenett", UsageError, "no model named 'lenett'\n  Did you mean 'lenet'"),
    ("OWN:nett", UsageError, "no function in .*own.py named 'nett'\n  Did you mean 'net'"),
    ("OWN:standin", UsageError, "no function in .*own.py named 'standin'\n  Did you mean 'standing'"),
    ("OWN:constant", UsageError, "no function in .*own.py named 'constant'"),
    ("OWN:", UsageError, "no function in .*own.py named ''"),
    ("OWN", UsageError, "expected the name of a function after the file\n  For example .*own.py:net"),
    ("DIR/none.py:net", ModelFileError, r"no file .*none\.py"),
    ("DIR/none.onnx", ModelFileError, r"none\.onnx"),
    ("DIR", ModelFileError, "folder"),
    ("DIR/beside.py", UsageError, "expected the name of a function"),
    ("DIR/text.onnx", ModelFileError, "not an ONNX file"),
    ("OWN:a_list", UsageError, r"a_list expected to return a layer or a model; found \[(.|\n)*built at own.py:"),
    ("OWN:a_class", UsageError, "a_class expected to return a layer or a model; found <class"),
    ("OWN:raises", ModelFileError, "it raised RuntimeError: the moon is full(.|\n)*built at own.py:"),
    ("OWN:wants", ModelFileError, "it raised TypeError: .*'width'(.|\n)*give the others defaults"),
    ("OWN:breaks", ModelFileError, r"no method 'sigmoyd'.*op\(\"Name\", x\)(.|\n)*built at own.py:SIGMOYD\n"),
    ("OWN:misfit", OnnxmxError, "image of at least 99(.|\n)*built at own.py:"),
    ("DIR/broken.py:net", ModelFileError, "it raised SyntaxError"),
    ("DIR/absent.py:net", ModelFileError, "it raised ModuleNotFoundError: .*no_such_package"),
]


@pytest.mark.parametrize(("name", "error", "text"), BAD, ids=[row[0] for row in BAD])
def test_what_is_no_model(own: Path, digits: Dataset, name: str, error: type[Exception], text: str) -> None:
    (own.parent / "text.onnx").write_text("not protobuf \xff")
    (own.parent / "broken.py").write_text("def net(:\n")
    (own.parent / "absent.py").write_text("import no_such_package\n")
    out = own.parent / "run"
    name = name.replace("OWN", str(own)).replace("DIR", str(own.parent))
    line = next(k for k, written in enumerate(OWN.splitlines(), 1) if "sigmoyd" in written)
    with pytest.raises(error, match=text.replace("SIGMOYD", str(line))):
        train(config(name), out, progress=False)
    assert not out.exists()


def test_an_operator_without_a_rule_names_the_users_line(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "Hardmax")
    line = next(k for k, text in enumerate(OWN.splitlines(), 1) if "Hardmax" in text)
    with pytest.raises(GradientError, match="no gradient rule for 'Hardmax'") as caught:
        train(config(f"{own}:cannot_learn"), own.parent / "run", progress=False)
    assert caught.value.at == f"own.py:{line}"


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"warmup": 10**6}, {}),
        ({"provider": "gpu"}, {}),
        ({"loss": "mean_squared_error"}, {}),
        ({"data": "digitz"}, {}),
    ],
)
def test_a_run_that_could_not_start_leaves_its_folder_free(
    tmp_path: Path, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    out = tmp_path / "r"
    with pytest.raises(OnnxmxError):
        train(TrainConfig(**{"model": "mlp", "data": "digits", "epochs": 1} | bad), out, progress=False)
    assert not out.exists() or not list(out.iterdir())
    train(TrainConfig(**{"model": "mlp", "data": "digits", "epochs": 1} | good), out, progress=False)


def test_a_run_that_was_killed_before_its_start_begins(tmp_path: Path) -> None:
    """config.toml is the first file of a run: with it alone, and with what a kill left of the hand-over."""
    train(config("mlp"), tmp_path / "whole", progress=False)
    run = tmp_path / "r"
    config("mlp").save(run / "config.toml")
    (run / "step.onnx").write_bytes(b"half")
    (run / ".last.onnx.01234567.tmp").write_bytes(b"half")
    (run / ".mine.tmp").write_bytes(b"of the user")
    resume_run(run, progress=False)
    names = ("last.onnx", "model.onnx", "step.onnx", "config.toml", "metrics.jsonl")
    assert all((run / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)
    assert [p.name for p in run.glob(".*")] == [".mine.tmp"]


@pytest.mark.parametrize("name", ["config.toml", "model.onnx", "metrics.jsonl", "step.json"])
def test_a_folder_that_is_not_free_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of the user")
    with pytest.raises(CheckpointError, match=f"holds a run already: {name}"):
        train(config("mlp"), tmp_path, progress=False)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {name: "of the user"}


def test_a_run_is_overwritten_and_nothing_else(tmp_path: Path) -> None:
    run, fresh = tmp_path / "r", tmp_path / "fresh"
    train(config("lenet", checkpoint_s=0.0), run, progress=False)
    (run / "model.int8.onnx").write_text("of the user")
    (run / "checkpoints" / "mine.txt").write_text("of the user")
    with pytest.raises(CheckpointError, match=r"--resume .*--overwrite"):
        train(config("mlp"), run, progress=False)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    for bad in ("mlpp", str(tmp_path / "none.onnx")):
        with pytest.raises(OnnxmxError):
            train(config(bad), run, overwrite=True, progress=False)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before  # deleted only for what can be read
    train(config("mlp"), run, overwrite=True, progress=False)
    train(config("mlp"), fresh, progress=False)
    own = {Path("model.int8.onnx"), Path("checkpoints/mine.txt")}
    here, there = ({p.relative_to(f) for p in f.rglob("*")} for f in (run, fresh))
    assert here == there | own
    assert (run / "last.onnx").read_bytes() == (fresh / "last.onnx").read_bytes()
    train(config(str(run / "model.onnx")), run, overwrite=True, progress=False)  # the model of the run that goes


def test_fit_overwrites_too_but_no_model_of_the_users(tmp_path: Path, digits: Dataset) -> None:
    net = mx.models.build("mlp", input=(1, 8, 8))
    train(config("lenet"), tmp_path / "r", progress=False)
    run = mx.fit(net, digits, out=tmp_path / "r", overwrite=True, progress=False)
    assert mx.load(tmp_path / "r" / "model.onnx").to_bytes() == run.model.to_bytes()
    assert not (tmp_path / "r" / "config.toml").exists()
    (tmp_path / "model.onnx").write_text("of the user")
    with pytest.raises(CheckpointError, match=r"holds a run already: model\.onnx\n  It lacks"):
        mx.fit(net, digits, out=tmp_path, overwrite=True, progress=False)
    assert (tmp_path / "model.onnx").read_text() == "of the user"


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found no config\.toml"):
        resume_run(tmp_path / "none")


def test_labels_outside_the_classes(tmp_path: Path) -> None:
    x, y = np.zeros((20, 4), np.float32), np.arange(20)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    mx.models.mlp((4,), classes=3).build(x=("batch", 4)).save(tmp_path / "m.onnx")
    with pytest.raises(DataError, match=r"\[0, 3\)"):
        train(TrainConfig(str(tmp_path / "m.onnx"), str(tmp_path / "d.npz")), tmp_path / "r", progress=False)


def test_a_provider_that_is_not_installed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for data in ("digits", "none.npz"):  # said before any data is read, or downloaded
        with pytest.raises(MissingExtraError, match=r"pip install 'onnxmx\[gpu\]'"):
            train(TrainConfig("mlp", data, provider="cuda"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_evaluation_and_prediction_run_where_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def session(*args: Any, providers: Any, **options: Any) -> Any:
        asked.append(providers[0][0])
        return real(*args, providers=["CPUExecutionProvider"], **options)

    real = onnxruntime.InferenceSession
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    model, data = mx.models.build("mlp", input=(1, 8, 8)), get_dataset("digits", "test")
    mx.evaluate(model, data, provider="cuda")
    Predictor(model, provider="cuda")
    assert asked == [*available, available[1], available[0]]  # the loss is computed beside the model, on the CPU


def test_an_engine_that_is_not_installed_leaves_nothing_behind(tmp_path: Path) -> None:
    config = TrainConfig("mlp", "digits", engine="ort-training")
    with pytest.raises(MissingExtraError, match=r"pip install 'onnxmx\[ort-training\]', in an environment of its own"):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
