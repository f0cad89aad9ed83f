"""`make oracle`: compares with PyTorch and onnxruntime-training, and writes what it finds to docs/oracle.md.

python -m tests.oracle PAGE --torch PYTHON --ort-training PYTHON

Exits 1 where a difference is too large.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from tests.oracle import pytorch, second_engine
from tests.oracle.pytorch import ROOT, Result

LIMIT = 1e-4

INTRODUCTION = """\
# Oracles

`make oracle` computes layers, models and training runs with implementations that share no code with onnxmx, and
writes this page. A relative error is the largest difference of two tensors over the largest element of the second, or
over a hundredth of the largest gradient of the layer or model where that is more: the gradient of a bias before a
normalization is 0 but for rounding. Everything is float32, and at most {limit:g} apart where nothing else is said.
"""

LAYERS = """\
## Layers beside PyTorch {torch}

Every row of the tables of layers that the tests have, in inference form on the same inputs and weights: the output,
and the gradients of a weighted sum of it with respect to every input and parameter. Attention is compared with
PyTorch's unfused kernel: the fused one gives other gradients for a query whose keys are all hidden.

| layer | rows | gradients | output | gradient |
|---|---|---|---|---|
"""

MODELS = """\
## Models beside PyTorch {torch}

Small models of the zoo without dropout: the output at inference; the loss and every gradient of a training step, as the
compiled step makes them. PyTorch computes a model operator by operator, and its autograd differentiates it. The last
column is how far PyTorch's own float32 is off its float64: rounding grows through many normalizations over few samples.
A model holds within {limit:g}, or within twice that figure, which the last column then says.

| model | gradients | output and loss | gradient | PyTorch's own rounding |
|---|---|---|---|---|
"""

CURVES = """\
## Two engines, one loss curve

The first {steps} steps on the digits with Adam, warm-up, cosine decay and clipping, batches of 64, one thread: stock
ONNX Runtime {ort} beside `--engine ort-training`, without PyTorch in its environment. A run of the second engine that
resumes from its first epoch ends in the same bytes.

| model | first loss | last loss | largest relative difference |
|---|---|---|---|
"""

SECOND = """\
## Layers beside onnxruntime-training 1.19.2

The same table in training form: the gradients that onnxruntime-training makes beside those of our rules, both on its
kernels. {agree} of {all} rows have one there, and the largest relative error is {worst:.1e}. For the others `--engine
ort-training` says so and names the default engine:

| what it has not | rows |
|---|---|
"""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle")
    parser.add_argument("page", type=Path)
    parser.add_argument("--torch", required=True, help="an interpreter that has torch and numpy")
    parser.add_argument("--ort-training", required=True, help="one that has onnxmx[ort-training] and pytest")
    given = parser.parse_args(arguments)
    version = run(given.torch, "-c", "import torch; print(torch.__version__)").strip()
    layers = pytorch.compare(given.torch, list(pytorch.layer_cases()))
    models = pytorch.compare(given.torch, list(pytorch.model_cases()))
    second = ask_second(given.ort_training)
    curves = second_engine.curves("ort")
    given.page.write_text("\n".join(page(version, layers, models, second, curves)))
    failures = list(too_far(layers, models, second, curves))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    print(
        f"{len(layers)} layers, {len(models)} models, {len(curves)} curves: {len(failures)} too far; see {given.page}"
    )
    return bool(failures)


def run(python: str, *arguments: str) -> str:
    """What another interpreter prints, in an environment that is its own."""
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, *arguments]
    return subprocess.run(command, check=True, cwd=ROOT, env=alone, stdout=subprocess.PIPE, text=True).stdout


def ask_second(python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.json"
        run(python, "-m", "tests.oracle.second_engine", str(path))
        answer: dict[str, Any] = json.loads(path.read_text())
    return answer


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))


def too_far(
    layers: Sequence[Result], models: Sequence[Result], second: dict[str, Any], curves: dict[str, list[float]]
) -> Iterator[str]:
    yield from (f"{r.name}: {r.error:.1e}" for r in layers if r.error > LIMIT)
    yield from (f"{r.name}: {r.error:.1e}" for r in models if r.error > max(LIMIT, 2 * r.rounding))
    if sum(r.error <= LIMIT for r in models) < 10:
        yield f"fewer than ten models within {LIMIT:g}"
    yield from (f"ort-training, {r['name']}: {r['error']:.1e}" for r in second["layers"] if r.get("error", 0) > LIMIT)
    for name, curve in curves.items():
        if (found := apart(second["curves"][name], curve)) > LIMIT:
            yield f"the loss curves of {name}: {found:.1e}"
    if not second["resumed"]:
        yield "a resumed run of ort-training ends in other bytes"
    if second["torch"]:
        yield "ort-training imported torch"


def page(
    version: str, layers: Sequence[Result], models: Sequence[Result], second: dict[str, Any],
    curves: dict[str, list[float]],
) -> Iterator[str]:  # fmt: skip
    yield INTRODUCTION.format(limit=LIMIT)
    yield LAYERS.format(torch=version) + "\n".join(layer_rows(layers)) + "\n"
    yield MODELS.format(torch=version, limit=LIMIT) + "\n".join(model_rows(models)) + "\n"
    yield (
        CURVES.format(steps=second_engine.STEPS, ort=onnxruntime.__version__)
        + "\n".join(
            f"| {name} | {curve[0]:.4f} | {curve[-1]:.4f} | {apart(second['curves'][name], curve):.1e} |"
            for name, curve in curves.items()
        )
        + "\n"
    )
    rows, reasons = second["layers"], defaultdict(int)
    for row in rows:
        if "refused" in row:
            reasons[row["refused"].removeprefix("onnxruntime-training has ").removeprefix("no ")] += 1
    agree = [row["error"] for row in rows if "error" in row]
    yield (
        SECOND.format(agree=len(agree), all=len(rows), worst=max(agree))
        + "\n".join(f"| {reason} | {count} |" for reason, count in sorted(reasons.items()))
        + "\n"
    )


def layer_rows(results: Sequence[Result]) -> Iterator[str]:
    """One line a layer: the largest errors of its rows."""
    kinds: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        kinds[json.loads(result.name.partition(" of ")[0])["type"]].append(result)
    for kind, found in sorted(kinds.items()):
        forward, gradient = max(r.forward for r in found), max(r.gradient for r in found)
        yield f"| {kind} | {len(found)} | {sum(r.tensors for r in found)} | {forward:.1e} | {gradient:.1e} |"


def model_rows(results: Sequence[Result]) -> Iterator[str]:
    for r in results:
        yield f"| {r.name} | {r.tensors} | {r.forward:.1e} | {r.gradient:.1e} | {r.rounding:.1e} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
