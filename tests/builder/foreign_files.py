"""Files in the styles of other exporters: each a function, and its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)
node = helper.make_node


def port(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def array(*shape: int) -> Any:
    return RANDOM.uniform(0.5, 1.5, shape).astype(np.float32)  # positive: some are variances


def file(
    opset: int,
    nodes: Sequence[onnx.NodeProto],
    x: Sequence[int | str],
    weights: dict[str, Any],
    ir: int = 8,
    **more: Any,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [port("x", x)], [port("y", None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **more)


def mxnet() -> onnx.ModelProto:
    """opset 7, IR 3: every initializer an input too, shapes of Reshape among them; spatial=1."""
    nodes = [
        node("Conv", ["x", "conv0_weight"], ["conv0"], name="conv0", kernel_shape=[3, 3]),
        node("BatchNormalization", ["conv0", "gamma", "beta", "mean", "var"], ["bn0"], name="bn0", spatial=1),
        node("Dropout", ["bn0"], ["drop0", "mask0"], name="drop0", ratio=0.5),
        node("Pad", ["drop0"], ["pad0"], mode="constant", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        node("Reshape", ["pad0", "shape0"], ["flat0"]),
        node("Gemm", ["flat0", "fc_weight", "fc_bias"], ["fc"], transB=1),
        node("Softmax", ["fc"], ["y"], axis=1),
    ]
    weights = {"conv0_weight": array(2, 1, 3, 3), "gamma": array(2), "beta": array(2), "mean": array(2),
               "var": array(2), "shape0": np.array([0, -1]), "fc_weight": array(3, 128),
               "fc_bias": array(3)}  # fmt: skip
    proto = file(7, nodes, [2, 1, 8, 8], weights, ir=3)
    kinds = {np.dtype(np.int64): TensorProto.INT64, np.dtype(np.float32): TensorProto.FLOAT}
    proto.graph.input.extend(port(k, v.shape, kinds[v.dtype]) for k, v in weights.items())
    return proto


def pytorch() -> onnx.ModelProto:
    """opset 11: names with slashes, Resize with an empty roi, Clip with constants, Constant nodes."""
    nodes = [
        node("Constant", [], ["/c/output_0"], value=numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))),
        node("Conv", ["x", "body.conv.weight", "body.conv.bias"], ["/h"], name="/body/body.conv/Conv"),
        node("Clip", ["/h", "low", "high"], ["/r"], name="/body/relu6/Clip"),
        node("Resize", ["/r", "roi", "/c/output_0"], ["/u"], name="/up/Resize", mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Shape", ["/u"], ["/s"]),
        node("Gather", ["/s", "zero"], ["/n"]),
        node("Unsqueeze", ["/n"], ["/n1"], axes=[0]),
        node("Concat", ["/n1", "rest"], ["/to"], axis=0),
        node("Reshape", ["/u", "/to"], ["/flat"]),
        node("ReduceMax", ["/flat"], ["y"], axes=[1], keepdims=0),
    ]  # fmt: skip
    weights = {"body.conv.weight": array(2, 3, 1, 1), "body.conv.bias": array(2), "low": np.float32(0),
               "high": np.float32(6), "zero": np.array(0), "rest": np.array([-1]),
               "roi": np.zeros(0, np.float32)}  # fmt: skip
    return file(11, nodes, ["n", 3, 4, 4], weights, ir=6)


def tf2onnx() -> onnx.ModelProto:
    """opset 13: channels last between Transposes, a bias that is added, ports that end in :0, sizes unk__7 and -1."""
    nodes = [
        node("Transpose", ["x"], ["model/t:0"], name="model/t", perm=[0, 3, 1, 2]),
        node("Conv", ["model/t:0", "model/kernel:0"], ["model/conv:0"], name="model/conv", strides=[2, 2],
             auto_pad="SAME_UPPER"),
        node("Add", ["model/conv:0", "model/bias:0"], ["model/add:0"], name="model/add"),
        node("ReduceMean", ["model/add:0"], ["model/mean:0"], name="model/mean", axes=[2, 3], keepdims=0),
        node("MatMul", ["model/mean:0", "model/dense:0"], ["y"], name="model/dense"),
    ]  # fmt: skip
    weights = {"model/kernel:0": array(2, 3, 3, 3), "model/bias:0": array(1, 2, 1, 1), "model/dense:0": array(2, 5)}
    proto = file(13, nodes, ["unk__7", 6, 6, 3], weights)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    return proto


def keras2onnx() -> onnx.ModelProto:
    """opset 9, IR 4: no names of nodes, BatchNormalization with all outputs of its time, Upsample, LeakyRelu."""
    nodes = [
        node(
            "BatchNormalization", ["x", "g", "b", "m", "v"], ["h", "m1", "v1", "sm", "sv"], epsilon=1e-3, momentum=0.9
        ),
        node("LeakyRelu", ["h"], ["l"], alpha=0.3),
        node("Upsample", ["l", "scales"], ["u"], mode="nearest"),
        node("Slice", ["u"], ["s"], axes=[2], starts=[0], ends=[3]),
        node("GlobalAveragePool", ["s"], ["y"]),
    ]
    weights = {k: array(3) for k in "gbmv"} | {"scales": np.array([1, 1, 2, 2], np.float32)}
    return file(9, nodes, ["N", 3, 4, 4], weights, ir=4)


def per_element() -> onnx.ModelProto:
    """opset 7 with spatial=0: each element has statistics of its own."""
    names = ["x", "g", "b", "m", "v"]
    nodes = [node("BatchNormalization", names, ["y"], spatial=0, epsilon=1e-3)]
    return file(7, nodes, [2, 3, 4, 4], {k: array(3, 4, 4) for k in "gbmv"}, ir=4)


def paddle() -> onnx.ModelProto:
    """opset 12: weights are Constant nodes; sizes that are not known are all called '?'; hard swish in four nodes."""

    def constant(name: str, value: Any) -> onnx.NodeProto:
        return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32)))

    nodes = [
        constant("conv.w", array(4, 3, 1, 1)), constant("three", [3.0]), constant("six", [6.0]),
        constant("zero", 0.0), constant("top", 6.0),
        node("Conv", ["x", "conv.w"], ["c"]), node("Add", ["c", "three"], ["a"]),
        node("Clip", ["a", "zero", "top"], ["k"]), node("Mul", ["c", "k"], ["p"]), node("Div", ["p", "six"], ["y"]),
    ]  # fmt: skip
    return file(12, nodes, ["?", 3, "?", "?"], {})


def dynamo() -> onnx.ModelProto:
    """opset 18 with functions, one inside the other, as torch.onnx writes modules."""
    domain = "pkg.torch"
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    inner = helper.make_function(domain, "linear", ["a", "w"], ["o"], [node("MatMul", ["a", "w"], ["o"])], opsets)
    outer = helper.make_function(
        domain, "block", ["a", "w"], ["o"],
        [node("linear", ["a", "w"], ["t"], domain=domain), node("Tanh", ["t"], ["o"])], opsets,
    )  # fmt: skip
    proto = file(
        18, [node("block", ["x", "w"], ["y"], domain=domain)], ["n", 4], {"w": array(4, 4)}, functions=[inner, outer]
    )
    proto.opset_import.add(domain=domain, version=1)
    proto.graph.output[0].CopyFrom(port("y", ["n", 4]))
    return proto


def branches() -> onnx.ModelProto:
    """opset 13 with an If, in whose branches are operators that took their axes as an attribute then."""

    def branch(name: str, op_type: str) -> onnx.GraphProto:
        return helper.make_graph([node(op_type, ["x"], [name], axes=[1], keepdims=1)], name, [], [port(name, ["n", 1])])

    nodes = [
        node("ReduceMean", ["x"], ["m"], keepdims=0), node("Greater", ["m", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("then", "ReduceMean"), else_branch=branch("other", "ReduceMax")),
    ]  # fmt: skip
    return file(13, nodes, ["n", 4], {"zero": np.float32(0)})


def folded() -> onnx.ModelProto:
    """opset 17, as torch.onnx.export with dynamo=False: what it folded and transposed has a number for a name."""
    nodes = [
        node("Conv", ["x", "onnx::Conv_37", "onnx::Conv_38"], ["/c"], name="/stem/stem.0/Conv"),
        node("PRelu", ["/c", "onnx::PRelu_39"], ["/p"], name="/stem/stem.1/PRelu"),
        node("GlobalAveragePool", ["/p"], ["/g"], name="/pool/GlobalAveragePool"),
        node("Flatten", ["/g"], ["/f"], name="/Flatten"),
        node("MatMul", ["/f", "onnx::MatMul_40"], ["/m"], name="/block/fc/MatMul"),
        node("Add", ["block.fc.bias", "/m"], ["/a"], name="/block/fc/Add"),
        node("MatMul", ["/a", "onnx::MatMul_41"], ["/again"], name="/block/fc/MatMul_1"),
        node("Add", ["/again", "onnx::Add_42"], ["/z"], name="/Add"),
        node("MatMul", ["/z", "onnx::MatMul_43"], ["y"], name="/MatMul"),
    ]
    weights = {"onnx::Conv_37": array(4, 3, 1, 1), "onnx::Conv_38": array(4), "onnx::PRelu_39": array(4, 1, 1),
               "onnx::MatMul_40": array(4, 4), "block.fc.bias": array(4), "onnx::MatMul_41": array(4, 4),
               "onnx::Add_42": array(4), "onnx::MatMul_43": array(4, 2)}  # fmt: skip
    return file(17, nodes, ["n", 3, 4, 4], weights)


def stale() -> onnx.ModelProto:
    """Shapes noted before somebody changed the model: ONNX Runtime warns and goes on."""
    proto = file(12, [node("Flatten", ["x"], ["h"]), node("Relu", ["h"], ["y"])], [2, 3, 4], {})
    proto.graph.value_info.append(port("h", [7, 7, 7]))
    proto.graph.output[0].CopyFrom(port("y", [2, 3, 4]))
    return proto


def microsoft() -> onnx.ModelProto:
    """What ONNX Runtime's optimizer saves."""
    fused = node("FusedGemm", ["x", "w"], ["y"], name="fused", domain="com.microsoft", activation="Relu")
    proto = file(12, [fused], [2, 4], {"w": array(4, 4)})
    proto.opset_import.add(domain="com.microsoft", version=1)
    proto.graph.output[0].CopyFrom(port("y", [2, 4]))
    return proto


STYLES: dict[Callable[[], onnx.ModelProto], list[str]] = {
    mxnet: ["conv0_weight", "gamma", "beta", "fc_weight", "fc_bias"],
    pytorch: ["body.conv.weight", "body.conv.bias"],
    tf2onnx: ["model/kernel:0", "model/bias:0", "model/dense:0"],
    keras2onnx: ["g", "b"],
    per_element: ["g", "b", "m", "v"],
    paddle: ["conv.w"],
    dynamo: ["w"],
    branches: [],
    folded: [
        "block.fc.bias",
        "onnx::Add_42",
        "onnx::MatMul_43",
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "block.fc.weight",
        "block.fc.weight_1",
    ],
    stale: [],
    microsoft: ["w"],
}
"""A file of each, and what can be trained of it."""


def run(proto: onnx.ModelProto, x: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(["y"], {"x": x})[0]


def random_input(proto: onnx.ModelProto) -> Any:
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    return RANDOM.normal(size=[d.dim_value if d.dim_value > 0 else k + 3 for k, d in enumerate(dims)]).astype(
        np.float32
    )
