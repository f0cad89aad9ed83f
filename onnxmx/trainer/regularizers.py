"""Regularizers: L1 and L2 add to the gradients, max-norm bounds the weights after the update, all inside the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxmx.builder.functions import function
from onnxmx.builder.graph import GraphBuilder, Value
from onnxmx.builder.literals import is_finite
from onnxmx.errors import UsageError
from onnxmx.trainer.clipping import Gradients, Transform, unit_norms
from onnxmx.trainer.named import named
from onnxmx.trainer.optimizers.base import L2Decay, check_match


@dataclass(frozen=True)
class Regularizer(Transform):
    """The base of regularizers. match: the names of the parameters it is for, in which `*` stands for anything.

    Its penalty has a gradient and is no part of the reported loss, which stays comparable.
    """

    strength: float
    match: str = "*"

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not (is_finite(self.strength) and self.strength > 0):
            raise UsageError(f"{name} expected a finite number above 0; found {self.strength!r}")
        if not isinstance(self.match, str) or not self.match:
            raise UsageError(f"{name} expected a pattern of names; found {self.match!r}", mend='Such as "*.weight".')

    def check(self, parameters: Sequence[str]) -> None:
        check_match(self.match, parameters)

    def __call__(self, at: Gradients) -> dict[str, ir.Value]:
        return {
            name: self.gradient(at.g, at.parameters[name], dp) if fnmatchcase(name, self.match) else dp
            for name, dp in at.values.items()
        }

    def gradient(self, g: GraphBuilder, p: ir.Value, dp: ir.Value) -> ir.Value:
        """The gradient of the loss and the penalty."""
        return dp

    def project(self, g: GraphBuilder, name: str, p: ir.Value) -> ir.Value:
        """The parameter `name` after its update."""
        return p


@function(outputs=("penalized",))
def L1Gradient(g: GraphBuilder, p: ir.Value, dp: ir.Value, *, strength: ir.Value) -> Value:
    """penalized = dp + strength sign(p), the gradient of the loss plus strength |p|_1.   Source: Tibshirani 1996."""
    return g.add(dp, g.mul(g.sign(p), strength))


@dataclass(frozen=True)
class L1(Regularizer):
    """The penalty strength * sum |p|."""

    def gradient(self, g: GraphBuilder, p: ir.Value, dp: ir.Value) -> ir.Value:
        found: Value = L1Gradient(g, p, dp, strength=float(self.strength))
        return found


@dataclass(frozen=True)
class L2(Regularizer):
    """The penalty strength / 2 * sum p^2. Unlike an optimizer's weight decay, it is clipped with the gradients."""

    def gradient(self, g: GraphBuilder, p: ir.Value, dp: ir.Value) -> ir.Value:
        found: Value = L2Decay(g, p, dp, weight_decay=float(self.strength))
        return found


@function(outputs=("bounded",))
def BoundNorm(g: GraphBuilder, p: ir.Value, norms: ir.Value, *, limit: ir.Value) -> Value:
    """bounded = p min(1, limit / norms).   norms: those of the units of p, with sizes of 1 along their axes."""
    return g.mul(p, g.div(limit, g.max(norms, limit)))


@dataclass(frozen=True)
class MaxNorm(Regularizer):
    """After an update no unit's weights have a norm above `strength`.   Source: Srivastava et al. 2014, section 5.1.

    A unit is an output: a column of a matrix (n_in, units), a filter of a convolution. Vectors stay as they are.
    """

    def project(self, g: GraphBuilder, name: str, p: ir.Value) -> ir.Value:
        if not fnmatchcase(name, self.match) or len(p.shape or ()) < 2:
            return p
        found: Value = BoundNorm(g, p, unit_norms(g, p), limit=float(self.strength))
        return found


REGULARIZERS = {"l1": L1, "l2": L2, "max_norm": MaxNorm}
"""By the name that `config.toml` uses."""
RegularizerLike = Regularizer | str | Sequence[Regularizer | str]
"""One or several: a regularizer, or its name with options after a colon, "l2:strength=1e-4"."""


def as_regularizers(regularize: RegularizerLike | None) -> tuple[Regularizer, ...]:
    """One regularizer, several, or none. Raises UsageError for anything else."""
    given = () if regularize is None else regularize if isinstance(regularize, (list, tuple)) else (regularize,)
    found = [named("regularizer", r, REGULARIZERS, {}) if isinstance(r, str) else r for r in given]
    if not all(isinstance(r, Regularizer) for r in found):
        raise UsageError(f"expected a regularizer or a list of them; found {regularize!r}", mend="Such as mx.L2(1e-4).")
    return tuple(found)
