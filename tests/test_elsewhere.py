"""Names of other libraries, as attributes and imports: what they are answered with."""

from __future__ import annotations

import copy
import operator
import pickle
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.builder import elsewhere
from onnxmx.cli import COMMANDS, habits
from onnxmx.errors import UsageError
from onnxmx.trainer.loop import Run

DATA = mx.data.Dataset.from_arrays(np.zeros((8, 4), np.float32), np.zeros(8, np.int64))
MODEL = L.Dense(3).build(x=("batch", 4))
MODULES = {
    "": elsewhere.TOP,
    "layers": elsewhere.LAYERS,
    "data": elsewhere.DATA,
    "init": elsewhere.INIT,
    "models": elsewhere.ZOO,
}
OBJECTS: dict[str, tuple[Any, dict[str, str]]] = {
    "net": (L.Sequential(L.Dense(3)), elsewhere.LAYER),
    "model": (MODEL, elsewhere.MODEL),
    "data": (DATA, elsewhere.DATASET),
    "run": (Run(MODEL, MODEL, {}, []), elsewhere.RUN),
    "trainer": (mx.Trainer(MODEL, threads=1), elsewhere.TRAINER),
    "optimizer": (mx.Adam(1e-3), elsewhere.OPTIMIZER),
}
ASKED = [
    # where, what, and how the answer ends
    ("", "Dense", "layers are in mx.layers: mx.layers.Dense"),
    ("", "Sequential", "layers are in mx.layers: mx.layers.Sequential"),
    ("", "ReduceLROnPlateau", "write mx.ReduceOnPlateau"),
    ("", "AGC", "write mx.clip_adaptive"),
    ("", "optim", "write mx.optimizers: mx.Adam, mx.SGD"),
    ("", "nn", "write mx.layers"),
    ("", "HybridBlock", "write mx.layers.Layer"),
    ("", "Adamm", "did you mean Adam?"),
    ("", "zzzz", "onnxmx has no 'zzzz'"),
    ("layers", "Linear", "write Dense"),
    ("layers", "Conv2d", "write Conv2D"),
    ("layers", "BatchNorm2d", "write BatchNorm"),
    ("layers", "ReLU", 'write Activation("relu")'),
    ("layers", "Dens", "did you mean Dense?"),
    ("layers", "MaxPooling2D", "did you mean MaxPool2D?"),
    ("layers", "Input", "write mx.build(net, x=('batch', 4)), where net is a function of graph values"),
    ("layers", "CrossEntropyLoss", "write mx.losses.SoftmaxCrossEntropy"),
    ("layers", "Zzzzzz", "onnxmx.layers has no 'Zzzzzz'"),
    ("losses", "CrossEntropyLoss", "write SoftmaxCrossEntropy"),
    ("losses", "BCEWithLogitsLoss", "write SigmoidBCE"),
    ("losses", "MeanSquareError", "did you mean MeanSquaredError?"),
    ("metrics", "F1Score", "write FBeta"),
    ("metrics", "JaccardIndex", "write IoU"),
    ("optimizers", "Adamm", "did you mean Adam?"),
    ("optimizers", "lr_scheduler", "write mx.schedules"),
    ("schedules", "CosineAnnealingLR", "write Cosine"),
    ("schedules", "qqq", "onnxmx.schedules has no 'qqq'"),
    ("data", "DataLoader", "write mx.data.Dataset.from_arrays(x, labels)"),
    ("callbacks", "ModelCheckpoint", "write mx.fit(..., out=..., keep_best=3)"),
    ("init", "Xavier", "write xavier"),
    ("models", "ResNet50", "did you mean resnet50?"),
    ("models", "Sequential", "write mx.layers.Sequential"),
]


@pytest.mark.parametrize(("where", "name", "answer"), ASKED)
def test_a_name_of_another_library_in_a_module(where: str, name: str, answer: str) -> None:
    """Asked as an attribute and imported: Python's own ImportError would not give the answer."""
    module = getattr(mx, where) if where else mx
    with pytest.raises(AttributeError) as attribute:
        getattr(module, name)
    with pytest.raises(ImportError) as imported:
        exec(f"from {module.__name__} import {name}", {})
    assert str(attribute.value) == str(imported.value)
    assert str(imported.value).endswith(answer)
    assert type(imported.value) is ImportError
    assert imported.value.name == module.__name__
    assert not hasattr(module, name)


def test_an_import_among_hundreds_of_names() -> None:
    """The number of the name does not fit into one byte of the code that asks."""
    names = "\n".join(f"name{n} = {n}" for n in range(300))
    with pytest.raises(ImportError, match="write Dense"):
        exec(f"{names}\nfrom onnxmx.layers import Linear", {})


def test_names_that_python_asks_for_are_not_guessed() -> None:
    for module in (mx, L, mx.losses, mx.data):
        assert not hasattr(module, "__path_of_something__")
        with pytest.raises(AttributeError, match=r"has no '_private'$"):
            module._private  # noqa: B018
    for found, _ in OBJECTS.values():
        with pytest.raises(AttributeError, match=r"has no '_private'$"):
            found._private  # noqa: B018


@pytest.mark.parametrize(
    ("owner", "name", "answer"),
    [
        ("model", "fit", "mx.fit(model, data, loss=..., optimizer=...)"),
        ("model", "predict", "mx.predict(model, data)"),
        ("model", "state_dict", "model.parameters()"), ("model", "to", "provider='cuda'"),
        ("model", "sumary", "did you mean summary?"), ("model", "zzzz", "Model has no 'zzzz'"),
        ("net", "fit", "net.build(x=('batch', 4)), then mx.fit(model, data)"), ("net", "add", "Sequential([...])"),
        ("net", "initialize", "model = net.build(x=('batch', 4))"), ("net", "layer", "did you mean layers?"),
        ("run", "predict", "mx.predict(run.model, data)"), ("run", "save", "run.model.save('model.onnx')"),
        ("data", "shuffle", "mx.fit(model, data), which does it"), ("data", "input", "did you mean inputs?"),
        ("data", "targets", "data.labels"), ("trainer", "fit", "mx.fit(model, data)"),
        ("optimizer", "zero_grad", "mx.Trainer(model, optimizer=...).step("),
    ],
)  # fmt: skip
def test_an_attribute_of_another_library(owner: str, name: str, answer: str) -> None:
    found = OBJECTS[owner][0]
    with pytest.raises(AttributeError) as caught:
        getattr(found, name)
    assert str(caught.value).startswith(f"{type(found).__name__} has no {name!r}")
    assert answer in str(caught.value)


def test_a_class_method_of_another_library() -> None:
    with pytest.raises(AttributeError, match=r"'Dataset' has no .* 'from_tensor_slices'; write mx\.data\.Dataset\.f"):
        mx.data.Dataset.from_tensor_slices  # noqa: B018
    with pytest.raises(AttributeError, match=r"'Adam' has no attribute '_zzzz'$"):
        mx.Adam._zzzz  # noqa: B018


def test_every_command_of_another_tool_is_one_here_or_none() -> None:
    for name, here in habits._COMMANDS.items():
        assert name not in COMMANDS
        assert here in COMMANDS
    assert not set(habits._WITHOUT) & {*COMMANDS, *habits._COMMANDS}


def test_attributes_of_a_layer_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Net(L.Layer):
        units: int = 3

    net = Net()
    assert copy.deepcopy(net) == net
    assert pickle.loads(pickle.dumps(L.Dense(3))) == L.Dense(3)
    with pytest.raises(AttributeError, match=r"Net has no 'unit'; did you mean units\?"):
        net.unit  # type: ignore[attr-defined]  # noqa: B018


def test_every_answer_is_there() -> None:
    """What stands for a name exists, and the name itself does not: it would never be asked about."""
    for where, known in MODULES.items():
        module = getattr(mx, where) if where else mx
        for name, here in known.items():
            assert name not in module.__all__
            word = re.match(r"\w+(?=$|\(|,)", here)
            assert word is None or word[0] in (*module.__all__, "model"), f"{name}: {here}"
    for owner, (found, known) in OBJECTS.items():
        assert not set(known) & set(dir(found)), owner
    for here in [here for known in (*MODULES.values(), *(k for _, k in OBJECTS.values())) for here in known.values()]:
        for name in re.findall(r"\bmx\.([\w.]+)", here):
            assert operator.attrgetter(name)(mx) is not None
        for owner, name in re.findall(r"(?<![.'])\b(run|model|data|trainer)\.([a-z_]\w*)", here):
            assert hasattr(OBJECTS[owner][0], name), here
        for name in re.findall(r'Activation\("(\w+)"\)', here):
            assert name in L.ACTIVATIONS


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        (mx.losses, "binary_crossentropy", "'sigmoid_bce'"),
        (mx.losses, "sparse_categorical_crossentropy", "'softmax_cross_entropy'"),
        (mx.losses, "SmoothL1Loss:delta=2", "'huber'"),
        (mx.losses, "log_cos", "'log_cosh'"),
        (mx.metrics, "jaccard", "'iou'"),
        (mx.metrics, "top5", "'top_k'"),
        (mx.optimizers, "AdamW", "'adamw'"),
        (mx.optimizers, "nesterov", "'nag'"),
    ],
)
def test_what_other_libraries_call_a_loss_or_a_metric(kind: Any, text: str, answer: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"Did you mean {answer}?")):
        kind.get(text)


def test_every_name_of_another_library_stands_for_one_here() -> None:
    from onnxmx.trainer.clipping import CLIPS
    from onnxmx.trainer.named import _ELSEWHERE
    from onnxmx.trainer.precision import PRECISIONS

    here = {
        *PRECISIONS,
        *CLIPS,
        *mx.losses.LOSSES,
        *mx.metrics.METRICS,
        *mx.optimizers.OPTIMIZERS,
        *mx.schedules.SCHEDULES,
    }
    assert set(_ELSEWHERE) <= here
    for called in _ELSEWHERE.values():
        assert all(re.fullmatch(r"[a-z0-9]+(?<!loss)", name) for name in called.split())
