"""What every command has in common: help, an example, two formats, quick starts, quiet ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from cli_helpers import here, process

import onnxmx
from onnxmx.cli import COMMANDS, cli, main, reference
from onnxmx.cli.command import LibraryOption
from onnxmx.cli.output import Table, to_json
from onnxmx.errors import ShapeError

PACKAGE = Path(onnxmx.__file__).parent
SHARED = {"habits", "__init__", "__main__", "command", "output", "reference", "report"}


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def test_every_module_of_a_command_is_listed() -> None:
    assert {p.stem for p in (PACKAGE / "cli").glob("*.py")} - SHARED == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_would_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, name, "--help")
    assert done.code == 0
    assert done.err == ""
    assert "--format [text|json]" in done.out
    assert "--debug" in done.out
    _, _, example = (command(name).epilog or "").partition("Example:\n")
    lines = [line.split("|")[-1] for line in example.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["onnxmx", name]
        with command(name).make_context(name, words[2:]):  # raises where an option is not one
            pass


def test_a_warning_is_a_line(tmp_path: Path) -> None:
    x, y = np.zeros((4, 1, 8, 8), np.uint8), np.arange(4)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    done = process("summary", "mlp", "--data", "d.npz", "--format", "json", cwd=tmp_path)
    assert json.loads(done.out)["model"] == "mlp"
    assert re.fullmatch(r"onnxmx: warning: d\.npz: 8-bit images .*\n", done.err)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert parameter.help.endswith("."), parameter.name


@pytest.mark.parametrize("name", COMMANDS)
def test_no_default_of_the_library_is_repeated(name: str) -> None:
    """An option that goes through to the library is left out unless given."""
    for parameter in command(name).params:
        if isinstance(parameter, LibraryOption):
            assert parameter.to_info_dict()["default"] is None


def test_training_has_an_option_for_every_field_of_its_configuration() -> None:
    from dataclasses import fields

    from onnxmx.trainer.config import TrainConfig

    options = {p.name for p in command("train").params}
    assert {f.name for f in fields(TrainConfig)} - {
        "regularize",
        "measure",
        "gan",
        "teacher",
    } <= options  # tables and lists have -s alone


def test_help_shows_the_defaults_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    from onnxmx.trainer.config import TrainConfig

    text = here(capsys, "train", "--help").out
    assert f"[default: {TrainConfig.epochs}]" in text
    assert f"[default: {TrainConfig.optimizer}]" in text
    assert "softmax_cross_entropy, sigmoid_bce, mean_squared_error" in " ".join(text.split())


def test_the_reference_is_not_stale() -> None:
    page = PACKAGE.parent / "docs" / "cli.md"
    assert page.read_text() == reference.render(), "run: python -m onnxmx.cli.reference docs/cli.md"


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from onnxmx.cli import COMMANDS, main; import importlib; main(['--help']); "
        "[importlib.import_module('onnxmx.cli.' + c) for c in COMMANDS]; "
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'rich', 'PIL', 'asyncio'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0
    times = []
    for _ in range(3):  # of the processor: the other tests take their part of the clock's
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process("--help", cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < min(times) < 0.3


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys)
    assert done.code == 0
    assert all(f"\n  {name} " in done.out for name in COMMANDS)
    assert here(capsys, "--version").out == f"onnxmx {onnxmx.__version__}\n"


@pytest.mark.parametrize("words", ["models", "datasets", "summary lenet", "summary mlp --data digits"])
def test_both_formats(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = here(capsys, *words.split())
    assert (text.code, text.err) == (0, "")
    found = json.loads(here(capsys, *words.split(), "--format", "json").out)
    if words == "models":
        assert {m["name"]: m["parameters"] for m in found["models"]}["lenet"] == 431_080
        assert "431,080" in text.out
    elif words == "datasets":
        digits = next(d for d in found["datasets"] if d["name"] == "digits")
        assert (digits["train"], digits["test"], digits["available"]) == (1438, 359, True)
    else:
        assert f"{found['parameters']:,}" in text.out
    if "digits" in words:
        assert found["inputs"] == {"image": "(batch, 1, 8, 8)"}


def test_a_model_that_prints_does_not_disturb_the_answer(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "from onnxmx import layers as L\n"
        "print('importing')\n"
        "def net(classes=3):\n    print('building')\n    return L.Sequential(L.Flatten(), L.Dense(classes))\n"
    )
    done = process("summary", "loud.py:net", "--data", "digits", "--format", "json", cwd=tmp_path)
    assert json.loads(done.out)["parameters"] == 650
    assert done.err == "importing\nbuilding\n"


@pytest.mark.parametrize("words", [["--debug", "summary", "nothing"], ["summary", "nothing", "--debug"]])
def test_debug_shows_the_traceback(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = here(capsys, *words)
    assert done.code == 2
    assert "Traceback" in done.err
    assert "unknown_name" in done.err
    assert "Traceback" not in here(capsys, "summary", "nothing").err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ShapeError("expected 3; found 4", at="net.py:7", mend="Flatten."), 1,
         "ShapeError: expected 3; found 4\n  built at net.py:7\n  Flatten.\n"),
        (KeyError("lost"), 1, "KeyError: 'lost'; this is a bug in onnxmx; run with --debug and report what it shows\n"),
        (EOFError("early"), 1, "EOFError: early; this is a bug in onnxmx; run with --debug and report what it shows\n"),
        (MemoryError(), 1, "MemoryError: there is not enough memory\n  Give a smaller --batch-size, or less data.\n"),
        (PermissionError(13, "Permission denied", "x.onnx"), 1,
         "PermissionError: Permission denied: x.onnx\n  Check that path, its permissions and its disk.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)  # fmt: skip
def test_errors_as_they_are_shown(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("onnxmx.cli.models.listed", fail)
    done = here(capsys, "models", "--format=json")
    assert done.code == code
    assert done.err.lstrip("\n") == text
    if text:
        shown = json.loads(done.out)["error"]
        assert shown["type"] == type(error).__name__
        assert shown["at"] == getattr(error, "at", None)
    else:
        assert done.out == ""


def test_several_inputs_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnxmx.build(lambda a, b: {"sum": a + b, "less": a - b}, a=("batch", 2), b=("batch", 2))
    model.save(tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)), b=np.full((2, 2), 0.5))
    done = here(capsys, "predict", tmp_path / "net.onnx", tmp_path / "x.npz")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [f"{tmp_path}/x.npz[{k}]  sum [1.5, 1.5]  less [0.5, 0.5]" for k in range(2)]


def test_ctrl_c_is_quiet(trained: object, tmp_path: Path) -> None:
    """In a command that waits for stdin."""
    model = trained.model  # type: ignore[attr-defined]
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxmx.cli", "predict", str(model), "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps([0] * 64) + "\n")
    child.stdin.flush()
    assert child.stdout.readline().startswith("line 1  ")  # answered before the next line is there
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err.strip()) == (130, "", "")


def test_a_second_ctrl_c_is_quiet_too() -> None:
    """While the process ends, and its threads are joined."""
    program = (
        "import os, signal, sys, onnxmx.cli.models\n"
        "def interrupted(): raise KeyboardInterrupt\n"
        "onnxmx.cli.models.listed = interrupted\n"
        "sys.argv = ['onnxmx', 'models']\n"
        "code = onnxmx.cli.main()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxmx.cli", "summary", "resnet8"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(20) == 1


def test_a_terminal_gets_a_table_that_fits(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxmx.cli", "models"], stdout=theirs, stderr=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "60", "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(ours, 1 << 16):  # while it runs: a terminal holds but a few thousand characters
            parts.append(part)
    os.close(ours)
    assert child.wait(20) == 0
    text = b"".join(parts).decode()
    assert "─" in text
    assert "resnet8" in text


def test_models_and_their_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(here(capsys, "summary", "resnet50", "--format", "json").out)["parameters"] == 25_557_032
    rows = {row["name"]: row for row in json.loads(here(capsys, "models", "--format", "json").out)["models"]}
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert rows["ncf"]["inputs"]["item"] == {"shape": ["batch"], "dtype": "int64"}
    lines = here(capsys, "models").out.splitlines()
    assert next(line for line in lines if line.startswith("text_cnn ")).split()[:5] == [
        "text_cnn", "tokens", "int64", "time", "6,360,902",
    ]  # fmt: skip


def test_the_list_of_models_needs_none_of_them() -> None:
    """0.2 s rather than 2.6."""
    code = "import sys; from onnxmx.cli import main; main(['models']); print({m.split('.')[0] for m in sys.modules})"
    *lines, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(lines) > 50
    for heavy in ("numpy", "onnx", "onnx_ir", "onnxruntime"):
        assert f"'{heavy}'" not in loaded


def test_a_table_is_aligned_without_a_terminal() -> None:
    table = Table(("name", "size"), [("a", "1"), ("bcdef", "1,000")], numbers=("size",))
    assert str(table) == "name    size\na          1\nbcdef  1,000"
    assert str(Table(("name",), [])) == "name"


def test_a_number_that_is_not_finite_is_null() -> None:
    assert to_json({"a": [float("nan"), {"b": float("inf")}], "c": 1.5}) == '{"a": [null, {"b": null}], "c": 1.5}'


def test_words_after_two_dashes_are_not_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Traceback" not in here(capsys, "summary", "--", "--debug").err


def test_main_reads_the_words_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["onnxmx", "--version"])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main() == 0
    assert capsys.readouterr().out.startswith("onnxmx ")
