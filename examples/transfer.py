"""The reader of another maker's text recognition learns digits from 200 examples, beside nets that start from nothing.

    python examples/transfer.py

The file is the PP-OCRv4 recognizer out of the package rapidocr-onnxruntime (Apache-2.0), which is downloaded (15 MB)
and unpacked, not installed. Its layers are frozen; a new head learns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

import onnxmx as mx
from onnxmx import layers as L

PACKAGE, MEMBER = "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
CACHE = Path.home() / ".cache" / "onnxmx" / "zoo-files"
LAST = "hardswish_57.tmp_0"  # what the convolutions give: (batch, 480, 3, width / 4)
IMAGE = ("batch", 1, 8, 8)


def fetch() -> Path:
    """The .onnx file, from the package index where it is not in the cache."""
    wheels = "rapidocr_onnxruntime-1.4.4-*.whl"
    if not list(CACHE.glob(wheels)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), PACKAGE]
        subprocess.run(command, check=True, timeout=600)
    with zipfile.ZipFile(next(CACHE.glob(wheels))) as wheel:
        return Path(wheel.extract(MEMBER, CACHE / "rapidocr_onnxruntime-1.4.4"))


def reader(file: Path) -> mx.Model:
    """The recognizer's convolutions, frozen, behind what makes of a digit the picture that they expect; a new head."""
    body = mx.load(file).resize(x=("batch", 3, 48, 48)).cut(LAST).freeze("*")
    enlarge = L.Sequential(
        L.UpSample(4, mode="bilinear"),
        L.ZeroPad(8),
        L.Lambda(lambda x: L.concat(x, x, x, axis=1) * 2.0 - 1.0),
    )
    head = L.Sequential(L.GlobalAvgPool2D(), L.Flatten(), L.BatchNorm(), L.Dense(10))
    whole = enlarge.build(image=IMAGE).merge(body, {"output": "x"}, prefix="reader")
    return whole.replace_head(LAST, head)


def split_digits(every: int) -> tuple[mx.data.Dataset, mx.data.Dataset]:
    """One in `every` of the digits to learn from, and the others to measure on."""
    parts = [mx.data.digits("train"), mx.data.digits("test")]
    images = np.concatenate([part.inputs["image"] for part in parts])
    labels = np.concatenate([part.labels["label"] for part in parts])
    few = np.arange(len(labels)) % every == 0
    learned, rest = ({"image": images[chosen]} for chosen in (few, ~few))
    return (
        mx.data.Dataset.from_arrays(learned, labels[few], scale=1 / 16),
        mx.data.Dataset.from_arrays(rest, labels[~few], scale=1 / 16),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=9, help="of so many digits, one is learned from")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    few, rest = split_digits(options.every)

    def learn(name: str, model: mx.Model, epochs: int, lr: float = 3e-3) -> mx.Model:
        start = time.process_time()
        run = mx.fit(
            model,
            few,
            loss=mx.losses.SoftmaxCrossEntropy(smoothing=0.2),
            optimizer=mx.AdamW(lr=mx.WarmupCosine(lr, warmup=10)),
            batch_size=32,
            epochs=epochs,
            threads=options.threads,
            progress=False,
        )
        seconds = time.process_time() - start
        accuracy = mx.evaluate(run.last, rest, threads=options.threads)["accuracy"]
        print(f"{name:<28}accuracy {accuracy:.4f}  {seconds:.1f} s of one core", flush=True)
        return run.last

    learn("lenet from nothing", mx.models.lenet(input=IMAGE[1:]).build(image=IMAGE), 60)
    learn("resnet8 from nothing", mx.models.resnet8(input=IMAGE[1:]).build(image=IMAGE), 60)
    headed = learn("reader, new head", reader(fetch()), 20)
    learn("reader, then all of it", headed.unfreeze("*"), 10, lr=3e-4)


if __name__ == "__main__":
    main()
