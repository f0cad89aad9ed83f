"""A process that trains in forks of itself, so that a test can kill a run without paying for the imports each time.

It reads one JSON object a line, `{"call": ..., ...}`, forks, and writes the child's process id; at the next line, its
exit status.
No session of ONNX Runtime is ever opened before a fork.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """The process, as a test sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def start(self, call: str, *, stderr: Path, **arguments: Any) -> int:
        """Begin `train` or `resume` in a fork; returns its process id."""
        self._say(json.dumps({"call": call, "stderr": str(stderr), **arguments}))
        return self._answer()

    def wait(self) -> int:
        """The exit code of the child, or minus the signal that ended it."""
        self._say("")
        return os.waitstatus_to_exitcode(self._answer())

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> int:
        assert self._process.stdout
        return int(self._process.stdout.readline())


def serve() -> None:
    sys.path.insert(0, str(ROOT))
    import onnxruntime  # noqa: F401 - so that no child has to
    import safetensors.numpy  # noqa: F401

    import onnxmx.trainer.run  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        print(child, flush=True)
        sys.stdin.readline()  # until the test asks for its end it stays in the table, and its id is no one else's
        print(os.waitpid(child, 0)[1], flush=True)


def run(request: dict[str, Any]) -> None:
    """Does what is asked and leaves, as the command line would."""
    from onnxmx.errors import OnnxmxError
    from onnxmx.trainer.config import TrainConfig
    from onnxmx.trainer.run import resume_run, train

    signal.signal(signal.SIGINT, signal.default_int_handler)
    error = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY)
    os.dup2(error, 2)
    if limit := request.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = 0
    try:
        if request["call"] == "train":
            train(TrainConfig(**request["config"]), request["out"], progress=request.get("progress", False))
        else:
            resume_run(request["out"], progress=request.get("progress", False))
    except OnnxmxError as problem:
        print(f"error: {problem}", file=sys.stderr)
        code = problem.exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
