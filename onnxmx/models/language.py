"""Networks that write: character by character, or a sentence in another language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxmx.builder import init
from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Input
from onnxmx.builder.ops import FLOAT
from onnxmx.models.registry import Times, model, tokens


@model(tokens)
def char_rnn(
    input: Times = ("time",),
    vocabulary: int = 128,
    embedding: int = 64,
    units: int = 256,
    layers: int = 2,
    dropout: float = 0.2,
) -> L.Layer:
    """Language model of characters: the next one after each, by an LSTM.

    input: the length of a text.   vocabulary: how many different characters there are.
    Returns (batch, time, vocabulary) logits.
    Source: Graves 2013; Karpathy 2015.
    """
    return L.Sequential(
        L.Embedding(vocabulary, embedding, weight_init=init.normal(0.1), name="embedding"),
        L.LSTM(units, layers=layers, dropout=dropout, name="lstm"),
        L.Dense(vocabulary, name="head"),
    )


@model(tokens)
def gpt_mini(
    input: Times = ("time",),
    vocabulary: int = 256,
    length: int = 256,
    layers: int = 6,
    heads: int = 6,
    units: int = 192,
    dropout: float = 0.1,
) -> L.Layer:
    """Language model: a small GPT of bytes.

    input: the length of a text, at most `length`.   units: numbers for each token, which `heads` divides.
    Returns (batch, time, vocabulary) logits of the next token after each.
    Source: Radford et al. 2019; sizes: Karpathy's minGPT.
    """
    block = [
        L.TransformerEncoderLayer(
            heads, 4 * units, dropout=dropout, activation="gelu", norm_first=True, causal=True, name=f"layer{k}"
        )
        for k in range(layers)
    ]
    small = init.normal(0.02)
    return L.Sequential(
        L.Embedding(vocabulary, units, weight_init=small, name="embedding"),
        L.LearnedPosition(length, weight_init=small, name="position"),
        *([L.Dropout(dropout)] if dropout else []),
        *block,
        L.LayerNorm(name="norm"),
        L.Dense(vocabulary, bias=False, weight_init=small, name="head"),
    )


@dataclass(frozen=True)
class Seq2Seq(L.Layer):
    """An encoder LSTM, a decoder LSTM that starts from its last state, and attention from the one to the other.

    source: (batch, source_time)   target: (batch, target_time)   y: (batch, target_time, target_vocabulary)
    """

    vocabulary: int
    target_vocabulary: int
    embedding: int
    units: int
    layers: int
    dropout: float

    def forward(self, source: Value, target: Value) -> Value:
        g = source.builder
        empty = g.equal(source, 0)
        memory, h, c = self._lstm("encoder", return_state=True)(
            self._embed(source, "source", self.vocabulary), mask=g.op("Not", empty)
        )
        x = self._embed(target, "target", self.target_vocabulary)
        y = self._lstm("decoder")(x, initial_h=h, initial_c=c)
        # Luong et al. 2015, eq. 8, general: scores are y W memory.
        scores = L.Dense(self.units, bias=False, weight_init="xavier", name="attention")(y)
        scores = scores @ g.transpose(memory, [0, 2, 1])
        hidden = g.cast(empty, FLOAT) * -1e9
        context = L.softmax(scores + g.unsqueeze(hidden, [1])) @ memory
        joined = L.Dense(self.units, bias=False, activation="tanh", weight_init="xavier", name="joined")
        return L.Dense(self.target_vocabulary, name="head")(joined(L.concat(context, y, axis=2)))

    def _embed(self, x: Value, name: str, vocabulary: int) -> Value:
        return L.Embedding(vocabulary, self.embedding, weight_init=init.normal(0.1), name=f"{name}_embedding")(x)

    def _lstm(self, name: str, return_state: bool = False) -> L.LSTM:
        return L.LSTM(self.units, layers=self.layers, dropout=self.dropout, return_state=return_state, name=name)


def _pair(**_: Any) -> dict[str, Input]:
    return {
        "source": Input(("batch", "source_time"), "int64"),
        "target": Input(("batch", "target_time"), "int64"),
    }


@model(_pair)
def seq2seq(
    vocabulary: int = 10_000,
    target_vocabulary: int | None = None,
    embedding: int = 256,
    units: int = 256,
    layers: int = 1,
    dropout: float = 0.2,
) -> L.Layer:
    """Translator: two LSTMs and attention.

    It takes the source sentence, 0 past its end, and the target sentence so far: in training, the whole one.
    vocabulary: how many words the source language has; target_vocabulary: the other one, as many unless given.
    Returns (batch, target_time, target_vocabulary) logits of the next word after each of the target's.
    Source: Sutskever et al. 2014; attention: Luong et al. 2015.
    """
    return Seq2Seq(vocabulary, target_vocabulary or vocabulary, embedding, units, layers, dropout)
