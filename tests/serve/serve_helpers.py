"""Small real models, and a real server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], **constants: Any) -> onnx.ModelProto:
    """A model.  inputs and outputs: (name, element type, shape)."""
    values = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()]
    graph = helper.make_graph(nodes, "g", *values, initializers)
    built = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    if all(shape is not None for _, _, shape in inputs):  # the checker asks for shapes; ONNX Runtime does not
        onnx.checker.check_model(built, full_check=True)
    return built


def identity(element_type: int, shape: list[Any] | None) -> onnx.ModelProto:
    return model(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", element_type, shape)], [("y", element_type, shape)]
    )


def mlp(scale: float = 1.0) -> onnx.ModelProto:
    """y = relu(x @ w1) @ w2.   x: (batch, 4)   y: (batch, 3)"""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    w1, w2 = mlp_weights(scale)
    return model(nodes, [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 3])], w1=w1, w2=w2)


def mlp_weights(scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return (draw.standard_normal((4, 8)) * scale).astype("f4"), draw.standard_normal((8, 3)).astype("f4")


def pair() -> onnx.ModelProto:
    """sum = a + b, difference = a - b; the three share their first dimension."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape = ["n", 2]
    return model(nodes, [(n, FLOAT, shape) for n in "ab"], [(n, FLOAT, shape) for n in ("sum", "difference")])


def lookup() -> onnx.ModelProto:
    """Rows of a table of five, by index: an index outside it is a mistake that only the model can see."""
    table = np.arange(5, dtype="f4") / 2
    node = helper.make_node("Gather", ["table", "ids"], ["row"])
    return model([node], [("ids", INT64, ["n"])], [("row", FLOAT, ["n"])], table=table)


def pixels(preprocessing: str = '{"scale": 0.5, "shift": -1.0}', classes: str = '["no", "yes"]') -> onnx.ModelProto:
    """y = x + n, of a model whose metadata says how x is prepared and what the two elements of y are."""
    shape = ["batch", 2]
    cast = helper.make_node("Cast", ["n"], ["f"], to=FLOAT)
    nodes = [cast, helper.make_node("Add", ["x", "f"], ["y"])]
    built = model(nodes, [("x", FLOAT, shape), ("n", INT64, shape)], [("y", FLOAT, shape)])
    helper.set_model_props(built, {"onnxmx.preprocessing": preprocessing, "onnxmx.classes": classes})
    return built


def log() -> onnx.ModelProto:
    return model([helper.make_node("Log", ["x"], ["y"])], [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])])


def reshape() -> onnx.ModelProto:
    """A model that fails unless x has six elements."""
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    return model([node], [("x", FLOAT, ["n"])], [("y", FLOAT, [2, 3])], to=np.array([2, 3]))


def slow() -> onnx.ModelProto:
    """A loop of n matrix products, each of about a tenth of a millisecond."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["more"], ["again"]),
            helper.make_node("MatMul", ["state", "eye"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("more", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [128, 128]),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [128, 128]),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["n", "", "eye"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["trace"], keepdims=0),
    ]
    return model(nodes, [("n", INT64, [])], [("trace", FLOAT, [])], eye=np.eye(128, dtype="f4"))


def save(built: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(built, path)
    return path


class Server:
    """`serve(path, ...)` on a free port, in a process of its own, with warnings as errors."""

    PROGRAM = "from onnxmx.serve import serve; serve({path!r}, port=0, **{options!r})"

    def __init__(self, path: Path, **options: Any) -> None:
        code = self.PROGRAM.format(path=str(path), options=options)
        command = [sys.executable, "-W", "error", "-c", code]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        watchdog = threading.Timer(30, self.process.kill)
        watchdog.start()
        self.started: list[str] = []
        for line in self.process.stderr:
            self.started.append(line)
            if line.startswith("onnxmx: serving"):
                break
        else:
            raise AssertionError("".join(self.started))
        watchdog.cancel()
        self.url = line.split(" at ")[1].split("/v2")[0]
        self.port = int(self.url.rsplit(":", 1)[1])

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20)

    def end(self) -> tuple[int, str]:
        """Waits for it to end.  Returns the exit status and what it wrote to stderr since it was ready."""
        _, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stderr

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.communicate(timeout=20)
        finally:
            self.process.kill()
