"""Formulations of one gradient agree, and the tuner picks among them by measuring."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.errors import UsageError
from onnxmx.trainer.autodiff.choice import CHOICES, Choice, Uncovered, picking
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.tune import Tuner
from tests.trainer.oracle import finite_difference_error
from tests.trainer.test_rules import CASES

FORMS = [(choice, name) for choice in CHOICES for name in choice.forms]


class Prefer:
    """Picks one formulation of one choice wherever it covers what it is asked about, and counts."""

    def __init__(self, choice: Choice, name: str) -> None:
        self.choice, self.name, self.times = choice, name, 0

    def __call__(self, choice: Choice, inputs: Any, options: dict[str, Any], default: str) -> str:
        if choice is not self.choice:
            return default
        scratch = GraphBuilder("scratch")
        ports = [scratch.input(f"x{k}", tuple(v.shape), v.dtype) for k, v in enumerate(inputs)]
        try:
            choice.forms[self.name](scratch, *ports, **options)
        except Uncovered:
            return default
        self.times += 1
        return self.name


@pytest.mark.parametrize(("choice", "name"), FORMS, ids=lambda v: v if isinstance(v, str) else f"{v.operator}-{v.of}")
def test_every_formulation_is_the_gradient(choice: Choice, name: str) -> None:
    prefer = Prefer(choice, name)
    for case in CASES:
        if case.operator == choice.operator and case.step is None:
            with picking(prefer):
                assert finite_difference_error(case.build, case.arrays()) < 1e-6, case
    assert prefer.times >= 3


def net() -> mx.Model:
    layers = [L.Conv2D(4, 3, activation="tanh"), L.Conv2D(8, 3, activation="tanh"), L.GlobalAvgPool2D(), L.Dense(3)]
    return L.Sequential(*layers).build(image=("batch", 1, 12, 12))


def compiled(tune: Tuner | None) -> bytes:
    return mx.compile_step(net(), loss="softmax_cross_entropy", optimizer=mx.SGD(), tune=tune).data


def test_full_measures_once_and_cached_takes_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "tune.json"
    said: list[str] = []
    first = Tuner("full", batch=4, path=path, report=said.append)
    data = compiled(first)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    found = json.loads(path.read_text())
    assert len(found) == len(said) == len(first.picked) == 4  # dx and dW of both convolutions
    assert all(set(entry["ms"]) >= {entry["best"]} for entry in found.values())

    for mode in ("cached", "full"):
        again = Tuner(mode, batch=4, path=path, report=said.append)
        assert compiled(again) == data
        assert again.picked == first.picked
    assert len(said) == 4


def test_cached_obeys_the_cache_alone(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    default = compiled(None)
    nothing = Tuner("cached", batch=4, path=path)
    assert compiled(nothing) == default
    assert not path.exists()

    other = {"dilated": "one_hot", "one_hot": "dilated", "transposed": "flipped", "flipped": "transposed"}
    path.write_text(json.dumps({key: {"best": other[name]} for key, name in nothing.picked.items()}))
    assert compiled(Tuner("cached", batch=4, path=path)) != default
    # Another batch, another number of threads: not what was measured.
    assert compiled(Tuner("cached", batch=5, path=path)) == default
    assert compiled(Tuner("cached", batch=4, threads=2, path=path)) == default
    assert compiled(Tuner("off", batch=4, path=path)) == default


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff", b'{"a": {"best": "gone"}}'])
def test_a_cache_that_says_nothing_sensible_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tune.json").write_bytes(content)
    assert compiled(Tuner("cached", batch=4, path=tmp_path / "tune.json")) == compiled(None)


def test_a_cache_that_cannot_be_written_costs_only_the_findings(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    said: list[str] = []
    compiled(Tuner("full", batch=4, path=tmp_path / "file" / "tune.json", report=said.append))
    assert "could not write" in said[-1]


def test_a_tuned_run_trains_and_the_mode_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = mx.data.get_dataset("digits", "train")
    layers = [L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(10)]
    model = L.Sequential(*layers).build(image=("batch", 1, 8, 8))
    mx.fit(model, data, tune="full", progress=False)
    assert (tmp_path / "cache" / "onnxmx" / "tune.json").is_file()
    with pytest.raises(UsageError, match="no tune named 'fast'"):
        Plan(tune="fast")
