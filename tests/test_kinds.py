"""An argument of another kind: an error at the user's line in the place of a traceback through the library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.kinds import fits
from onnxmx.errors import DataError, GraphError, UsageError
from onnxmx.trainer.loop import Run
from tests.builder.bad_input import Bad
from tests.trainer.nets import blob_net


def made(net: Any) -> mx.Model:
    """A model of one input, (batch, 4)."""
    return mx.build(net, x=("batch", 4))


ANY: Any = None
THREE: Any = 3
FILE: Any = "lenet.onnx"
DATA = mx.data.Dataset.from_arrays(np.zeros((8, 4), np.float32), np.zeros(8, np.int64))
RUN: Any = Run(ANY, ANY, {}, [])
TABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "a number to quantize on": (lambda: mx.quantize(blob_net(), THREE, DATA, "x.onnx"), "calibration as a Dataset;"),
    "arrays to quantize on": (lambda: mx.quantize(blob_net(), np.zeros((8, 4)), DATA, "x.onnx"), "found ndarray"),  # type: ignore[arg-type]
    "a number to quantize": (lambda: mx.quantize(THREE, DATA, DATA, "x.onnx"), "path as text or a path; found 3"),
    "a number to write to": (lambda: mx.quantize(blob_net(), DATA, DATA, THREE), "out as text or a path; found 3"),
    "a file to quantize in training": (lambda: mx.quantize_aware(FILE, DATA), "model as a Model; found 'lenet.onnx'"),
    "a file to differentiate": (lambda: mx.grad(FILE, wrt="x"), "grad expected model as a Model; found 'lenet.onnx'"),
    "no model to find a rate for": (lambda: mx.find_lr(ANY, DATA), "find_lr expected model as a Model; found NoneType"),
    "a number to find a batch with": (lambda: mx.find_batch_size(blob_net(), THREE), "data as a Dataset; found 3"),
    "text as a number of steps": (lambda: mx.find_lr(blob_net(), DATA, low="a"), "low as a number; found 'a'"),  # type: ignore[arg-type]
    "a number to compile": (lambda: mx.compile_step(THREE, loss="huber", optimizer=mx.SGD()), "model as a Model"),
    "a run to differentiate": (lambda: mx.grad(RUN, wrt="x"), r"found Run\n.*\n.* a run has run\.model"),
    "a run to evaluate": (lambda: mx.evaluate(RUN, DATA), r"found Run\n.* a run has run\.model"),
    "a list as a model": (lambda: mx.Model([L.Dense(3)]), r"Model expected an onnx_ir.Model; found list"),  # type: ignore[arg-type]
    "a share to validate on": (lambda: mx.fit(blob_net(), DATA, validation=0.2), r"found float\n.*data\.hold_out"),  # type: ignore[arg-type]
    "a number to train": (lambda: mx.Trainer(THREE), "expected model as a Model; found 3"),
    "a number to go on with": (lambda: mx.resume(THREE), "folder as text or a path; found 3"),
    "a number to load": (lambda: mx.load(THREE), "load expected path as text or a path; found 3"),
    "a number to save to": (lambda: blob_net().save(THREE), "save expected path as text or a path; found 3"),
    "a number to cut at": (lambda: blob_net().cut(THREE), "no .* named 3"),
    "a list to freeze": (lambda: blob_net().freeze(["a"]), r"freeze expected patterns as text; found list"),  # type: ignore[arg-type]
    "a number to merge": (lambda: blob_net().merge(THREE, {}), "other as a Surgery; found 3"),
    "a number to serve": (lambda: mx.serve(THREE), "an ONNX file, a model repository or a Model; found int"),
    "text as a port": (lambda: mx.serve("x.onnx", port="80"), "port as a whole number; found '80'"),  # type: ignore[arg-type]
    "a folder that is a number": (lambda: mx.fit(blob_net(), DATA, out=THREE, progress=False), "out as text or a path"),
    "True as a way to tune": (lambda: mx.fit(blob_net(), DATA, tune=True, progress=False), "named True"),  # type: ignore[arg-type]
    "a model for several": (lambda: mx.Joint(blob_net(), {}), "Joint expected models as a dict; found Model"),  # type: ignore[arg-type]
    "a number of groups": (lambda: mx.Adam(groups=THREE), "Adam expected groups as a list; found 3"),
    "one optimizer by name": (lambda: mx.ByName(THREE), "ByName expected optimizers as a dict; found 3"),
    "text as a warm-up": (lambda: mx.WarmupCosine(0.1, "a"), "warmup of at least 0 updates; found 'a'"),  # type: ignore[arg-type]
    "text after a schedule": (lambda: mx.Cosine(0.1).then("a", 3), "a learning rate expected a finite number"),  # type: ignore[arg-type]
    "arrays without names": (lambda: mx.data.Dataset("a", "train", np.zeros((3, 4))), "inputs as a dict; found nd"),  # type: ignore[arg-type]
    "a number of classes": (lambda: mx.data.Dataset.from_arrays([1], [0], classes=THREE), "classes as a list; found 3"),
    "a number as a split": (lambda: mx.data.digits(THREE), "named 3"),
    "a number as a model's name": (lambda: mx.models.build(THREE), "named 3"),
    "a number as a function": (lambda: L.Lambda(THREE), "Lambda expected a function of graph values; found 3"),
    "a number to update by": (lambda: mx.Update(THREE), "expected an optimizer; found 3"),
    "a number of changes": (lambda: mx.Update(mx.Adam(), clip={}), "expected a clipping or a list of them"),
    "a number among models": (lambda: mx.Joint({"a": THREE}, {}), "Joint expected a model as 'a'; found int"),
    "text as axes": (lambda: made(lambda x: x.builder.reduce_sum(x, "a")), "expected axes as a list; found 'a'"),
    "values one by one": (lambda: made(lambda x: x.builder.concat(x, 1)), "concat expected xs as a list; found Value"),
    "text as a type": (lambda: made(lambda x: x.builder.cast(x, "float")), "an element type; found 'float'"),
    "a number as a type": (lambda: made(lambda x: x.builder.cast(x, 1.5)), "cast expected .*; found 1.5"),
    "a number as a shape": (lambda: made(lambda x: x * x.builder.parameter("w", 4, "he")), "shape as a list; found 4"),
    "no data to evaluate on": (lambda: mx.Trainer(blob_net(), threads=1).evaluate(THREE), "data as a Dataset; found 3"),
    "text as a flag": (lambda: mx.Adam(amsgrad="zz"), "Adam expected amsgrad as True or False; found 'zz'"),  # type: ignore[arg-type]
    "a number as a flag": (lambda: L.Dense(3, bias=2), "Dense expected bias as True or False; found 2"),  # type: ignore[arg-type]
    "text as a flag of a function": (lambda: mx.fit(blob_net(), DATA, overwrite="no"), "overwrite as True or False"),  # type: ignore[arg-type]
    "an array to activate": (lambda: L.relu(np.zeros(3)), "relu expected x as a Value; found ndarray"),  # type: ignore[arg-type]
    "a class as the loss": (lambda: mx.fit(blob_net(), DATA, loss=mx.losses.Huber), "found the class Huber"),
    "another class as the loss": (lambda: mx.fit(blob_net(), DATA, loss=dict), "loss expected a loss; found the class"),
    "a class as a metric": (lambda: mx.fit(blob_net(), DATA, measure=[mx.metrics.MSE]), "found the class MSE"),
    "one class as metrics": (lambda: mx.evaluate(blob_net(), DATA, measure=dict), "a metric; found the class dict"),  # type: ignore[arg-type]
    "a number to judge": (lambda: mx.gan.judge(THREE, blob_net()), "judge expected generator as a Model; found 3"),
    "text to be sure by": (lambda: mx.gan.judge(blob_net(), blob_net(), confidence="a"), "confidence as a finite"),  # type: ignore[arg-type]
    "a seed below 0": (lambda: mx.gan.judge(blob_net(), blob_net(), seed=-1), "seed expected an integer of at least 0"),
    "an array to centre": (lambda: mx.gan.centred(np.zeros(3)), "centred expected data as a Dataset; found ndarray"),  # type: ignore[arg-type]
    "text as types": (lambda: DATA.typed("int64"), "typed expected types as a dict; found 'int64'"),  # type: ignore[arg-type]
    "a list of names": (lambda: DATA.rename(["x"]), "rename expected names as a dict; found list"),  # type: ignore[arg-type]
    "half a sample": (lambda: DATA.take(2.5), "take expected n as a whole number; found 2.5"),  # type: ignore[arg-type]
    "names of classes": (lambda: DATA.check_classes("ab"), "count as a whole number; found 'ab'"),  # type: ignore[arg-type]
    "a number to read": (lambda: mx.data.read_idx(THREE), "read_idx expected path as text or a path; found 3"),
    "a number to parse": (lambda: mx.data.parse_idx(THREE), "parse_idx expected data as a bytes"),
    "a number as a state": (lambda: mx.Trainer(blob_net(), threads=1).load(THREE), "load expected path as text or"),
    "an initializer's file": (lambda: mx.init.file(THREE), "file expected path as text or a path"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_an_argument_of_another_kind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, says = TABLE[name]
    with pytest.raises(UsageError, match=says) as caught:
        write()
    assert caught.value.__cause__ is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "instead"),
    [
        (lambda x: np.tanh(x), r'found tanh, .*write x\.builder\.op\("Tanh", x, \.\.\.\) for tanh'),
        (lambda x: x * math.sqrt(x), r"found sqrt, .*write x\.builder\.sqrt\(x, \.\.\.\) for sqrt"),
        (L.Lambda(lambda x: np.exp(x)), r"found exp, .*write x\.builder\.exp"),
        (L.Dense(3, activation=lambda x: math.cos(x)), r"found cos, .*write x\.builder\.cos"),
    ],
)
def test_a_model_of_functions_of_numbers(write: Any, instead: str) -> None:
    with pytest.raises(GraphError, match=f"(?s){instead}") as caught:
        made(write)
    assert caught.value.at
    assert "test_kinds.py" in caught.value.at


def test_a_mistake_in_a_net_of_ones_own_stays() -> None:
    with pytest.raises(TypeError, match="has no len"):
        made(lambda x: len(x))


def test_a_batch_of_lists() -> None:
    with pytest.raises(DataError, match="the step expected arrays; found list as 'x'"):
        mx.Trainer(blob_net(), threads=1).step({"x": [[1, 2, 3, 4]], "label": np.zeros(1, np.int64)})  # type: ignore[dict-item]


def test_lists_of_several_lengths() -> None:
    for ragged, fine in (([[1, 2], [3]], [0, 1]), ([1, 2], [[0], [0, 1]])):
        with pytest.raises(DataError, match=r"samples of one shape in .*; found a list of several lengths"):
            mx.data.Dataset.from_arrays(ragged, fine)  # type: ignore[arg-type]


def test_it_points_at_the_line() -> None:
    Bad(lambda: mx.grad(FILE, wrt="x"), UsageError, "mx.load").provoke()
    Bad(lambda: mx.Adam(groups=THREE), UsageError, "See help").provoke()
    Bad(lambda: L.relu(THREE), UsageError, "build a model first").provoke()
    Bad(lambda: mx.Adam(amsgrad=THREE), UsageError, "See help").provoke()
    Bad(lambda: mx.fit(blob_net(), DATA, loss=mx.losses.Huber), UsageError, r"Call it: Huber\(\)").provoke()
    Bad(lambda: mx.fit(blob_net(), DATA, measure=[mx.metrics.MSE]), UsageError, r"Call it: MSE\(\)").provoke()


@pytest.mark.parametrize("options", [{"progress": False}, {"progress": 0}, {"progress": np.False_, "logs": set()}])
def test_what_a_callback_of_ones_own_raises_stays(options: Any) -> None:
    """Whatever other arguments there are that do, though they are not of the kind that is asked for."""

    class Wrong(mx.Callback):
        def begin(self, loop: Any) -> None:
            len(THREE)

    with pytest.raises(TypeError, match="has no len"):
        mx.fit(blob_net(), DATA, callbacks=[Wrong()], threads=1, **options)


def test_annotations_that_only_type_checkers_can_read() -> None:
    """They hide nothing of what went wrong, and nothing is wrong where they are."""

    @dataclass(frozen=True)
    class Own(mx.Adam):
        extra: "torch.Tensor | None" = None  # type: ignore[name-defined]  # noqa: F821, UP037

    class Note(mx.Callback):
        def __init__(self, loud: bool, what: "torch.Tensor") -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
            self.loud = loud

    assert Note(ANY, 3).loud is None
    with pytest.raises(TypeError, match="not iterable"):
        Own(groups=THREE)


def test_what_a_function_of_ones_own_raises_stays() -> None:
    """In a constructor as in a call."""

    class Names(dict[str, Any]):
        def items(self) -> Any:
            return len(THREE)

    with pytest.raises(TypeError, match="has no len"):
        mx.data.Dataset("a", "train", Names(x=np.zeros(3)), types=THREE)


@pytest.mark.parametrize(
    ("value", "hint", "yes"),
    [
        (3, float, True), (np.bool_(True), bool, True), (1, bool, True), (2, bool, False), ("a", bool, False),
        (np.float32(3), float, True), (True, int, False), (np.int64(3), int, True), ("3", int, False),
        (None, int | None, True), ("a", int | None, False), ("a", Sequence[str], False), (["a"], Sequence[str], True),
        (("a",), tuple[str, ...], True), ({"a": 1}, Mapping[str, int], True), (3, Mapping[str, int], False),
        (len, Callable[..., int], True), (3, Callable[..., int], False), (3, Any, True), ("b", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False), (L.Dense(3), L.Layer, True), (L.Dense, L.Layer, False), (None, None, True),
    ],
)  # fmt: skip
def test_kinds(value: Any, hint: Any, yes: bool) -> None:
    assert fits(value, hint) is yes
