"""Whether this ONNX Runtime has a blocked layout for images on a CPU, and how many channels a block has."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx

DOMAIN = "com.microsoft.nchwc"


@cache
def block_size() -> int | None:
    """How many channels a block has on this machine; None where ONNX Runtime has no blocked layout or another one.

    It is asked with one image whose elements are numbered: reordered, its second element is that of channel 1.
    """
    from onnxmx.builder.session import open_session

    c, space = 32, 2
    nodes = [onnx.helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN)]
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, c, 1, space]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "probe", ports[:1], ports[1:])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = np.arange(c * space, dtype=np.float32).reshape(1, c, 1, space)
    try:
        (y,) = open_session(model.SerializeToString(), threads=1).run(None, {"x": x})
    except Exception:  # another version of ONNX Runtime, or another processor
        return None
    for b in (8, 16):
        if np.array_equal(y.ravel(), x.reshape(c // b, b, space).transpose(0, 2, 1).ravel()):
            return b
    return None
