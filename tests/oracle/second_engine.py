"""onnxruntime-training as an oracle, in an environment of its own: python -m tests.oracle.second_engine OUT.json

Loss curves of the second engine, its gradients of the table of layers beside those of our rules, and a resumed run.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import onnxmx as mx
from onnxmx import layers as L
from onnxmx.errors import GradientError, GraphError
from onnxmx.trainer.autodiff import gradients
from onnxmx.trainer.config import TrainConfig
from onnxmx.trainer.data import Loader, get_dataset
from onnxmx.trainer.engine import ENGINES
from onnxmx.trainer.run import resume_run, train
from onnxmx.trainer.step import initial_state

SECOND = "ort-training"
STEPS = 50


def curves(engine: str, steps: int = STEPS) -> dict[str, list[float]]:
    """The loss of each of the first steps on the digits, by model, made and run by `engine`."""
    digits = get_dataset("digits", "train")
    lstm = L.Sequential(L.Reshape(8, 8), L.LSTM(32, return_sequences=False), L.Dense(10))
    nets = {
        "mlp": mx.models.mlp(input=(1, 8, 8)),
        "lenet": mx.models.lenet(input=(1, 8, 8)),
        "lstm": lstm,  # the rows of an image as a sequence
    }
    return {name: _curve(net.build(image=("batch", 1, 8, 8)), digits, engine, steps) for name, net in nets.items()}


def _curve(model: mx.Model, data: Any, engine: str, steps: int) -> list[float]:
    # The command line's own defaults. A larger rate than 1e-3 moves a unit across its kink at 0, and from there
    # rounding grows: at 3e-3 the two curves of the mlp are 0.005 apart after 50 steps.
    optimizer = mx.Adam(lr=mx.WarmupCosine(1e-3, warmup=None))
    step = mx.compile_step(
        model, loss="softmax_cross_entropy", optimizer=optimizer, clip=mx.clip_global_norm(1.0), total=steps,
        differentiator=ENGINES[engine].differentiator(),
    )  # fmt: skip
    runner = ENGINES[engine].run(step, initial_state(model, optimizer, 0), threads=1)
    losses: list[float] = []
    for epoch in range(steps):
        for _, batch in Loader(data, 64, seed=0).epoch(epoch):
            losses.append(runner.step(batch)["loss"])
            if len(losses) == steps:
                return losses
    raise AssertionError("an epoch has at least one step")


def layers() -> Iterator[dict[str, Any]]:
    """For each row of the table of layers: the largest relative difference of the two gradients, or why there is none.

    Both run on this environment's ONNX Runtime, so that they differ in nothing else.
    """
    from tests.oracle import pytorch

    maker = ENGINES[SECOND].differentiator()
    for name, make in pytorch.layer_makers():
        row: dict[str, Any] = {"name": name, "type": json.loads(name.partition(" of ")[0])["type"]}
        try:
            error = pytorch.difference(
                make(maker.builder, maker.gradients, True).ours, make(maker.builder, gradients, True).ours, name
            )
        except (GradientError, GraphError) as refused:
            missing = re.search(r"implementation for (\w+)\(", refused.problem)
            yield row | {"refused": f"no kernel for {missing[1]}" if missing else refused.problem}
        else:
            yield row | {"error": error}


def resumed_is_the_same() -> bool:
    """Whether a run that goes on from the checkpoint of its first epoch ends in the bytes of one that never stopped."""
    with tempfile.TemporaryDirectory() as folder:
        whole, again = Path(folder) / "whole", Path(folder) / "again"
        train(TrainConfig("mlp", "digits", epochs=2, engine=SECOND, checkpoint_s=1e6), whole, progress=False)
        shutil.copytree(whole, again)
        newest = max((again / "checkpoints").iterdir(), key=lambda p: int(p.stem.removeprefix("step-")))
        newest.unlink()
        resume_run(again, progress=False)
        return (whole / "last.onnx").read_bytes() == (again / "last.onnx").read_bytes()


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    answer = {
        "curves": curves(SECOND),
        "layers": list(layers()),
        "resumed": resumed_is_the_same(),
        "torch": "torch" in sys.modules,
    }
    Path(sys.argv[1]).write_text(json.dumps(answer))
