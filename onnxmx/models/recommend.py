"""Neural collaborative filtering: who will like what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxmx.builder import init
from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Input
from onnxmx.models.registry import model


def _ids(**_: Any) -> dict[str, Input]:
    return {"user": Input(("batch",), "int64"), "item": Input(("batch",), "int64")}


@dataclass(frozen=True)
class NCF(L.Layer):
    """A product of embeddings, dense layers on others, and one score of both.   user, item: (batch,)   y: (batch, 1)"""

    users: int
    items: int
    factors: int
    hidden: Sequence[int]

    def forward(self, user: Value, item: Value) -> Value:
        product = self._embed(user, item, "factors", self.factors)
        x = L.concat(*self._embed(user, item, "mlp", self.hidden[0] // 2), axis=1)
        deep = L.Sequential(*[L.Dense(n, activation="relu") for n in self.hidden[1:]], name="mlp")(x)
        return L.Dense(1, name="head")(L.concat(product[0] * product[1], deep, axis=1))

    def _embed(self, user: Value, item: Value, name: str, units: int) -> tuple[Value, Value]:
        def embed(x: Value, kind: str, count: int) -> Value:
            return L.Embedding(count, units, weight_init=init.normal(0.05), name=f"{kind}_{name}")(x)

        return embed(user, "user", self.users), embed(item, "item", self.items)


@model(_ids)
def ncf(users: int = 6040, items: int = 3706, factors: int = 8, hidden: Sequence[int] = (64, 32, 16, 8)) -> L.Layer:
    """Recommender: matrix factorization and dense layers on embeddings of users and items.

    users, items: how many there are; by default as in MovieLens 1M.   factors: numbers for each in the product.
    hidden: units of the dense part, the first of them the embeddings of both.
    Returns (batch, 1), the logit of the user taking to the item.
    Source: He et al. 2017, section 3.4.
    """
    return NCF(users, items, factors, tuple(hidden))
