"""docs/layers.md, written from the layers themselves: `python -m onnxmx.builder.reference docs/layers.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from onnxmx.builder import init, layers
from onnxmx.builder.model import Input, InputSpec, Model, build
from onnxmx.builder.values import show_shape

_HEAD = """\
# Layers

Written by `python -m onnxmx.builder.reference docs/layers.md`; a test fails when it is stale.

```python
from onnxmx import layers as L

net = L.Sequential(L.Conv2D(20, 5, activation="relu"), L.MaxPool2D(2), L.Flatten(), L.Dense(10))
model = net.build(image=("batch", 1, 28, 28))
```

A layer is called on graph values and gives one; called twice, it shares its parameters. Every layer also takes `name=`,
which its parameters and nodes are named after; without it they are named by their place. With `checkpoint=True`
training computes what is inside a layer again instead of keeping it ([gradients.md](gradients.md#less-memory)). An
activation is a name, or any function of a value; an initializer is a name, or any function of a shape and a random
generator. The names in the examples are those of `L`. Layers of your own: [own-layers.md](own-layers.md).
"""

SECTIONS = {
    "Dense and sequences of symbols": ("dense", "embedding"),
    "Convolution": ("conv",),
    "Pooling": ("pool",),
    "The size of space": ("resize",),
    "Normalization and dropout": ("norm",),
    "Activations with a number of their own": ("activation",),
    "Recurrence": ("recurrent", "cells"),
    "Attention": ("attention",),
    "Movement": ("movement",),
    "Layers made of layers": ("container",),
}
"""By title, the modules of onnxmx/builder/layers that a section is of."""

_ROW, _STEPS = ("batch", 64), ("batch", "time", 64)
_SEQUENCE, _IMAGE, _VOLUME = ("batch", 8, 50), ("batch", 8, 28, 28), ("batch", 8, 16, 28, 28)
_TOKENS = Input(("batch", "time"), "int64")

EXAMPLES: dict[str, tuple[str, InputSpec | dict[str, InputSpec]]] = {
    "Activation": ('Activation("gelu")', _ROW),
    "Add": ("Add(Conv2D(8, 1), Identity())", _IMAGE),
    "AvgPool1D": ("AvgPool1D(2)", _SEQUENCE),
    "AvgPool2D": ("AvgPool2D(3, stride=2, padding=1)", _IMAGE),
    "AvgPool3D": ("AvgPool3D(2)", _VOLUME),
    "BatchNorm": ("BatchNorm()", _IMAGE),
    "CELU": ("CELU(0.5)", _ROW),
    "Cell": ("Unroll(RNNCell(32))", ("batch", 5, 64)),
    "Concat": ("Concat(Conv2D(16, 1), Conv2D(32, 3, padding=1))", _IMAGE),
    "Conv1D": ("Conv1D(16, 3)", _SEQUENCE),
    "Conv1DTranspose": ("Conv1DTranspose(4, 4, stride=2, padding=1)", _SEQUENCE),
    "Conv2D": ('Conv2D(16, 3, stride=2, padding="same", activation="relu")', _IMAGE),
    "Conv2DTranspose": ("Conv2DTranspose(4, 4, stride=2, padding=1)", _IMAGE),
    "Conv3D": ("Conv3D(16, (1, 3, 3))", _VOLUME),
    "Conv3DTranspose": ("Conv3DTranspose(4, 2, stride=2)", _VOLUME),
    "Dense": ('Dense(10, activation="tanh")', _ROW),
    "Dropout": ("Dropout(0.2)", _ROW),
    "ELU": ("ELU(0.5)", _ROW),
    "Embedding": ("Embedding(1000, 32)", _TOKENS),
    "Flatten": ("Flatten()", _IMAGE),
    "GRU": ("GRU(32, return_sequences=False)", _STEPS),
    "GRUCell": ("Unroll(GRUCell(32))", ("batch", 5, 64)),
    "GlobalAvgPool1D": ("GlobalAvgPool1D()", _SEQUENCE),
    "GlobalAvgPool2D": ("GlobalAvgPool2D()", _IMAGE),
    "GlobalAvgPool3D": ("GlobalAvgPool3D()", _VOLUME),
    "GlobalMaxPool1D": ("GlobalMaxPool1D()", _SEQUENCE),
    "GlobalMaxPool2D": ("GlobalMaxPool2D()", _IMAGE),
    "GlobalMaxPool3D": ("GlobalMaxPool3D()", _VOLUME),
    "GroupNorm": ("GroupNorm(4)", _IMAGE),
    "Identity": ("Residual(Dense(64), Identity())", _ROW),
    "InstanceNorm": ("InstanceNorm()", _IMAGE),
    "LSTM": ("LSTM(32, bidirectional=True)", _STEPS),
    "LSTMCell": ("Unroll(LSTMCell(32))", ("batch", 5, 64)),
    "Lambda": ("Lambda(lambda x: x * 2.0)", _ROW),
    "LayerNorm": ("LayerNorm()", _STEPS),
    "LeakyReLU": ("LeakyReLU(0.2)", _ROW),
    "LearnedPosition": ("LearnedPosition(100)", _STEPS),
    "LocalResponseNorm": ("LocalResponseNorm(5)", _IMAGE),
    "LogSoftmax": ("LogSoftmax()", _ROW),
    "MaxPool1D": ("MaxPool1D(2)", _SEQUENCE),
    "MaxPool2D": ("MaxPool2D(3, stride=2, ceil=True)", _IMAGE),
    "MaxPool3D": ("MaxPool3D((1, 2, 2))", _VOLUME),
    "MultiHeadAttention": ("MultiHeadAttention(4, causal=True)", _STEPS),
    "Multiply": ('Multiply(Identity(), Dense(64, activation="sigmoid"))', _ROW),
    "PReLU": ("PReLU()", _IMAGE),
    "Parallel": ('Parallel(mean=Dense(2), spread=Dense(2, activation="softplus"))', _ROW),
    "Permute": ("Permute(2, 3, 1)", _IMAGE),
    "PixelShuffle": ("PixelShuffle(2)", _IMAGE),
    "RMSNorm": ("RMSNorm()", _STEPS),
    "RNN": ("RNN(32)", _STEPS),
    "RNNCell": ("Unroll(RNNCell(32))", ("batch", 5, 64)),
    "ReflectionPad": ("ReflectionPad(3)", _IMAGE),
    "Reshape": ("Reshape(-1, 7, 7)", _IMAGE),
    "Residual": ("Residual(Dense(64))", _ROW),
    "RotaryPosition": ("RotaryPosition()", _STEPS),
    "Sequential": ('Sequential(Dense(32, activation="relu"), Dense(10))', _ROW),
    "SinusoidalPosition": ("SinusoidalPosition()", _STEPS),
    "Softmax": ("Softmax(axis=1)", _IMAGE),
    "TransformerDecoderLayer": ("TransformerDecoderLayer(4, 128)", {"x": _STEPS, "memory": ("batch", "source", 64)}),
    "TransformerEncoderLayer": ("TransformerEncoderLayer(4, 128)", _STEPS),
    "Unroll": ("Unroll(LSTMCell(32))", ("batch", 5, 64)),
    "UpSample": ('UpSample(2, mode="bilinear")', _IMAGE),
    "ZeroPad": ("ZeroPad(((0, 1), (0, 1)))", _IMAGE),
}
"""For each layer an example: how it is written, and the inputs of the model that it is built as."""


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, modules in SECTIONS.items():
        parts += [f"## {title}\n", *(_section(name) for name in documented() if _module(name) in modules)]
    parts += ["## Activations by name\n", _table(("name", "what", "operators"), _activations())]
    parts += ["## Initializers\n", _table(("name", "with its arguments", "what"), _initializers())]
    return "\n".join(parts)


def documented() -> list[str]:
    """The names of all layers."""
    found = [name for name in layers.__all__ if isinstance(getattr(layers, name), type) and name != "Layer"]
    return sorted(found)


def example(name: str) -> Model:
    """The example of a layer, built."""
    text, inputs = EXAMPLES[name]
    layer = eval(text, {n: getattr(layers, n) for n in layers.__all__})  # of the table above
    return build(layer, seed=0, **(inputs if isinstance(inputs, dict) else {"x": inputs}))


def _section(name: str) -> str:
    layer = getattr(layers, name)
    model = example(name)
    given = ", ".join(show_shape(port.shape) for port in model.inputs.values())
    outputs = model.outputs
    made = ", ".join(
        f"{n} {show_shape(p.shape)}" if len(outputs) > 1 else show_shape(p.shape) for n, p in outputs.items()
    )
    return "\n\n".join(
        [
            f"### {name}",
            f"`{signature(layer)}`",
            f"```text\n{inspect.cleandoc(layer.__doc__ or '')}\n```",
            f"`{EXAMPLES[name][0]}` takes {given} and gives {made}. Operators: {_operators(model)}.\n",
        ]
    )


def signature(layer: Callable[..., Any]) -> str:
    """How a layer is called, without the types and what all have, `name` and `checkpoint`."""
    parts: list[str] = []
    keyword = False
    for p in inspect.signature(layer).parameters.values():
        if p.name in ("name", "checkpoint"):
            continue
        if p.kind is p.KEYWORD_ONLY and not keyword and not any(part.startswith("*") for part in parts):
            parts.append("*")
        keyword = p.kind is p.KEYWORD_ONLY
        stars = "*" * (p.kind is p.VAR_POSITIONAL) + "**" * (p.kind is p.VAR_KEYWORD)
        parts.append(f"{stars}{p.name}" + ("" if p.default is p.empty else f"={p.default!r}"))
    return f"{layer.__name__}({', '.join(parts)})"


def _activations() -> Iterable[tuple[str, ...]]:
    for name, function in layers.ACTIVATIONS.items():
        yield f"`{name}`", _summary(function), _operators(build(function, x=_ROW))


def _initializers() -> Iterable[tuple[str, ...]]:
    for name, function in init.NAMED.items():
        yield f"`{name}`", f"`init.{signature(function)}`", _summary(function)
    given: tuple[Callable[..., init.Initializer], ...] = (init.constant, init.array, init.file)
    for factory in given:
        yield "", f"`init.{signature(factory)}`", _summary(factory)


def _operators(model: Model) -> str:
    """The operators of a model in the order of their first use."""
    return ", ".join(dict.fromkeys(node.op_type for node in model.ir.graph)) or "none"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


def _module(name: str) -> str:
    return str(getattr(layers, name).__module__).rpartition(".")[2]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
