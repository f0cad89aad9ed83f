"""Every layer again, in PyTorch: what each must compute, from its fields, its parameters and its inputs.

A layer comes as {"type": its class's name, its fields ...}, since nothing of onnxmx is imported here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.oracle import torch_recurrent as recurrent

Spec = dict[str, Any]
Parameters = dict[str, Any]

ACTIVATIONS: dict[str | None, Any] = {
    None: lambda x: x, "relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu, "elu": F.elu, "selu": F.selu,
    "celu": F.celu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu,
    "swish": F.silu, "mish": F.mish, "sigmoid": torch.sigmoid, "hard_sigmoid": F.hardsigmoid,
    "hard_swish": F.hardswish, "tanh": torch.tanh, "softplus": F.softplus, "softsign": F.softsign,
    "softmax": lambda x: torch.softmax(x, -1), "log_softmax": lambda x: torch.log_softmax(x, -1),
}  # fmt: skip
MODES = {"nearest": ["nearest"] * 3, "bilinear": ["linear", "bilinear", "trilinear"]}


def call(spec: Spec, p: Parameters, x: Any, **named: Any) -> Any:
    """The layer `spec` on `x` and what else it takes by name."""
    kind = spec["type"]
    rank = int(kind[-2]) if kind[-1] == "D" else int(kind[4]) if kind.endswith("DTranspose") else 0
    rule = RULES[kind.replace(f"{rank}D", "") if rank else kind]
    return rule(spec, p, x, rank, **named) if rank else rule(spec, p, x, **named)


def inner(p: Parameters, name: str) -> Parameters:
    return {key.removeprefix(f"{name}."): v for key, v in p.items() if key.startswith(f"{name}.")}


def part(spec: Spec, p: Parameters, name: str, x: Any) -> Any:
    return call(spec, inner(p, spec.get("name") or name), x)


# --- windows
def each(size: Any, rank: int) -> list[int]:
    return list(size) if isinstance(size, (list, tuple)) else [size] * rank


def sides(padding: Any, x: Any, span: list[int], stride: list[int]) -> list[tuple[int, int]]:
    """Elements before and after each axis of space."""
    if padding == "valid":
        return [(0, 0)] * len(span)
    if padding == "same":
        totals = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n, s, k in zip(x.shape[2:], stride, span, strict=True)]
        return [(t // 2, t - t // 2) for t in totals]
    return [(q, q) if isinstance(q, int) else tuple(q) for q in each(padding, len(span))]


def pad(x: Any, pairs: list[tuple[int, int]], **how: Any) -> Any:
    return F.pad(x, [n for pair in reversed(pairs) for n in pair], **how)


def conv(spec: Spec, p: Parameters, x: Any, rank: int) -> Any:
    kernel, stride, dilation = (each(spec[k], rank) for k in ("kernel", "stride", "dilation"))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    x = pad(x, sides(spec["padding"], x, span, stride))
    return ACTIVATIONS[spec["activation"]](
        function(x, p["weight"], p.get("bias"), stride=stride, dilation=dilation, groups=spec["groups"])
    )


def conv_transpose(spec: Spec, p: Parameters, x: Any, rank: int) -> Any:
    kernel, stride, dilation = (each(spec[k], rank) for k in ("kernel", "stride", "dilation"))
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    extra = each(spec["output_padding"], rank)
    if spec["padding"] == "same":  # the output is the input's size times the stride
        cut = [(max(k - s, 0) // 2, max(k - s, 0) - max(k - s, 0) // 2) for k, s in zip(span, stride, strict=True)]
        extra = [max(s - k, 0) for k, s in zip(span, stride, strict=True)]
    else:
        cut = sides(spec["padding"], x, span, stride)
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    y = function(
        x, p["weight"], p.get("bias"), stride=stride, output_padding=extra, groups=spec["groups"], dilation=dilation
    )
    return ACTIVATIONS[spec["activation"]](pad(y, [(-before, -after) for before, after in cut]))


def pool(spec: Spec, x: Any, rank: int, functions: Any, fill: float, **how: Any) -> Any:
    size, stride = each(spec["size"], rank), each(spec["stride"] or spec["size"], rank)
    pairs, padding = sides(spec["padding"], x, size, stride), [0] * rank
    if all(before == after for before, after in pairs):
        padding = [before for before, _ in pairs]
    else:
        x = pad(x, pairs, value=fill)
    return functions[rank - 1](x, size, stride, padding, ceil_mode=spec["ceil"], **how)


def max_pool(spec: Spec, p: Parameters, x: Any, rank: int) -> Any:
    return pool(spec, x, rank, (F.max_pool1d, F.max_pool2d, F.max_pool3d), -math.inf)


def avg_pool(spec: Spec, p: Parameters, x: Any, rank: int) -> Any:
    how = {"count_include_pad": spec["count_include_pad"]}
    return pool(spec, x, rank, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), 0.0, **how)


def upsample(spec: Spec, p: Parameters, x: Any) -> Any:
    rank = x.ndim - 2
    mode = MODES[spec["mode"]][rank - 1]
    how = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(x, scale_factor=[float(s) for s in each(spec["scale"], rank)], mode=mode, **how)


# --- norms and others
def layer_norm(spec: Spec, p: Parameters, x: Any) -> Any:
    return F.layer_norm(x, p["weight"].shape, p["weight"], p.get("bias"), spec["epsilon"])


def batch_norm(spec: Spec, p: Parameters, x: Any) -> Any:
    return F.batch_norm(x, p["running_mean"], p["running_var"], p["weight"], p["bias"], False, eps=spec["epsilon"])


def dense(spec: Spec, p: Parameters, x: Any) -> Any:
    return ACTIVATIONS[spec["activation"]](F.linear(x, p["weight"].T, p.get("bias")))


def sequential(spec: Spec, p: Parameters, x: Any) -> Any:
    for k, layer in enumerate(spec["layers"]):
        x = part(layer, p, str(k), x)
    return x


def residual(spec: Spec, p: Parameters, x: Any) -> Any:
    short = part(spec["shortcut"], p, "shortcut", x) if spec["shortcut"] else x
    y = part(spec["body"], p, "body", x) + short
    return ACTIVATIONS[spec.get("activation")](y)


def branches(spec: Spec, p: Parameters, x: Any) -> list[Any]:
    return [part(b, p, str(k), x) for k, b in enumerate(spec["branches"])]


# --- sequences
def embedding(spec: Spec, p: Parameters, x: Any) -> Any:
    y = F.embedding(x.long(), p["weight"])
    return y if spec["padding"] is None else y * (x != spec["padding"])[..., None]


def sinusoidal(spec: Spec, p: Parameters, x: Any) -> Any:
    n = x.shape[2]
    angle = torch.arange(x.shape[1])[:, None].double() / 1e4 ** (torch.arange(0, n, 2).double() / n)
    return x + torch.stack([angle.sin(), angle.cos()], -1).reshape(x.shape[1], n).to(x.dtype)


def rotary(spec: Spec | None, p: Parameters, x: Any) -> Any:
    n = x.shape[-1]
    angle = torch.arange(x.shape[-2])[:, None].double() / 1e4 ** (torch.arange(0, n, 2).double() / n)
    turned = torch.complex(x[..., : n // 2], x[..., n // 2 :]) * torch.polar(torch.ones_like(angle), angle).to(
        torch.complex64
    )
    return torch.cat([turned.real, turned.imag], -1)


def recurrence(
    spec: Spec, p: Parameters, x: Any, lengths: Any = None, mask: Any = None, initial_h: Any = None,
    initial_c: Any = None,
) -> Any:  # fmt: skip
    lengths = mask.sum(1) if mask is not None else lengths
    x, d, h = x.transpose(0, 1), 1 + spec["bidirectional"], None
    for k in range(spec["layers"]):
        states = [None if s is None else s.reshape(spec["layers"], d, *s.shape[-2:])[k] for s in (initial_h, initial_c)]
        q = inner(p, str(k))
        how = {key: spec[key] for key in ("activation", "reset_after") if key in spec}
        y, h, _ = recurrent.run(
            spec["type"], x, q["weight"], q["recurrent_weight"], q.get("bias"), lengths, states, **how
        )
        x = y.transpose(1, 2).flatten(2)
    return x.transpose(0, 1) if spec["return_sequences"] else torch.cat(list(h), -1)


def unroll(spec: Spec, p: Parameters, x: Any) -> Any:
    cell, p = spec["cell"], inner(p, "cell")
    b = p.get("bias")
    if b is not None:
        b = torch.cat([b, p.get("recurrent_bias", torch.zeros_like(b))])[None]
    y, h, _ = recurrent.run(
        cell["type"].removesuffix("Cell"), x.transpose(0, 1), p["weight"].T[None], p["recurrent_weight"].T[None], b,
        activation=cell.get("activation", "tanh"), reverse=spec["reverse"],
    )  # fmt: skip
    return y[:, 0].transpose(0, 1) if spec["return_sequences"] else h[0]


def attention(spec: Spec, p: Parameters, x: Any, key: Any = None, value: Any = None, mask: Any = None) -> Any:
    key = x if key is None else key
    value = key if value is None else value

    def heads(x: Any, name: str) -> Any:
        q = inner(p, name)
        y = F.linear(x, q["weight"].T, q.get("bias")).unflatten(-1, (spec["heads"], -1)).transpose(1, 2)
        return rotary(None, {}, y) if spec["rotary"] and name != "value" else y

    shape = (len(x), 1, x.shape[1], key.shape[1])
    allowed = torch.ones(shape, dtype=torch.bool)
    if mask is not None:
        allowed = allowed & mask.bool()[{2: (slice(None), None, None), 3: (slice(None), None)}.get(mask.ndim, ())]
    if spec["causal"]:
        allowed = allowed & torch.ones(shape[2:], dtype=torch.bool).tril()
    hidden = torch.zeros(allowed.shape).masked_fill(~allowed, -1e9)  # of which a row masked in full makes no NaN
    with sdpa_kernel(SDPBackend.MATH):  # the fused one gives other gradients where all keys of a query are hidden
        y = F.scaled_dot_product_attention(heads(x, "query"), heads(key, "key"), heads(value, "value"), hidden)
    q = inner(p, "output")
    return F.linear(y.transpose(1, 2).flatten(2), q["weight"].T, q.get("bias"))


def transformer(
    spec: Spec, p: Parameters, x: Any, memory: Any = None, mask: Any = None, memory_mask: Any = None
) -> Any:
    def feed_forward(x: Any) -> Any:
        return part({"type": "Dense", "activation": None}, p, "linear2",
                    part({"type": "Dense", "activation": spec["activation"]}, p, "linear1", x))  # fmt: skip

    plain = {**spec, "causal": False, "rotary": False}
    parts = [lambda x: attention(spec, inner(p, "attention"), x, mask=mask)]
    if memory is not None:
        parts.append(lambda x: attention(plain, inner(p, "cross_attention"), x, key=memory, mask=memory_mask))
    for k, function in enumerate([*parts, feed_forward], 1):
        norm = inner(p, f"norm{k}")
        x = x + function(layer_norm(spec, norm, x)) if spec["norm_first"] else layer_norm(spec, norm, x + function(x))
    return x


RULES: dict[str, Any] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AvgPool": avg_pool,
    "GlobalMaxPool": lambda s, p, x, rank: x.flatten(2).amax(2),
    "GlobalAvgPool": lambda s, p, x, rank: x.flatten(2).mean(2),
    "UpSample": upsample,
    "PixelShuffle": lambda s, p, x: F.pixel_shuffle(x, s["scale"]),
    "ZeroPad": lambda s, p, x: pad(x, sides(s["padding"], x, [1] * (x.ndim - 2), [1] * (x.ndim - 2))),
    "ReflectionPad": lambda s, p, x: pad(
        x, sides(s["padding"], x, [1] * (x.ndim - 2), [1] * (x.ndim - 2)), mode="reflect"
    ),
    "BatchNorm": batch_norm,
    "LayerNorm": layer_norm,
    "RMSNorm": lambda s, p, x: F.rms_norm(x, p["weight"].shape, p["weight"], s["epsilon"]),
    "InstanceNorm": lambda s, p, x: F.instance_norm(x, None, None, p.get("weight"), p.get("bias"), eps=s["epsilon"]),
    "GroupNorm": lambda s, p, x: F.group_norm(x, s["groups"], p["weight"].flatten(), p["bias"].flatten(), s["epsilon"]),
    "LocalResponseNorm": lambda s, p, x: F.local_response_norm(x, s["size"], s["alpha"], s["beta"], s["k"]),
    "LeakyReLU": lambda s, p, x: F.leaky_relu(x, s["slope"]),
    "PReLU": lambda s, p, x: F.prelu(x, p["weight"].flatten()),
    "ELU": lambda s, p, x: F.elu(x, s["alpha"]),
    "CELU": lambda s, p, x: F.celu(x, s["alpha"]),
    "Softmax": lambda s, p, x: torch.softmax(x, s["axis"]),
    "LogSoftmax": lambda s, p, x: torch.log_softmax(x, s["axis"]),
    "Activation": lambda s, p, x: ACTIVATIONS[s["activation"]](x),
    "Dense": dense,
    "Flatten": lambda s, p, x: x.flatten(1),
    "Reshape": lambda s, p, x: x.reshape(len(x), *s["shape"]),
    "Permute": lambda s, p, x: x.permute(0, *s["axes"]),
    "Identity": lambda s, p, x: x,
    "Dropout": lambda s, p, x: F.dropout(x, s["ratio"], training=False),
    "Sequential": sequential,
    "Residual": residual,
    "Concat": lambda s, p, x: torch.cat(branches(s, p, x), s["axis"]),
    "Add": lambda s, p, x: torch.stack(branches(s, p, x)).sum(0),
    "Multiply": lambda s, p, x: torch.stack(branches(s, p, x)).prod(0),
    "Embedding": embedding,
    "SinusoidalPosition": sinusoidal,
    "LearnedPosition": lambda s, p, x: x + p["weight"][: x.shape[1]],
    "RotaryPosition": rotary,
    "RNN": recurrence,
    "LSTM": recurrence,
    "GRU": recurrence,
    "Unroll": unroll,
    "MultiHeadAttention": attention,
    "TransformerEncoderLayer": transformer,
    "TransformerDecoderLayer": transformer,
}
"""By the name of the layer's class, without the number of its dimensions."""
