"""Every model of the zoo: it builds, is valid and clean ONNX, runs, and is listed; counting draws no weights."""

from __future__ import annotations

import inspect
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmx as mx
from onnxmx import models
from onnxmx.builder import init
from onnxmx.builder.model import Model
from onnxmx.errors import UsageError
from onnxmx.models import reference
from onnxmx.models.registry import about
from tests.builder.layer_table import Array, assert_clean
from tests.models.zoo_table import CASES, Case

BATCH = 2


def feeds(model: Model, case: Case) -> dict[str, Array]:
    """A random batch for the inputs of a model."""
    random = np.random.default_rng(3)
    found = {}
    for name, port in model.inputs.items():
        shape = [case.sizes.get(d, BATCH) if isinstance(d, str) else d for d in port.shape or ()]
        whole = port.dtype == np.int64
        found[name] = random.integers(1, case.below, shape) if whole else random.normal(size=shape).astype(np.float32)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_model(case: Case) -> None:
    model = models.build(case.name, **case.options)
    proto = model.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert_clean(proto.graph)
    assert all(node.name.count(".") for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "LSTM", "GRU"))
    batch = feeds(model, case)
    found = model(**batch)
    found = found if isinstance(found, dict) else {"output": found}
    assert {name: y.shape[1:] for name, y in found.items()} == case.outputs
    for name, y in found.items():
        assert len(y) == BATCH
        assert np.isfinite(y).all()
        assert (y[0] != y[1]).any(), f"{name} does not depend on the input"


def test_every_model_has_a_row() -> None:
    assert sorted(case.name for case in CASES) == sorted(models.MODELS)
    assert set(models.MODELS) <= set(models.__all__)
    assert all(getattr(models, name) is function for name, function in models.MODELS.items())


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_says_what_it_is(name: str) -> None:
    what, source = about(models.MODELS[name])
    assert 10 < len(what) < 100
    assert source[:1].isupper()
    assert re.search(r"(19|20)\d\d", source)
    for parameter in inspect.signature(models.MODELS[name]).parameters.values():
        assert parameter.default is not inspect.Parameter.empty


@pytest.fixture(scope="module")
def listed() -> list[dict[str, Any]]:
    """Every model at its default size, built where drawing weights is an error."""

    def never(shape: Any, random: Any) -> Array:
        raise AssertionError("weights were drawn")

    with pytest.MonkeyPatch.context() as patch:
        for name in init.NAMED:
            patch.setitem(init.NAMED, name, lambda: never)
        patch.setattr(init, "normal", lambda std: never)
        return models.list_models()


def test_the_list_is_complete(listed: list[dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in listed}
    assert list(rows) == list(models.MODELS)
    assert all(row["parameters"] > 0 and row["summary"] and row["source"] for row in rows.values())
    assert rows["vgg16"]["parameters"] == 138_357_544
    assert rows["lenet"]["inputs"] == {"image": {"shape": ["batch", 1, 28, 28], "dtype": "float32"}}
    assert rows["seq2seq"]["inputs"]["target"] == {"shape": ["batch", "target_time"], "dtype": "int64"}


def test_resnet152_is_built_within_a_second() -> None:
    """0.13 s on two busy cores of 2024."""
    models.build("resnet18")
    start = time.process_time()
    models.build("resnet152")
    assert time.process_time() - start < 1.0


def test_the_page_is_not_stale(listed: list[dict[str, Any]]) -> None:
    page = Path(mx.__file__).parent.parent / "docs" / "models.md"
    assert page.read_text() == reference.render(listed), "run: python -m onnxmx.models.reference docs/models.md"
    assert reference.LISTED.read_text() == reference.render_list(listed), "run it too"


def test_inputs_as_text() -> None:
    inputs = {
        "image": {"shape": ["batch", 3, 8, 8], "dtype": "float32"},
        "tokens": {"shape": ["batch", "time"], "dtype": "int64"},
        "user": {"shape": ["batch"], "dtype": "int64"},
    }
    assert models.show_inputs(inputs) == "image 3x8x8, tokens int64 time, user int64"


def test_inputs_follow_the_options() -> None:
    def nobodys() -> Any: ...

    assert models.inputs_of(models.vae, input=(2, 5, 5), code=7) == {
        "image": mx.Input(("batch", 2, 5, 5)), "noise": mx.Input(("batch", 7)),
    }  # fmt: skip
    assert models.inputs_of(models.text_cnn, input=(9,)) == {"tokens": mx.Input(("batch", 9), "int64")}
    assert models.inputs_of(nobodys) is None


def test_the_seed_draws_the_weights() -> None:
    one, same, other = (models.build("mlp", input=(3,), seed=seed).parameters()["1.weight"] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet19", {}, "no model named 'resnet19'"),
        ("unet", {"input": (3, 20, 16)}, r"expected a height and width that 16 divides; found \(20, 16\)"),
        ("dcgan_generator", {"output": (1, 28, 24)}, r"dcgan_generator expected .* found \(1, 28, 24\)"),
        ("dcgan_discriminator", {"input": (1, 16, 8)}, "dcgan_discriminator expected .* found"),
        ("text_lstm", {"input": (1, 8, 8)}, r"expected input=\(length,\); found \(1, 8, 8\)"),
        ("dcgan", {"input": (1, 4, 4)}, "expected .* a size of 8 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        models.build(name, **options)
    assert error.value.mend


def test_an_option_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no option of lenet named 'clases'\n  Did you mean 'classes'"):
        models.build("lenet", clases=3)
