"""Classifiers of texts. A text is a row of word numbers; 0 fills up what is shorter, at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmx.builder import init
from onnxmx.builder import layers as L
from onnxmx.builder.graph import Value
from onnxmx.builder.ops import FLOAT
from onnxmx.models.registry import Times, model, tokens

VOCABULARY = 20_000


@dataclass(frozen=True)
class RecurrentClassifier(L.Layer):
    """The classes of a text from the last state of a recurrent layer.   tokens: (batch, time)   y: (batch, classes)"""

    classes: int
    vocabulary: int
    embedding: int
    body: L.Layer
    dropout: float

    def forward(self, tokens: Value) -> Value:
        x = L.Embedding(self.vocabulary, self.embedding, weight_init=init.normal(0.1), name="embedding")(tokens)
        y = self.body(x, mask=_written(tokens))
        y = L.Dropout(self.dropout)(y) if self.dropout else y
        return L.Dense(self.classes, name="head")(y)


@model(tokens)
def text_lstm(
    input: Times = ("time",),
    classes: int = 2,
    vocabulary: int = VOCABULARY,
    embedding: int = 128,
    units: int = 128,
    layers: int = 1,
    dropout: float = 0.5,
) -> L.Layer:
    """Text classifier: embedding and LSTM.

    input: the length of a text.   vocabulary: how many different words there are, 0 for none included.
    embedding: numbers for each word.   dropout: before the head and between layers.   Returns (batch, classes) logits.
    Source: Hochreiter & Schmidhuber 1997; Dai & Le 2015.
    """
    body = L.LSTM(units, layers=layers, dropout=dropout, return_sequences=False, name="lstm")
    return RecurrentClassifier(classes, vocabulary, embedding, body, dropout)


@model(tokens)
def text_gru(
    input: Times = ("time",),
    classes: int = 2,
    vocabulary: int = VOCABULARY,
    embedding: int = 128,
    units: int = 128,
    layers: int = 1,
    dropout: float = 0.5,
) -> L.Layer:
    """Text classifier: embedding and GRU.   Options: see text_lstm.   Source: Cho et al. 2014; Dai & Le 2015."""
    body = L.GRU(units, layers=layers, dropout=dropout, return_sequences=False, name="gru")
    return RecurrentClassifier(classes, vocabulary, embedding, body, dropout)


@model(tokens)
def text_bilstm(
    input: Times = ("time",),
    classes: int = 2,
    vocabulary: int = VOCABULARY,
    embedding: int = 128,
    units: int = 128,
    layers: int = 1,
    dropout: float = 0.5,
) -> L.Layer:
    """Text classifier: embedding and LSTM in both directions.   Options: see text_lstm.

    Source: Graves & Schmidhuber 2005.
    """
    body = L.LSTM(units, layers=layers, dropout=dropout, bidirectional=True, return_sequences=False, name="lstm")
    return RecurrentClassifier(classes, vocabulary, embedding, body, dropout)


@model(tokens)
def text_cnn(
    input: Times = ("time",),
    classes: int = 2,
    vocabulary: int = VOCABULARY,
    embedding: int = 300,
    channels: int = 100,
    widths: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
) -> L.Layer:
    """Text classifier: embedding and convolutions over three, four and five words.

    input: the length of a text, at least the largest of `widths`.   channels: for each of the widths.
    The other options as in text_lstm.   Returns (batch, classes) logits.
    Source: Kim 2014.
    """
    windows = [
        L.Sequential(L.Conv1D(channels, width, activation="relu"), L.GlobalMaxPool1D(), name=f"window{width}")
        for width in widths
    ]
    return L.Sequential(
        L.Embedding(vocabulary, embedding, padding=0, weight_init=init.normal(0.1), name="embedding"),
        L.Permute(2, 1),
        L.Concat(*windows, name="windows"),
        L.Dropout(dropout),
        L.Dense(classes, name="head"),
    )


@dataclass(frozen=True)
class TransformerClassifier(L.Layer):
    """The classes of a text from the mean of what encoder layers make of it.   tokens: (batch, time)"""

    classes: int
    vocabulary: int
    units: int
    heads: int
    hidden: int
    layers: int
    dropout: float

    def forward(self, tokens: Value) -> Value:
        g, mask = tokens.builder, _written(tokens)
        # As large as what tells the places apart, between -1 and 1.
        x = L.Embedding(self.vocabulary, self.units, weight_init=init.normal(1.0), name="embedding")(tokens)
        x = L.SinusoidalPosition(name="position")(x)
        for k in range(self.layers):
            layer = L.TransformerEncoderLayer(self.heads, self.hidden, dropout=self.dropout, name=f"layer{k}")
            x = layer(x, mask=mask)
        weights = g.cast(mask, FLOAT)
        count = g.max(g.reduce_sum(weights, [1]), 1.0)  # a text may be empty
        mean = g.reduce_sum(x * g.unsqueeze(weights, [2]), [1], keepdims=False) / count
        return L.Dense(self.classes, name="head")(mean)


@model(tokens)
def transformer_classifier(
    input: Times = ("time",),
    classes: int = 2,
    vocabulary: int = VOCABULARY,
    units: int = 128,
    heads: int = 4,
    hidden: int = 256,
    layers: int = 2,
    dropout: float = 0.1,
) -> L.Layer:
    """Text classifier: the encoder of a transformer.

    input: the length of a text.   units: numbers for each word, which `heads` divides.   hidden: units of the
    feed-forward parts.   The other options as in text_lstm.   Returns (batch, classes) logits.
    Source: Vaswani et al. 2017.
    """
    return TransformerClassifier(classes, vocabulary, units, heads, hidden, layers, dropout)


def _written(tokens: Value) -> Value:
    """Where there is a word.   tokens: (batch, time)   y: bool (batch, time)"""
    g = tokens.builder
    return g.op("Not", g.equal(tokens, 0))
