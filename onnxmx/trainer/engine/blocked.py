"""Convolutions with weights that change, in ONNX Runtime's blocked layout on a CPU.

ONNX Runtime's fastest CPU convolution works on images whose channels lie in blocks: (n, c / b, h, w, b), b = 16 with
AVX-512, 8 with AVX2. Its own optimizer uses it only where a weight is a constant, which in training none is. So this
pass does what that optimizer does, on a step graph that is about to be opened: it puts the kernels of
`com.microsoft.nchwc` in the place of Conv, and of ConvTranspose with stride 1 (the gradient of Conv's input), with the
weights brought to the blocked layout by a Transpose inside the graph. Elementwise operators, sums and transposes
between them work on the blocked images too, so that these are not reordered in between.

The step file stays as it is, in standard operators. Only what this process hands to its own session changes.

A blocked image of the nominal shape (n, c, h, w) is held as a value of shape (n, c / b, h, w b): one row of an image
is then the run of memory along which ONNX Runtime broadcasts and sums, long enough to be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxmx.builder.graph import DOMAIN as ONNXMX
from onnxmx.builder.unused import remove_unused
from onnxmx.trainer.engine.block_size import DOMAIN
from onnxmx.trainer.engine.functions import without_functions

_POINTWISE = {
    *("Abs", "Add", "Cast", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Greater", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Less", "Log", "Max", "Min", "Mul", "Neg", "Not", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sign"),
    *("Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh", "Where"),
}
_TILES = ("TileStretch", "TileSums")
_CHANNEL_SUM = [0, 2, 3]


def lower(data: bytes, b: int | None) -> bytes:
    """The graph of a step file with its convolutions in blocks of `b` channels. The same bytes where nothing fits.

    data: a serialized model.   b: what `block_size()` says.
    """
    if b is None or b"Conv" not in data:
        return data
    model = ir.from_proto(onnx.shape_inference.infer_shapes(without_functions(onnx.load_from_string(data), _TILES)))
    graphs = [model.graph, *model.graph.subgraphs()]  # micro-batches are the body of a Loop
    if not sum(_Lowering(graph, b, f"blocked.{k}").run() for k, graph in enumerate(graphs)):
        return data
    remove_unused(model)
    model.opset_imports[DOMAIN] = 1
    return bytes(ir.to_proto(model).SerializeToString())


class _Lowering:
    """One walk over a graph in its order. Each value may have a plain form, a blocked one, or both."""

    def __init__(self, graph: ir.Graph, b: int, name: str) -> None:
        self.graph, self.b, self._name = graph, b, name
        self.blocked: dict[ir.Value, ir.Value] = {}
        self._plain: dict[ir.Value, ir.Value] = {}
        self._nominal: dict[ir.Value, ir.Value] = {}  # blocked, under the shape in ONNX
        self._weights: dict[tuple[ir.Value, str], ir.Value] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._at: ir.Node | None = None
        self._count = 0

    def run(self) -> int:
        """Rewrite the graph. Returns the number of convolutions that were."""
        convolutions = 0
        for node in list(self.graph):
            self._at = node
            if node.domain in ("", "ai.onnx") or (node.domain == ONNXMX and node.op_type in _TILES):
                done = self._rewrite(node)
                convolutions += done and node.op_type in ("Conv", "ConvTranspose")
                if done:
                    self._give_out(node)
                    continue
            for k, x in enumerate(node.inputs):
                if x in self.blocked and x is not None:
                    node.replace_input_with(k, self.plain(x))
        return convolutions

    def _rewrite(self, node: ir.Node) -> bool:
        rewrite: Callable[[ir.Node], bool] | None = {
            "Conv": self._conv,
            "ConvTranspose": self._conv_transpose,
            "MaxPool": self._pool,
            "Transpose": self._transpose,
            "ReduceSum": self._reduce,
            "ReduceMean": self._reduce,
            "Shape": self._shape_of,
            "Reshape": self._stay,
            "TileStretch": self._stretch,
            "TileSums": self._tile_sums,
        }.get(node.op_type)
        if rewrite is not None:
            return rewrite(node)
        return node.op_type in _POINTWISE and self._pointwise(node)

    # Values

    def plain(self, x: ir.Value) -> ir.Value:
        """`x` in the layout of ONNX. What is no float is computed by its own node, which is still there."""
        if x not in self.blocked or x.dtype != ir.DataType.FLOAT:
            return x
        if x not in self._plain:
            self._plain[x] = self._op("ReorderOutput", self.nominal(x), domain=DOMAIN, channels=_sizes(x)[0])
        return self._plain[x]

    def block(self, x: ir.Value) -> ir.Value:
        """`x` in blocks."""
        if x not in self.blocked:
            self._set(x, self._op("ReorderInput", x, domain=DOMAIN))
            self._plain[x] = x
        return self.blocked[x]

    def nominal(self, x: ir.Value) -> ir.Value:
        """`x` in blocks, under its shape in ONNX: as the kernels take it."""
        blocked = self.block(x)
        if x not in self._nominal:
            self._nominal[x] = self._reshape(blocked, [0, *_sizes(x)])
        return self._nominal[x]

    def fits(self, x: ir.Value | None) -> bool:
        """Whether `x` is an image of whole blocks."""
        sizes = _sizes(x)
        return len(sizes) == 3 and sizes[0] % self.b == 0

    def _is_float(self, x: ir.Value | None) -> bool:
        """Whether `x` is of the one type that the kernels take."""
        return x is not None and x.dtype == ir.DataType.FLOAT

    def _shape(self, x: ir.Value) -> list[int]:
        c, h, w = _sizes(x)
        return [0, c // self.b, h, w * self.b]

    def _set(self, y: ir.Value, nominal: ir.Value) -> bool:
        """`nominal`, a blocked image under its shape in ONNX, is what `y` is in blocks."""
        self._nominal[y], self.blocked[y] = nominal, self._reshape(nominal, self._shape(y))
        return True

    def _give_out(self, node: ir.Node) -> None:
        """What the graph gives out, and what a graph inside it reads, is in the layout of ONNX."""
        for y in node.outputs:
            inside = any(user.graph is not self.graph for user, _ in y.uses())
            if y in self.blocked and y.dtype == ir.DataType.FLOAT and (inside or y.is_graph_output()):
                plain, blocked = self.plain(y), self.blocked[y]
                self._replace(y, plain)
                self.blocked[plain], self._plain[plain] = blocked, plain

    # Rewrites: each returns whether it was one

    def _conv(self, node: ir.Node) -> bool:
        x, w, *bias = node.inputs
        o, c = _channels(w)
        narrow = c < self.b and len(_sizes(x)) == 3  # its kernel reads ONNX's layout
        whole = (self.fits(x) or narrow) and self.fits(node.outputs[0])
        if not o or not whole or _int(node, "group", 1) != 1 or not self._is_float(x) or not self._varies(w):
            return False
        assert x is not None
        assert w is not None
        image = self.plain(x) if narrow else self.nominal(x)
        weight = self._weight(w, "thin" if narrow else "conv")
        biases = [v for v in bias if v is not None]
        y = self._op("Conv", image, weight, *biases, domain=DOMAIN, attributes=node.attributes.values())
        return self._set(node.outputs[0], y)

    def _conv_transpose(self, node: ir.Node) -> bool:
        """With stride 1 it is the convolution by the kernel turned round, with its channels swapped."""
        dy, w, *bias = node.inputs
        y = node.outputs[0]
        if not any(_channels(w)) or not self.fits(dy) or not self._is_float(dy) or any(v is not None for v in bias):
            return False
        if _int(node, "group", 1) != 1 or not self.fits(y) or not self._varies(w):
            return False
        ones = all(set(node.attributes.get_ints(a, (1, 1))) == {1} for a in ("strides", "dilations"))
        if not ones or any(node.attributes.get_ints("output_padding", (0, 0))) or "output_shape" in node.attributes:
            return False
        assert w is not None
        assert dy is not None
        kernel = list(_kernel(w))
        pads = [k - 1 - p for k, p in zip(kernel * 2, node.attributes.get_ints("pads", (0, 0, 0, 0)), strict=True)]
        if min(pads) < 0 or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return False
        made = self._op(
            "Conv", self.nominal(dy), self._weight(w, "back"), domain=DOMAIN, pads=pads, kernel_shape=kernel
        )
        return self._set(y, made)

    def _pool(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if x not in self.blocked or len(node.outputs) != 1 or not self.fits(node.outputs[0]) or not self._is_float(x):
            return False
        if _int(node, "ceil_mode", 0):  # of how many windows it has, ONNX and its runtime think differently
            return False
        assert x is not None
        y = self._op("MaxPool", self.nominal(x), domain=DOMAIN, attributes=node.attributes.values())
        return self._set(node.outputs[0], y)

    def _stretch(self, node: ir.Node) -> bool:
        t, y = node.inputs[0], node.outputs[0]
        if t not in self.blocked or not self.fits(y):
            return False
        assert t is not None
        image = self._reshape(self.blocked[t], [0, *_sizes(t)])
        return self._set(y, self._op("Upsample", image, domain=DOMAIN, scales=[1, 1, *_times(y, t)], mode="nearest"))

    def _tile_sums(self, node: ir.Node) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        if x not in self.blocked or not self.fits(y):
            return False
        assert x is not None
        tile = _times(x, y)
        image = self._reshape(self.blocked[x], [0, *_sizes(x)])
        means = self._op("AveragePool", image, domain=DOMAIN, kernel_shape=tile, strides=tile)
        return self._set(y, self._op("Mul", means, self._constant(np.array(tile[0] * tile[1], np.float32))))

    def _pointwise(self, node: ir.Node) -> bool:
        """Inputs of the output's own shape are taken in blocks, one value a channel is laid along a row."""
        y = node.outputs[0]
        if not self.fits(y) or not any(x in self.blocked for x in node.inputs):
            return False
        inputs: list[ir.Value] = []
        for x in node.inputs:
            found = None if x is None else self._operand(x, y)
            if found is None:
                return False
            inputs.append(found)
        made = self._op(node.op_type, *inputs, attributes=node.attributes.values())
        self.blocked[y] = made
        return True

    def _operand(self, x: ir.Value, y: ir.Value) -> ir.Value | None:
        if x.shape is None or any(not isinstance(d, int) for d in x.shape[1:]):
            return None
        if len(x.shape) == 4 and self.fits(x) and _sizes(x) == _sizes(y):
            return self.block(x) if x in self.blocked or x.dtype == ir.DataType.FLOAT else None
        sizes = [1] * (4 - len(x.shape)) + list(x.shape)
        if sizes[1:] == [1, 1, 1]:
            return x
        c, _, w = _sizes(y)
        if sizes != [1, c, 1, 1]:
            return None
        return self._along_rows(x, c, w)

    def _along_rows(self, x: ir.Value, c: int, w: int) -> ir.Value:
        """(c, 1, 1) -> (1, c / b, 1, w b)"""
        key = (x, f"rows{w}")
        if key not in self._weights:
            spread = self._op(
                "Expand", self._reshape(x, [c // self.b, 1, self.b]), self._ints([c // self.b, w, self.b])
            )
            self._weights[key] = self._reshape(spread, [1, c // self.b, 1, w * self.b])
        return self._weights[key]

    def _reduce(self, node: ir.Node) -> bool:
        """Over everything but the channels, in three sums that each run along memory."""
        x, *axes = node.inputs
        over = ir.convenience.get_const_tensor(axes[0]) if axes and axes[0] is not None else None
        if x not in self.blocked or over is None or sorted(a % 4 for a in over.numpy()) != _CHANNEL_SUM:
            return False
        if node.op_type == "ReduceMean" and not self._is_float(x):  # a mean of integers is rounded
            return False
        assert x is not None
        c, _, w = _sizes(x)
        how = node.op_type
        rows = self._op(how, self.blocked[x], self._ints([2]), keepdims=0)  # (n, c / b, w b)
        row = self._op(how, rows, self._ints([0]), keepdims=0)
        sums = self._op(how, self._reshape(row, [c // self.b, w, self.b]), self._ints([1]), keepdims=0)
        shape = [1, c, 1, 1] if _int(node, "keepdims", 1) else [c]
        return self._replace(node.outputs[0], self._reshape(sums, shape))

    def _transpose(self, node: ir.Node) -> bool:
        """To channels last, as the gradient of a convolution's weight reads its input."""
        x = node.inputs[0]
        last = list(node.attributes.get_ints("perm", ())) == [0, 2, 3, 1]
        if x not in self.blocked or not last:
            return False
        assert x is not None
        c, h, w = _sizes(x)
        if c == self.b:
            y = self._reshape(self.blocked[x], [0, h, w, c])
        elif not self._is_float(x):
            return False
        else:
            y = self._op("ReorderOutput", self.nominal(x), domain=DOMAIN, channels=c, channels_last=1)
        return self._replace(node.outputs[0], y)

    def _shape_of(self, node: ir.Node) -> bool:
        x = node.inputs[0]
        if x not in self.blocked or x in self._plain:
            return False
        assert x is not None
        return self._replace(node.outputs[0], self._op("Shape", self.nominal(x), attributes=node.attributes.values()))

    def _stay(self, node: ir.Node) -> bool:
        """A Reshape to the sizes that an image has: activations that are computed again wait there for a gradient."""
        x, shape = node.inputs
        y = node.outputs[0]
        if x is None or x not in self.blocked or not self.fits(y) or x.shape != y.shape:
            return False
        if shape is None or ir.convenience.get_const_tensor(shape) is not None:
            return False
        zeros = self._op("Mul", shape, self._ints([0]))  # still from what it waits for
        self.blocked[y] = self._op("Reshape", self.blocked[x], zeros)
        return True

    # Nodes

    def _varies(self, w: ir.Value | None) -> bool:
        return w is not None and ir.convenience.get_const_tensor(w) is None

    def _weight(self, w: ir.Value, how: str) -> ir.Value:
        """A convolution's weight in blocks of inputs and outputs; turned round for the way back."""
        if (w, how) not in self._weights:
            b, (o, c), (kh, kw) = self.b, _channels(w), _kernel(w)
            if how == "thin":
                split, perm, shape = [o // b, b, c, kh, kw], [0, 2, 3, 4, 1], [o, c, kh, kw]
            elif how == "conv":
                split, perm, shape = [o // b, b, c // b, b, kh, kw], [0, 2, 4, 5, 3, 1], [o, c, kh, kw]
            else:
                split, perm, shape = [o // b, b, c // b, b, kh, kw], [2, 0, 4, 5, 1, 3], [c, o, kh, kw]
                far = np.iinfo(np.int64).min
                w_turned = self._op("Slice", w, *(self._ints(v) for v in ([-1, -1], [far, far], [2, 3], [-1, -1])))
            source = w_turned if how == "back" else w
            self._weights[w, how] = self._reshape(self._op("Transpose", self._reshape(source, split), perm=perm), shape)
        return self._weights[w, how]

    def _replace(self, y: ir.Value, by: ir.Value) -> bool:
        """Let `by` be read in the place of `y`, and given out under its name."""
        by.shape, by.type = y.shape, y.type
        y.replace_all_uses_with(by, replace_graph_outputs=True)
        if by.is_graph_output():
            y.name, by.name = by.name, y.name
        return True

    def _reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self._op("Reshape", x, self._ints(shape))

    def _ints(self, numbers: Sequence[int]) -> ir.Value:
        return self._constant(np.array(numbers, np.int64))

    def _constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        key = (array.dtype, array.tobytes())  # of equal numbers, 16 and 16.0 are two constants
        if key not in self._constants:
            name = f"{self._name}.constants.{len(self._constants)}"
            self._constants[key] = ir.Value(name=name, const_value=ir.tensor(array))
            self.graph.register_initializer(self._constants[key])
        return self._constants[key]

    def _op(
        self, op_type: str, *inputs: ir.Value, domain: str = "", attributes: Sequence[ir.Attr] | Any = (), **named: Any
    ) -> ir.Value:
        attributes = [*attributes, *ir.convenience.convert_attributes(named)]
        self._count += 1
        assert self._at is not None
        own = f"{self._name}.{self._count}"
        # Behind the name of what it stands for: a profile tells by that which layer it is of.
        node = ir.Node(domain, op_type, inputs, attributes, name=f"{self._at.name}.{own}.{op_type}")
        node.outputs[0].name = own
        self.graph.insert_before(self._at, node)
        return node.outputs[0]


def _sizes(x: ir.Value | None) -> tuple[int, ...]:
    """Channels, height and width of an image; () for what is none, or of sizes that are not known."""
    if x is None or x.shape is None or len(x.shape) != 4:
        return ()
    sizes = tuple(x.shape[1:])
    return tuple(int(d) for d in sizes) if all(isinstance(d, int) for d in sizes) else ()  # type: ignore[arg-type]


def _times(large: ir.Value, small: ir.Value) -> list[int]:
    """How many rows and columns of one image are in the place of one of another."""
    return [a // b for a, b in zip(_sizes(large)[1:], _sizes(small)[1:], strict=True)]


def _channels(w: ir.Value | None) -> tuple[int, int]:
    """The first two sizes of a convolution's weight of rank 4; zeros for any other."""
    if w is None or w.shape is None or len(w.shape) != 4 or any(not isinstance(d, int) for d in w.shape):
        return 0, 0
    return int(w.shape[0]), int(w.shape[1])  # type: ignore[arg-type]


def _kernel(w: ir.Value) -> tuple[int, int]:
    """The last two sizes of a weight that has `_channels`."""
    assert w.shape is not None
    return int(w.shape[2]), int(w.shape[3])  # type: ignore[arg-type]


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes.get_int(name, default)
