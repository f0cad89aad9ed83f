"""What README says, done."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.cli import COMMANDS, cli

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(*words: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fifteen_lines_reach_their_figure_and_their_step_runs_alone(tmp_path: Path) -> None:
    lines = BLOCKS[0] + "\nprint(run.history[-1]['validation_accuracy'])\n"
    (tmp_path / "lines.py").write_text(lines)
    assert float(run("lines.py", folder=tmp_path)) >= 0.97
    assert (tmp_path / "digits.onnx").is_file()
    losses = re.findall(r"loss ([\d.]+)", run(str(ROOT / "examples/drive_step.py"), "runs/digits", folder=tmp_path))
    assert float(losses[-1]) < float(losses[0]) / 2
    drives_the_step_as_its_page_says(tmp_path)


def drives_the_step_as_its_page_says(folder: Path) -> None:
    page = (ROOT / "docs/step.md").read_text()
    (folder / "drive.py").write_text("".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    before = (folder / "digits.onnx").read_bytes()
    assert run("drive.py", folder=folder).endswith("after 20 steps\n")
    assert (folder / "digits.onnx").read_bytes() != before
    try:
        subprocess.run(["node", "-e", "require('onnxruntime-node')"], cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return  # Python alone
    (folder / "drive.js").write_text(re.findall(r"```js\n(.*?)```", page, re.DOTALL)[0])
    done = subprocess.run(["node", "drive.js"], cwd=folder, capture_output=True, text=True, check=False)
    losses = re.findall(r"loss ([\d.]+)", done.stdout)
    assert float(losses[-1]) < float(losses[0]), done.stderr


def test_the_data_of_its_page_is_trained_on(tmp_path: Path) -> None:
    page = (ROOT / "docs/data.md").read_text()
    (tmp_path / "write.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    run("write.py", folder=tmp_path)
    command = re.findall(r"^    onnxmx (.*)$", page, re.MULTILINE)[0]
    run("-m", "onnxmx.cli", *command.split(), "--epochs", "1", folder=tmp_path)
    assert (tmp_path / "runs/bright/model.onnx").is_file()


def test_the_gradients_of_their_page_are_taken(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/gradients.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    lines = "".join(blocks).replace("twice(x=", "hessian = twice(x=") + "\nprint(hessian)\n"
    (tmp_path / "lines.py").write_text(lines)
    assert run("lines.py", folder=tmp_path).split() == ["[6.", "0.", "0.", "0.]"]
    assert (tmp_path / "slopes.onnx").is_file()


def test_layers_of_ones_own_are_trained_as_their_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs/own-layers.md").read_text()
    (tmp_path / "lines.py").write_text("".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    assert re.search(r"^gated .*\(batch, 8, 4, 4\)", run("lines.py", folder=tmp_path), re.MULTILINE)
    assert (tmp_path / "runs/gated/model.onnx").is_file()


def test_what_is_to_be_written_for_what_one_knows_builds() -> None:
    page = (ROOT / "docs/own-layers.md").read_text()
    here = [row.split(" | ")[-1] for row in page.splitlines() if row.startswith("| `")]
    lines = [code for cell in here for code in re.findall(r"`((?:L|g|x\.builder)\.[^`]*\))`", cell)]
    assert len(lines) >= 10

    def net(x: L.Value) -> L.Value:
        g = x.builder
        for line in lines:
            # pairs of one shape, a condition and a size, as the table calls them
            eval(line, {"L": L, "g": g, "mx": mx, "x": x, "a": x, "b": x, "c": x > 0, "n": 3})
        return x

    mx.build(net, x=("batch", 4, 2))


def test_a_model_of_ones_own_is_a_layer_in_a_file(tmp_path: Path) -> None:
    """And reaches the figure that is told of it."""
    (tmp_path / "my_model.py").write_text(BLOCKS[1])
    command, told = re.findall(r"`onnxmx (train my_model.py:net[^`]*)`, (0\.\d+)", (ROOT / "README.md").read_text())[0]
    said = run("-m", "onnxmx.cli", *command.split(), "-o", "r", folder=tmp_path)
    assert float(re.findall(r"validation_accuracy ([\d.]+)", said)[0]) >= float(told) - 0.005
    assert (tmp_path / "r/model.onnx").is_file()


IMAGES = """
net = L.Sequential(L.Flatten(), L.Dense(16, activation="relu"), L.Dense(10))
model = net.build(image=("batch", 1, 8, 8))
data, test = mx.data.digits("train").take(256), mx.data.digits("test").take(128)
"""
NUMBERS = """
x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
y = x[:, :1]
model, data = L.Dense(1).build(x=("batch", 4)), mx.data.Dataset.from_arrays(x, y)
test = data
"""
TWO_OUTPUTS = """
model = mx.build(lambda x: {"digit": L.Dense(10)(x), "odd": L.Dense(1)(x)}, x=("batch", 4))
classes = np.arange(64)
data = mx.data.Dataset.from_arrays(np.ones((64, 4)), {"digit": classes % 10, "odd": classes % 2})
"""
SMALL = 'model.save("lenet.onnx"); small = model'
PARTS: list[tuple[str, int, str, dict[str, str]]] = [
    # page, block, what it finds, and what is made quicker or needs no network
    ("training", 0, IMAGES, {}),
    ("training", 1, IMAGES, {}),
    ("training", 2, IMAGES, {}),
    ("training", 3, IMAGES, {"epochs=100": "epochs=1"}),
    ("training", 5, IMAGES, {}),  # the fourth is that of test_finders.py
    ("training", 6, NUMBERS, {}),
    ("losses", 1, NUMBERS, {}),
    ("quantization", 0, IMAGES, {"mnist": "digits"}),
    ("models", 0, "", {}),
    ("layers", 0, "", {}),
    ("several-models", 1, IMAGES + SMALL, {"mnist": "digits", "28, 28": "8, 8", "epochs=6": "epochs=1"}),
    ("several-models", 2, IMAGES + SMALL, {"mnist": "digits"}),
]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)


def do(found: str, lines: str) -> None:
    names = {"mx": mx, "L": L, "np": np}
    exec(found, names)
    exec(lines, names)


@pytest.mark.parametrize(
    ("page", "block", "found", "quicker"), PARTS, ids=[f"{page} {block}" for page, block, *_ in PARTS]
)
def test_a_part_of_a_page_runs(
    page: str, block: int, found: str, quicker: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = blocks(page)[block]
    for told, done in quicker.items():
        assert told in lines
        lines = lines.replace(told, done)
    if "tensorboard" in lines:
        pytest.importorskip("tensorboardX")
    do(found, lines)


@pytest.mark.parametrize(("line", "found"), [*enumerate((NUMBERS, IMAGES, TWO_OUTPUTS, NUMBERS))])
def test_each_loss_of_its_page_is_taken(line: int, found: str) -> None:
    do(found, ast.unparse(ast.parse(blocks("losses")[0]).body[line]))


def test_every_command_of_a_page_takes_its_options() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "Makefile"]
    lines = {
        line.split("#")[0].replace("\\\n", " ")
        for page in pages
        for line in re.findall(r"(?:^(?:    )?|/)onnxmx ((?:\\\n|[^`\n|])+)", page.read_text(), re.MULTILINE)
    }
    run = [words for words in map(shlex.split, lines) if words[0] in COMMANDS]
    assert len(run) > 40
    for name, *words in run:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        with command.make_context(name, words):  # raises where an option is not one
            pass


def test_every_page_can_be_reached_from_the_readme() -> None:
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        found.add(page)
        for link in re.findall(r"\]\(([\w./-]+\.md)", page.read_text()):
            target = (page.parent / link).resolve()
            assert target.is_file(), f"{page.name} links {link}"
            waiting += [target] if target not in found else []
    assert not set((ROOT / "docs").glob("*.md")) - found
