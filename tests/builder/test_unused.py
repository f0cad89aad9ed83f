"""What nothing reads goes, and nothing else: as onnx-ir's own pass has it, which is slow on steps."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from onnxmx.builder.unused import remove_unused

_TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
unused (float[2] x, bool b) => (float[2] y, float[2] z)
<float[2] read = {1, 2}, float[2] unread = {3, 4}, float[2] inner = {5, 6}>
{
  kept = Add (x, read)
  first = Mul (x, unread)
  second = Neg (first)
  third, fourth = Split <axis = 0, num_outputs = 2> (second)
  captured = Exp (x)
  y = If (b) <
    then_branch = yes () => (float[2] p) { idle = Abs (captured) p = Sqrt (captured) },
    else_branch = no () => (float[2] q) { q = Add (kept, inner) }
  >
  z = Relu (kept)
}
"""


def test_it_leaves_what_is_read() -> None:
    models = [ir.from_onnx_text(_TEXT) for _ in range(2)]
    remove_unused(models[0])
    passes.RemoveUnusedNodesPass()(models[1])
    texts = [ir.to_proto(model).SerializeToString(deterministic=True) for model in models]
    assert texts[0] == texts[1]
    assert [node.op_type for node in models[0].graph] == ["Add", "Exp", "If", "Relu"]
    assert list(models[0].graph.initializers) == ["read", "inner"]
