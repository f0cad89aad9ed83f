"""The whole road in one go: train LeNet on the embedded digits, evaluate, quantize, serve, ask the server.

    make demo

Each step is the command that a user would type; the figures are read from its JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import onnxmx as mx

ONNXMX = [sys.executable, "-m", "onnxmx.cli"]


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        model, small = run / "model.onnx", run / "model.int8.onnx"
        command("train", "lenet", "--data", "digits", "--epochs", "12", "--seed", "1", "-o", run)
        accuracy = command("evaluate", model, "--data", "digits")["accuracy"]
        command("quantize", model, "--data", "digits", "-o", small)
        quantized = command("evaluate", small, "--data", "digits")["accuracy"]
        ratio = small.stat().st_size / model.stat().st_size
        truth, answer = ask_server(small)
    print()
    expect("test accuracy", f"{accuracy:.4f}", accuracy >= 0.97, ">= 0.97")
    expect("quantized size", f"{ratio:.3f} of the original", ratio <= 0.35, "<= 0.35")
    expect("quantized accuracy", f"{quantized:.4f}", accuracy - quantized <= 0.01, "at most 0.01 less")
    expect("the server's answer", f"{answer} for an image of a {truth}", answer == truth, "the same")
    print(f"{time.perf_counter() - start:.0f} s in all")


def command(name: str, *arguments: object) -> dict[str, Any]:
    """Run `onnxmx name ...`, showing it and its progress; returns its JSON."""
    words = [name, *map(str, arguments)]
    print(f"$ onnxmx {' '.join(words)}", flush=True)
    done = subprocess.run([*ONNXMX, *words, "--format", "json"], check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def ask_server(model: Path) -> tuple[str, str]:
    """Serve `model` and send it one test image. Returns the true class and the one that the server names."""
    data = mx.data.digits("test")
    batch = data.batch([0])
    print(f"$ onnxmx serve {model} --port 0", flush=True)
    server = subprocess.Popen([*ONNXMX, "serve", str(model), "--port", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        ready = re.search(r"http://\S+/v2", server.stderr.readline())
        assert ready is not None, "the server did not start"
        url = f"{ready[0]}/models/{model.stem}/infer"
        image = {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": batch["image"].ravel().tolist()}
        print(f"$ curl {url} -d '{{\"inputs\": [...]}}'", flush=True)
        request = urllib.request.Request(
            url, json.dumps({"inputs": [image]}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            logits = json.load(response)["outputs"][0]["data"]
    finally:
        server.terminate()
        server.wait()
    classes = data.classes or ()
    return classes[int(batch["label"][0])], classes[logits.index(max(logits))]


def expect(what: str, found: str, holds: bool, target: str) -> None:
    """Print a figure beside its target; a figure that misses it ends the demo with an error."""
    print(f"{what:<22}{found:<28}{'ok' if holds else 'MISSED'}  ({target})", flush=True)
    if not holds:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
