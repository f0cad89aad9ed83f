"""A critic's loss with a gradient penalty, and its gradients, by PyTorch's double backward.

    /path/to/torch/bin/python tests/trainer/penalty_oracle.py tests/trainer/penalty_oracle.json

It needs numpy and torch alone; the tests read what it wrote.
loss = mean D(fake) - mean D(real) + 10 mean (|dD/dx (mix)| - 1)^2   Source: Gulrajani et al. 2017, alg. 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SHAPES = {
    "conv.weight": (4, 2, 3, 3),
    "conv.bias": (4,),
    "inner.weight": (36, 5),
    "inner.bias": (5,),
    "score.weight": (5, 1),
    "score.bias": (1,),
}
IMAGES = {"real": (3, 2, 6, 6), "fake": (3, 2, 6, 6), "share": (3, 1, 1, 1)}


def numbers(shape: tuple[int, ...], k: int) -> Array:
    """Waves: the same numbers everywhere, without a generator."""
    return np.sin(np.arange(1, np.prod(shape) + 1) * (1.0 + 0.37 * k)).reshape(shape)


def given() -> tuple[dict[str, Array], dict[str, Array]]:
    """The parameters and the images; `share` is how much of a mixed image is real."""
    parameters = {name: 0.5 * numbers(shape, k) for k, (name, shape) in enumerate(SHAPES.items())}
    images = {name: numbers(shape, k + 10) for k, (name, shape) in enumerate(IMAGES.items())}
    return parameters, images | {"share": np.abs(images["share"])}


def by_torch() -> dict[str, Any]:
    import torch
    import torch.nn.functional as F

    parameters, images = ({k: torch.tensor(v) for k, v in group.items()} for group in given())
    for p in parameters.values():
        p.requires_grad_()

    def critic(x: Any) -> Any:
        x = F.leaky_relu(F.conv2d(x, parameters["conv.weight"], parameters["conv.bias"], 2, 1), 0.2)
        x = torch.tanh(x.flatten(1) @ parameters["inner.weight"] + parameters["inner.bias"])
        return x @ parameters["score.weight"] + parameters["score.bias"]

    mix = images["share"] * images["real"] + (1 - images["share"]) * images["fake"]
    mix.requires_grad_()
    (slope,) = torch.autograd.grad(critic(mix).sum(), mix, create_graph=True)
    penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    loss = critic(images["fake"]).mean() - critic(images["real"]).mean() + 10 * penalty
    loss.backward()
    found = {name: p.grad.numpy().round(9).tolist() for name, p in parameters.items()}
    return {"torch": torch.__version__, "loss": loss.item(), "penalty": penalty.item(), "gradients": found}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(by_torch(), indent=1) + "\n", encoding="utf-8")
