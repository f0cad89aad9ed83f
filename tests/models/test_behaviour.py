"""What models promise beyond shapes: what reaches an output, and what must not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from onnxmx import models
from tests.builder.layer_table import Array

SMALL = {"vocabulary": 20, "embedding": 8, "units": 8}
TRANSFORMER = {"vocabulary": 20, "units": 8, "heads": 2}
TEXT = np.random.default_rng(2).integers(1, 20, (3, 6))


@pytest.mark.parametrize(
    ("name", "operator", "count"),
    [
        ("resnet18", "Add", 8),
        ("resnet152", "Add", 50),
        ("resnet152_v2", "Add", 50),
        ("resnet56", "Add", 27),
        ("mobilenet_v2", "Add", 10),
        ("densenet121", "Concat", 58),
        ("squeezenet1_1", "Concat", 8),
        ("inception_v3", "Concat", 11 + 4),  # the last two modules have two forks within
        ("unet", "Concat", 4),
        ("gpt_mini", "Softmax", 6),
    ],
)
def test_where_branches_meet(name: str, operator: str, count: int) -> None:
    assert Counter(node.op_type for node in models.build(name).ir.graph)[operator] == count


@pytest.mark.parametrize(
    ("name", "options"),
    [("char_rnn", SMALL), ("gpt_mini", {**TRANSFORMER, "layers": 2, "length": 6})],
)
def test_a_language_model_sees_nothing_of_what_comes(name: str, options: dict[str, Any]) -> None:
    model = models.build(name, **options)
    later = TEXT.copy()
    later[:, 4] = 20 - later[:, 4]
    first, second = model(TEXT), model(later)
    np.testing.assert_allclose(first[:, :4], second[:, :4], atol=1e-6)
    assert abs(first[:, 4:] - second[:, 4:]).max() > 1e-4


def padded(x: Array) -> Array:
    return np.pad(x, ((0, 0), (0, 3)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("text_lstm", SMALL), ("text_gru", SMALL), ("text_bilstm", SMALL), ("transformer_classifier", TRANSFORMER)],
)
def test_padding_changes_nothing(name: str, options: dict[str, Any]) -> None:
    model = models.build(name, **options)
    np.testing.assert_allclose(model(TEXT), model(padded(TEXT)), atol=1e-6)
    assert abs(model(TEXT) - model(TEXT[:, ::-1])).max() > 1e-6, "the order of words counts"


def test_an_empty_text_has_classes_too() -> None:
    found = models.build("transformer_classifier", **TRANSFORMER)(np.zeros((2, 4), np.int64))
    assert np.isfinite(found).all()


def test_a_translation_sees_all_of_the_source_but_its_padding_and_nothing_of_what_comes() -> None:
    model = models.build("seq2seq", **SMALL)
    target = TEXT[:, :5]
    first = model(TEXT, target)
    np.testing.assert_allclose(first, model(padded(TEXT), target), atol=1e-6)
    for place in range(TEXT.shape[1]):
        other = TEXT.copy()
        other[:, place] = 20 - other[:, place]
        assert abs(first - model(other, target)).max() > 1e-6
    later = target.copy()
    later[:, 3] = 20 - later[:, 3]
    np.testing.assert_allclose(first[:, :3], model(TEXT, later)[:, :3], atol=1e-6)


def test_noise_moves_the_reconstruction_and_not_the_distribution() -> None:
    model = models.build("vae", input=(1, 4, 4), hidden=(8,), code=3)
    image, noise = np.random.default_rng(0).random((2, 1, 4, 4), np.float32), np.ones((2, 3), np.float32)
    still, moved = model(image, 0 * noise), model(image, noise)
    assert abs(still["reconstruction"] - moved["reconstruction"]).min() > 0
    np.testing.assert_array_equal(still["mean"], moved["mean"])
    decoder = {k: v for k, v in model.parameters().items() if k.startswith("decoder.")}
    z = moved["mean"] + np.exp(moved["log_variance"] / 2)
    hidden = np.maximum(z @ decoder["decoder.0.weight"] + decoder["decoder.0.bias"], 0)
    logits = hidden @ decoder["decoder.1.weight"] + decoder["decoder.1.bias"]
    np.testing.assert_allclose(moved["reconstruction"].reshape(2, -1), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp_gan", "dcgan"])
def test_a_gan_judges_made_and_real_images_alike(name: str) -> None:
    model = models.build(name, input=(1, 8, 8), code=4)
    random = np.random.default_rng(0)
    noise, image = random.normal(size=(2, 4)).astype(np.float32), random.normal(size=(2, 1, 8, 8)).astype(np.float32)
    made = model(noise, image)
    assert abs(made["made"]).max() <= 1
    np.testing.assert_allclose(model(noise, made["made"])["real_score"], made["made_score"], rtol=1e-4, atol=1e-5)
    assert {name.split(".")[0] for name in model.parameters()} == {"generator", "discriminator"}


def test_both_ids_reach_the_score() -> None:
    model = models.build("ncf", users=5, items=5)
    ids = np.arange(5)
    first = model(ids, ids)
    assert (first != model(ids[::-1], ids))[:2].all()
    assert (first != model(ids, ids[::-1]))[:2].all()
