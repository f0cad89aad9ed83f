"""Writes `optimizer_oracle.json`: where other libraries' optimizers take small parameters in 50 steps.

Each peer has an environment of its own; the tests read what they wrote and need none of them.

    /path/to/torch/bin/python tests/trainer/optimizer_oracle.py torch tests/trainer/optimizer_oracle.json
    /path/to/optax/bin/python tests/trainer/optimizer_oracle.py optax tests/trainer/optimizer_oracle.json
    /path/to/mxnet/bin/python tests/trainer/optimizer_oracle.py mxnet tests/trainer/optimizer_oracle.json

It needs numpy and the peer alone: `pip install torch`, `pip install optax`, `pip install mxnet==1.9.1 "numpy<1.24"`.
"""

import json
import sys
from pathlib import Path

import numpy as np

STEPS = 50
SHAPES = {"w": (3, 4), "tall": (5, 2), "b": (4,)}
"""The parameters: a wide matrix, a tall one, a vector."""


def numbers(name, kind):
    """Deterministic numbers in any version of numpy: the parameter `name` at first, or all its gradients."""
    shape = SHAPES[name]
    size = int(np.prod(shape))
    index = np.arange(size * (STEPS if kind == "gradients" else 1), dtype=np.float64)
    values = np.sin(index * 12.9898 + {"w": 1.0, "tall": 2.0, "b": 3.0}[name]) * 43758.5453
    values = (values - np.floor(values)) * 2 - 1
    if kind == "gradients":
        # Gradients that agree for a while, as real ones do, with an offset for each element.
        offset = np.tile(np.cos(np.arange(size)) * 0.6, STEPS)
        return ((values + offset) * 0.5).astype(np.float32).reshape(STEPS, *shape)
    return values.astype(np.float32).reshape(shape)


def with_torch():
    import torch

    torch.set_num_threads(1)
    # torch.optim.Muon iterates in bfloat16, which is good to 1e-2: here it does so in float32.
    torch.Tensor.bfloat16 = torch.Tensor.float
    o = torch.optim
    rows = {
        "sgd": lambda ps: o.SGD(ps, lr=0.05),
        "sgd, decay": lambda ps: o.SGD(ps, lr=0.05, momentum=0.8, weight_decay=0.1),
        "momentum": lambda ps: o.SGD(ps, lr=0.02, momentum=0.9),
        "nag": lambda ps: o.SGD(ps, lr=0.02, momentum=0.9, nesterov=True),
        "adam": lambda ps: o.Adam(ps, lr=0.01),
        "adam, other betas": lambda ps: o.Adam(ps, lr=0.02, betas=(0.5, 0.9), eps=1e-3),
        "adam, decay": lambda ps: o.Adam(ps, lr=0.01, weight_decay=0.1),
        "amsgrad": lambda ps: o.Adam(ps, lr=0.01, betas=(0.9, 0.9), amsgrad=True),
        "adamw": lambda ps: o.AdamW(ps, lr=0.01, weight_decay=0.1),
        "adamax": lambda ps: o.Adamax(ps, lr=0.01),
        "adagrad": lambda ps: o.Adagrad(ps, lr=0.05),
        "adagrad, initial": lambda ps: o.Adagrad(ps, lr=0.05, initial_accumulator_value=0.1),
        "adadelta": lambda ps: o.Adadelta(ps, lr=1.0),
        "rmsprop": lambda ps: o.RMSprop(ps, lr=0.01),
        "rmsprop, centered": lambda ps: o.RMSprop(ps, lr=0.01, alpha=0.9, eps=1e-3, centered=True),
        "rmsprop, momentum": lambda ps: o.RMSprop(ps, lr=0.005, momentum=0.9, centered=True, eps=1e-3),
        "muon": lambda ps: Both(
            o.Muon([p for p in ps if p.ndim == 2], lr=0.02, weight_decay=0.1),
            o.AdamW([p for p in ps if p.ndim != 2], lr=0.002, betas=(0.9, 0.95), weight_decay=0.1),
        ),
        # Decays and rates of groups: w as it is, tall without decay, b with twice the rate and half the decay.
        "adamw, groups": lambda ps: o.AdamW(
            [
                {"params": [ps[0]]},
                {"params": [ps[1]], "weight_decay": 0.0},
                {"params": [ps[2]], "lr": 0.02, "weight_decay": 0.05},
            ],
            lr=0.01,
            weight_decay=0.1,
        ),
    }

    class Both:
        def __init__(self, *optimizers):
            self.optimizers = optimizers

        def step(self):
            for optimizer in self.optimizers:
                optimizer.step()

    def run(row):
        # torch keeps a matrix as (outputs, inputs), which tells Muon's scale: its matrices are the transposes.
        turn = (lambda x: x.T.copy() if x.ndim == 2 else x) if row == "muon" else (lambda x: x)
        ps = [torch.nn.Parameter(torch.tensor(turn(numbers(name, "start")))) for name in SHAPES]
        optimizer = rows[row](ps)
        gradients = [numbers(name, "gradients") for name in SHAPES]
        for step in range(STEPS):
            for k, p in enumerate(ps):
                p.grad = torch.tensor(turn(gradients[k][step]))
            optimizer.step()
        return [turn(p.detach().numpy()) for p in ps]

    return torch.__version__, rows, run


def with_optax():
    import jax.numpy as jnp
    import optax

    rows = {
        "nadam": lambda: optax.nadam(0.01),
        "adabelief": lambda: optax.adabelief(0.01),
        "lamb": lambda: optax.lamb(0.01, weight_decay=0.1),
        "lion": lambda: optax.lion(0.002, weight_decay=0.1),
        "adam, clipped": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.01)),
        "momentum, clipped by value": lambda: optax.chain(optax.clip(0.2), optax.sgd(0.02, momentum=0.9)),
        "sgd, adaptive clip": lambda: optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(0.05)),
        "sgd, centralized": lambda: optax.chain(
            optax.masked(optax.centralize(), {"w": True, "tall": True, "b": False}), optax.sgd(0.05)
        ),
    }

    def run(row):
        # optax takes the mean for each place on the leading axis, where torch has the outputs.
        turn = (lambda x: x.T if x.ndim == 2 else x) if "centralized" in row else (lambda x: x)
        optimizer = rows[row]()
        ps = {name: jnp.asarray(turn(numbers(name, "start"))) for name in SHAPES}
        state = optimizer.init(ps)
        gradients = {name: numbers(name, "gradients") for name in SHAPES}
        for step in range(STEPS):
            dps = {name: jnp.asarray(turn(dp[step])) for name, dp in gradients.items()}
            updates, state = optimizer.update(dps, state, ps)
            ps = optax.apply_updates(ps, updates)
        return [turn(np.asarray(ps[name])) for name in SHAPES]

    return optax.__version__, rows, run


def with_mxnet():
    import mxnet as mx

    o = mx.optimizer
    rows = {
        "ftrl": lambda: o.Ftrl(lamda1=0.05, learning_rate=0.1, beta=1.0),
        "ftrl, l2": lambda: o.Ftrl(lamda1=0.02, learning_rate=0.2, beta=0.5, wd=0.1),
        "signum": lambda: o.Signum(learning_rate=0.005, momentum=0.9),
        "signum, decay": lambda: o.Signum(learning_rate=0.005, momentum=0.8, wd=0.1),
        "lars": lambda: o.LARS(learning_rate=0.5, momentum=0.9, eta=0.01, eps=1e-9),
        "lars, decay": lambda: o.LARS(learning_rate=0.5, momentum=0.9, eta=0.01, eps=1e-9, wd=0.1),
    }

    def run(row):
        optimizer = rows[row]()
        ps = [mx.nd.array(numbers(name, "start")) for name in SHAPES]
        gradients = [numbers(name, "gradients") for name in SHAPES]
        states = [optimizer.create_state_multi_precision(k, p) for k, p in enumerate(ps)]
        for step in range(STEPS):
            for k, p in enumerate(ps):
                if row.startswith("lars"):
                    optimizer.update([k], [p], [mx.nd.array(gradients[k][step])], [states[k]])
                else:
                    optimizer.update(k, p, mx.nd.array(gradients[k][step]), states[k])
        return [p.asnumpy() for p in ps]

    return mx.__version__, rows, run


PEERS = {"torch": with_torch, "optax": with_optax, "mxnet": with_mxnet}


def main(peer, path):
    """Put the peer's rows into the file, and leave those of the others."""
    version, rows, run = PEERS[peer]()
    path = Path(path)
    known = json.loads(path.read_text()) if path.exists() else {}
    known = {row: found for row, found in known.items() if not found["by"].startswith(peer + " ")}
    for row in rows:
        ps = run(row)
        ends = {name: [float(f"{x:.9g}") for x in np.ravel(ps[k])] for k, name in enumerate(SHAPES)}
        known[row] = {"by": f"{peer} {version}", **ends}
    lines = [f"{json.dumps(row)}: {json.dumps(known[row])}" for row in sorted(known)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
