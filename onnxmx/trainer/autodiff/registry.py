"""The registry of gradient rules: what each operator's gradient is, or why it has none.

A rule is `rule(g, node, *dys) -> dx, or a tuple of them`: it adds the nodes that turn the gradients of the node's
outputs into those of its inputs, in the order of the inputs; None stands for "no gradient" on either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxmx.errors import GradientError, nearest

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Refusal:
    """An operator whose gradient must not be asked for."""

    why: str


RULES: dict[str, Rule | Refusal] = {}
"""By operator: `Relu` of ai.onnx, and with its domain that of another: `ai.onnxmx.Dropout`, `com.microsoft.Gelu`."""


def gradient(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the decorated function as the gradient rule of `operators`."""

    def register(rule: Rule) -> Rule:
        for operator in operators:
            RULES[_key(domain, operator)] = rule
        return rule

    return register


def zero_gradient(*operators: str, domain: str = "") -> None:
    """Register operators whose output does not change with small changes of their inputs."""
    for operator in operators:
        RULES[_key(domain, operator)] = _zero


def refuse_gradient(*operators: str, why: str, domain: str = "") -> None:
    """Register operators that have no gradient, and the reason."""
    for operator in operators:
        RULES[_key(domain, operator)] = Refusal(why)


def has_rule(node: ir.Node) -> bool:
    """Whether something is said of the node's operator."""
    return _key(node.domain, node.op_type) in RULES


def rule_for(node: ir.Node) -> Rule:
    """The rule of a node's operator. Raises GradientError where there is none."""
    key = _key(node.domain, node.op_type)
    rule = RULES.get(key)
    if isinstance(rule, Refusal):
        raise GradientError(f"{node.op_type} in {node.name!r} has no gradient: {rule.why}")
    if rule is None:
        near = nearest(key, RULES)
        raise GradientError(
            f"no gradient rule for {key!r}{f' (nearest: {near!r})' if near else ''}, needed by {node.name!r}",
            mend="Add one with @gradient in onnxmx/trainer/autodiff/rules/, or freeze the layers before it.",
        )
    return rule


def _zero(g: object, node: ir.Node, *dys: object) -> tuple[None, ...]:
    return (None,) * len(node.inputs)


def _key(domain: str, operator: str) -> str:
    return operator if domain in ("", "ai.onnx") else f"{domain}.{operator}"
