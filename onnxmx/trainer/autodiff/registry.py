"""The registry of gradient rules: what each operator's gradient is, or why it has none.

A rule is `rule(g, node, *dys) -> dx, or a tuple of them`: it adds the nodes that turn the gradients of the node's
outputs into those of its inputs, in the order of the inputs; None stands for "no gradient" on either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.functions import KEPT, Function
from onnxmx.builder.graph import DOMAIN
from onnxmx.builder.source import line_of, user_line
from onnxmx.errors import GradientError, UsageError, nearest

Rule = Callable[..., Any]
_OURS = "onnxmx.trainer.autodiff."


@dataclass(frozen=True)
class Refusal:
    """An operator whose gradient must not be asked for."""

    why: str


RULES: dict[str, Rule | Refusal] = {}
"""By operator: `Relu` of ai.onnx, and with its domain that of another: `ai.onnxmx.Dropout`, `com.microsoft.Gelu`."""


@checked_arguments
def gradient(*operators: str | Function, domain: str = "", replace: bool = False) -> Callable[[Rule], Rule]:
    """Register the decorated function as the gradient rule of `operators`.

        @mx.gradient(Sign)
        def straight_through(g, node, dy):
            return dy

    operators: names of operators or of functions that a file defines, of `domain`; or functions made by `@mx.function`.
    replace: whether it may take the place of another rule. Raises UsageError where it may not and there is one.
    """

    def register(rule: Rule) -> Rule:
        for operator in operators:
            key = _key(domain, operator) if isinstance(operator, str) else _key(DOMAIN, operator.name)
            _register(key, rule, replace)
        return rule

    return register


def zero_gradient(*operators: str, domain: str = "", replace: bool = False) -> None:
    """Register operators whose output does not change with small changes of their inputs."""
    for operator in operators:
        _register(_key(domain, operator), _zero, replace)


def refuse_gradient(*operators: str, why: str, domain: str = "", replace: bool = False) -> None:
    """Register operators that have no gradient, and the reason."""
    for operator in operators:
        _register(_key(domain, operator), Refusal(why), replace)


def _register(key: str, rule: Rule | Refusal, replace: bool) -> None:
    former = RULES.get(key)
    if former is not None and not replace and not _same_place(former, rule):
        raise UsageError(
            f"{key!r} expected one gradient rule; found {_described(former)} and {_described(rule)}",
            at=user_line(),
            mend="Remove one of them, or register the second one with replace=True.",
        )
    RULES[key] = rule
    domain, _, name = key.rpartition(".")
    if domain:
        KEPT.add((domain, name))


def _same_place(a: Rule | Refusal, b: Rule | Refusal) -> bool:
    """Whether one is the other, defined once more: a notebook's cell that is run again, a module that is reloaded."""
    places = [(getattr(r, "__module__", None), getattr(r, "__qualname__", "<lambda>")) for r in (a, b)]
    return a == b or (places[0] == places[1] and "<lambda>" not in places[0][1])


def _described(rule: Rule | Refusal) -> str:
    if isinstance(rule, Refusal):
        return f"a refusal ({rule.why})"
    if rule is _zero:
        return "a gradient of zero"
    return f"{getattr(rule, '__qualname__', rule)} ({line_of(rule) or 'of unknown place'})"


def is_users_own(domain: str, name: str) -> bool:
    """Whether the operator has a rule that is not the product's."""
    if domain in ("", "ai.onnx") or (rule := RULES.get(_key(domain, name))) is None:
        return False
    said = rule is _zero or isinstance(rule, Refusal)  # the product has rules alone for functions
    return said or not (getattr(rule, "__module__", "") or "").startswith(_OURS)


def has_rule(node: ir.Node) -> bool:
    """Whether something is said of the node's operator."""
    return _key(node.domain, node.op_type) in RULES


def is_flat(node: ir.Node) -> bool:
    """Whether no gradient goes through the node's operator."""
    return RULES.get(_key(node.domain, node.op_type)) is _zero


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
