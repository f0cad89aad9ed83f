"""The commands on the real thing: train, evaluate, predict, quantize, serve; stop and go on."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import digests, here, process
from conftest import Trained
from onnx import TensorProto, helper


def test_training_answers_what_there_is(trained: Trained) -> None:
    answer = trained.answer
    assert answer["run"] == "run"
    assert answer["model"] == "run/model.onnx"
    assert answer["last"] == "run/last.onnx"
    assert answer["epochs"] == 3
    history = answer["history"]
    assert isinstance(history, list)
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert answer["best"] == max(history, key=lambda epoch: epoch["validation_accuracy"])
    assert 0 < float(str(answer["seconds"])) < 60
    assert (trained.folder / "config.toml").is_file()


def test_evaluating_gives_the_figures_of_training(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("evaluate", trained.model, "--data", "digits")
    found = json.loads(here(capsys, *words, "--format", "json").out)
    best = trained.answer["best"]
    assert isinstance(best, dict)
    assert found["accuracy"] == pytest.approx(best["validation_accuracy"], abs=1e-9)
    assert found["loss"] == pytest.approx(best["validation_loss"], rel=1e-5)
    assert (found["samples"], found["data"], found["split"]) == (359, "digits", "test")
    assert f"accuracy {found['accuracy']:.4f}" in here(capsys, *words).out
    others = ("--measure", "mcc", "--measure", "top_k:k=3", "--measure", "confusion_matrix", "--format", "json")
    more = json.loads(here(capsys, *words, *others).out)
    assert 0.8 < more["mcc"] < more["top_3"] <= 1
    assert sum(map(sum, more["confusion_matrix"])) == 359
    assert json.loads(here(capsys, *words, "--split", "train", "--format", "json").out)["samples"] == 1438


def test_a_file_from_elsewhere_is_measured_by_what_its_labels_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without metadata; with it, the loss is the one that it names."""
    monkeypatch.chdir(tmp_path)
    x = np.float32([[3, 1], [0, 2], [5, 4], [1, 2]])
    np.savez("classes.npz", x=x, y=[0, 1, 1, 1], x_test=x, y_test=[0, 1, 1, 1])
    np.savez("numbers.npz", x=x, y=x + 1, x_test=x, y_test=x + 1)
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", ports[:1], ports[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, "same.onnx")
    helper.set_model_props(proto, {"onnxmx.loss": "mean_squared_error"})
    onnx.save(proto, "told.onnx")

    def evaluate(model: str, data: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(here(capsys, "evaluate", model, "--data", data, "--format", "json").out)
        return found

    assert evaluate("same.onnx", "classes.npz")["accuracy"] == 0.75
    assert evaluate("same.onnx", "numbers.npz")["mean_absolute_error"] == 1.0
    assert "mean_squared_error expected labels of float32" in str(evaluate("told.onnx", "classes.npz")["error"])


def test_predicting_a_png(trained: Trained, sample: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, digit = sample
    (found,) = json.loads(here(capsys, "predict", trained.model, path, "--format", "json").out)["predictions"]
    assert found["input"] == str(path)
    assert found["class"] == digit
    assert found["top"][0] == [digit, found["probability"]]
    assert found["probability"] > 0.5
    line = here(capsys, "predict", trained.model, path).out
    assert line.startswith(f"{path}  {digit}  {found['probability']:.4f}  (")
    # White is 16 to this model: as 255 every stroke would be a glare.
    bright = json.loads(here(capsys, "predict", trained.model, path, "--white", 255, "--format", "json").out)
    assert bright["predictions"][0]["probability"] != found["probability"]


def test_predicting_stdin(trained: Trained, tmp_path: Path) -> None:
    sample = np.zeros((1, 8, 8), int).tolist()
    lines = "\n".join([json.dumps(sample), "", json.dumps({"image": sample})])
    done = process("predict", trained.model, "-", "--format", "json", cwd=tmp_path, stdin=lines)
    first, second = map(json.loads, done.out.splitlines())
    assert (first.pop("input"), second.pop("input")) == ("line 1", "line 3")
    assert first == second


def test_a_run_without_a_name_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("train", "mlp", "--data", "digits", "--epochs", "1", "--format", "json")
    runs = [json.loads(here(capsys, *words).out)["run"] for _ in range(3)]
    assert runs == ["runs/mlp-digits", "runs/mlp-digits-2", "runs/mlp-digits-3"]
    files = [(Path(run) / "last.onnx").read_bytes() for run in runs]
    assert files[0] == files[1] == files[2]


def test_a_configuration_repeats_a_run_and_options_override_it(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = trained.folder / "config.toml"
    assert here(capsys, "train", config, "-o", "same").code == 0
    assert Path("same/last.onnx").read_bytes() == (trained.folder / "last.onnx").read_bytes()
    done = here(capsys, "train", config, "-o", "other", "--epochs", "1", "--seed", "2", "--format", "json")
    assert json.loads(done.out)["epochs"] == 1
    saved = Path("other/config.toml").read_text()
    assert "epochs = 1" in saved
    assert "seed = 2" in saved
    assert 'model = "lenet"' in saved


def test_a_model_of_ones_own_is_trained_on_ones_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A regression, from a file with a function; what is predicted is plain numbers, told by evaluate's own figures."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.random((200, 3), np.float32)
    y = (x @ np.array([[1.0], [2.0], [-1.0]], np.float32)).astype(np.float32)
    np.savez("line.npz", x=x, y=y, x_test=x[:50], y_test=y[:50])
    Path("nets.py").write_text(
        "from onnxmx import layers as L\ndef line(input):\n    return L.Sequential(L.Dense(1, name='line'))\n"
    )
    words = "train nets.py:line --data line.npz --loss mean_squared_error --optimizer sgd --lr 0.1 --epochs 40"
    done = here(capsys, *words.split(), "--batch-size", "20")
    assert done.code == 0, done.err
    assert "best model runs/line-line/model.onnx" in done.out
    assert "onnxmx evaluate runs/line-line/model.onnx --data line.npz" in done.out
    words = "evaluate runs/line-line/model.onnx --data line.npz --format json"
    found = json.loads(here(capsys, *words.split()).out)
    assert found["mean_absolute_error"] < 0.05
    Path("two.csv").write_text("a,b,c\n1,0,0\n0,1,0\n")
    words = "predict runs/line-line/model.onnx two.csv --format json"
    first, second = json.loads(here(capsys, *words.split()).out)["predictions"]
    assert first["input"] == "two.csv:2"
    assert first["output"] == pytest.approx([1.0], abs=0.1)
    assert second["output"] == pytest.approx([2.0], abs=0.1)


def test_what_comes_next_gives_a_loss_of_ones_own_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((80, 3), np.float32)
    np.savez("line.npz", x=x, y=x[:, :1], x_test=x, y_test=x[:, :1])
    Path("nets.py").write_text(
        "from onnxmx import layers as L\n\n\ndef line(input):\n    return L.Sequential(L.Dense(1))\n\n\n"
        "def pinball(output, label):\n    e = label - output\n    return e.builder.max(0.9 * e, -0.1 * e)\n"
    )
    line = "train nets.py:line --data line.npz --loss nets.py:pinball --epochs 1"
    done = here(capsys, *line.split())
    words = [line.split()[1:] for line in done.out.splitlines() if "--data line.npz" in line]
    assert [w[0] for w in words] == ["evaluate", "quantize"]
    for command in words:
        said = here(capsys, *command, *(["--max-drop", "9"] if command[0] == "quantize" else []))
        assert said.code == 0, said.err


def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 at a random moment, twice, then --resume."""
    line = "train mlp --data digits --epochs 12 --seed 3 --batch-size 16 --checkpoint-every 0.05"
    words = line.split()
    monkeypatch.chdir(tmp_path)
    assert here(capsys, *words, "-o", "whole").code == 0
    moment = random.Random()
    kills = 0
    command = [*words, "-o", "killed"]
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-m", "onnxmx.cli", *command],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while child.poll() is None and not (tmp_path / "killed" / "step.json").is_file():
            time.sleep(0.01)
        time.sleep(moment.uniform(0.1, 0.8))
        child.kill()
        kills += child.wait() == -signal.SIGKILL
        command = ["train", "--resume", "killed"]
    done = process(*command, "--format", "json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert kills > 0
    answer = json.loads(done.out)
    assert [epoch["epoch"] for epoch in answer["history"]] == list(range(1, 13))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for file in ("last.onnx", "model.onnx", "metrics.jsonl"):
        assert (whole / file).read_bytes() == (killed / file).read_bytes(), file


def test_resuming_a_finished_run_changes_nothing(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    before = digests(trained.folder)
    done = here(capsys, "train", "--resume", trained.folder, "--format", "json")
    assert json.loads(done.out)["history"] == trained.answer["history"]
    assert digests(trained.folder) == before


def test_quantizing(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.onnx"
    words = ("quantize", trained.model, "--data", "digits", "-o", small)
    answer = json.loads(here(capsys, *words, "--format", "json").out)
    assert answer["quantized"] == str(small)
    assert small.stat().st_size <= 0.35 * trained.model.stat().st_size
    assert (answer["calibration"]["split"], answer["evaluation"]["split"]) == ("train", "test")
    report = json.loads(Path(answer["report"]).read_text())
    assert report == {key: answer[key] for key in report}
    before = json.loads(here(capsys, "evaluate", trained.model, "--data", "digits", "--format", "json").out)
    after = json.loads(here(capsys, "evaluate", small, "--data", "digits", "--format", "json").out)
    assert after["accuracy"] >= before["accuracy"] - 0.01
    assert after["accuracy"] == pytest.approx(answer["after"]["quality"]["accuracy"])
    again = here(capsys, *words, "--calibration-samples", 64)
    assert f"quantized model {small}" in again.out
    assert "calibrating on 64 samples" in again.err


def test_a_quantized_file_lies_beside_its_model(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "net.onnx"
    shutil.copy(trained.model, model)
    assert here(capsys, "quantize", model, "--data", "digits", "--calibration-samples", 64).code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"net.onnx", "net.int8.onnx", "report.json"}


def test_serving(trained: Trained, tmp_path: Path) -> None:
    words = ["serve", str(trained.model), "--port", "0", "--format", "json", "--max-body-mb", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxmx.cli", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stderr is not None
        ready = child.stderr.readline()
        url = re.search(r"http://\S+", ready)
        assert url, ready
        data = {"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.0] * 64}
        request = urllib.request.Request(
            f"{url[0]}/models/model/infer",
            json.dumps({"inputs": [data]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.load(response)["outputs"][0]["shape"] == [1, 10]
        request.data = bytes(2 << 20)
        with pytest.raises(urllib.error.HTTPError, match="413") as refused:
            urllib.request.urlopen(request, timeout=10)
        refused.value.close()
        child.terminate()
        out, err = child.communicate(timeout=20)
    finally:
        child.kill()
        child.wait()
    assert (child.returncode, json.loads(out), err) == (0, {"served": str(trained.model)}, "")
