"""Names from other libraries, and what they are called here."""

from __future__ import annotations

from onnxmx.errors import nearest

_ACTIVATIONS = ("ReLU", "ReLU6", "GELU", "SELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Softsign", "Mish")
_HABITS = {
    "Input": "mx.Input",
    "Linear": "Dense",
    "Module": "Layer",
    "ModuleList": "Sequential",
    "Upsample": "UpSample",
    "ZeroPad2d": "ZeroPad",
    "ReflectionPad2d": "ReflectionPad",
    "LocalResponseNorm2d": "LocalResponseNorm",
    "Hardswish": 'Activation("hard_swish")',
    "Hardsigmoid": 'Activation("hard_sigmoid")',
    **{name: f'Activation("{name.lower()}")' for name in _ACTIVATIONS},
    **{f"Conv{n}d": f"Conv{n}D" for n in "123"},
    **{f"ConvTranspose{n}d": f"Conv{n}DTranspose" for n in "123"},
    **{f"{kind}Pool{n}d": f"{kind}Pool{n}D" for kind in ("Max", "Avg") for n in "123"},
    **{f"Adaptive{kind}Pool{n}d": f"Global{kind}Pool{n}D" for kind in ("Max", "Avg") for n in "123"},
    **{f"{kind}Norm{n}d": f"{kind}Norm" for kind in ("Batch", "Instance") for n in "123"},
    **{f"Dropout{n}d": "Dropout" for n in "123"},
}


def suggestion(name: str, options: list[str]) -> str | None:
    """What `name` is called here, or the nearest of `options`; None where nothing is close."""
    return _HABITS.get(name) or nearest(name, options)
