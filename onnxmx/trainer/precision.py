"""Mixed precision: products in 16 bits, parameters and everything delicate in 32.

Parameters, slots and running statistics stay float32 in the state; Casts in the graph bring them to 16 bits where an
operator of `LOW` reads them, and the gradients that come back through those Casts are float32 again.

float16 ends at 65,504 below 0.00006, so small gradients vanish in it: the loss is multiplied by `state.loss_scale`
before the way back, and gradients are divided by it after. Where one of them is not finite then, the step changes
nothing but the scale, which falls, and `state.skipped`, which counts such steps. bfloat16 has float32's range and
needs no scale.   Source: Micikevicius et al. 2018, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.inference import input_types
from onnxmx.builder.ops import FLOAT
from onnxmx.builder.session import PROVIDERS
from onnxmx.errors import UsageError
from onnxmx.trainer.named import unknown

Array = np.ndarray[Any, Any]
Values = Mapping[str, ir.Value]

LOW = frozenset({"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"})
"""Computed in 16 bits: the products, in which nearly all the time goes; hardware adds them up in 32."""
FOLLOWING = frozenset(
    (
        *("Abs", "Add", "LeakyRelu", "Mul", "Neg", "Relu", "Sigmoid", "Sub", "Tanh"),
        *("Concat", "DepthToSpace", "Expand", "Flatten", "Identity", "Pad", "Reshape", "Slice", "SpaceToDepth"),
        *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
    )
)
"""In 16 bits where all that reaches them from other operators is, else in 32: they move values or lose no more than
rounding does."""
# All others stay in 32 bits: Softmax and losses, normalizations, sums and means, pooling by averages, powers,
# exponentials and logarithms, recurrent operators, and whatever is inside an If, Scan or Loop. So do those whose
# gradients ask which input an output is equal to (Clip, Max, Min, MaxPool): ONNX Runtime's CPU has few kernels of
# float16, computes in float32 instead, and rounds some of the numbers that are compared and others not.

_LARGEST, _SMALLEST = float(2**24), 1.0
_INTERVAL = 2000


@dataclass(frozen=True)
class Precision:
    """What products are computed in.

    scale: what the loss is multiplied by at first, or None for no such scale.
    lacking: operators of FOLLOWING that stay in 32 bits, since CUDA lacks kernels for them or for their gradients.
    """

    name: str
    low: ir.DataType
    scale: float | None = None
    lacking: frozenset[str] = frozenset()

    @property
    def mixed(self) -> bool:
        """Whether there is anything to cast."""
        return self.low is not FLOAT

    def cast(self, g: GraphBuilder, node: ir.Node, inputs: Sequence[ir.Value | None]) -> Sequence[ir.Value | None]:
        """The inputs of a node in the type that it computes in."""
        chosen = node.op_type in LOW or (node.op_type in FOLLOWING - self.lacking and self._may_follow(inputs))
        if chosen and node.domain in ("", "ai.onnx") and self._defined(node, inputs):
            return [self._to(g, x, FLOAT, self.low) for x in inputs]
        return self.widen(g, inputs)

    def _defined(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> bool:
        """Whether ONNX defines the operator on the type: Conv and MaxPool of opset 20 are on no bfloat16."""
        types, wanted = input_types(node.op_type), f"tensor({self.low.name.lower()})"
        floats = [k for k, x in enumerate(inputs) if x is not None and x.dtype in (FLOAT, self.low)]
        return all(wanted in types[min(k, len(types) - 1)][1] for k in floats)

    def widen(self, g: GraphBuilder, values: Sequence[ir.Value | None]) -> list[ir.Value | None]:
        """Values in float32, those that are of 16 bits."""
        return [self._to(g, x, self.low, FLOAT) if self.mixed else x for x in values]

    def _may_follow(self, inputs: Sequence[ir.Value | None]) -> bool:
        """Whether one is in 16 bits, and those that are not are parameters, or constants that 16 bits can hold."""
        wide = [x for x in inputs if x is not None and x.dtype is FLOAT]
        return any(x is not None and x.dtype is self.low for x in inputs) and all(map(self._fits, wide))

    def _fits(self, x: ir.Value) -> bool:
        if (tensor := ir.convenience.get_const_tensor(x)) is None:
            return x.producer() is None
        with np.errstate(over="ignore"):
            return bool(np.isfinite(tensor.numpy().astype(self.low.numpy()).astype(np.float32)).all())

    def _to(self, g: GraphBuilder, x: ir.Value | None, of: ir.DataType, to: ir.DataType) -> ir.Value | None:
        return g.cast(x, to) if x is not None and x.dtype is of and of is not to else x

    # --- the scale of the loss

    def state(self) -> dict[str, Array]:
        """What it adds to the state."""
        found: dict[str, Array] = {"skipped": np.array(0, np.int64)} if self.mixed else {}
        if self.scale is not None:
            found |= {"loss_scale": np.array(self.scale, np.float32), "loss_scale_steps": np.array(0, np.int64)}
        return found

    def scaled(self, g: GraphBuilder, loss: ir.Value, states: Values) -> ir.Value:
        """The loss that gradients are taken of."""
        return loss if self.scale is None else g.mul(loss, states["loss_scale"])

    def unscaled(self, g: GraphBuilder, gradients: Sequence[ir.Value], states: Values) -> Sequence[ir.Value]:
        """The gradients of the loss itself."""
        if self.scale is None:
            return gradients
        share = g.div(1.0, states["loss_scale"])
        return [g.mul(dp, share) for dp in gradients]

    def updates(self, g: GraphBuilder, states: Values) -> ir.Value:
        """The updates done so far, which schedules and optimizers count: steps that were not skipped."""
        return g.sub(states["step"], states["skipped"]) if self.mixed else states["step"]

    def guard(
        self, g: GraphBuilder, norm: ir.Value, states: Values, following: Values
    ) -> tuple[ir.Value, Values, Values]:
        """Let nothing follow on gradients that are not finite.

        norm: of all gradients together.   following: what follows on parts of the state in an update.
        Returns the norm, 0 in a step that is skipped, unless the scale cannot fall further: then nothing mends it;
        what follows; and further outputs of the step by name.
        """
        if not self.mixed:
            return norm, following, {}
        finite = g.less(norm, np.float32(np.finfo(np.float32).max))  # false of NaN too
        kept = {name: g.where(finite, value, states[name]) for name, value in following.items()}
        kept["step"] = g.add(states["step"], 1)
        kept["skipped"] = g.add(states["skipped"], g.cast(g.op("Not", finite), ir.DataType.INT64))
        shown: dict[str, ir.Value] = {"skipped": kept["skipped"]}
        known = finite
        if self.scale is not None:
            known = g.op("Or", finite, g.op("LessOrEqual", states["loss_scale"], np.float32(_SMALLEST)))
            before = (states["loss_scale"], states["loss_scale_steps"])
            kept["loss_scale"], kept["loss_scale_steps"] = DynamicLossScale(
                g, *before, finite, interval=_INTERVAL, smallest=_SMALLEST, largest=_LARGEST
            )
            shown["loss_scale"] = states["loss_scale"]
        return g.where(known, norm, np.float32(0)), kept, shown


@function(outputs=("next_scale", "next_steps"))
def DynamicLossScale(
    g: GraphBuilder,
    scale: ir.Value,
    steps: ir.Value,
    finite: ir.Value,
    *,
    interval: ir.Value,
    smallest: ir.Value,
    largest: ir.Value,
) -> tuple[Value, Value]:
    """Halve the scale where gradients are not finite; double it after `interval` steps in a row where they are.

    scale: float32 scalar in [smallest, largest].   steps: int64 scalar, those since the scale last changed.
    finite: bool scalar.   Source: Micikevicius et al. 2018, section 3.2.
    """
    count = g.add(steps, np.int64(1))
    due = g.op("Not", g.less(count, interval))
    grown = g.where(due, g.min(g.mul(scale, 2.0), largest), scale)
    counted = g.where(g.op("And", finite, g.op("Not", due)), count, np.int64(0))
    return g.where(finite, grown, g.max(g.mul(scale, 0.5), smallest)), counted


# Of ONNX Runtime 1.31.1 by kernels.json: Relu's gradient is a Greater, that of Slice a Pad.
_NO_BFLOAT16 = frozenset({"DepthToSpace", "LeakyRelu", "Pad", "Relu", "Slice", "SpaceToDepth"})
PRECISIONS = {
    "float32": Precision("float32", FLOAT),
    "float16": Precision("float16", ir.DataType.FLOAT16, 65536.0),
    "bfloat16": Precision("bfloat16", ir.DataType.BFLOAT16, lacking=_NO_BFLOAT16),
}
"""By the name that `fit`, the command line and `config.toml` use."""


def get_precision(name: str) -> Precision:
    """A precision by its name. Raises UsageError."""
    if not isinstance(name, str) or name not in PRECISIONS:
        raise unknown("precision", str(name), PRECISIONS)
    return PRECISIONS[name]


def check_precision(name: str, provider: str, engine: str) -> None:
    """Raises UsageError where a provider or an engine has no kernels for it."""
    precision = get_precision(name)
    if not precision.mixed:
        return
    if engine != "ort":
        raise UsageError(
            f"precision {name!r} expected the engine 'ort'; found {engine!r}", mend="Take the default engine."
        )
    if precision.low is ir.DataType.BFLOAT16 and PROVIDERS[provider] == "cpu":
        raise UsageError(
            "precision 'bfloat16' expected a provider with kernels for it; found 'cpu', where ONNX Runtime has none "
            "for Conv, Gemm or MatMul",
            mend="Take --precision float16, which a CPU computes by way of float32, or --provider cuda.",
        )
