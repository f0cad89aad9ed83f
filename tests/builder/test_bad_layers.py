"""Every way to write a layer of space, a norm, an activation or a container wrong."""

from __future__ import annotations

import pytest

import onnxmx.builder.layers as L
from onnxmx.builder import init
from onnxmx.builder.model import build
from onnxmx.errors import GraphError, ShapeError, UsageError
from tests.builder.bad_input import Bad

SEQUENCE, IMAGE, VOLUME = ("batch", 4, 9), ("batch", 4, 9, 8), ("batch", 4, 5, 6, 4)
TABLE = {
    # layers of another number of axes
    "a sequence layer on images": Bad(
        lambda: L.Conv1D(4, 3).build(x=IMAGE), ShapeError, r"rank 3 \(batch, channels, length\)"
    ),
    "a volume layer on images": Bad(
        lambda: L.MaxPool3D().build(x=IMAGE), ShapeError, r"rank 5 \(batch, channels, depth, height, width\)"
    ),
    "a global pool on images": Bad(lambda: L.GlobalMaxPool1D().build(x=IMAGE), ShapeError, "of rank 3"),
    "a transposed layer on sequences": Bad(lambda: L.Conv2DTranspose(4, 3).build(x=SEQUENCE), ShapeError, "of rank 4"),
    "window larger than sequence": Bad(
        lambda: L.Conv1D(4, 10).build(x=SEQUENCE), ShapeError, "a sequence of at least 10 along axis 2"
    ),
    "window larger than volume": Bad(
        lambda: L.AvgPool3D((1, 1, 5)).build(x=VOLUME), ShapeError, "a volume of at least 5 along axis 4"
    ),
    "same padding of a sequence, length not known": Bad(
        lambda: L.Conv1D(4, 3, padding="same", stride=2).build(x=("b", 4, "n")), ShapeError, "a sequence size that is"
    ),
    "ceil, size not known": Bad(
        lambda: L.MaxPool2D(ceil=True).build(x=("b", 4, "h", "w")), ShapeError, "an image size that is known"
    ),
    # numbers that are none, or too many
    "a kernel of two for a sequence": Bad(
        lambda: L.Conv1D(4, (3, 3)), UsageError, r"kernel as a positive integer; found \(3, 3\)"
    ),
    "a kernel of two for a volume": Bad(lambda: L.Conv3D(4, (3, 3)), UsageError, "integer or three of them; found"),
    "output padding below 0": Bad(
        lambda: L.Conv2DTranspose(4, 3, output_padding=-1), UsageError, "integer of 0 or more or two of them; found -1"
    ),
    "output padding of the stride": Bad(
        lambda: L.Conv2DTranspose(4, 3, stride=(3, 2), output_padding=2),
        UsageError,
        r"less output_padding than its stride \(3, 2\); found 2",
    ),
    "output padding beside same": Bad(
        lambda: L.Conv1DTranspose(4, 3, stride=2, padding="same", output_padding=1),
        UsageError,
        "no output_padding beside padding 'same'; found 1",
    ),
    "padding that cuts all": Bad(
        lambda: L.Conv2DTranspose(4, 3, padding=((0, 0), (5, 5))).build(x=IMAGE),
        ShapeError,
        "leaves some of its output along axis 3, not 10",
    ),
    "padding of three sides": Bad(lambda: L.Conv2D(4, 3, padding=((1, 1, 1), 0)), UsageError, "expected padding"),
    "padding of no number": Bad(lambda: L.Conv2D(4, 3, padding=None), UsageError, "expected padding .* found None"),
    "padding after as large as the window": Bad(
        lambda: L.AvgPool1D(2, padding=((0, 2),)), UsageError, r"less padding than its size 2; found \(\(0, 2\),\)"
    ),
    "transposed groups": Bad(
        lambda: L.Conv2DTranspose(4, 3, groups=3).build(x=IMAGE), ShapeError, r"that 3 groups divide \(4 and 4\)"
    ),
    # resizing
    "scale of 0": Bad(lambda: L.UpSample(0), UsageError, "scale as a positive integer or one for each axis"),
    "scale of 1.5": Bad(lambda: L.UpSample(1.5), UsageError, "found 1.5"),
    "scale of nothing": Bad(lambda: L.UpSample(()), UsageError, r"found \(\)"),
    "scale of three on images": Bad(
        lambda: L.UpSample((2, 2, 2)).build(x=IMAGE), ShapeError, "batch, channels and 3 axes of space"
    ),
    "upsampling of a vector": Bad(lambda: L.UpSample().build(x=("b", 4)), ShapeError, "channels and axes of space"),
    "a mode": Bad(lambda: L.UpSample(2, mode="linear"), UsageError, "no mode of UpSample named 'linear'"),
    "shuffle of 0": Bad(lambda: L.PixelShuffle(0), UsageError, "scale as a positive integer"),
    "shuffle of too few channels": Bad(
        lambda: L.PixelShuffle(3).build(x=IMAGE), ShapeError, "channels that 9 divides; found float32"
    ),
    "shuffle of a sequence": Bad(lambda: L.PixelShuffle().build(x=SEQUENCE), ShapeError, "of rank 4"),
    "zeros by name": Bad(lambda: L.ZeroPad("same"), UsageError, "padding as a number of elements; found 'same'"),
    "zeros below 0": Bad(lambda: L.ZeroPad(-1), UsageError, "found -1"),
    "zeros for three axes": Bad(lambda: L.ZeroPad((1, 1, 1)).build(x=IMAGE), ShapeError, "and 3 axes of space"),
    "a mirror wider than the image": Bad(
        lambda: L.ReflectionPad((0, 8)).build(x=IMAGE), ShapeError, "more than its padding along axis 3"
    ),
    # norms
    "layer norm of no axis": Bad(lambda: L.LayerNorm(0), UsageError, "axes as a positive integer"),
    "layer norm of all": Bad(lambda: L.LayerNorm(2).build(x=("b", 4)), ShapeError, "2 last dimensions that is known"),
    "layer norm, size not known": Bad(lambda: L.LayerNorm().build(x=("b", "n")), ShapeError, "a last dimension"),
    "layer norm epsilon": Bad(lambda: L.LayerNorm(epsilon=0), UsageError, "LayerNorm expected epsilon as a positive"),
    "rms norm epsilon": Bad(lambda: L.RMSNorm(epsilon=-1), UsageError, "RMSNorm expected epsilon"),
    "rms norm, size not known": Bad(lambda: L.RMSNorm().build(x=("b", "n")), ShapeError, "a last dimension"),
    "instance norm epsilon": Bad(lambda: L.InstanceNorm(epsilon="x"), UsageError, "InstanceNorm expected epsilon"),
    "instance norm of a vector": Bad(lambda: L.InstanceNorm().build(x=("b", 4)), ShapeError, "one axis of space"),
    "group norm epsilon": Bad(lambda: L.GroupNorm(2, epsilon=None), UsageError, "GroupNorm expected epsilon"),
    "group norm of no group": Bad(lambda: L.GroupNorm(0), UsageError, "groups as a positive integer"),
    "groups that do not divide": Bad(
        lambda: L.GroupNorm(3).build(x=IMAGE), ShapeError, r"channels that 3 groups divide \(4\)"
    ),
    "an even neighbourhood": Bad(
        lambda: L.LocalResponseNorm(4), UsageError, "size as an odd positive integer; found 4"
    ),
    "a negative alpha": Bad(lambda: L.LocalResponseNorm(alpha=-1), UsageError, "alpha as a positive number; found -1"),
    "neighbours of a vector": Bad(lambda: L.LocalResponseNorm().build(x=("b", 4)), ShapeError, "one axis of space"),
    # activations
    "a slope by name": Bad(lambda: L.LeakyReLU("steep"), UsageError, "LeakyReLU expected slope as a number"),
    "elu of 0": Bad(lambda: L.ELU(0), UsageError, "ELU expected alpha as a positive number; found 0"),
    "celu below 0": Bad(lambda: L.CELU(-1.0), UsageError, "CELU expected alpha as a positive number"),
    "softmax over no axis": Bad(lambda: L.Softmax(2).build(x=("b", 4)), ShapeError, "Softmax in Softmax"),
    "prelu of a vector": Bad(lambda: L.PReLU().build(x=("b",)), ShapeError, "a number of channels that is known"),
    # movement and containers
    "reshape to 0": Bad(lambda: L.Reshape(0, 4), UsageError, r"positive integers, one of them -1 .* found \(0, 4\)"),
    "reshape to two rests": Bad(lambda: L.Reshape(-1, -1), UsageError, r"found \(-1, -1\)"),
    "reshape to a list": Bad(lambda: L.Reshape([4, 4]), UsageError, r"found \(\[4, 4\],\)"),
    "reshape to another size": Bad(
        lambda: L.Reshape(4, 71).build(x=IMAGE), ShapeError, r"as many elements in a sample as in \(4, 71\)"
    ),
    "reshape to what does not divide": Bad(
        lambda: L.Reshape(5, -1).build(x=IMAGE), ShapeError, r"as many elements in a sample as in \(5, -1\)"
    ),
    "a shape as one": Bad(lambda: L.Reshape((1, 4, 2)), UsageError, r"Write Reshape\(1, 4, 2\)"),  # type: ignore[arg-type]
    "permute the batch": Bad(lambda: L.Permute(0, 2, 1), UsageError, r"each of the axes 1, 2, .* found \(0, 2, 1\)"),
    "permute an axis twice": Bad(lambda: L.Permute(1, 1), UsageError, r"found \(1, 1\)"),
    "permute too few": Bad(lambda: L.Permute(2, 1).build(x=IMAGE), ShapeError, r"rank 3 \(batch and 2 more\)"),
    "a lambda without return": Bad(
        lambda: L.Lambda(lambda x: None).build(x=IMAGE), GraphError, "its function to return a graph value; found None"
    ),
    "an image without a batch": Bad(
        lambda: L.Conv2D(4, 3).build(x=(1, 28, 28)), ShapeError, r"counts samples: build\(x=\('batch', 1, 28, 28\)\)"
    ),
    "a rank too few": Bad(
        lambda: L.Sequential(L.Flatten(), L.Conv1D(4, 3)).build(x=IMAGE), ShapeError, "Check the layer before it"
    ),
    "channels last": Bad(
        lambda: L.Conv2D(4, 3).build(x=("batch", 8, 8, 1)), ShapeError, r"build\(image=\('batch', 1, 8, 8\)\)"
    ),
    "a layer in the place of a value": Bad(
        lambda: build(lambda x: L.Dense(3), x=("batch", 4)),  # type: ignore[arg-type, return-value]
        GraphError,
        r"found Dense\((.|\n)*Dense\(10\)\(x\)",
    ),
    "no branches": Bad(lambda: L.Concat(), UsageError, "Concat expected at least one layer; found none"),
    "a branch that is none": Bad(lambda: L.Add(L.relu).build(x=IMAGE), UsageError, "expected a layer as '0'; found"),
    "branches of two shapes": Bad(
        lambda: L.Add(L.Identity(), L.Conv2D(1, 1)).build(x=IMAGE),
        ShapeError,
        r"branches of one shape, float32 \(batch, 4, 9, 8\); found float32 \(batch, 1,",
    ),
    "products of two shapes": Bad(
        lambda: L.Multiply(L.Identity(), L.GlobalAvgPool2D()).build(x=IMAGE), ShapeError, "branches of one shape"
    ),
    "branches that cannot be joined": Bad(
        lambda: L.Concat(L.Identity(), L.MaxPool2D()).build(x=IMAGE), ShapeError, "Concat in Concat"
    ),
    "no outputs": Bad(lambda: L.Parallel().build(x=IMAGE), UsageError, "Parallel expected at least one layer"),
    "two branches of one name": Bad(
        lambda: L.Add(L.Dense(3, name="a"), L.Dense(3, name="a")).build(x=("b", 3)), GraphError, "layer named 'a'"
    ),
    "numbers of another shape": Bad(
        lambda: L.Dense(3, weight_init=init.array([[1.0]])).build(x=("b", 2)).parameters(),
        ShapeError,
        r"expected to return shape \(2, 3\); found \(1, 1\)",
    ),
    "several outputs in the middle": Bad(
        lambda: build(lambda x: L.Sequential(L.Parallel(a=L.Identity()), L.Flatten())(x), x=IMAGE),
        UsageError,
        "Flatten expected graph values; found dict",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_bad_layer(name: str) -> None:
    TABLE[name].provoke()
