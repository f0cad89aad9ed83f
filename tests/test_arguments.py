"""Arguments as other libraries call them: an error at the user's line that names what to write here."""

from __future__ import annotations

import copy
import inspect
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder.arguments import CheckedArguments, checked_arguments
from onnxmx.builder.graph import Value
from onnxmx.errors import OnnxmxWarning, UsageError
from onnxmx.trainer.optimizers import OPTIMIZERS
from onnxmx.trainer.schedules import SCHEDULES, Schedule
from tests.builder.bad_input import Bad

ANY: Any = None
MODEL: Any = L.Dense(3).build(x=("batch", 4))
FOREIGN: dict[str, tuple[Callable[[], Any], str, str]] = {
    # what is written, what is said of it, and how to mend it
    "keras rate": (lambda: mx.Adam(learning_rate=1e-3), "among lr, .*; found 'learning_rate'", r"Write lr=\.\.\."),
    "torch betas": (lambda: mx.Adam(betas=(0.9, 0.99)), "found 'betas'", r"Write beta1=\.\.\., beta2=\.\.\. instead"),
    "torch nesterov": (lambda: mx.SGD(nesterov=True), "found 'nesterov'", "mx.NAG"),
    "gluon decay": (lambda: mx.SGD(0.1, wd=1e-4), "found 'wd'", r"Write weight_decay=\.\.\."),
    "keras clipping": (lambda: mx.Adam(clipnorm=1.0), "found 'clipnorm'", "mx.clip_global_norm"),
    "a typing error": (lambda: mx.Adam(beta_1=0.8), "found 'beta_1'", "Did you mean 'beta1'"),
    "no argument at all": (lambda: mx.Adam(zzzz=1), "found 'zzzz'", r"help\(Adam\)"),
    "torch kernel": (lambda: L.Conv2D(8, kernel_size=3), "found 'kernel_size'", r"Write kernel=\.\.\."),
    "torch pool": (lambda: L.MaxPool2D(kernel_size=3), "found 'kernel_size'", r"Write size=\.\.\."),
    "keras filters": (lambda: L.Conv2D(filters=8, kernel=3), "found 'filters'", r"Write channels=\.\.\."),
    "torch units": (lambda: L.Dense(out_features=3), "Dense expected .* found 'out_features'", r"Write units=\.\.\."),
    "torch inputs": (lambda: L.Dense(3, in_features=4), "found 'in_features'", "Leave it out: a layer takes it"),
    "torch units by place": (lambda: L.Dense(4, 3), "units by place; found 2 values", "size of its input is none"),
    "torch channels by place": (lambda: L.Conv2D(3, 8, 3), "found 3 values", "size of its input is none"),
    "torch normalization": (lambda: L.BatchNorm(8), "nothing by place; found 1 value", "size of its input is none"),
    "torch parameters": (lambda: mx.Adam(MODEL.parameters(), lr=0.1), "by place and by name", "mx.fit gives an optim"),
    "keras count": (lambda: L.Embedding(input_dim=9, units=3), "found 'input_dim'", r"Write count=\.\.\."),
    "torch dropout": (lambda: L.Dropout(p=0.5), "found 'p'", r"Write ratio=\.\.\."),
    "torch step": (lambda: mx.Step(0.1, step_size=3), "found 'step_size'", r"Write every=\.\.\."),
    "torch gamma": (lambda: mx.Exponential(0.1, gamma=0.9), "found 'gamma'", r"Write decay=\.\.\."),
    "torch cosine": (lambda: mx.Cosine(0.1, T_max=10), "found 'T_max'", r"Write total=\.\.\."),
    "keras smoothing": (lambda: mx.losses.SoftmaxCrossEntropy(label_smoothing=0.1), "found", r"Write smoothing=\.\.\."),
    "keras best": (lambda: mx.EarlyStopping(restore_best_weights=True), "found 'restore", "model of a run is that of"),
    "torch rate": (lambda: mx.fit(ANY, ANY, lr=0.1), "fit expected .* found 'lr'", r"optimizer=mx.Adam\(lr=\.\.\.\)"),
    "keras metrics": (lambda: mx.fit(ANY, ANY, metrics=["accuracy"]), "found 'metrics'", r"Write measure=\.\.\."),
    "keras arrays": (lambda: mx.fit(ANY, x=ANY, y=ANY), "found 'x'", "data=mx.data.Dataset.from_arrays"),
    "keras words": (lambda: mx.evaluate(ANY, ANY, verbose=0), "found .verbose.", "only mx.fit tells"),
    "a dataset": (lambda: mx.data.Dataset.from_arrays(x=ANY), "from_arrays expected", r"Write inputs=\.\.\."),
    "torch axis": (lambda: L.concat(ANY, ANY, dim=1), "concat expected .* found 'dim'", r"Write axis=\.\.\."),
    "torch softmax": (lambda: L.softmax(ANY, dim=1), "softmax expected .* found 'dim'", r"Write axis=\.\.\."),
    "keras mask": (lambda: L.Embedding(9, 3, mask_zero=True), "'mask_zero'", "Write padding=0, .* mask=tokens > 0"),
    "keras gates": (lambda: L.LSTM(3, recurrent_dropout=0.1), "recurrent_dropout", "Leave it out: there is none"),
    "keras mode": (lambda: L.Dropout(0.1, training=True), "found 'training'", "training and inference are two graphs"),
    "keras weights": (lambda: mx.fit(ANY, ANY, class_weight={}), "found", r"SoftmaxCrossEntropy\(class_weight="),
    "keras steps": (lambda: mx.fit(ANY, ANY, steps_per_epoch=9), "found 'steps_per_epoch'", r"data\.take\(1000\)"),
    "lightning resumption": (lambda: mx.fit(ANY, ANY, ckpt_path="a"), "'ckpt_path'", r"mx\.resume\(folder, data\)"),
    "torch split": (lambda: mx.data.digits(train=True), "digits expected .* found 'train'", "Write split='train' or "),
    "torch transform": (lambda: mx.data.digits("train", transform=abs), "found 'transform'", "before they become"),
    "gluon arrays": (lambda: mx.data.Dataset.from_arrays(data=ANY), "found 'data'", r"Write inputs=\.\.\."),
    "gluon labels": (lambda: mx.data.Dataset.from_arrays([1], label=ANY), "found 'label'", r"Write labels=\.\.\."),
    "keras batch": (lambda: mx.data.Dataset.from_arrays([1], batch_size=9), "found 'batch_size'", r"batch_size=64\)"),
    "sklearn share": (lambda: mx.data.digits("train").hold_out(test_size=0.2), "'test_size'", r"Write share=\.\.\."),
    "keras axis": (lambda: L.Activation("softmax", axis=1), "found 'axis'", r"Softmax\(axis=1\)"),
    "keras model": (lambda: mx.Model(inputs=ANY, outputs=ANY), "Model expected .* found 'inputs'", r"mx\.build\(net"),  # type: ignore[call-arg]
    "keras model by place": (lambda: mx.Model(ANY, ANY), "model by place; found 2 values", r"mx\.build\(net"),  # type: ignore[call-arg]
    "a model of nothing": (lambda: mx.Model(), "expected an onnx_ir.Model; found NoneType", "one of a mx.layers.Layer"),
    "keras mode of stopping": (lambda: mx.EarlyStopping(mode="max"), "found 'mode'", "Write larger=True instead"),
    "keras monitor": (lambda: mx.ReduceOnPlateau(1, monitor="a"), "found 'monitor'", "it watches the training loss"),
    "keras top": (lambda: mx.metrics.Accuracy(top_k=5), "found 'top_k'", r"Take mx\.metrics\.TopK\(k=5\)"),
    "lightning epochs": (lambda: mx.Trainer(max_epochs=3), "found 'max_epochs'", r"mx\.fit\(\.\.\., epochs=10\)"),
    "gluon trainer": (lambda: mx.Trainer(MODEL, "sgd", {}), "found 3 values", r"optimizer=mx\.SGD\(0\.1\)"),
    "torch weights": (lambda: mx.models.resnet18(pretrained=True), "found 'pretrained'", r"mx\.load\('model\.onnx'\)"),
    "torch classes": (lambda: mx.models.resnet18(num_classes=5), "found 'num_classes'", r"Write classes=\.\.\."),
    "keras zoo": (lambda: mx.models.resnet18(input_shape=(9, 9, 3)), "'input_shape'", r"input=\(channels, height"),
    "a clipping by two": (lambda: mx.clip_global_norm([1], 1.0), "found 2 values\n.*\n  Leave the", ""),
    "a layer on a value": (lambda: mx.build(lambda x: L.Flatten(x), x=(2,)), "1 value", r"it: Flatten\(\.{3}\)\(x\)"),
    "a value for a size": (lambda: mx.build(lambda x: L.Dense(x), x=(2,)), "Value", r"it: Dense\(\.{3}\)\(x\)"),
    # other calls that do not fit
    "too few": (lambda: L.Conv2D(8), "Conv2D expected 'kernel'; found none", r"Call it as Conv2D\(channels, kernel\)"),
    "none at all": (lambda: L.Conv2D(), "Conv2D expected 'channels' and 'kernel'; found", r"Conv2D\(channels, k"),
    "none of a schedule": (lambda: mx.ReduceOnPlateau(), "ReduceOnPlateau expected 'rate'; found none", "Call it as"),
    "none of an initializer": (lambda: mx.init.constant(), "constant expected 'value'; found none", "Call it as"),
    "torch deviation": (lambda: mx.init.normal(sd=1), "normal expected arguments among std; found 'sd'", "mean 'std'"),
    "too few by name": (lambda: mx.grad(ANY), "grad expected 'wrt'; found none", r"grad\(model, wrt=\.\.\.\)"),
    "too many": (lambda: L.Dense(3, 4), "expected units by place; found 2 values", "Give the others by name"),
    "arrays": (lambda: mx.fit(1, 2, 3), "model, data by place; found 3 values", r"Dataset\.from_arrays\(x, y\)"),
    "accumulation": (lambda: mx.fit(1, 2, accumulate=4), "found 'accumulate'", "Write micro_batches="),
    "a schedule beside": (lambda: mx.Adam(schedule=1), "found 'schedule'", r"Write lr=mx\.Cosine"),
    "any at all": (lambda: mx.Callback(3), "Callback expected nothing by place; found 1 value$", "Leave"),
    "twice": (lambda: L.Dense(3, units=4), "'units' once; found it by place and by name", "Leave one"),
    "too few of a method": (lambda: MODEL.save(), "save expected 'path'; found none", r"Call it as save\(path\)"),
    "too many of a method": (lambda: MODEL.save("a", "b"), "expected path by place; found 2 values", "Leave the"),
    "twice of a method": (lambda: MODEL.save("a", path="b"), "'path' once; found it by place and by name", "Leave one"),
    "keras split": (lambda: mx.fit(ANY, ANY, validation_split=0.2), "found", r"data\.hold_out\(0\.2\)"),
    "keras shape": (lambda: L.Dense(3).build((None, 4)), "build expected nothing by place", "by name, .*x="),
    "two arrays to a step": (lambda: mx.Trainer(MODEL).step(1, 2), "step expected batch by place", "one dict of"),
    "too few of a class": (lambda: mx.data.Dataset.from_arrays(), "from_arrays expected 'inputs'; found none", "Call"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_an_argument_of_another_library(name: str) -> None:
    write, says, mend = FOREIGN[name]
    Bad(write, UsageError, rf"(?m){says}(.|\n)*{mend}").provoke()


_EXCEPT = {"Model", "OnnxmxError", "OnnxmxWarning", "serve"}
"""Made by `mx.build` and `mx.load`; raised; said; a module that is called."""
PUBLIC = (
    [getattr(mx, name) for name in mx.__all__ if name not in _EXCEPT and callable(getattr(mx, name))]
    + [found for name in L.__all__ if isinstance(found := getattr(L, name), type) and found is not L.Parallel]
    + [mx.data.Dataset.from_arrays, mx.data.mnist, mx.data.digits, mx.data.load_npz, mx.serve.serve]
    + [*OPTIMIZERS.values(), *SCHEDULES.values()]
)


@pytest.mark.parametrize("found", dict.fromkeys(PUBLIC), ids=lambda found: found.__qualname__)
def test_every_public_name_checks_its_arguments(found: Any) -> None:
    with pytest.raises(UsageError):
        found(this_is_no_argument=1)
    assert "kwargs" not in inspect.signature(found).parameters or found is L.Layer


def test_an_error_from_inside_stays_what_it_is() -> None:
    @checked_arguments
    def inner(x: Any) -> Any:
        return len(x)

    with pytest.raises(TypeError, match="has no len"):
        inner(3)


def test_a_copy_needs_no_arguments() -> None:
    """Neither does pickle, which also makes an object before it fills it."""
    adam = mx.Adam(1e-3, beta1=0.8)
    assert copy.deepcopy(adam) == pickle.loads(pickle.dumps(adam)) == replace(adam) == adam
    assert copy.copy(L.Conv2D(4, 3)) == L.Conv2D(4, 3)
    assert pickle.loads(pickle.dumps(mx.fit)) is mx.fit
    assert copy.deepcopy(L.Dense(3)) == L.Dense(3)
    with pytest.raises(UsageError, match="found 'learning_rate'"):
        replace(adam, learning_rate=1)  # type: ignore[call-arg]


def test_classes_of_ones_own() -> None:
    """Their constructors decide what they take."""

    class Plain(mx.Callback):
        def __init__(self, *names: str, **options: int) -> None:
            self.given = names, options

    class Without(Schedule):
        def __new__(cls, size: int) -> Without:
            made = super().__new__(cls)
            made.size = size
            return made

        size: int

    class Several(mx.Callback):
        def __init__(this, first: int, *rest: int, self: int = 0, cls: type = int, **more: int) -> None:
            this.given = first, rest, self, cls, more

    class Placed(mx.Callback):
        def __init__(this, first: int, /, **more: int) -> None:
            this.given = first, more

    @dataclass(frozen=True)
    class Scale(L.Layer):
        factor: float = 2.0

        def forward(self, x: Value) -> Value:
            return x * self.factor

    class Abstract(L.Layer, ABC):
        pass

    assert Abstract().name is None
    assert Plain("a", b=3).given == (("a",), {"b": 3})
    assert Several(1, 2, 3, self=4, cls=str, k=5).given == (1, (2, 3), 4, str, {"k": 5})
    assert Several(first=1).given[0] == 1
    assert Placed(1, first=2).given == (1, {"first": 2})
    with pytest.raises(UsageError, match="Several expected 'first'; found none"):
        Several(self=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        Placed(first=3)  # type: ignore[call-arg]
    assert Without(3).size == Without(size=4).size - 1
    assert Scale(3.0, name="s").factor == 3.0
    with pytest.raises(UsageError, match=r"Scale expected arguments among factor, .*; found 'scale_factor'"):
        Scale(scale_factor=2)  # type: ignore[call-arg]


class Told(Protocol):
    def tell(self) -> int: ...


@runtime_checkable
class Asked(Protocol):
    def ask(self) -> int: ...


class Kept(ABC):
    @abstractmethod
    def keep(self) -> int: ...


def test_classes_of_ones_own_that_are_protocols_too() -> None:
    class First(mx.Callback, Told):
        def __init__(self, size: int) -> None:
            self.size = size

        def tell(self) -> int:
            return self.size

    class Second(Told, Asked, mx.Callback):
        def __init__(self, size: int) -> None:
            self.size = size

        def tell(self) -> int:
            return self.size

        def ask(self) -> int:
            return self.size

    @dataclass(frozen=True)
    class Layer(L.Layer, Told):
        size: int

        def tell(self) -> int:
            return self.size

    for kind in (First, Second, Layer):
        assert kind(3).tell() == 3
        assert "size" in inspect.signature(kind).parameters
        with pytest.raises(UsageError, match=f"{kind.__name__} expected arguments among size.*; found 'width'"):
            kind(width=3)
    assert isinstance(Second(1), Asked)
    assert not isinstance(First(1), Asked)
    assert isinstance(First(1), mx.Callback)
    assert not isinstance(Layer(1), mx.Callback)
    assert not isinstance(3, L.Layer)

    class Open(mx.Callback, Kept):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Open()  # type: ignore[abstract]


def test_signatures_stay_visible() -> None:
    assert list(inspect.signature(mx.Adam).parameters)[:3] == ["lr", "beta1", "beta2"]
    assert list(inspect.signature(L.Layer).parameters) == ["name", "checkpoint"]
    assert not inspect.signature(mx.Callback).parameters
    assert inspect.signature(mx.fit).parameters["epochs"].default == 1
    assert issubclass(mx.Adam, CheckedArguments)
    assert "passes over the data" in str(inspect.getdoc(mx.fit))


def test_a_warning_names_the_line_that_called(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 1, 8, 8), np.uint8), y=np.arange(4))
    with pytest.warns(OnnxmxWarning, match="8-bit images") as found:
        mx.data.load_npz(tmp_path / "d.npz")
    assert found[0].filename == __file__
