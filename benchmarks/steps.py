"""Milliseconds a training step, ours beside others', as ratios from one run.

    python benchmarks/steps.py [--peers FOLDER] [--nets mlp,lstm] [--threads 1,2] [--json FILE] [--data-dir MNIST]

The peers' environments are what `make peers` puts into FOLDER; those that are not there are left out. Each contender
is a process of its own. They take turns of a few steps, so that a machine that slows down slows all of them; the
medians are over all turns. Run it with nothing else on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import loop_cost

PEERS = Path(__file__).parent / "peers"
PATHS = [str(PEERS), *filter(None, [os.environ.get("PYTHONPATH")])]
NETS = ("mlp", "cnn", "lenet", "lstm", "resnet8")
CONTENDERS = {
    "torch": ("torch", "torch_step.py"),
    "torch.compile": ("torch", "torch_step.py", "compiled"),
    "mxnet": ("mxnet", "mxnet_step.py"),
}
"""By name: the environment of a peer, its script, and what the script is told."""


class Worker:
    """A contender: a process that makes its step and then waits to be told to run it.

    It gets as many cores as threads. MXNet would otherwise use 1.5 of two cores on what it takes for one thread: its
    engine has further threads than those of its operators.
    """

    def __init__(self, python: str, script: str, net: str, threads: int, *more: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(PATHS)}
        command = [python, str(PEERS / script), net, str(threads), *more]
        self.times: list[float] = []
        self._process = subprocess.Popen(
            [*cores(threads), *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if self._read() != "ready":
            raise SystemExit(f"{' '.join(command)} could not make its step")

    def run(self, steps: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        self.times += json.loads(self._read())

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def cores(count: int) -> list[str]:
    """What runs a command on this many cores, the last ones; nothing where there is no taskset."""
    if not shutil.which("taskset"):
        return []
    return ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[-count:]))]


def compare_steps(net: str, threads: int, peers: Path | None, rounds: int) -> dict[str, Any]:
    """Median milliseconds of one step for each contender."""
    workers = {"onnxmx": Worker(sys.executable, "onnxmx_step.py", net, threads)}
    for name, (environment, script, *more) in CONTENDERS.items():
        if python := python_of(peers, environment):
            workers[name] = Worker(python, script, net, threads, *more)
    per_turn = {"mlp": 40, "resnet8": 4}.get(net, 10)
    for _ in range(rounds):
        for worker in workers.values():
            worker.run(per_turn)
    for worker in workers.values():
        worker.stop()
    return {"net": net, "threads": threads, **{name: statistics.median(w.times) for name, w in workers.items()}}


def python_of(peers: Path | None, environment: str) -> str | None:
    """The Python of a peer's environment, where there is one."""
    python = peers / environment / "bin" / "python" if peers else None
    return str(python) if python and python.exists() else None


def compare_epochs(data_dir: str, threads: int, peer_python: str, rounds: int) -> dict[str, Any]:
    """Median seconds of whole processes that train LeNet on MNIST for an epoch and evaluate it, in turns."""
    walls: dict[str, list[float]] = {"onnxmx": [], "torch": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            ours = [sys.executable, "-m", "onnxmx.cli", "train", "lenet", "--data", "mnist", "--data-dir", data_dir]
            ours += ["--epochs", "1", "--seed", "1", "--threads", str(threads), "-o", f"{folder}/run"]
            walls["onnxmx"].append(wall(ours))
        walls["torch"].append(wall([peer_python, str(PEERS / "torch_epoch.py"), data_dir, str(threads)]))
    return {"net": "lenet epoch", "threads": threads, **{name: statistics.median(t) for name, t in walls.items()}}


def wall(command: list[str]) -> float:
    """Seconds that a command takes as a whole process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def show(row: dict[str, Any], unit: str) -> str:
    """One line: each contender's time, and ours as a share of the best peer's."""
    peers = {name: row[name] for name in CONTENDERS if name in row}
    line = f"{row['net']:<12} threads {row['threads']}   onnxmx {row['onnxmx']:7.2f} {unit}"
    line += "".join(f"   {name} {t:7.2f}" for name, t in peers.items())
    if peers:
        best = min(peers, key=lambda name: peers[name])
        line += f"   ratio {row['onnxmx'] / peers[best]:.2f} to {best}"
    return line


def machine() -> dict[str, str]:
    """The processor and what runs on it."""
    import onnxruntime

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder of the peers' environments (make peers)")
    parser.add_argument("--nets", default=",".join(NETS), help="which nets, with commas between")
    parser.add_argument("--threads", default="1,2", help="which numbers of threads, with commas between")
    parser.add_argument("--data-dir", help="the folder of the MNIST files: compares whole epochs too (needs torch)")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contender")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    threads = [int(n) for n in options.threads.split(",")]
    rows = []
    print("  ".join(f"{k} {v}" for k, v in machine().items()), flush=True)
    print("one training step, batch 64, Adam, clip 1.0, medians", flush=True)
    for net in options.nets.split(","):
        for n in threads:
            rows.append(compare_steps(net, n, options.peers, options.rounds))
            print(show(rows[-1], "ms"), flush=True)
    torch = python_of(options.peers, "torch")
    if options.data_dir and torch:
        for n in threads:
            rows.append(compare_epochs(options.data_dir, n, torch, 3))
            print(show(rows[-1], "s "), flush=True)
    for n in threads:
        found = loop_cost.measure(n, 3 * options.rounds)
        rows.append({"net": "mlp in fit", "threads": n, "onnxmx": found["loop"], **found})
        low, high = found["half"]
        line = f"{show(rows[-1], 'ms')}   {found['cost']:+.1%} over bare steps, half of the turns"
        print(f"{line} {low:+.1%} to {high:+.1%}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
