"""Rows of the table of gradient rules: RNN, LSTM and GRU in all of their forms."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.trainer.rule_case import Case, Shape

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(
    operator: str,
    direction: str = "forward",
    lengths: list[int] | None = None,
    *,
    bias: bool = True,
    initial: bool = True,
    peepholes: bool = False,
    read: tuple[int, ...] = (0, 1),
    time: int = 4,
    **attributes: Any,
) -> Case:
    """time steps, 3 samples, 2 features, 5 units. read: which outputs the result depends on."""
    d, gates, states = 1 + (direction == "bidirectional"), GATES[operator], 1 + (operator == "LSTM")
    shapes: list[Shape] = [(time, 3, 2), (d, gates * 5, 2), (d, gates * 5, 5)]
    shapes += [(d, 2 * gates * 5)] * bias + [(d, 3, 5)] * (states * initial) + [(d, 15)] * peepholes
    if attributes.get("layout"):
        shapes = [(3, time, 2), *((3, d, 5) if s == (d, 3, 5) else s for s in shapes[1:])]

    def make(g: Any, x: Any, w: Any, r: Any, *rest: Any) -> Any:
        rest = list(rest)
        b = rest.pop(0) if bias else None
        n = None if lengths is None else np.array(lengths, np.int32)
        rest = [*rest[: states * initial], *[None] * (states * (not initial)), *rest[states * initial :]]
        ys = g.ops(operator, x, w, r, b, n, *rest, outputs=1 + states, direction=direction, hidden_size=5, **attributes)
        return g.concat([g.reshape(ys[k], [-1]) for k in read], 0)

    label = f"{direction}{lengths}{bias}{initial}{peepholes}{read}{time}{attributes}"
    return Case(operator, tuple(shapes), make=make, label=label)


CASES = [
    *(recurrent(o, d, n) for o in GATES for d in ("forward", "reverse", "bidirectional") for n in (None, [2, 4, 1])),
    *(recurrent(o, "bidirectional", [3, 4, 2], linear_before_reset=1) for o in ("GRU",)),
    recurrent("GRU", linear_before_reset=1),
    *(recurrent(o, bias=False, initial=False, read=(1,)) for o in GATES),
    recurrent("GRU", bias=False, initial=False, read=(0,), linear_before_reset=1),
    *(recurrent(o, "reverse", read=(0,)) for o in GATES),
    *(recurrent(o, time=1) for o in GATES),
    recurrent("LSTM", "bidirectional", [2, 4, 1], read=(0, 1, 2)),
    recurrent("LSTM", read=(2,)),
    recurrent("RNN", activations=["Sigmoid"]),
    recurrent("RNN", "bidirectional", activations=["Sigmoid", "Sigmoid"]),
    recurrent("RNN", activations=["Relu"]),
    recurrent("LSTM", peepholes=True),
    recurrent("LSTM", "bidirectional", [2, 4, 1], peepholes=True, read=(0, 1, 2)),
    recurrent("LSTM", "reverse", [3, 4, 2], peepholes=True, bias=False, initial=False, read=(2,)),
    *(recurrent(o, "bidirectional", [2, 4, 1], clip=0.9) for o in GATES),
    recurrent("GRU", clip=0.7, linear_before_reset=1),
    recurrent("LSTM", clip=0.6, peepholes=True, read=(0, 2)),
    recurrent("LSTM", "bidirectional", input_forget=1),
    *(recurrent(o, "bidirectional", n, initial=n is None, layout=1) for o in GATES for n in (None, [2, 4, 1])),
    recurrent("LSTM", layout=1, peepholes=True, read=(0, 1, 2)),
    recurrent("RNN", "bidirectional", activations=["Tanh", "Relu"]),
    *(recurrent("RNN", activations=[a], **numbers) for a, numbers in (
        ("Softsign", {}), ("Softplus", {}), ("Elu", {"activation_alpha": [0.7]}),
        ("LeakyRelu", {"activation_alpha": [0.3]}), ("ThresholdedRelu", {"activation_alpha": [0.4]}),
        ("HardSigmoid", {"activation_alpha": [0.3], "activation_beta": [0.45]}),
        ("Affine", {"activation_alpha": [0.6], "activation_beta": [0.1]}),
        ("ScaledTanh", {"activation_alpha": [0.8], "activation_beta": [1.3]}))),
    recurrent("LSTM", "bidirectional", [2, 4, 1], activations=["HardSigmoid", "Softsign", "Tanh", "Sigmoid",
              "Tanh", "ScaledTanh"], activation_alpha=[0.3, 1.2], activation_beta=[0.4, 0.9]),
    recurrent("GRU", "reverse", activations=["HardSigmoid", "Softsign"], activation_alpha=[0.2], activation_beta=[0.5]),
]  # fmt: skip
