"""Every way to write a model wrong: the kind of error, what it says, the user's line, and how to mend it."""

from __future__ import annotations

import numpy as np
import pytest

import onnxmx as mx
import onnxmx.builder.layers as L
from onnxmx.builder import init
from onnxmx.builder.graph import Value
from onnxmx.builder.model import Input, build
from onnxmx.errors import GraphError, ShapeError, UsageError
from tests.builder.bad_input import Bad


class NoForward(L.Layer):
    pass


class NoReturn(L.Layer):
    def forward(self, x: Value) -> None:
        x + 1


IMAGE = ("batch", 3, 8, 8)
TABLE = {
    # sizes that are not known, or do not fit
    "dense of an unknown size": Bad(
        lambda: L.Dense(3).build(x=("batch", "n")),
        ShapeError,
        r"Dense expected a last dimension that is known; found float32 \(batch, n\)",
    ),
    "dense of a scalar": Bad(lambda: L.Dense(3).build(x=()), ShapeError, r"found float32 \(\)"),
    "dense of integers": Bad(
        lambda: L.Dense(3).build(x=Input(("batch", 4), "int64")), ShapeError, "Gemm in Dense cannot take int64"
    ),
    "conv of a vector": Bad(
        lambda: L.Conv2D(4, 3).build(x=("batch", 3)), ShapeError, r"expected an input of rank 4 \(batch, channels"
    ),
    "pool of a vector": Bad(lambda: L.MaxPool2D().build(x=("batch", 3)), ShapeError, "expected an input of rank 4"),
    "mean of a vector": Bad(lambda: L.GlobalAvgPool2D().build(x=("b", 3)), ShapeError, "expected an input of rank 4"),
    "norm of a vector": Bad(lambda: L.BatchNorm().build(x=("batch",)), ShapeError, "expected a number of channels"),
    "channels not known": Bad(
        lambda: L.Conv2D(4, 3).build(x=("batch", "c", 8, 8)), ShapeError, "expected a number of channels that is known"
    ),
    "same padding, size not known": Bad(
        lambda: L.Conv2D(4, 3, padding="same", stride=2).build(x=("b", 3, "h", "w")),
        ShapeError,
        "expected an image size that is known",
    ),
    "kernel larger than image": Bad(
        lambda: L.Conv2D(4, 9).build(x=IMAGE), ShapeError, "expected an image of at least 9 along axis 2"
    ),
    "dilated kernel larger than image": Bad(
        lambda: L.Conv2D(4, (1, 3), dilation=4).build(x=IMAGE), ShapeError, "image of at least 9 along axis 3"
    ),
    "window larger than image": Bad(lambda: L.AvgPool2D(9).build(x=IMAGE), ShapeError, "image of at least 9"),
    "groups that do not divide": Bad(
        lambda: L.Conv2D(4, 3, groups=2).build(x=IMAGE), ShapeError, r"that 2 groups divide \(3 and 4\)"
    ),
    "residual of another shape": Bad(
        lambda: L.Residual(L.Conv2D(1, 1)).build(x=IMAGE),
        ShapeError,
        r"Residual expected body and shortcut of one shape, float32 \(batch, 1, 8, 8\); found float32 \(batch, 3,",
    ),
    "values that do not fit": Bad(
        lambda: build(lambda x, y: x + y, x=("batch", 3), y=("batch", 4)),
        ShapeError,
        r"Add in the graph cannot take float32 \(batch, 3\), float32 \(batch, 4\)",
    ),
    # numbers that are none
    **{
        f"units {units!r}": Bad(
            lambda units=units: L.Dense(units), UsageError, "Dense expected units as a positive integer; found "
        )
        for units in (0, -1, 2.0, "3", None, True)
    },
    "channels": Bad(lambda: L.Conv2D(0, 3), UsageError, "Conv2D expected channels as a positive integer; found 0"),
    "groups": Bad(lambda: L.Conv2D(4, 3, groups=0), UsageError, "expected groups as a positive integer; found 0"),
    "kernel": Bad(lambda: L.Conv2D(4, (3, 0)), UsageError, r"expected kernel as .* two of them; found \(3, 0\)"),
    "kernel of three": Bad(lambda: L.Conv2D(4, (3, 3, 3)), UsageError, "expected kernel as"),  # type: ignore[arg-type]
    "stride": Bad(lambda: L.MaxPool2D(2, stride=0), UsageError, "MaxPool2D expected stride as"),
    "dilation": Bad(lambda: L.Conv2D(4, 3, dilation=-1), UsageError, "expected dilation as"),
    "size": Bad(lambda: L.AvgPool2D(1.5), UsageError, "AvgPool2D expected size as"),  # type: ignore[arg-type]
    "padding by name": Bad(lambda: L.Conv2D(4, 3, padding="sam"), UsageError, "expected padding .* found 'sam'"),
    "padding by number": Bad(lambda: L.Conv2D(4, 3, padding=-1), UsageError, "expected padding .* found -1"),
    "padding of three": Bad(lambda: L.MaxPool2D(2, padding=(0, 0, 1)), UsageError, "expected padding"),  # type: ignore[arg-type]
    "padding as large as the window": Bad(
        lambda: L.MaxPool2D(2, padding=2), UsageError, "expected less padding than its size 2; found 2"
    ),
    "dropout": Bad(lambda: L.Dropout(1.0), UsageError, r"expected a ratio in \[0, 1\); found 1.0"),
    "dropout by name": Bad(lambda: L.Dropout("half"), UsageError, "found 'half'"),  # type: ignore[arg-type]
    "epsilon": Bad(lambda: L.BatchNorm(epsilon=0), UsageError, "expected epsilon as a positive number; found 0"),
    "momentum": Bad(lambda: L.BatchNorm(momentum=2), UsageError, r"momentum as a number in \[0, 1\]; found 2"),
    # names that are none
    "activation": Bad(
        lambda: L.Dense(3, activation="rellu").build(x=("b", 2)), UsageError, "no activation named 'rellu'"
    ),
    "activation layer": Bad(lambda: L.Activation("gelo").build(x=("b", 2)), UsageError, "Did you mean 'gelu'"),
    "activation number": Bad(
        lambda: L.Dense(3, activation=5).build(x=("b", 2)),  # type: ignore[arg-type]
        UsageError,
        "expected to be a name or a function of a value; found 5",
    ),
    "activation of nothing": Bad(
        lambda: L.Dense(3, activation=lambda x: None).build(x=("b", 2)),  # type: ignore[arg-type, return-value]
        GraphError,
        "expected to return a value; found None",
    ),
    "initializer": Bad(
        lambda: L.Dense(3, weight_init="xaviar").build(x=("b", 2)), UsageError, "no initializer named 'xaviar'"
    ),
    "initializer number": Bad(
        lambda: L.Conv2D(3, 1, bias_init=0.5).build(x=IMAGE),  # type: ignore[arg-type]
        UsageError,
        r"expected to be a name or a function of \(shape, random\); found 0.5",
    ),
    "initializer of another shape": Bad(
        lambda: L.Dense(3, weight_init=lambda s, r: np.zeros(2)).build(x=("b", 2)).to_bytes(),
        ShapeError,
        r"expected to return shape \(2, 3\); found \(2,\)",
    ),
    "operator": Bad(
        lambda: build(lambda x: x.builder.op("Rellu", x), x=("b",)), GraphError, "no operator 'Rellu' at opset 20"
    ),
    "attribute": Bad(lambda: build(lambda x: x.builder.op("Relu", x, alpha=1), x=("b",)), ShapeError, "alpha"),
    "attribute left out": Bad(
        lambda: build(lambda x: x.builder.op("Cast", x), x=("b",)), ShapeError, "attribute 'to' is missing"
    ),
    "input left out": Bad(lambda: build(lambda x: x.builder.op("Relu"), x=("b",)), ShapeError, "take no inputs"),
    "not a value": Bad(lambda: build(lambda x: x + "1", x=("b",)), ShapeError, "values, numbers or arrays; found '1'"),
    # layers that are none, or have one name
    "two layers of one name": Bad(
        lambda: L.Sequential(L.Dense(3, name="a"), L.Dense(3, name="a")).build(x=("b", 2)),
        GraphError,
        "Dense expected a name of its own; found another layer named 'a'",
    ),
    "a name taken by place": Bad(
        lambda: L.Sequential(L.Dense(3), L.Dense(3, name="0")).build(x=("b", 2)), GraphError, "another layer named '0'"
    ),
    "a reserved name": Bad(
        lambda: L.Sequential(L.Dense(3, name="const")).build(x=("b", 2)), GraphError, "found 'const'"
    ),
    "a name that is none": Bad(
        lambda: L.Sequential(L.Dense(3, name=5)).build(x=("b", 2)),  # type: ignore[arg-type]
        GraphError,
        "expected a name that is text .* found 5",
    ),
    "a class in a container": Bad(
        lambda: L.Sequential(L.Flatten).build(x=("b", 2)),  # type: ignore[arg-type]
        UsageError,
        r"Sequential expected a layer as '0'; found <class.*\n.*\n  Write Flatten\(\.\.\.\)",
    ),
    "a function in a container": Bad(
        lambda: L.Sequential(L.Flatten(), L.relu).build(x=("b", 2)),  # type: ignore[arg-type]
        UsageError,
        r"expected a layer as '1'; found <function relu.*\n.*\n  Write Activation\(\"relu\"\)",
    ),
    "a function of one's own in a container": Bad(
        lambda: L.Sequential(lambda x: x * 2).build(x=("b", 2)),
        UsageError,
        "Wrap a function of values in Lambda",  # type: ignore[arg-type]
    ),
    "a name in a container": Bad(
        lambda: L.Sequential("tanh").build(x=("b", 2)),
        UsageError,
        r"found 'tanh'\n.*\n  Write Activation\(\"tanh\"\)",  # type: ignore[arg-type]
    ),
    "a model in a container": Bad(
        lambda: L.Sequential(L.Dense(3).build(x=("b", 2)), L.Dense(2)).build(x=("b", 2)),  # type: ignore[arg-type]
        UsageError,
        r"found Model\((.|\n)*model\.replace_head",
    ),
    "a learning rate in a container": Bad(
        lambda: L.Sequential(mx.Linear(4, 3)).build(x=("b", 2)),
        UsageError,
        r"found Linear\((.|\n)*mx\.layers\.Dense",  # type: ignore[arg-type]
    ),
    "a class to build": Bad(lambda: build(L.Flatten, x=("b", 2)), UsageError, "expected a layer or a function"),
    "a name to build": Bad(lambda: build("lenet", x=("b", 2)), UsageError, "found 'lenet'"),  # type: ignore[arg-type]
    "a layer on an array": Bad(
        lambda: L.Dense(3)(np.zeros((1, 2))),  # type: ignore[arg-type]
        UsageError,
        "Dense expected graph values; found ndarray",
    ),
    "a layer on nothing": Bad(lambda: L.Dense(3)(), UsageError, "Dense expected the inputs of its forward"),
    "a layer on two": Bad(lambda: L.Dense(3).build(x=("b", 2), y=("b", 2)), UsageError, "found 2: too many"),
    "a function of too few": Bad(lambda: build(lambda x, y: x, x=("b",)), UsageError, r"found \['x'\]: missing"),
    "no forward": Bad(lambda: NoForward().build(x=("b",)), GraphError, "NoForward expected a method forward"),
    "no return": Bad(
        lambda: NoReturn().build(x=("b",)), GraphError, "NoReturn .* forward to return a graph value", here=False
    ),
    "a function without return": Bad(lambda: build(lambda x: None, x=("b",)), GraphError, "found None"),
    "a function that returns a number": Bad(lambda: build(lambda x: 1.0, x=("b",)), GraphError, "found 1.0"),
    "a function that returns nothing": Bad(lambda: build(lambda x: {}, x=("b",)), GraphError, "found {}"),
    "concat of nothing": Bad(lambda: build(lambda x: L.concat(), x=("b",)), UsageError, "expected graph values"),
    "concat that does not fit": Bad(
        lambda: build(lambda x, y: L.concat(x, y), x=("b", 1, 2), y=("b", 1, 3)), ShapeError, "Concat in the graph"
    ),
    # sequences
    "embedding of floats": Bad(
        lambda: L.Embedding(5, 3).build(x=("b", 2)), ShapeError, r"expected an input of int64; found float32 \(b, 2\)"
    ),
    "embedding of no rows": Bad(lambda: L.Embedding(0, 3), UsageError, "expected count as a positive integer"),
    "padding that is not embedded": Bad(
        lambda: L.Embedding(5, 3, padding=5), UsageError, r"padding as an integer in \[0, 5\); found 5"
    ),
    "positions of an odd size": Bad(
        lambda: L.SinusoidalPosition().build(x=("b", "t", 5)), ShapeError, "expected an even last dimension"
    ),
    "rotary of a vector": Bad(lambda: L.RotaryPosition().build(x=(4,)), ShapeError, "an input of rank 2 or more"),
    "more places than learned": Bad(
        lambda: L.LearnedPosition(3).build(x=("b", 4, 5)), ShapeError, "expected at most 3 steps"
    ),
    "lstm of a vector": Bad(lambda: L.LSTM(3).build(x=("b", 4)), ShapeError, r"rank 3 \(batch, time, features\)"),
    "lstm of an unknown size": Bad(
        lambda: L.LSTM(3).build(x=("b", "t", "n")), ShapeError, "LSTM expected a number of features that is known"
    ),
    "no units": Bad(lambda: L.GRU(0), UsageError, "GRU expected units as a positive integer"),
    "no layers": Bad(lambda: L.LSTM(3, layers=0), UsageError, "LSTM expected layers as a positive integer"),
    "dropout between layers": Bad(lambda: L.LSTM(3, dropout=1.0), UsageError, r"a ratio in \[0, 1\); found 1.0"),
    "rnn of another activation": Bad(
        lambda: L.RNN(3, activation="gelu"), UsageError, "activation 'tanh' or 'relu'; found 'gelu'"
    ),
    "recurrent initializer": Bad(
        lambda: L.LSTM(3, recurrent_init="orthgonal").build(x=("b", "t", 2)),
        UsageError,
        "no initializer named 'orthgonal'",
    ),
    "lengths and a mask": Bad(
        lambda: build(
            lambda x, n, m: L.LSTM(3)(x, lengths=n, mask=m), x=("b", "t", 2), n=Input(("b",), "int64"), m=("b", "t")
        ),
        UsageError,
        "expected lengths or a mask; found both",
    ),
    "lengths that are floats": Bad(
        lambda: L.LSTM(3).build(x=("b", "t", 2), n=("b",)), ShapeError, "lengths of an integer type; found float32"
    ),
    "an initial state of another size": Bad(
        lambda: build(lambda x, h: L.GRU(3, layers=2)(x, initial_h=h), x=("b", "t", 2), h=(1, "b", 3)),
        ShapeError,
        r"expected an initial state \(2, batch, 3\)",
    ),
    "a mask that is a list": Bad(
        lambda: build(lambda x: L.LSTM(3)(x, mask=[1, 1]), x=("b", 2, 2)),  # type: ignore[arg-type]
        UsageError,
        "LSTM expected graph values; found list",
    ),
    "an input of no such name": Bad(
        lambda: build(lambda x: L.LSTM(3)(x, lenghts=x), x=("b", 2, 2)), UsageError, "unexpected keyword argument"
    ),
    "unroll of a layer": Bad(lambda: L.Unroll(L.Dense(3)), UsageError, "Unroll expected a Cell; found Dense"),  # type: ignore[arg-type]
    "unroll of an unknown time": Bad(
        lambda: L.Unroll(L.GRUCell(3)).build(x=("b", "t", 2)), ShapeError, "expected a number of steps that is known"
    ),
    "a cell of one state, two given": Bad(
        lambda: build(lambda x, h: L.Unroll(L.GRUCell(3))(x, h, h), x=("b", 2, 2), h=("b", 3)),
        UsageError,
        "GRUCell expected the inputs of its forward",
    ),
    "a cell without sizes": Bad(
        lambda: L.Unroll(L.Cell()).build(x=("b", 2, 2)), GraphError, "Cell expected a property state_sizes"
    ),
    "heads that do not divide": Bad(
        lambda: L.MultiHeadAttention(4).build(x=("b", "t", 6)), ShapeError, "expected features that 4 heads divide"
    ),
    "attention of a vector": Bad(
        lambda: L.MultiHeadAttention(2).build(x=("b", 6)), ShapeError, r"rank 3 \(batch, time, features\)"
    ),
    "an odd key_dim that turns": Bad(
        lambda: L.MultiHeadAttention(2, key_dim=3, rotary=True), UsageError, "an even key_dim for rotary; found 3"
    ),
    "heads of an odd size that turn": Bad(
        lambda: L.MultiHeadAttention(2, rotary=True).build(x=("b", "t", 6)), ShapeError, "an even last dimension"
    ),
    "a mask of one axis": Bad(
        lambda: build(lambda x, m: L.MultiHeadAttention(2)(x, mask=m), x=("b", "t", 6), m=("b",)),
        ShapeError,
        r"expected a mask \(batch, keys\)",
    ),
    "a transformer of no heads": Bad(
        lambda: L.TransformerEncoderLayer(0, 8), UsageError, "expected heads as a positive integer; found 0"
    ),
    "a decoder without memory": Bad(
        lambda: L.TransformerDecoderLayer(2, 8).build(x=("b", "t", 6)), UsageError, "missing .* 'memory'"
    ),
    # inputs and outputs
    "no input": Bad(lambda: L.Flatten().build(), UsageError, "at least one input"),
    "a number for a shape": Bad(lambda: L.Flatten().build(x=784), UsageError, "found 784"),  # type: ignore[arg-type]
    "a name for a shape": Bad(lambda: L.Flatten().build(x="batch"), UsageError, "found 'batch'"),
    "a size of 0": Bad(lambda: L.Flatten().build(x=("b", 0)), UsageError, r"positive integers, names or None; found"),
    "a size of 1.5": Bad(lambda: L.Flatten().build(x=("b", 1.5)), UsageError, "positive"),  # type: ignore[arg-type]
    "an element type": Bad(
        lambda: L.Flatten().build(x=Input(("b", 2), "floaty")), UsageError, "element type .* found 'floaty'"
    ),
    "a seed": Bad(lambda: L.Flatten().build(seed=-1, x=("b", 2)), UsageError, "whole number of 0 or more; found -1"),
    "an output of an input's name": Bad(
        lambda: L.Flatten().build(output=("b", 2)), GraphError, "output 'output' expected a name of its own"
    ),
    "a number that does not fit": Bad(
        lambda: build(lambda x: x * 0.5, x=Input(("b",), "int64")), ShapeError, "0.5 cannot be int64"
    ),
    "a parameter of unknown size": Bad(
        lambda: build(lambda x: x + x.builder.parameter("p", x.shape, init.ones()), x=("b",)),  # type: ignore[arg-type]
        ShapeError,
        "parameter 'p' of the graph expected a shape of positive integers",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_bad_input(name: str) -> None:
    TABLE[name].provoke()


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(GraphError, match="Did you mean 'Conv'"):
        build(lambda x: x.builder.op("Convv", x), x=("b",))
    with pytest.raises(UsageError, match="Did you mean 'orthogonal'"):
        init.get("ortogonal")
