"""Pictures: every node and every value that flows is in them, and what they hold is escaped."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import onnxmx.builder.layers as L
from onnxmx.builder.model import Model, build
from onnxmx.errors import MissingExtraError, UsageError


def residual() -> Model:
    body = L.Sequential(L.Dense(4, activation="relu"), L.Dense(4))
    return build(lambda x: {"sum": x + body(x), "x2": x * 2.0}, x=("batch", 4))


def test_mermaid() -> None:
    text = residual().to_mermaid()
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "flowchart TD"
    boxes = dict(m.groups() for m in (re.match(r'(\w+)\(?\["(.*)"\]', line) for line in lines) if m)  # type: ignore[misc]
    assert boxes["i0"] == "x<br/>(batch, 4)"
    assert [boxes[f"n{k}"].split("<br/>")[0] for k in range(5)] == ["Gemm", "Relu", "Gemm", "Add", "Mul"]
    assert boxes["n0"].endswith("(4, 4) (4,)")
    assert {"o0", "o1"} <= set(boxes)
    arrows = {m.groups() for m in (re.match(r"(\w+) -->\|.*\| (\w+)", line) for line in lines) if m}
    assert arrows == {("i0", "n0"), ("n0", "n1"), ("n1", "n2"), ("i0", "n3"), ("n2", "n3"), ("i0", "n4"),
                      ("n3", "o0"), ("n4", "o1")}  # fmt: skip


def test_mermaid_escapes_names() -> None:
    text = L.Flatten().build(x=("batch", 4)).rename({"x": 'a"]<b>#'}).to_mermaid()
    assert 'i0(["a&quot;]&lt;b&gt;&num;<br/>(batch, 4)"])' in text


def test_svg(tmp_path: Path) -> None:
    pytest.importorskip("pygraphviz")
    residual().plot(tmp_path / "m.svg")
    root = ElementTree.parse(tmp_path / "m.svg").getroot()
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("Gemm") == 2
    assert "(batch, 4)" in texts
    groups = [g.get("class") for g in root.iter("{http://www.w3.org/2000/svg}g")]
    assert (groups.count("node"), groups.count("edge")) == (8, 8)
    residual().plot(tmp_path / "m.dot")
    assert (tmp_path / "m.dot").read_text().startswith("digraph")


def test_plot_of_another_ending(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.svg, \.png, \.pdf, \.dot; found '.*m\.jpg'"):
        residual().plot(tmp_path / "m.jpg")


def test_plot_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(MissingExtraError, match=r"(?s)needs the package 'pygraphviz'.*onnxmx\[plot\]"):
        residual().plot(tmp_path / "m.svg")
    assert not (tmp_path / "m.svg").exists()
