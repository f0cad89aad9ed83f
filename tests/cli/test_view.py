"""`onnxmx view`: netron, on this machine alone."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from cli_helpers import here


def test_the_viewer_answers_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("netron")
    words = [sys.executable, "-m", "onnxmx.cli", "view", "lenet", "--no-browser", "--format", "json"]
    viewer = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert viewer.stdout is not None
        line = viewer.stdout.readline()
        url = json.loads(line)["url"]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url, timeout=10) as page:
            text = page.read().decode()
        assert "netron" in text.lower()
        with urllib.request.urlopen(f"{url}/data/lenet.onnx", timeout=10) as file:
            assert b"Conv" in file.read()
        viewer.send_signal(signal.SIGINT)
        out, err = viewer.communicate(timeout=20)
    finally:
        viewer.kill()
        viewer.communicate()
    assert out == ""
    assert "Traceback" not in err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("netron")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = here(capsys, "view", "lenet", "--no-browser", "--port", taken.getsockname()[1])
    assert done.code == 2
    assert "expected to be free" in done.err


def test_without_its_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "netron", None)
    done = here(capsys, "view", "lenet", "--no-browser")
    assert done.code == 1
    assert "onnxmx[plot]" in done.err
