"""Formulations of one gradient agree, and the tuner picks among them by measuring."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.graph import GraphBuilder
from onnxmx.errors import UsageError
from onnxmx.trainer.autodiff.choice import CHOICES, Choice, Uncovered, picking
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.tune import Tuner, _gpu
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


def test_a_picker_is_gone_after_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmx.trainer.autodiff.choice.CHOICES", [])
    choice = Choice("Odd", "dx", same=lambda g, x: x, other=lambda g, x: g.neg(x))
    g = GraphBuilder()
    x = g.input("x", (3,))
    with picking(lambda *_: "other"):
        assert choice(g, x, default="same") is not x
    assert choice(g, x, default="same") is x


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
    assert len(found) == len(said) == len(first.picked) == 3  # dW of both convolutions, and dx of the second
    assert all(set(entry["ms"]) >= {entry["best"]} for entry in found.values())
    assert all(key.startswith(f"onnxruntime {onnxruntime.__version__} ") for key in found)

    for mode in ("cached", "full"):
        again = Tuner(mode, batch=4, path=path, report=said.append)
        assert compiled(again) == data
        assert again.picked == first.picked
    assert len(said) == 3


def test_cached_obeys_the_cache_alone(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    default = compiled(None)
    nothing = Tuner("cached", batch=4, path=path)
    assert compiled(nothing) == default
    assert not path.exists()

    for damaged in ([], {}, 1, "gone"):
        path.write_text(json.dumps({key: {"best": damaged} for key in nothing.picked}))
        assert compiled(Tuner("cached", batch=4, path=path)) == default

    other = {"dilated": "one_hot", "one_hot": "dilated", "transposed": "flipped", "flipped": "transposed"}
    path.write_text(json.dumps({key: {"best": other[name]} for key, name in nothing.picked.items()}))
    assert compiled(Tuner("cached", batch=4, path=path)) != default
    # Another batch, another number of threads: not what was measured.
    assert compiled(Tuner("cached", batch=5, path=path)) == default
    assert compiled(Tuner("cached", batch=4, threads=2, path=path)) == default
    assert compiled(Tuner("off", batch=4, path=path)) == default


def test_what_is_frozen_has_nothing_to_measure(tmp_path: Path) -> None:
    frozen = Tuner("cached", path=tmp_path / "tune.json")
    mx.compile_step(net().freeze("0"), loss="softmax_cross_entropy", optimizer=mx.SGD(), tune=frozen)
    assert [key.split(" | ")[1] for key in frozen.picked] == ["Conv dW"]  # of the second; nothing asks for its dx


@pytest.mark.parametrize(
    ("failing", "name"), [(None, "NVIDIA Z9"), ("cuInit", "unknown GPU"), ("cuDeviceGetName", "unknown GPU")]
)
def test_on_cuda_the_gpu_is_named(failing: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fastest on one is not on another. Of the driver, which is not here, three functions are enough."""

    class Driver:
        def __init__(self, file: str) -> None:
            for function in ("cuInit", "cuDeviceGet", "cuDeviceGetName"):
                setattr(self, function, lambda *given, f=function: self.called(f, *given))

        def called(self, function: str, *given: Any) -> int:
            if function == "cuDeviceGetName" and failing is None:
                given[0].value = b"NVIDIA Z9"
            return 100 if function == failing else 0

    monkeypatch.setattr("ctypes.CDLL", Driver)
    _gpu.cache_clear()
    tuner = Tuner("cached", provider="cuda", path=Path("none.json"))
    compiled(tuner)
    _gpu.cache_clear()
    assert tuner.picked
    assert all(key.startswith(f"onnxruntime {onnxruntime.__version__} {name} cuda ") for key in tuner.picked)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff", b'{"a": {"best": "gone"}}'])
def test_a_cache_that_says_nothing_sensible_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tune.json").write_bytes(content)
    assert compiled(Tuner("cached", batch=4, path=tmp_path / "tune.json")) == compiled(None)


def test_a_formulation_in_the_cache_that_does_not_cover_the_inputs_gives_way_to_the_default() -> None:
    layers = [
        L.Conv2D(4, 3, activation="tanh"),
        L.Conv2D(4, 3),
        L.Conv2D(8, 3, stride=2),
        L.GlobalAvgPool2D(),
        L.Dense(3),
    ]
    model = L.Sequential(*layers).build(image=("batch", 1, 12, 12))
    step, default = (
        mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD(), tune=tune).data
        for tune in (lambda choice, inputs, options, default: "flipped" if choice.of == "dx" else default, None)
    )
    flipped, kept = (onnx.load_from_string(data).graph.node for data in (step, default))
    assert [n.op_type for n in flipped].count("ConvTranspose") == 1  # that of stride 2
    assert [n.op_type for n in kept].count("ConvTranspose") == 2


def test_what_cannot_run_or_gives_no_number_is_not_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmx.trainer.autodiff.choice.CHOICES", [])

    def not_a_number(g: GraphBuilder, x: Any) -> Any:
        return g.op("Sqrt", g.sub(-1.0, g.mul(x, x)))

    def impossible(g: GraphBuilder, x: Any) -> Any:
        return g.op("Reshape", x, g.concat([g.op("Shape", x, start=1), g.op("Shape", x, start=1)], 0))

    choice = Choice("Odd", "dx", not_a_number=not_a_number, impossible=impossible)
    x = GraphBuilder("scratch").input("x", ("batch", 3))
    tuner = Tuner("full", batch=4, path=tmp_path / "tune.json")
    assert tuner(choice, [x], {}, "not_a_number") == "not_a_number"
    (found,) = json.loads((tmp_path / "tune.json").read_text()).values()
    assert list(found["ms"]) == ["not_a_number"]


@pytest.mark.parametrize("default", ["slow", "quick"])
def test_the_quickest_that_computes_the_same_is_picked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str
) -> None:
    monkeypatch.setattr("onnxmx.trainer.autodiff.choice.CHOICES", [])

    def quick(g: GraphBuilder, x: Any, *, by: float) -> Any:
        return g.mul(x, np.float32(by))

    def slow(g: GraphBuilder, x: Any, *, by: float) -> Any:
        for _ in range(10):
            x = g.matmul(x, np.eye(512, dtype=np.float32))
        return quick(g, x, by=by)

    def wrong(g: GraphBuilder, x: Any, *, by: float) -> Any:
        return g.mul(x, np.float32(by + 0.01))

    choice = Choice("Odd", "dx", slow=slow, quick=quick, wrong=wrong)
    x, open_size = (GraphBuilder("scratch").input("x", ("batch", n)) for n in (512, "n"))
    tuner, beside = (Tuner("full", batch=64, path=tmp_path / "tune.json") for _ in range(2))
    assert tuner.known == beside.known == {}
    assert tuner(choice, [open_size], {"by": 2.0}, default) == default  # of no size that could be measured
    assert beside(choice, [x], {"by": 2.0}, default) == "quick"
    assert tuner(choice, [x], {"by": 3.0}, default) == "quick"  # and keeps what another one has written meanwhile
    assert [set(entry["ms"]) for entry in tuner.known.values()] == [{"slow", "quick"}] * 2  # one for each option
    assert Tuner("full", batch=64, path=tmp_path / "tune.json").known == tuner.known


def test_copies_for_many_columns_are_not_even_measured(tmp_path: Path) -> None:
    layers = [L.Conv2D(120, 1), L.Conv2D(4, 3), L.GlobalAvgPool2D(), L.Dense(3)]
    model = L.Sequential(*layers).build(image=("batch", 1, 6, 6))
    tuner = Tuner("full", batch=2, path=tmp_path / "tune.json")
    mx.compile_step(model, loss="softmax_cross_entropy", optimizer=mx.SGD(), tune=tuner)
    (wide,) = (e["ms"] for key, e in tuner.known.items() if "Conv dW" in key and "[2, 120, " in key.split("|")[2][:30])
    assert list(wide) == ["dilated"]


def test_a_cache_that_cannot_be_written_costs_only_the_findings(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    said: list[str] = []
    compiled(Tuner("full", batch=4, path=tmp_path / "file" / "tune.json", report=said.append))
    assert "could not write" in said[-1]


def test_a_tuned_run_trains_and_the_mode_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = mx.data.get_dataset("digits", "train")
    layers = [L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(10)]
    model = L.Sequential(*layers).build(image=("batch", 1, 8, 8))
    mx.fit(model, data, tune="full")
    assert (tmp_path / "cache" / "onnxmx" / "tune.json").is_file()
    assert "measuring Conv dW of float (64, 1, 8, 8)\n" in capsys.readouterr().err
    mx.fit(model, data, tune="full")
    assert "measuring" not in capsys.readouterr().err
    with pytest.raises(UsageError, match="no tune named 'fast'"):
        Plan(tune="fast")


def test_the_cache_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", without_a_home)
    assert Tuner().path.is_absolute()
