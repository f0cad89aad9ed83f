"""The seam between the two engines, as far as stock ONNX Runtime shows it; `make oracle` compares the engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import CheckpointError, GradientError, MissingExtraError, UsageError
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.engine import ENGINES, OrtEngine, ort_training
from onnxmx.trainer.engine.ort_training import FlatBuilder
from onnxmx.trainer.plan import Plan
from onnxmx.trainer.run_directory import Position, RunDirectory
from onnxmx.trainer.step import Differentiator, initial_state
from tests.trainer.nets import TINY, batch_for, blob_net, blobs

OPTIMIZER = mx.AdamW(lr=mx.WarmupCosine(1e-2, warmup=2, total=9))


def test_an_unknown_engine_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no engine named 'ort_training'\n  Did you mean 'ort-training'"):
        Plan(engine="ort_training")


def test_the_second_engine_is_for_the_cpu() -> None:
    with pytest.raises(UsageError, match=r"expected the provider 'cpu'; found 'cuda'"):
        Plan(engine="ort-training", provider="cuda")


def test_a_missing_engine_names_its_package_and_its_environment() -> None:
    with pytest.raises(MissingExtraError, match=r"(?s)'onnxruntime-training'.*'onnxmx\[ort-training\]', in an env"):
        mx.fit(blob_net(), blobs(), engine="ort-training", progress=False)


def test_a_step_says_which_engine_made_it() -> None:
    step = mx.compile_step(TINY["mlp"](), loss="softmax_cross_entropy", optimizer=OPTIMIZER)
    assert step.spec["settings"]["engine"] == next(iter(ENGINES)) == "ort"


def test_a_checkpoint_of_another_engine_is_refused(tmp_path: Path) -> None:
    folder = RunDirectory(tmp_path)
    arrays = {"step": np.array(3)}
    folder.save_checkpoint(arrays, Position(), {"engine": "ort"})
    with pytest.raises(CheckpointError, match=r"engine \(expected 'ort', found 'ort-training'\)"):
        folder.load_checkpoint({"engine": "ort-training"})


@pytest.mark.parametrize("name", ["mlp", "conv", "dropout"])
def test_a_step_without_functions_computes_the_same(name: str) -> None:
    """With the random numbers of dropout, for which one engine has no kernel of their type."""
    model = TINY[name]()
    state = initial_state(model, OPTIMIZER, 2**33 + 7)
    flat = Differentiator("flat", FlatBuilder, gradients)
    engines = []
    for maker in (None, flat):
        step = mx.compile_step(
            model,
            loss="softmax_cross_entropy",
            optimizer=OPTIMIZER,
            clip=mx.clip_global_norm(1.0),
            differentiator=maker,
        )
        assert (b"ai.onnxmx" in step.data) == (maker is None)
        engines.append(OrtEngine(step, state, threads=1))
    for k in range(5):
        batch = batch_for(model, seed=k)
        assert engines[0].step(batch) == pytest.approx(engines[1].step(batch), rel=1e-6)
    for key, array in engines[0].state().items():
        np.testing.assert_allclose(engines[1].state()[key], array, rtol=1e-5, atol=1e-7, err_msg=key)


@pytest.mark.parametrize(
    ("layer", "inputs", "what"),
    [
        (L.LSTM(3, bidirectional=True), {"x": ("batch", 4, 2)}, "LSTM with lengths, peepholes or two directions"),
        (L.AvgPool2D(2), {"x": ("batch", 2, 4, 4)}, "AveragePool where the batch is symbolic"),
        (L.Activation("gelu_tanh"), {"x": ("batch", 4)}, "Gelu with approximate='tanh'"),
    ],
    ids=["lstm", "average pool", "gelu"],
)
def test_what_the_second_engine_gets_wrong_is_refused(layer: L.Layer, inputs: dict[str, Any], what: str) -> None:
    net = L.Sequential(layer, L.Dense(2))
    flat = Differentiator("flat", FlatBuilder, gradients, plain=False)
    with pytest.raises(GradientError, match=rf"(?s){what}.*--engine ort"):
        mx.compile_step(net.build(**inputs), loss="softmax_cross_entropy", optimizer=OPTIMIZER, differentiator=flat)


def test_the_second_engine_says_that_it_computes_no_activations_again() -> None:
    net = L.Sequential(L.Dense(3, activation="tanh", checkpoint=True), L.Dense(2))
    second = Differentiator("ort-training", FlatBuilder, ort_training.gradients, plain=False)
    with pytest.raises(GradientError, match=r"(?s)no way to compute activations again.*checkpoint=True.*--engine ort"):
        mx.compile_step(net.build(x=("batch", 4)), loss="mse", optimizer=OPTIMIZER, differentiator=second)
