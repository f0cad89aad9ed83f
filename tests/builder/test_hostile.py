"""Hostile and damaged files: a ModelFileError, quickly and in little memory."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmx.builder.guard import MAX_BYTES
from onnxmx.builder.model import from_bytes, load
from onnxmx.errors import ModelFileError
from tests.builder.test_foreign import STYLES, file, node, port

DOMAIN = "f"


def relu(x: str, y: str) -> onnx.NodeProto:
    return node("Relu", [x], [y])


def tensor(*dims: int) -> onnx.ModelProto:
    """A weight that says it is larger than it is."""
    proto = file(20, [node("Add", ["x", "w"], ["y"])], [3], {"w": np.ones(3, np.float32)})
    proto.graph.initializer[0].ClearField("dims")
    proto.graph.initializer[0].dims.extend(dims)
    return proto


def in_a_field() -> onnx.ModelProto:
    proto = tensor(2**40)
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1, 2, 3])
    return proto


def in_an_attribute() -> onnx.ModelProto:
    value = numpy_helper.from_array(np.ones(3, np.float32))
    value.dims[0] = 2**50
    return file(20, [node("Constant", [], ["w"], value=value), node("Add", ["x", "w"], ["y"])], [3], {})


def twice(kind: str) -> onnx.ModelProto:
    proto = tensor(3)
    repeated = getattr(proto.graph, kind)
    repeated.append(repeated[0])
    return proto


def functions(count: int, calls: int, back: int | None = None) -> onnx.ModelProto:
    """A chain of functions, each of which calls the next so many times; the last one calls that of number `back`."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]

    def body(k: int) -> list[onnx.NodeProto]:
        target = f"f{k + 1}" if k + 1 < count else None if back is None else f"f{back}"
        if target is None:
            return [relu("a", "b")]
        names = ["a", *(f"t{j}" for j in range(calls - 1)), "b"]
        return [node(target, [x], [y], domain=DOMAIN) for x, y in itertools.pairwise(names)]

    made = [helper.make_function(DOMAIN, f"f{k}", ["a"], ["b"], body(k), opsets) for k in range(count)]
    proto = file(20, [node("f0", ["x"], ["y"], domain=DOMAIN)], [1], {}, functions=made)
    proto.opset_import.add(domain=DOMAIN, version=1)
    return proto


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a huge weight": (lambda: tensor(2**40, 2**40), "tensor 'w' expected numbers for its shape"),
    "a huge weight in a field": (in_a_field, "expected numbers for its shape"),
    "a huge constant": (in_an_attribute, "expected numbers for its shape"),
    "a negative size": (lambda: tensor(-3), r"sizes of 0 or more; found \[-3\]"),
    "a size that does not fit": (lambda: tensor(2), "8 bytes; found 12"),
    "a huge input": (lambda: file(20, [relu("x", "y")], [2**30, 2**30], {}), "'x' expected at most"),
    "a cycle": (lambda: file(20, [relu("b", "a"), relu("a", "b"), relu("b", "y")], [1], {}), "topologically sorted"),
    "a node of itself": (lambda: file(20, [relu("y", "y")], [1], {}), "topologically sorted"),
    "two values of one name": (lambda: file(20, [relu("x", "y"), relu("x", "y")], [1], {}), "'y' has been used"),
    "two inputs of one name": (lambda: twice("input"), "one input of a name; found two named 'x'"),
    "two weights of one name": (lambda: twice("initializer"), "one initializer of a name; found two named 'w'"),
    "a function of itself": (lambda: functions(1, 1, back=0), "function 'f0' calls itself"),
    "functions in a circle": (lambda: functions(5, 2, back=2), "function 'f2' calls itself"),
    "functions that double": (lambda: functions(64, 2), "at most 1000000 nodes; found 9223372036854775808 "),
    "functions as deep as a well": (lambda: functions(5000, 1), "cannot be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_quickly(name: str) -> None:
    make, says = HOSTILE[name]
    data = make().SerializeToString()
    start = time.process_time()
    with pytest.raises(ModelFileError, match=says) as caught:
        from_bytes(data, "file.onnx")
    assert time.process_time() - start < 1.0  # 0.1 at most here
    assert caught.value.mend


def nested(depth: int) -> bytes:
    """Ifs in Ifs, written by hand: protobuf writes to any depth and reads a hundred."""
    graph = helper.make_graph([relu("x", "o")], "g", [], [port("o", [1])]).SerializeToString()
    for k in range(depth):
        inner = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH).SerializeToString()
        inner += field(6, graph)
        condition = onnx.NodeProto(op_type="If", input=["c"], output=[f"o{k}"]).SerializeToString() + field(5, inner)
        graph = field(1, condition) + onnx.GraphProto(name="g", output=[port(f"o{k}", [1])]).SerializeToString()
    return onnx.ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 20)]).SerializeToString() + field(
        7, graph
    )


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    size, varint = len(data), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + varint + bytes([size]) + data


@pytest.mark.parametrize("depth", [10, 100, 3000])
def test_very_deep_nesting(depth: int) -> None:
    with pytest.raises(ModelFileError):
        from_bytes(nested(depth))


# --- weights in other files
def outside(tmp_path: Path, dims: list[int], **entries: str) -> Path:
    proto = tensor(*dims)
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    (tmp_path / "file.onnx").write_bytes(proto.SerializeToString())
    return tmp_path / "file.onnx"


def test_more_weights_than_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(12))
    with pytest.raises(ModelFileError, match=f"at most {MAX_BYTES} bytes of weights; found {4 * 2**40}"):
        load(outside(tmp_path, [2**40], location="w"))
    with pytest.raises(ModelFileError, match="expected 12 bytes for its shape; found 8 in the entry 'length'"):
        load(outside(tmp_path, [3], location="w", length="8"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w")
    with pytest.raises(ModelFileError, match="it is not a file"):
        load(outside(tmp_path, [3], location="w"))


def test_a_file_larger_than_any(tmp_path: Path) -> None:
    with open(tmp_path / "large.onnx", "wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(ModelFileError, match=f"at most {MAX_BYTES} bytes"):
        load(tmp_path / "large.onnx")


# --- damaged at random
FILES = [style().SerializeToString() for style in STYLES]


def survives(data: bytes) -> None:
    """It is refused, or it is a model that can be saved."""
    try:
        model = from_bytes(data)
    except ModelFileError:
        return
    onnx.checker.check_model(model.to_proto(), full_check=True)
    str(model.summary())


@settings(max_examples=150, deadline=5000)  # milliseconds; one takes 5
@given(source=st.sampled_from(FILES), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
       end=st.integers(0, 10**4))  # fmt: skip
def test_flipped_and_cut(source: bytes, flips: list[tuple[int, int]], end: int) -> None:
    data = bytearray(source)
    for place, value in flips:
        data[place % len(data)] = value
    survives(bytes(data[: len(data) - end % 50]))


NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 2**31, -(2**31), 2**62])
NAMES = st.sampled_from(["", "x", "y", "w", "h", "c", "Conv", "Relu", "If", "com.microsoft", "\0", "é"])


@settings(max_examples=250, deadline=5000)
@given(source=st.sampled_from(FILES), data=st.data())
def test_fields_changed(source: bytes, data: st.DataObject) -> None:
    """A number or a name anywhere in the file becomes another one; a part is left out or is there twice."""
    proto = onnx.ModelProto.FromString(source)
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(changeable(proto))
        message, name, index = data.draw(st.sampled_from(places))
        value = getattr(message, name) if index is None else getattr(message, name)[index]
        if isinstance(value, bool | float | bytes):
            continue
        if index is not None and not isinstance(value, int | str):
            repeated = getattr(message, name)
            if data.draw(st.booleans()):
                repeated.append(value)
            else:
                del repeated[index]
            continue
        fresh = data.draw(NUMBERS if isinstance(value, int) else NAMES)
        try:
            if index is None:
                setattr(message, name, fresh)
            else:
                getattr(message, name)[index] = fresh
        except ValueError:
            continue  # does not fit the type of the field
    survives(proto.SerializeToString())


def changeable(message: Any) -> Any:
    """(message, field, index or None) of every field that is set, all the way down."""
    for descriptor, value in message.ListFields():
        if isinstance(value, int | str | bytes | float):
            yield message, descriptor.name, None
        elif hasattr(value, "ListFields"):
            yield from changeable(value)
        else:
            for k, item in enumerate(value):
                yield message, descriptor.name, k
                if hasattr(item, "ListFields"):
                    yield from changeable(item)
