"""Computes cases in an environment that has PyTorch and numpy alone: python -m tests.oracle.torch_worker FOLDER

FOLDER/<case>.json and .npz say what to compute; FOLDER/<case>.out.npz gets the output, the loss and its gradients, and
<case>.double.npz those of a model in float64, which tell how far float32 itself is off.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tests.oracle import torch_graph, torch_layers


def compute(case: Path, *, double: bool = False) -> dict[str, np.ndarray]:
    asked = json.loads(case.read_text())
    with np.load(case.with_suffix(".npz")) as archive:
        values = {name: torch.from_numpy(archive[name]) for name in archive.files}
    if double:
        values = {name: v.double() if v.dtype == torch.float32 else v for name, v in values.items()}
    leaves = {name: values[name].requires_grad_() for name in asked["wrt"]}
    if "layer" in asked:
        inputs = {name: values[name] for name in asked["inputs"]}
        parameters = {name: v for name, v in values.items() if name not in inputs}
        first, *_ = inputs
        output = torch_layers.call(asked["layer"], parameters, inputs.pop(first), **inputs)
        loss = (output * values[asked["label"]]).sum()
        found = {"output": output}
    else:
        output = torch_graph.run(asked["graph"], values, training=False)
        trained = torch_graph.run(asked["graph"], values, training=True)
        loss = torch_graph.loss(asked["loss"], trained, values[asked["label"]])
        found = {"output": output, "loss": loss}
    loss.backward()
    for name, leaf in leaves.items():
        found[f"d {name}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {name: np.asarray(value.detach().numpy(), order="C") for name, value in found.items()}


if __name__ == "__main__":
    torch.manual_seed(0)
    for path in sorted(Path(sys.argv[1]).glob("*.json")):
        np.savez(path.with_suffix(".out.npz"), **compute(path))
        if "graph" in json.loads(path.read_text()):
            torch.set_default_dtype(torch.float64)
            np.savez(path.with_suffix(".double.npz"), **compute(path, double=True))
            torch.set_default_dtype(torch.float32)
