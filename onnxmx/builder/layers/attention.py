"""Attention, and the transformer's layers.

Sequences are (batch, time, features) of any length: a symbolic time dimension stays one.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np
import onnx_ir as ir

from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.layers.activation import ActivationFunction
from onnxmx.builder.layers.base import Layer
from onnxmx.builder.layers.dense import Dense
from onnxmx.builder.layers.embedding import RotaryPosition
from onnxmx.builder.layers.norm import Dropout, LayerNorm
from onnxmx.builder.ops import BOOL, FLOAT
from onnxmx.errors import UsageError

Init = str | init.Initializer
_LAYOUT = "(batch, time, features)"

# Added to the score of a pair that must not be: its weight is exp(-1e9) = 0. Not -inf, of which a row that is masked
# in full would make NaN.
_NEVER = np.float32(-1e9)


@dataclass(frozen=True)
class MultiHeadAttention(Layer):
    """y = concat(softmax(q k^T / sqrt(key_dim) + mask) v, for each head) W_o;   q, k, v = query W_q, key W_k, value W_v

    query: (batch, queries, n)   key, value: (batch, keys, m), by default the query (self-attention) and the key
    y: (batch, queries, units), units being n unless given.
    mask: bool or numbers, 1 where attention may go: (batch, keys), which hides padding, (batch, queries, keys), or
    (batch, heads or 1, queries, keys).   causal: a query sees no key after it.
    key_dim: of each head, by default n / heads.   rotary: RotaryPosition on q and k.
    Source: Vaswani et al. 2017, section 3.2.
    """

    heads: int
    _: KW_ONLY
    key_dim: int | None = None
    units: int | None = None
    causal: bool = False
    rotary: bool = False
    dropout: float = 0.0
    bias: bool = True
    weight_init: Init = "xavier"
    bias_init: Init = "zeros"

    def __post_init__(self) -> None:
        self._check_sizes("heads", *(n for n in ("key_dim", "units") if getattr(self, n) is not None))
        Dropout(self.dropout)  # it says what is wrong with a ratio
        if self.rotary and self.key_dim is not None and self.key_dim % 2:
            raise UsageError(
                f"MultiHeadAttention expected an even key_dim for rotary; found {self.key_dim}",
                at=self._source,
                mend="Each frequency takes two of its elements.",
            )

    def forward(
        self, query: Value, key: Value | None = None, value: Value | None = None, mask: Value | None = None
    ) -> Value:
        key = query if key is None else key
        value = key if value is None else value
        for x in (query, key, value):
            self._expect_rank(x, 3, _LAYOUT)
        g, n = query.builder, self._width(query)
        size = self.key_dim or n // self.heads
        q = self._heads(query, "query", size)
        k = self._heads(key, "key", size)
        v = self._heads(value, "value", size)
        # Scaled before the product: q is smaller than the scores.
        scores = (q * (1.0 / math.sqrt(size))) @ g.transpose(k, [0, 1, 3, 2])
        for hidden in (self._mask(mask, scores), self._future(query, key) if self.causal else None):
            scores = scores if hidden is None else scores + hidden
        weights = g.op("Softmax", scores, axis=-1)
        if self.dropout:
            weights = self._written_here(Dropout(self.dropout))._call("dropout", weights)
        joined = g.reshape(g.transpose(weights @ v, [0, 2, 1, 3]), [0, 0, self.heads * size])
        return self._dense(self.units or n)._call("output", joined)

    def _width(self, query: Value) -> int:
        n = self._static_dim(query, 2, "a number of features", "Give the input's last dimension in build(...).")
        if self.key_dim is None and n % self.heads:
            raise self._misfit(query, f"features that {self.heads} heads divide", "Change heads, or give a key_dim.")
        return n

    def _dense(self, units: int) -> Dense:
        dense = Dense(units, bias=self.bias, weight_init=self.weight_init, bias_init=self.bias_init)
        return self._written_here(dense)

    def _heads(self, x: Value, name: str, size: int) -> Value:
        """A projection of `x`, (batch, heads, time, size)."""
        g = x.builder
        y = g.reshape(self._dense(self.heads * size)._call(name, x), [0, 0, self.heads, size])
        y = g.transpose(y, [0, 2, 1, 3])
        if self.rotary and name != "value":
            y = self._written_here(RotaryPosition())._call(f"{name}.rotary", y)
        return y

    def _mask(self, mask: Value | None, scores: Value) -> Value | None:
        """What is added to the scores (batch, heads, queries, keys): 0 where the mask is 1, else `_NEVER`."""
        if mask is None:
            return None
        rank = len(mask.shape) if mask.shape is not None else 0
        axes = {2: [1, 2], 3: [1], 4: []}.get(rank)
        if axes is None:
            expected = "a mask (batch, keys), (batch, queries, keys) or (batch, heads, queries, keys)"
            raise self._misfit(mask, expected, "It is 1 where attention may go.")
        g = mask.builder
        hidden = g.cast(g.op("Not", mask if mask.dtype == BOOL else g.cast(mask, BOOL)), FLOAT) * _NEVER
        return g.unsqueeze(hidden, axes) if axes else hidden

    def _future(self, query: Value, key: Value) -> Value:
        """`_NEVER` where a key stands after the query, else 0.   (queries, keys)"""
        g = query.builder
        sizes = [None if x.shape is None else x.shape[1] for x in (query, key)]
        if all(isinstance(d, int) for d in sizes):
            return g.constant(np.triu(np.full([d for d in sizes if isinstance(d, int)], _NEVER), 1))
        queries, keys = (
            g.range(np.int64(0), g.squeeze(g.op("Shape", x, start=1, end=2), [0]), np.int64(1)) for x in (query, key)
        )
        later = g.cast(g.less(g.unsqueeze(queries, [1]), g.unsqueeze(keys, [0])), FLOAT) * _NEVER
        later.shape = ir.Shape(sizes)
        return later


@dataclass(frozen=True)
class _TransformerLayer(Layer):
    """What encoder and decoder layers share. hidden: units of the feed-forward part.

    norm_first: x + part(norm(x)), easier to train when deep (Xiong et al. 2020), instead of norm(x + part(x)).
    dropout: of each part's output, of the attention weights, and within the feed-forward part.
    """

    heads: int
    hidden: int
    _: KW_ONLY
    dropout: float = 0.1
    activation: str | ActivationFunction = "relu"
    norm_first: bool = False
    causal: bool = False
    rotary: bool = False
    bias: bool = True
    epsilon: float = 1e-5
    weight_init: Init = "xavier"

    def __post_init__(self) -> None:
        self._check_sizes("heads", "hidden")
        Dropout(self.dropout)
        LayerNorm(epsilon=self.epsilon)

    def _attend(self, x: Value, name: str, memory: Value | None, mask: Value | None) -> Value:
        own = memory is None
        attention = MultiHeadAttention(
            self.heads,
            dropout=self.dropout,
            bias=self.bias,
            weight_init=self.weight_init,
            causal=self.causal and own,
            rotary=self.rotary and own,
        )
        return self._written_here(attention)._call(name, x, key=memory, mask=mask)

    def _feed_forward(self, x: Value, units: int) -> Value:
        """activation(x W1 + b1) W2 + b2"""
        h = self._dense(self.hidden, self.activation)._call("linear1", x)
        return self._dense(units, None)._call("linear2", self._dropped(h, "dropout"))

    def _dense(self, units: int, activation: str | ActivationFunction | None) -> Dense:
        dense = Dense(units, activation=activation, bias=self.bias, weight_init=self.weight_init)
        return self._written_here(dense)

    def _dropped(self, x: Value, name: str) -> Value:
        return self._written_here(Dropout(self.dropout))._call(name, x) if self.dropout else x

    def _norm(self, x: Value, k: int) -> Value:
        return self._written_here(LayerNorm(epsilon=self.epsilon, bias=self.bias))._call(f"norm{k}", x)

    def _before(self, x: Value, k: int) -> Value:
        """What part `k` reads."""
        return self._norm(x, k) if self.norm_first else x

    def _after(self, x: Value, part: Value, k: int) -> Value:
        """The input of part `k` and its output, joined."""
        y = x + self._dropped(part, f"dropout{k}")
        return y if self.norm_first else self._norm(y, k)

    def _units(self, x: Value) -> int:
        self._expect_rank(x, 3, _LAYOUT)
        return self._static_dim(x, 2, "a number of features", "Give the input's last dimension in build(...).")


@dataclass(frozen=True)
class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention, then a feed-forward part, each with a residual and a norm.   x, y: (batch, time, n)

    mask: as MultiHeadAttention takes it.   causal=True makes it a layer of a language model such as GPT.
    hidden: units of the feed-forward part, activation(x W1 + b1) W2 + b2.
    norm_first: x + part(norm(x)) instead of norm(x + part(x)); see Xiong et al. 2020.
    Source: Vaswani et al. 2017, section 3.1.
    """

    def forward(self, x: Value, mask: Value | None = None) -> Value:
        units = self._units(x)
        x = self._after(x, self._attend(self._before(x, 1), "attention", None, mask), 1)
        return self._after(x, self._feed_forward(self._before(x, 2), units), 2)


@dataclass(frozen=True)
class TransformerDecoderLayer(_TransformerLayer):
    """Causal self-attention, attention to the encoder's output, then a feed-forward part.   x, y: (batch, time, n)

    memory: (batch, time', m), the encoder's output.   mask: of x; memory_mask: of memory, (batch, time') hides padding.
    The other fields as in TransformerEncoderLayer.   Source: Vaswani et al. 2017, section 3.1.
    """

    _: KW_ONLY
    causal: bool = True

    def forward(self, x: Value, memory: Value, mask: Value | None = None, memory_mask: Value | None = None) -> Value:
        units = self._units(x)
        x = self._after(x, self._attend(self._before(x, 1), "attention", None, mask), 1)
        x = self._after(x, self._attend(self._before(x, 2), "cross_attention", memory, memory_mask), 2)
        return self._after(x, self._feed_forward(self._before(x, 3), units), 3)
