"""The memory of a step: one block for each size of batch, and nothing held beside it.

ONNX Runtime notes what the first run on a batch takes piece by piece, lays these pieces out, and takes one block for
later runs on batches of that size. By itself it would then hold twice the memory:

- It keeps the pieces, beside the block. So after the first run on a batch that is larger than any before, it is told
  to give them back. A smaller batch finds room in what a larger one took.
- It knows a size by the dimensions of all inputs, joined by exclusive or. Where both images and labels count the
  samples, that cancels out: each batch gets the block of the first, and all that does not fit lies beside it. So such a
  graph takes one more input, without elements, that has these dimensions once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from onnx import helper

from onnxmx.builder.session import runtime

SIZES = "sizes"


def giving_back() -> Any:
    """Options of a run after which ONNX Runtime gives back the host memory that it would keep for the next one."""
    options = runtime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def cancelled(ports: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the dimensions that an even number of shapes have. ports: as `step.json` describes them."""
    names = [d for port in ports for d in port["shape"] if isinstance(d, str)]
    return [name for name in dict.fromkeys(names) if names.count(name) % 2 == 0]


def with_sizes(step: bytes, dimensions: list[str]) -> bytes:
    """The same graph with an input `sizes`, bool (*dimensions, 0), that nothing reads; unchanged without dimensions."""
    if not dimensions:
        return step
    more = onnx.ModelProto()
    more.graph.input.append(helper.make_tensor_value_info(SIZES, onnx.TensorProto.BOOL, [*dimensions, 0]))
    return step + bytes(more.SerializeToString())  # messages that follow one another are one, with their lists joined
