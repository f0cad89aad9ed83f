"""What `make oracle` asks of PyTorch and of the second engine can still be made; comparing needs their environments."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np

from onnxmx import layers as L
from onnxmx import models
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.engine.ort_training import FlatBuilder
from tests.builder import test_layers, test_sequence_layers
from tests.oracle import pytorch, second_engine


def test_every_layer_of_the_tables_is_asked_for() -> None:
    rows = [*test_layers.CASES, *test_sequence_layers.ROWS]
    asked = {json.loads(name.partition(" of ")[0])["type"] for name, _ in pytorch.layer_makers()}
    assert asked == {type(row.layer).__name__ for row in rows} - {"Lambda"}  # a function in Python
    assert pytorch.describe(L.Activation(lambda x: x)) is None


def test_a_layer_is_computed_in_both_forms() -> None:
    makers = dict(islice(pytorch.layer_makers(), 30))
    (make,) = [make for name, make in makers.items() if '"Dropout"' in name]
    inferred, trained = make(), make(FlatBuilder, gradients, True)
    np.testing.assert_array_equal(inferred.ours["output"], inferred.arrays["x"])
    dropped = trained.ours["output"] == 0.0
    assert dropped.any()
    np.testing.assert_array_equal(dropped, trained.ours["d x"] == 0.0)
    assert pytorch.difference(inferred.ours, inferred.ours, "") == 0.0
    assert pytorch.difference(trained.ours, inferred.ours, "") > 0.1


def test_a_model_is_computed() -> None:
    row = pytorch.MODELS[0]
    case = pytorch._model_case(row.name, models.build(row.name, **row.options), row.loss)
    assert {name for name in case.ours if name.startswith("d ")} == {f"d {name}" for name in case.request["wrt"]}
    json.dumps(case.request)


def test_a_curve_has_a_loss_for_each_step() -> None:
    losses = second_engine.curves("ort", steps=3)
    assert {name: len(found) for name, found in losses.items()} == {"mlp": 3, "lenet": 3, "lstm": 3}
