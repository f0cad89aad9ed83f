"""Odd graphs in ONNX Runtime's blocked layout compute what they did, whatever of them is given out or read inside."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from onnxmx.builder.session import open_session
from onnxmx.trainer.engine.block_size import DOMAIN, block_size
from onnxmx.trainer.engine.blocked import lower

B = block_size()
pytestmark = pytest.mark.skipif(B is None, reason="ONNX Runtime has no blocked layout on this machine")

IMAGE = "float[n,16,9,7] x"
SAME = "c = Conv<pads=[1,1,1,1]>(x, w)"
AXES = "axes = Constant<value=int64[3]{0,2,3}>()"


def conv(c: int = 16, kernel: str = "3,3", image: str = "9,7", o: int = 32, attributes: str = "", of: int = 0) -> str:
    node = f"Conv<{attributes}>" if attributes else "Conv"
    return f"(float[n,{c},{image}] x, float[{o},{of or c},{kernel}] w) => (float y) {{ c = {node}(x, w) y = Tanh(c) }}"


def transposed(attributes: str = "", kernel: str = "3,3", o: int = 32) -> str:
    node = f"ConvTranspose<{attributes}>" if attributes else "ConvTranspose"
    return f"({IMAGE}, float[16,{o},{kernel}] w) => (float y) {{ c = {node}(x, w) y = Tanh(c) }}"


def after(nodes: str, outputs: str = "float y", inputs: str = "") -> str:
    """`nodes` after a convolution of 16 channels, `c`."""
    return f"({IMAGE}, float[16,16,3,3] w{inputs}) => ({outputs}) {{ {SAME} {nodes} }}"


def wide(nodes: str, outputs: str = "float y") -> str:
    """`nodes` after a convolution of 32 channels, `c`: two blocks or more."""
    return after(nodes, outputs).replace("float[16,16,3,3] w", "float[32,16,3,3] w")


def inside(nodes: str, before: str = "t = Tanh(c)") -> str:
    """An If after that convolution, whose branches read what is outside of them."""
    o, p = "float[i,j,k,l] o", "float[i,j,k,l] p"
    branches = f"then_branch = t () => ({o}) {{ {nodes} }}, else_branch = e () => ({p}) {{ p = Abs(c) }}"
    return after(f"{before} y = If(q) <{branches}>", inputs=", bool q")


def beside(shape: str) -> str:
    return after("l = Less(c, v) k = Where(l, v, c) y = Max(k, v)", inputs=f", float{shape} v")


SHAPES = ["", "[1]", "[7]", "[9,1]", "[16,1,1]", "[1,16,9,7]", "[n,1,1,1]", "[n,16,1,1]", "[1,16,1,7]", "[2,1,16,1,1]"]
CASES = [
    # what, graph, convolutions in blocks
    ("pads that differ", conv(attributes="pads=[2,0,1,3]"), 1),
    ("pads that differ, few channels", conv(3, attributes="pads=[2,0,1,3]"), 1),
    ("an even kernel", conv(kernel="2,4"), 1),
    ("auto_pad", conv(kernel="3,4", attributes='auto_pad="SAME_LOWER", strides=[2,3]'), 1),
    ("auto_pad, few channels", conv(5, "3,4", attributes='auto_pad="SAME_UPPER", strides=[2,3]'), 1),
    ("dilation", conv(attributes="dilations=[3,2]"), 1),
    ("1x1 on a grid, with pads", conv(kernel="1,1", attributes="strides=[2,2], pads=[1,1,1,1]"), 1),
    ("one pixel", conv(image="1,1", attributes="pads=[1,1,1,1]"), 1),
    ("48 channels", conv(48, o=48), 1),
    ("24 channels", conv(24, o=48), 0 if B == 16 else 1),
    ("groups", conv(attributes="group=2", of=8), 0),
    ("one axis", conv(kernel="3", image="9"), 0),
    ("three axes", conv(kernel="3,3,3", image="5,5,5"), 0),
    ("sizes not known", conv(image="h,w"), 0),
    ("half precision", conv().replace("float", "float16"), 0),
    ("half after single", after("h = Cast<to=10>(c) y = Conv(h, v)", "float16 y", ", float16[16,16,3,3] v"), 0),
    ("transposed", transposed("pads=[2,0,1,2]"), 1),
    ("transposed, more pads than kernel", transposed("pads=[3,0,1,2]"), 0),
    ("transposed, auto_pad", transposed('auto_pad="SAME_UPPER"'), 0),
    ("transposed, stride", transposed("strides=[2,2]"), 0),
    ("transposed, dilation", transposed("dilations=[2,2]"), 0),
    ("transposed, output_shape", transposed("output_shape=[11,9]"), 0),
    ("transposed, with a bias", transposed().replace(" w)", " w, float[32] b)", 1).replace("(x, w)", "(x, w, b)"), 0),
    ("one weight, read three ways", after("y = Conv(c, w) z = ConvTranspose(c, w)", "float y, float z"), 3),
    ("given out on the way", after("t = Tanh(c) y = Conv(t, w) u = Abs(y)", "float c, float t, float y, float u"), 2),
    ("a sum given out", after(f"{AXES} y = ReduceSum(c, axes)"), 1),
    ("a transpose given out", after("y = Transpose<perm=[0,2,3,1]>(c)"), 1),
    ("a transpose of 32 channels", wide("y = Transpose<perm=[0,2,3,1]>(c)"), 1),
    ("a transpose of truths", wide("t = Less(c, c) y = Transpose<perm=[0,2,3,1]>(t)", "bool y"), 0),
    ("a transpose of integers", wide("i = Cast<to=7>(c) y = Transpose<perm=[0,2,3,1]>(i)", "int64 y"), 0),
    ("a transpose of halves", wide("h = Cast<to=10>(c) y = Transpose<perm=[0,2,3,1]>(h)", "float16 y"), 0),
    ("given out and no float", after("y = Less(c, x) z = Cast<to=7>(y)", "bool y, int64 z"), 0),
    ("read inside", inside("o = Neg(t)"), 1),
    ("a sum read inside", inside("o = Neg(t)", f"{AXES} t = ReduceSum(c, axes)"), 1),
    ("convolutions inside", inside("a = Conv(t, w) b = Tanh(a) o = Conv(b, w)"), 3),
    ("pooling", after("y = MaxPool<kernel_shape=[2,2], strides=[2,1], dilations=[2,3], pads=[0,1,1,0]>(c)"), 1),
    ("pooling, ceil_mode", after("y = MaxPool<kernel_shape=[2,2], strides=[3,3], ceil_mode=1>(c)"), 1),
    ("pooling, storage_order", after("y = MaxPool<kernel_shape=[2,2], storage_order=1>(c)"), 1),
    ("pooling, its places", after("y, i = MaxPool<kernel_shape=[2,2]>(c)", "float y, int64 i"), 1),
    ("pooling of integers", after("i = Cast<to=3>(c) y = MaxPool<kernel_shape=[2,2]>(i)", "int8 y"), 0),
    ("a mean of integers", after(f"{AXES} d = Add(c, c) i = Cast<to=7>(d) y = ReduceMean(i, axes)", "int64 y"), 0),
    ("a sum of integers", after(f"{AXES} i = Cast<to=7>(c) y = ReduceSum<keepdims=0>(i, axes)", "int64 y"), 1),
    ("a mean, its axes from the end", after("a = Constant<value=int64[3]{-1,-4,-2}>() y = ReduceMean(c, a)"), 1),
    ("Shape of a part", after("t = Relu(c) y = Shape<start=1, end=-1>(t)", "int64 y"), 1),
    ("Clip without its lower bound", after("y = Clip(c,,hi)", inputs=", float hi"), 1),
    ("a condition from outside", after("y = Where(q, c, x)", inputs=", bool[n,16,9,7] q"), 1),
    (
        "beside one vector at two widths",
        after("a = Add(c, v) p = MaxPool<kernel_shape=[2,2]>(a) y = Mul(p, v)", inputs=", float[16,1,1] v"),
        1,
    ),
    *((f"beside {shape or 'a number'}", beside(shape), 1) for shape in SHAPES),
]


@pytest.mark.parametrize(("text", "blocked"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_graph_in_blocks_computes_the_same(text: str, blocked: int) -> None:
    model = parsed(text)
    data = lower(model.SerializeToString(), B)
    lowered = onnx.load_from_string(data).graph
    assert kernels(lowered) == blocked
    assert convolutions(lowered) == convolutions(model.graph)  # none is computed in both layouts
    assert [v.name for v in lowered.output] == [v.name for v in model.graph.output]
    expected, found = (open_session(graph, threads=1) for graph in (model.SerializeToString(), data))
    for n in (3, 1, 4):
        feeds = {value.name: array(value, n) for value in model.graph.input}
        for a, b in zip(expected.run(None, feeds), found.run(None, feeds), strict=True):
            assert a.dtype == b.dtype
            scale = 2e-2 if a.dtype == np.float16 else 1e-5
            np.testing.assert_allclose(b, a, rtol=scale, atol=scale * np.abs(a).max())


REORDERED = [
    # what, graph, images that are brought into blocks and out of them
    ("in and out", after("y = Tanh(c)"), 2),
    ("given out on the way", after("t = Tanh(c) y = Conv(t, w)", "float t, float y"), 3),
    ("a mean, its axes from the end", after("a = Constant<value=int64[3]{-1,-4,-2}>() y = ReduceMean(c, a)"), 1),
    ("beside a number a sample", after("y = Mul(c, v)", inputs=", float[n,1,1,1] v"), 2),
    ("beside one image", after("y = Mul(c, v)", inputs=", float[1,16,9,7] v"), 3),
    ("Shape", after("t = Relu(c) y = Shape(t)", "int64 y"), 1),
]


@pytest.mark.parametrize(("text", "count"), [c[1:] for c in REORDERED], ids=[c[0] for c in REORDERED])
def test_no_image_is_reordered_in_between(text: str, count: int) -> None:
    nodes = onnx.load_from_string(lower(parsed(text).SerializeToString(), B)).graph.node
    assert sum(n.op_type.startswith("Reorder") for n in nodes) == count


def parsed(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g {text}')
    for value in model.graph.input:
        value.type.tensor_type.shape.SetInParent()  # a number: no sizes, but a rank
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")  # of whatever size it has
    return model


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of graphs inside included."""
    for node in graph.node:
        yield node
        for a in node.attribute:
            yield from nodes_of(a.g)


def kernels(graph: onnx.GraphProto) -> int:
    """Convolutions in blocks."""
    return sum(n.domain == DOMAIN and n.op_type == "Conv" for n in nodes_of(graph))


def convolutions(graph: onnx.GraphProto) -> int:
    return sum(n.op_type in ("Conv", "ConvTranspose") for n in nodes_of(graph))


def array(value: onnx.ValueInfoProto, n: int) -> np.ndarray:
    """Numbers for an input; a size that is open is `n`, a height or width 8."""
    tensor = value.type.tensor_type
    shape = [d.dim_value or (n if d.dim_param == "n" else 8) for d in tensor.shape.dim]
    numbers = np.random.default_rng(0).normal(0.0, 0.3, shape)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return np.asarray(numbers > 0 if dtype == np.bool_ else numbers, dtype)
