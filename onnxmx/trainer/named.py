"""Losses, metrics, optimizers by name: `huber`, as text with options `huber:delta=0.5,weight=0.3`."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Never

from onnxmx.builder.elsewhere import TOP, hint, missing
from onnxmx.errors import UsageError, unknown_name

_LONGEST = 10_000  # characters of options: the text may come from a file of someone else's


def named(kind: str, text: str, table: Mapping[str, Any], short: Mapping[str, Any]) -> Any:
    """What `text` names in `table`, or by a shorter name in `short`, made with the options that it gives.

    Raises UsageError for an unknown name or option, and for a value that is not allowed.
    """
    name, values = parts(kind, text)
    found = {**short, **table}.get(name)
    if found is None:
        raise unknown(kind, name, table)
    known = [f.name for f in dataclasses.fields(found) if f.init]
    for option in values:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    return found(**values)


def parts(kind: str, text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options in a text. Raises UsageError where the options cannot be read."""
    name, _, options = text.partition(":")
    return name, _values(kind, text, options)


def unknown(kind: str, name: str, table: Mapping[str, Any]) -> UsageError:
    """The error for a name that is not in `table`; it offers what other libraries call so, or the nearest one."""
    if meant := as_named_elsewhere(name, table):
        return UsageError(f"no {kind} named {name!r}", mend=f"Did you mean {meant!r}?")
    return unknown_name(kind, name, table)


_ELSEWHERE = {
    "softmax_cross_entropy": "ce crossentropy categoricalcrossentropy sparsecategoricalcrossentropy nll",
    "sigmoid_bce": "bce bcewithlogits binarycrossentropy sigmoidbinarycrossentropy",
    "mean_squared_error": "mse l2",
    "mean_absolute_error": "mae l1",
    "huber": "smoothl1",
    "kl": "kld kldiv kldivergence",
    "poisson": "poissonnll",
    "triplet": "tripletmargin",
    "cosine_embedding": "cosinesimilarity cosinedistance",
    "accuracy": "acc binaryaccuracy categoricalaccuracy sparsecategoricalaccuracy accuracyscore",
    "top_k": "top5 topkaccuracy topkcategoricalaccuracy sparsetopkcategoricalaccuracy",
    "f_beta": "f1 f1score fbetascore",
    "auc": "auroc rocauc rocaucscore",
    "iou": "jaccard jaccardindex meaniou miou",
    "mcc": "matthewscorrcoef matthewscorrelationcoefficient",
    "r2": "r2score",
    "pearson": "pearsoncorrelation pearsoncorrcoef",
    "root_mean_squared_error": "rmse rootmeansquarederror",
    "perplexity": "ppl",
    "wasserstein_gan": "wgan wgangp",
    "nag": "nesterov",
    "float16": "fp16 f16 half 16 16mixed mixedfloat16 amp mixed",
    "bfloat16": "bf16 bf16mixed mixedbfloat16",
    "float32": "fp32 f32 full single 32 32true",
    "momentum": "sgdm sgdmomentum",
    "adaptive": "agc adaptivegradientclipping clipadaptive",
    "global_norm": "clipglobalnorm clipbyglobalnorm clipgradnorm",
    "norm": "clipnorm clipbynorm",
    "value": "clipvalue clipbyvalue clipgradvalue",
    "centralize": "gc gradientcentralization",
    "noise": "gradientnoise",
    "cosine": "cosineannealinglr cosinedecay",
    "inverse_sqrt": "noam rsqrt inversesquareroot",
    "cosine_restarts": "sgdr cosineannealingwarmrestarts cosinedecayrestarts",
    "cyclic": "cycliclr",
    "exponential": "exponentiallr exponentialdecay",
    "linear": "linearlr",
    "multi_step": "multisteplr piecewiseconstantdecay multifactorscheduler",
    "one_cycle": "onecyclelr",
    "plateau": "reducelronplateau",
    "polynomial": "polynomiallr polynomialdecay",
    "step": "steplr factorscheduler",
}
"""By name here, what other libraries call it, without capitals, underscores, dashes and `Loss` at the end."""


def as_named_elsewhere(name: str, table: Mapping[str, Any]) -> str | None:
    """The name in `table` of what other libraries, or a class here, call `name`; None where none is known."""
    plain = name.lower().replace("_", "").replace("-", "").removesuffix("loss")
    called = (key for key in table if plain in (key.replace("_", ""), *_ELSEWHERE.get(key, "").split()))
    return next(called, None)


def absent(where: str, table: Mapping[str, type]) -> Callable[[str], Never]:
    """The `__getattr__` of a module `where` with the classes of `table`: a name that it has not is answered by one."""

    def __getattr__(name: str) -> Never:
        meant = as_named_elsewhere(name, table)
        known = {name: table[meant].__name__} if meant else TOP
        raise missing(where, name, hint(name, known, [kind.__name__ for kind in table.values()]))

    return __getattr__


def spell(name: str, made: Any) -> str:
    """The text that `named` makes an equal of `made` from: its name and the options that are not their defaults."""
    options = [
        f"{f.name}={_literal(getattr(made, f.name))}"
        for f in dataclasses.fields(made)
        if f.init and getattr(made, f.name) != f.default
    ]
    return name + (":" + ",".join(options) if options else "")


def _values(kind: str, text: str, options: str) -> dict[str, Any]:
    try:
        if len(options) > _LONGEST:
            raise ValueError(f"{len(options)} characters")
        call = ast.parse(f"f({options})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("no name before a value")
        return {str(k.arg): _value(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"{kind} expected a name and options, as in huber:delta=0.5,weight=2; found {text[:80]!r}",
            mend="Options follow a colon, with commas between them; a list is written [1,2], a pattern '*.bias'.",
        ) from error


def _value(node: ast.expr) -> Any:
    """A number, text, list, true, false or none; a word stands for itself."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id, node.id)
    value = ast.literal_eval(node)
    return tuple(value) if isinstance(value, list) else value


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(_literal, value)) + "]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return value if isinstance(value, str) and value.isidentifier() else repr(value)
