"""Memory against time of a training step, with the activations of each block kept or computed again.

`python benchmarks/memory.py [--model resnet20] [--batch 128 256] [--threads 1]` prints a table for docs/performance.md.
Each row is a process of its own: the peak of a process cannot be set back.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

import onnxmx as mx
from onnxmx.trainer.engine.ort import OrtEngine
from onnxmx.trainer.step import initial_state

STEPS = 7


def measure(model: str, batch: int, checkpoint: bool, threads: int) -> dict[str, float]:
    """How far the process's memory rises above what it is before the first step, and the processor time of a step."""
    net = mx.models.build(model, checkpoint=checkpoint)
    optimizer = mx.Adam(lr=1e-3)
    step = mx.compile_step(net, loss="softmax_cross_entropy", optimizer=optimizer)
    engine = OrtEngine(step, initial_state(net, optimizer, 0), threads=threads)
    random = np.random.default_rng(0)
    (port,) = net.inputs.values()
    arrays = {
        port.name: random.normal(size=(batch, *(port.shape or ())[1:])).astype(np.float32),
        "label": random.integers(0, 10, batch),
    }
    before, times = _peak_mib(), []
    for _ in range(STEPS):
        start = time.process_time()
        last = engine.step(arrays)
        times.append(time.process_time() - start)
    return {"mib": _peak_mib() - before, "ms": 1e3 * statistics.median(times), "loss": last["loss"]}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", help="a residual network of the zoo")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.model, int(args.one[0]), args.one[1] == "True", args.threads)))
        return
    print(f"| {args.model}, batch | activations | memory | time | loss after {STEPS} steps |\n|---|---|---|---|---|")
    for batch in args.batch:
        for checkpoint in (False, True):
            command = [sys.executable, __file__, "--model", args.model, "--threads", str(args.threads)]
            child = subprocess.run([*command, "--one", str(batch), str(checkpoint)], check=True, capture_output=True)
            found = json.loads(child.stdout)
            how = "computed again" if checkpoint else "kept"
            print(
                f"| {batch} | {how} | {found['mib']:.0f} MiB | {found['ms']:.0f} ms | {found['loss']:.6f} |", flush=True
            )


if __name__ == "__main__":
    main()
