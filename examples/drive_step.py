"""Train on from a run's hand-over with numpy and ONNX Runtime alone: no onnxmx, no framework.

    python examples/drive_step.py runs/digits

It reads step.onnx, step.json and state.safetensors, feeds a batch that it makes up, and prints the loss as it falls.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

STEPS = 50


def main(folder: Path) -> None:
    spec = json.loads((folder / "step.json").read_text())
    first = load_file(folder / "state.safetensors")
    session = onnxruntime.InferenceSession(folder / "step.onnx")
    random = np.random.default_rng(0)
    feeds = {}
    for port in spec["inputs"]:
        if "tensor" in port:
            feeds[port["name"]] = first[port["tensor"]]
        else:  # a batch of 32; labels are class numbers
            shape = [32 if isinstance(d, str) else d for d in port["shape"]]
            floats = port["dtype"] == "float32"
            feeds[port["name"]] = random.random(shape, np.float32) if floats else random.integers(0, 10, shape)
    outputs = [port["name"] for port in spec["outputs"]]
    for step in range(STEPS):
        results = dict(zip(outputs, session.run(outputs, feeds), strict=True))
        if step % 10 == 0 or step == STEPS - 1:
            print(f"step {step}  loss {results['loss']:.4f}  lr {results['lr']:.5f}")
        feeds |= {port["name"]: results[port["next"]] for port in spec["inputs"] if port.get("next")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
