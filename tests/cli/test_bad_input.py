"""Each bad input: the right exit code; what was expected, what was found and how to mend it; nothing is lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import Outcome, digests, here, process
from conftest import Trained
from onnx import TensorProto, helper

from onnxmx.builder.model import load


@dataclass(frozen=True)
class Row:
    """words: the command line.   says: the kind of error, then what its text must hold."""

    name: str
    words: str
    code: int
    says: tuple[str, ...]


ROWS = [
    # Files of models
    Row("missing model", "evaluate none.onnx --data digits", 1, ("ModelFileError", "none.onnx", "found nothing")),
    Row("folder as model", "evaluate folder.onnx --data digits", 1, ("ModelFileError", "folder.onnx", "a folder")),
    Row("run as model", "evaluate run --data digits", 1, ("found a folder", "Give the file in it: run/model.onnx")),
    Row("run to serve", "serve run --port 0", 2, ("UsageError", "Give the file itself: run/model.onnx")),
    Row("text as model", "evaluate text.onnx --data digits", 1, ("ModelFileError", "text.onnx", "not an ONNX file")),
    Row("empty model", "summary empty.onnx", 1, ("ModelFileError", "empty.onnx", "not an ONNX file")),
    Row("cut model", "predict cut.onnx one.npy", 1, ("ModelFileError", "cut.onnx")),
    Row("cut model to serve", "serve cut.onnx --port 0", 1, ("ModelFileError", "cut.onnx")),
    Row("folder without models to serve", "serve nothing --port 0", 2, ("UsageError", "nothing")),
    Row("missing python file", "train none.py:net --data digits", 1, ("ModelFileError", "none.py")),
    Row("module for a file", "train nets:small --data digits", 2, ("UsageError", "'nets:small'", "nets.py:small")),
    Row("function typo", "train nets.py:smal --data digits", 2, ("UsageError", "smal", "'small'")),
    Row("python file that fails", "train broken.py:net --data digits", 1, ("ModelFileError", "ZeroDivisionError")),
    # Names
    Row("dataset typo", "train lenet --data digit", 2, ("UsageError", "'digit'", "Did you mean 'digits'?")),
    Row("model typo", "train lenett --data digits", 2, ("UsageError", "'lenett'", "Did you mean 'lenet'?")),
    Row("command typo", "trian lenet", 2, ("UsageError", "'trian'", "Did you mean 'train'?")),
    Row("option typo", "train lenet --data digits --epoch 1", 2, ("UsageError", "--epoch", "--epochs")),
    Row("the config by name", "train --config run/config.toml", 2, ("--config", "argument: onnxmx train config.toml")),
    Row("the model by name", "predict --model run/model.onnx x.npy", 2, ("--model", "the model as the argument")),
    Row("a metric by option", "train lenet --data digits --metrics mcc", 2, ("--metrics", "Give --measure.")),
    Row("metrics to evaluate", "evaluate run/model.onnx --data digits --metrics mcc", 2, ("Give --measure.",)),
    Row("epochs in short", "train lenet --data digits -e 3", 2, ("'-e'", "Give --epochs.")),
    Row("a batch in short", "train lenet --data digits --bs 3", 2, ("'--bs'", "Give --batch-size.")),
    Row("a dataset by name", "train lenet --dataset digits", 2, ("'--dataset'", "Give --data.")),
    Row("a dataset by place", "train lenet digits", 2, ("(digits)", "--data: onnxmx train MODEL --data DATASET. See")),
    Row("a model too many", "models lenet", 2, ("(lenet)", "See: onnxmx models --help")),
    Row("a share to validate on", "train lenet --data digits --val-split 0.2", 2, ("the test split of the dataset",)),
    Row("words", "train lenet --data digits -v", 2, ("'-v'", "goes to stderr")),
    Row("weights", "train lenet --data digits --weights a.onnx", 2, ("the .onnx file as the argument", "--resume DIR")),
    Row("command of Keras", "fit lenet", 2, ("no command named 'fit'", "Write onnxmx train.")),
    Row("command elsewhere", "test lenet", 2, ("no command named 'test'", "Write onnxmx evaluate.")),
    Row("command of a start", "init", 2, ("no command named 'init'", "onnxmx train lenet --data digits -o runs/first")),
    Row("table as data", "train lenet --data my.csv", 2, ("an .npz file; found my.csv", "numpy.savez")),
    Row("folder as data", "train lenet --data nothing", 2, ("an .npz file; found nothing", "docs/data.md")),
    Row("an option of train", "evaluate run/model.onnx --amp", 2, ("--amp", "See: onnxmx evaluate --help")),
    Row("choice typo", "models --format jsn", 2, ("UsageError", "jsn", "json")),
    Row("split typo", "evaluate run/model.onnx --data digits --split tset", 2, ("UsageError", "tset", "'test'")),
    Row("optimizer typo", "train lenet --data digits --optimizer adamm", 2, ("UsageError", "adamm", "'adam'")),
    Row("optimizer by class", "train lenet --data digits --optimizer RMSProp", 2, ("UsageError", "'rmsprop'")),
    Row("optimizer text", "train lenet --data digits --optimizer adam:lr", 2, ("UsageError", "found 'adam:lr'")),
    Row("schedule elsewhere", "train lenet --data digits --schedule CosineAnnealingLR", 2, ("UsageError", "'cosine'")),
    Row("metrics by output", "train lenet --data digits -s measure.output=mcc", 2, ("UsageError", "one loss")),
    Row("loss typo", "train lenet --data digits --loss cross_entropy", 2, ("UsageError", "softmax_cross_entropy")),
    Row("schedule typo", "train lenet --data digits --schedule constnt", 2, ("UsageError", "'constant'")),
    Row("provider typo in evaluate", "evaluate run/model.onnx --data digits --provider gpu", 2, ("UsageError", "cuda")),
    Row("provider typo in predict", "predict run/model.onnx x.npy --provider gpu", 2, ("UsageError", "'gpu'", "cuda")),
    Row("provider typo", "train lenet --data digits --provider gpu", 2, ("UsageError", "'gpu'", "cuda")),
    Row("no model", "train", 2, ("UsageError", "--resume", "onnxmx train lenet --data digits")),
    Row("no data", "train lenet", 2, ("UsageError", "--data")),
    Row("no input", "predict run/model.onnx", 2, ("UsageError", "INPUT", "onnxmx predict --help")),
    Row("not a number", "train lenet --data digits --epochs many", 2, ("UsageError", "--epochs", "many")),
    # Values out of range
    Row("no epochs", "train lenet --data digits --epochs 0", 2, ("UsageError", "epochs", "found 0")),
    Row("negative rate", "train lenet --data digits --lr -1", 2, ("UsageError", "found -1")),
    Row("clip nan", "train lenet --data digits --clip nan", 2, ("UsageError", "clip", "found nan")),
    Row("no threads", "train lenet --data digits --threads 0", 2, ("UsageError", "threads", "found 0")),
    Row("no batch", "train lenet --data digits --batch-size 0", 2, ("UsageError", "batch_size", "found 0")),
    Row("negative seed", "train lenet --data digits --seed -1", 2, ("UsageError", "seed", "found -1")),
    Row("long warmup", "train lenet --data digits --epochs 1 --warmup 10000", 2, ("UsageError", "warmup", "10000")),
    Row("evaluate without batch", "evaluate run/model.onnx --data digits --batch-size 0", 2, ("UsageError", "found 0")),
    Row("predict without batch", "predict run/model.onnx one.npy --batch-size 0", 2, ("UsageError", "found 0")),
    Row("predict without threads", "predict run/model.onnx one.npy --threads 0", 2, ("UsageError", "found 0")),
    Row("no white", "predict run/model.onnx one.npy --white 0", 2, ("UsageError", "white", "found 0")),
    Row("port out of range", "serve run/model.onnx --port 70000", 2, ("UsageError", "port", "70000")),
    Row("no body", "serve run/model.onnx --port 0 --max-body-mb 0", 2, ("UsageError", "max_body_bytes")),
    # Configurations
    Row("unknown key", "train unknown.toml", 2, ("UsageError", "'epoch'", "Did you mean 'epochs'?")),
    Row("type in a configuration", "train type.toml", 2, ("UsageError", "epochs", "an integer", "'three'")),
    Row("not TOML", "train broken.toml", 1, ("DataError", "broken.toml", "TOML")),
    Row("missing configuration", "train none.toml", 1, ("DataError", "none.toml")),
    # Data
    Row("missing npz", "train mlp --data none.npz", 1, ("DataError", "none.npz")),
    Row("damaged npz", "train mlp --data broken.npz", 1, ("DataError", "broken.npz")),
    Row("label beyond the classes", "train mlp --data labels.npz", 1, ("DataError", "found 12", "sample 3")),
    Row("label that is negative", "train mlp --data negative.npz", 1, ("DataError", "found -1", "sample 5")),
    Row("data that cannot be divided", "train mlp --data one.npz", 1, ("DataError", "2 samples or more")),
    Row("data that is not finite", "train mlp --data nan.npz", 1, ("DataError", "finite", "nan")),
    Row("model that does not fit", "evaluate run/model.onnx --data wide.npz", 1, ("DataError", "(1, 8, 8)", "(5,)")),
    Row("training a model that does not fit", "train run/model.onnx --data wide.npz", 1, ("DataError", "(5,)")),
    Row("zoo model that does not fit", "train lenet --data wide.npz", 1, ("Error",)),
    Row("missing data folder", "train lenet --data mnist --data-dir nothing", 1, ("DataError", "nothing")),
    # Graphs
    Row("no gradient", "train integers.onnx --data wide.npz", 1, ("GradientError", "QLinearMatMul", "integers")),
    # Quantization
    Row("quantizing nothing", "quantize none.onnx --data digits", 1, ("ModelFileError", "none.onnx")),
    Row("quantizing text", "quantize text.onnx --data digits", 1, ("ModelFileError", "text.onnx")),
    Row("quantizing for other data", "quantize run/model.onnx --data wide.npz", 1, ("DataError", "(5,)")),
    Row("negative drop", "quantize run/model.onnx --data digits --max-drop -1", 2, ("UsageError", "max_drop")),
    Row("quantizing onto itself", "quantize run/model.onnx --data digits -o run/model.onnx", 2, ("UsageError", "run")),
    # Runs
    Row("resume nothing", "train --resume nothing", 1, ("CheckpointError", "nothing", "config.toml")),
    Row("resume what is not there", "train --resume none", 1, ("CheckpointError", "none")),
    Row("resume what Python began", "train --resume python", 1, ("CheckpointError", "mx.resume('python', data")),
    Row("resume with a model", "train lenet --resume run", 2, ("UsageError", "--resume")),
    Row("resume with an option", "train --resume run --lr 9", 2, ("UsageError", "lr", "step.onnx", "time_budget_s")),
    Row("resume with a setting", "train --resume run -s optimizer.lr=9", 2, ("UsageError", "optimizer.lr")),
    Row("resume with no setting", "train --resume run -s epoch=9", 2, ("UsageError", "'epoch'", "'epochs'")),
    Row("resume for more epochs", "train --resume run --epochs 9", 1, ("learning rate or average ends", "last.onnx")),
    Row("resume for no time", "train --resume run --time-budget 0", 2, ("UsageError", "time_budget_s", "found 0")),
    Row("altered checkpoint", "train --resume altered", 1, ("CheckpointError", "step-", "digest")),
    Row("cut checkpoint", "train --resume cut", 1, ("CheckpointError", "step-", "cut short")),
    Row("altered step", "train --resume restepped", 1, ("CheckpointError", "step.onnx", "digest")),
    Row("a run is there", "train lenet --data digits -o run", 1, ("holds a run", "--resume run", "--overwrite")),
    Row("resume and overwrite", "train --resume run --overwrite", 2, ("UsageError", "--resume")),
    # What to predict
    Row("missing input", "predict run/model.onnx none.png", 1, ("DataError", "none.png", "found nothing")),
    Row("folder as input", "predict run/model.onnx folder.npy", 1, ("DataError", "folder.npy", "a folder")),
    Row("unknown ending", "predict run/model.onnx broken.toml", 1, ("DataError", "'.toml'", ".csv")),
    Row("broken png", "predict run/model.onnx broken.png", 1, ("DataError", "broken.png", "image")),
    Row("cut png", "predict run/model.onnx cut.png", 1, ("DataError", "cut.png", "image")),
    Row("broken npy", "predict run/model.onnx broken.npy", 1, ("DataError", "broken.npy", "numpy.save")),
    Row("objects in npy", "predict run/model.onnx objects.npy", 1, ("DataError", "objects.npy")),
    Row("texts in npy", "predict run/model.onnx texts.npy", 1, ("DataError", "texts.npy", "numbers")),
    Row("shape of npy", "predict run/model.onnx shape.npy", 1, ("DataError", "(1, 8, 8)", "found (3, 7)")),
    Row("word in csv", "predict run/model.onnx word.csv", 1, ("DataError", "word.csv:2", "column 3", "'abc'")),
    Row("short row in csv", "predict run/model.onnx short.csv", 1, ("DataError", "short.csv:1", "64 numbers", "(3,)")),
    Row("nan in csv", "predict run/model.onnx nan.csv", 1, ("DataError", "nan.csv:1", "finite")),
    Row("empty csv", "predict run/model.onnx empty.csv", 1, ("DataError", "empty.csv", "found none")),
    Row("bytes in csv", "predict run/model.onnx bytes.csv", 1, ("DataError", "bytes.csv")),
    Row("stdin and a file", "predict run/model.onnx - one.npy", 2, ("UsageError", "- expected to be the only input")),
    Row("image for a table model", "predict integers.onnx broken.png", 1, ("DataError", "channels", "(5,)")),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, trained: Trained, sample: tuple[Path, str]) -> Path:
    """All that the rows speak of."""
    root = tmp_path_factory.mktemp("bad")
    _models(root, trained)
    _datasets(root)
    _runs(root, trained)
    _samples(root, sample[0])
    (root / "unknown.toml").write_text('model = "lenet"\ndata = "digits"\nepoch = 3\n')
    (root / "type.toml").write_text('model = "lenet"\ndata = "digits"\nepochs = "three"\n')
    (root / "broken.toml").write_text("model = \n")
    (root / "nothing").mkdir()
    return root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input(row: Row, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(folder)
    done = here(capsys, *row.words.split())
    check(row, done)
    assert done.out == ""
    if "--format" not in row.words:
        again = here(capsys, *row.words.split(), "--format", "json")
        found = json.loads(again.out)["error"]
        assert again.code == row.code
        assert f"{found['type']}: {found['message']}" in done.err
        assert found["mend"] is None or found["mend"] in done.err
    assert digests(folder) == before  # nothing lost, nothing left behind


def check(row: Row, done: Outcome) -> None:
    assert done.code == row.code, done.err
    for text in row.says:
        assert text in done.err
    assert "Traceback" not in done.err
    assert "bug in onnxmx" not in done.err


@pytest.mark.parametrize("name", ["dataset typo", "altered checkpoint"])  # one of each exit code
def test_bad_input_as_a_process(name: str, folder: Path) -> None:
    row = next(row for row in ROWS if row.name == name)
    before = digests(folder / "run")
    check(row, process(*row.words.split(), cwd=folder))
    assert digests(folder / "run") == before


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: expected one JSON value"),
        ('"seven"', "line 2: 'image': expected numbers"),
        ("[1, 2]", "line 2: 'image': expected a sample of shape (1, 8, 8) or 64 numbers; found (2,)"),
        ("[[1, 2], [3]]", "lists of different lengths"),
        ("[NaN]", "expected a sample"),
        (json.dumps([float("nan")] * 64), "expected finite numbers; found nan"),
        (json.dumps([None] * 64), "expected numbers"),
        (json.dumps({"imag": [0] * 64}), "Did you mean 'image'?"),
        (json.dumps([10**400] * 64), "expected numbers"),
        ("[" * 100_000, "line 2: expected one JSON value"),
    ],
)
def test_a_bad_line_on_stdin_is_answered_by_its_error_among_the_good_ones(
    line: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps([0] * 64)
    stdin = io.BytesIO(f"{good}\n{line}\n{good}\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    done = here(capsys, "predict", "run/model.onnx", "-", "--format", "json")
    first, error, last = map(json.loads, done.out.splitlines())
    assert [answer["input"] for answer in (first, error, last)] == ["line 1", "line 2", "line 3"]
    assert error["error"]["type"] == "DataError"
    assert {**last, "input": "line 1"} == first
    assert says in done.err
    assert done.code == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [
        ("onnxruntime", "train lenet --data digits -o fresh", "cpu"),
        ("onnxruntime", "predict run/model.onnx one.npy", "cpu"),
        ("PIL", "predict run/model.onnx good.png", "data"),
        ("uvicorn", "serve run/model.onnx", "serve"),
    ],
)
def test_a_missing_extra_names_the_command_that_installs_it(
    package: str, words: str, extra: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module', name={package!r})")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = process(*words.split(), cwd=folder, env={"PYTHONPATH": path})
    assert done.code == 1
    assert done.err.splitlines()[-2].startswith("MissingExtraError: ")
    assert f"pip install 'onnxmx[{extra}]'" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("limit", [200, 60_000, 1_000_000])
def test_a_full_disk_leaves_the_good_files_good(
    limit: int, folder: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new run fails; going on with one fails too, and then goes well once there is space."""
    done = process("train", "lenet", "--data", "digits", "-o", "new", cwd=tmp_path, file_limit=limit)
    check(Row("", "", 1, ("Error: ",)), done)
    assert not list(tmp_path.rglob("*.tmp"))

    going = tmp_path / "going"
    shutil.copytree(trained.folder, going)
    for late in (going / "checkpoints").iterdir():
        late.unlink()  # from the start again: every file is to be written
    done = process("train", "--resume", "going", cwd=tmp_path, file_limit=limit)
    check(Row("", "", 1, ("Error: ",)), done)
    # What there is may be of an earlier epoch now, but it is whole.
    assert {p.name for p in going.iterdir()} >= {p.name for p in trained.folder.iterdir()}
    for name in ("model.onnx", "last.onnx"):
        load(going / name)
    assert not list(going.rglob("*.tmp"))
    done = here(capsys, "train", "--resume", going)
    assert done.code == 0, done.err
    assert (going / "last.onnx").read_bytes() == (trained.folder / "last.onnx").read_bytes()


def test_a_batch_larger_than_the_data_is_one_batch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, "train", "mlp", "--data", "wide.npz", "--batch-size", "4096", "--epochs", "1", "-o", "large")
    assert done.code == 0, done.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_stdout_that_cannot_be_written(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "onnxmx.cli", "datasets"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("OSError: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def _models(root: Path, trained: Trained) -> None:
    (root / "text.onnx").write_text("this is not a model")
    (root / "empty.onnx").write_bytes(b"")
    whole = trained.model.read_bytes()
    (root / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (root / "folder.onnx").mkdir()
    (root / "folder.npy").mkdir()
    (root / "nets.py").write_text("def small(input, classes): ...\n")
    (root / "broken.py").write_text("1 / 0\n")
    w = helper.make_tensor("w", TensorProto.FLOAT, [5, 2], np.zeros(10, np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "v", "s", "z", "s", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]
    s, z, v = (
        helper.make_tensor(name, kind, dims, np.ones(dims))
        for name, kind, dims in (("s", 1, []), ("z", TensorProto.INT8, []), ("v", TensorProto.INT8, [2, 2]))
    )
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", d]) for n, d in (("x", 5), ("y", 2)))
    graph = helper.make_graph(nodes, "sums", [x], [y], [w, s, z, v])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), root / "integers.onnx"
    )


def _datasets(root: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((20, 5), np.float32), np.arange(20) % 2
    test = {"x_test": x, "y_test": y}
    np.savez(root / "wide.npz", x=x, y=y, classes=["a", "b"], **test)
    np.savez(root / "one.npz", x=x[:1], y=y[:1])
    np.savez(root / "labels.npz", x=x, y=np.where(np.arange(20) == 3, 12, y), classes=["a", "b"], **test)
    np.savez(root / "negative.npz", x=x, y=np.where(np.arange(20) == 5, -1, y), classes=["a", "b"], **test)
    np.savez(root / "nan.npz", x=np.where(x == x[7, 2], np.nan, x), y=y, **test)
    (root / "broken.npz").write_bytes((root / "wide.npz").read_bytes()[:300])


def _runs(root: Path, trained: Trained) -> None:
    shutil.copytree(trained.folder, root / "run")
    for name in ("altered", "cut", "restepped"):
        shutil.copytree(trained.folder, root / name)
    for checkpoint in (root / "altered" / "checkpoints").iterdir():
        data = bytearray(checkpoint.read_bytes())
        data[-5] ^= 1
        checkpoint.write_bytes(data)
    for checkpoint in (root / "cut" / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    shutil.copytree(trained.folder, root / "python", ignore=shutil.ignore_patterns("config.toml"))
    step = root / "restepped" / "step.onnx"
    step.write_bytes(step.read_bytes() + b"\x00")


def _samples(root: Path, image: Path) -> None:
    shutil.copy(image, root / "good.png")
    np.save(root / "one.npy", np.zeros((1, 8, 8), np.uint8))
    np.save(root / "shape.npy", np.zeros((3, 7)))
    np.save(root / "objects.npy", np.array([{}, None], object), allow_pickle=True)
    np.save(root / "texts.npy", np.array(["a"] * 64))
    (root / "broken.npy").write_bytes(b"hello")
    (root / "broken.png").write_bytes(bytes(1000))
    (root / "cut.png").write_bytes(image.read_bytes()[:60])
    row = ",".join("0" * 64)
    (root / "word.csv").write_text(f"{row}\n0,0,abc{',0' * 61}\n")
    (root / "short.csv").write_text("1,2,3\n")
    (root / "nan.csv").write_text(",".join(["nan"] * 64))
    (root / "empty.csv").write_text("")
    (root / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81" * 10)
