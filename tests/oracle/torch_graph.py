"""A model's graph computed by PyTorch, one call an operator, so that autograd differentiates it.

A graph comes as {"nodes": [{"op", "inputs", "outputs", "attributes"}], "output": its name}: neither onnx nor onnxmx is
imported here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tests.oracle import torch_recurrent as recurrent

CAST = {6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}


def run(graph: dict[str, Any], values: dict[str, Any], *, training: bool) -> Any:
    """The output, from inputs, parameters and constants by name. training: whether BatchNorm takes the batch's own."""
    known: dict[str, Any] = {"": None, **values}
    for node in graph["nodes"]:
        outputs = RULES[node["op"]](
            node["attributes"] | {"training": training}, *[known[name] for name in node["inputs"]]
        )
        known.update(zip(node["outputs"], outputs if isinstance(outputs, tuple) else (outputs,), strict=False))
    return known[graph["output"]]


def loss(name: str, output: Any, label: Any) -> Any:
    if name == "mean_squared_error":
        return F.mse_loss(output, label)
    if output.shape[:-1] == label.shape:
        return F.cross_entropy(output.flatten(0, -2), label.flatten())
    return F.cross_entropy(output, label)  # the classes of pixels are the second axis


def pads(a: dict[str, Any], x: Any, **how: Any) -> Any:
    """`x` with the padding of a window's attributes."""
    given = a.get("pads") or [0]
    half = len(given) // 2
    return F.pad(x, [n for k in reversed(range(half)) for n in (given[k], given[k + half])], **how) if any(given) else x


def conv(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    function = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    one = [1] * (x.ndim - 2)
    stride, dilation = a.get("strides", one), a.get("dilations", one)
    return function(pads(a, x), w, b, stride=stride, dilation=dilation, groups=a.get("group", 1))


def conv_transpose(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.ndim - 3]
    one = [1] * (x.ndim - 2)
    extra = a.get("output_padding", [0] * (x.ndim - 2))
    y = function(x, w, b, stride=a.get("strides", one), output_padding=extra, groups=a.get("group", 1),
                 dilation=a.get("dilations", one))  # fmt: skip
    return pads({"pads": [-n for n in a.get("pads", [])]}, y)


def max_pool(a: dict[str, Any], x: Any) -> Any:
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    return function(pads(a, x, value=-torch.inf), a["kernel_shape"], a.get("strides"))


def batch_norm(a: dict[str, Any], x: Any, w: Any, b: Any, mean: Any, var: Any) -> Any:
    given = (None, None) if a["training"] else (mean, var)
    return F.batch_norm(x, *given, w, b, training=a["training"], eps=a.get("epsilon", 1e-5))


def gemm(a: dict[str, Any], x: Any, w: Any, c: Any = None) -> Any:
    y = (x.T if a.get("transA") else x) @ (w.T if a.get("transB") else w) * a.get("alpha", 1.0)
    return y if c is None else y + a.get("beta", 1.0) * c


def dropout(a: dict[str, Any], x: Any, ratio: Any = None, training: Any = None) -> Any:
    if ratio is None or float(ratio) > 0:
        raise ValueError("expected a model without dropout: its random numbers are another generator's")
    return x


def slices(a: dict[str, Any], x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    where = [slice(None)] * x.ndim
    for k, axis in enumerate(range(len(starts)) if axes is None else axes.tolist()):
        where[axis] = slice(int(starts[k]), int(ends[k]), None if steps is None else int(steps[k]))
    return x[tuple(where)]


def shape(a: dict[str, Any], x: Any) -> Any:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end", x.ndim)], dtype=torch.int64)


def reshape(a: dict[str, Any], x: Any, sizes: Any) -> Any:
    return x.reshape([x.shape[k] if n == 0 and not a.get("allowzero") else n for k, n in enumerate(sizes.tolist())])


def reduce(function: Any) -> Any:
    def rule(a: dict[str, Any], x: Any, axes: Any = None) -> Any:
        dims = list(range(x.ndim)) if axes is None else axes.tolist()
        return function(x, dim=dims, keepdim=bool(a.get("keepdims", 1)))

    return rule


def unsqueeze(a: dict[str, Any], x: Any, axes: Any) -> Any:
    for axis in sorted(n % (x.ndim + len(axes)) for n in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def pad(a: dict[str, Any], x: Any, given: Any, value: Any = None, axes: Any = None) -> Any:
    if axes is not None or a.get("mode", "constant") != "constant":
        raise ValueError("expected Pad of all axes with a constant")
    return pads({"pads": given.tolist()}, x, value=0.0 if value is None else float(value))


def recurrence(kind: str) -> Any:
    def rule(
        a: dict[str, Any], x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None
    ) -> Any:
        return recurrent.run(kind, x, w, r, b, lengths, (h, c), reset_after=bool(a.get("linear_before_reset")))

    return rule


def layer_norm(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    return F.layer_norm(x, x.shape[a.get("axis", -1) :], w, b, a.get("epsilon", 1e-5))


def largest(a: dict[str, Any], *xs: Any) -> Any:
    y = xs[0]
    for x in xs[1:]:
        y = torch.maximum(y, x)
    return y


RULES: dict[str, Any] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": lambda a, x: F.avg_pool2d(x, a["kernel_shape"], a.get("strides")),
    "BatchNormalization": batch_norm,
    "Cast": lambda a, x: x.to(CAST.get(a["to"]) or torch.get_default_dtype()),
    "Clip": lambda a, x, low=None, high=None: x.clamp(low, high),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": lambda a, x, y: x / y,
    "Dropout": dropout,
    "Equal": lambda a, x, y: x == y,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "GRU": recurrence("GRU"),
    "Gather": lambda a, x, i: x.index_select(a.get("axis", 0), i.reshape(-1)).reshape(
        *x.shape[: a.get("axis", 0)], *i.shape, *x.shape[a.get("axis", 0) + 1 :]
    ),
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", "none")),
    "Gemm": gemm,
    "LSTM": recurrence("LSTM"),
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "Less": lambda a, x, y: x < y,
    "MatMul": lambda a, x, y: x @ y,
    "Max": largest,
    "MaxPool": max_pool,
    "Mul": lambda a, x, y: x * y,
    "Not": lambda a, x: ~x,
    "Pad": pad,
    "Range": lambda a, start, end, step: torch.arange(start.item(), end.item(), step.item()),
    "ReduceMax": reduce(torch.amax),
    "ReduceMean": reduce(torch.mean),
    "ReduceSum": reduce(torch.sum),
    "Relu": lambda a, x: F.relu(x),
    "Reshape": reshape,
    "Shape": shape,
    "Sigmoid": lambda a, x: torch.sigmoid(x),
    "Sin": lambda a, x: torch.sin(x),
    "Slice": slices,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Squeeze": lambda a, x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist())),
    "Tanh": lambda a, x: torch.tanh(x),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": unsqueeze,
}
