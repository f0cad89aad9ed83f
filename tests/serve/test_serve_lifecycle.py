"""The server as a process: start, stop, limits on bodies, and everything that keeps it from starting."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import TensorProto, helper
from serve_helpers import FLOAT, Server, identity, mlp, model, save, slow

import onnxmx
from onnxmx.builder.session import cores
from onnxmx.errors import MissingExtraError, ModelFileError, OnnxmxError, UsageError
from onnxmx.serve import serve


def slow_body(rounds: int) -> bytes:
    return json.dumps({"inputs": [{"name": "n", "shape": [], "datatype": "INT64", "data": rounds}]}).encode()


SLOW = 20_000  # half a second or more
ENDLESS = 10**9


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    return save(slow(), tmp_path / "slow.onnx")


@pytest.fixture
def mlp_model(tmp_path: Path) -> Path:
    return save(mlp(), tmp_path / "mlp.onnx")


def wait_until_running(server: Server) -> None:
    """Returns once a request keeps a processor busy."""
    stat = Path(f"/proc/{server.process.pid}/stat")
    if not stat.exists():  # not Linux
        time.sleep(0.5)
        return

    def ticks() -> int:
        return int(stat.read_text().rsplit(")", 1)[1].split()[11])

    before = ticks()
    deadline = time.monotonic() + 10
    while ticks() < before + 5 and time.monotonic() < deadline:
        time.sleep(0.01)


def exchange(server: Server, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """Sends raw bytes over a socket and returns all that comes back before the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def test_one_file_is_served_under_its_stem(mlp_model: Path) -> None:
    with Server(mlp_model) as server, server.client() as client:
        assert server.started[-1].startswith(f"onnxmx: serving 1 model at http://127.0.0.1:{server.port}/v2")
        assert server.started[-1].rstrip().endswith(" threads): mlp")
        assert client.get("/v2/models/mlp/versions/1").json()["versions"] == ["1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_the_request_in_flight(slow_model: Path, number: signal.Signals) -> None:
    with Server(slow_model) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v2/models/slow/infer", content=slow_body(SLOW))
        wait_until_running(server)
        assert not answer.done()
        server.process.send_signal(number)
        assert answer.result().json()["outputs"][0]["data"] == [128.0]
        assert server.end() == (0, "")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/v2/health/live")


def test_a_stop_ends_what_does_not_finish_in_the_grace_period(slow_model: Path) -> None:
    with Server(slow_model, grace_s=0.3) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v2/models/slow/infer", content=slow_body(ENDLESS))
        wait_until_running(server)
        start = time.monotonic()
        server.process.terminate()
        assert answer.result().status_code == 503
        assert answer.result().json() == {"error": "the server is stopping"}
        status, stderr = server.end()
        assert (status, "Traceback" in stderr) == (0, False)
        assert time.monotonic() - start < 5


def test_a_running_model_does_not_hold_up_other_requests(slow_model: Path) -> None:
    with Server(slow_model) as server, server.client() as client, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.post, "/v2/models/slow/infer", content=slow_body(SLOW)) for _ in range(4)]
        wait_until_running(server)
        assert client.get("/v2/health/live").status_code == 200
        assert not any(a.done() for a in answers)
        assert {a.result().status_code for a in answers} == {200}


def test_more_requests_than_allowed_in_flight_are_sent_away(slow_model: Path) -> None:
    with Server(slow_model, max_in_flight=1) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v2/models/slow/infer", content=slow_body(SLOW))
        wait_until_running(server)
        second = client.post("/v2/models/slow/infer", content=slow_body(1))
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert second.json()["error"].startswith("1 requests are in flight")
        assert first.result().status_code == 200
        assert client.post("/v2/models/slow/infer", content=slow_body(1)).status_code == 200


def test_more_bytes_than_allowed_in_flight_are_sent_away(mlp_model: Path) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
    url, full = "/v2/models/mlp/infer", body + b" " * (4000 - len(body))
    with Server(mlp_model, max_body_bytes=4000, max_in_flight_bytes=6000) as server, server.client() as client:
        with socket.create_connection(("127.0.0.1", server.port)) as half:
            half.sendall(HEAD + b"Content-Length: 4000\r\n\r\n" + full[:3900])
            deadline = time.monotonic() + 10
            while (refused := client.post(url, content=full)).status_code == 200 and time.monotonic() < deadline:
                time.sleep(0.01)  # the half has not arrived yet
            for answer in (refused, client.post(url, content=iter([full[:3000], full[3000:]]))):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert (
                    answer.json()["error"]
                    == "requests of 3900 bytes are in flight, and this one is too much; try later"
                )
            assert client.post(url, content=body).status_code == 200  # a small one fits
            half.sendall(full[3900:])
            assert b" 200 " in half.recv(65536)
        for _ in range(3):  # what was refused or answered is given back
            assert client.post(url, content=full).status_code == 200


HEAD = b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\n"


def test_bodies_over_the_limit(mlp_model: Path) -> None:
    exact = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
    exact += b" " * (4000 - len(exact))
    with Server(mlp_model, max_body_bytes=4000) as server, server.client() as client:
        assert client.post("/v2/models/mlp/infer", content=exact).status_code == 200
        assert client.post("/v2/models/mlp/infer", content=iter([exact])).status_code == 200
        for content in (exact + b" ", iter([exact, b" "]), b" " * (8 << 20), iter([b" " * 65536] * 128)):
            for path in ("/v2/models/mlp/infer", "/v2/repository/index"):
                if isinstance(content, bytes) or path.endswith("infer"):
                    answer = client.post(path, content=content)
                    assert answer.status_code == 413
                    assert answer.json() == {"error": "expected a body of at most 4000 bytes, found a larger one"}
        # A declared length is refused before a byte of the body arrives.
        start = time.monotonic()
        assert exchange(server, HEAD + b"Content-Length: 999999999999999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - start < 5
        assert client.get("/v2/health/live").status_code == 200


def test_a_body_that_trickles_in_is_given_up(mlp_model: Path) -> None:
    with Server(mlp_model, read_timeout_s=0.4) as server, server.client() as client:
        for head in (HEAD + b"Content-Length: 100\r\n\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"):
            start = time.monotonic()
            received = exchange(server, head, *[b"1\r\n \r\n"] * 8, pause_s=0.1)
            assert time.monotonic() - start < 5
            assert received.startswith(b"HTTP/1.1 408 ")
            assert b'{"error":"expected the whole body within 0.4 s, found ' in received
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")  # and leaves
        assert client.get("/v2/health/live").status_code == 200
        server.process.terminate()
        assert server.end() == (0, "")


def test_a_repository_where_nothing_is_ready(tmp_path: Path) -> None:
    (tmp_path / "m" / "2").mkdir(parents=True)
    (tmp_path / "m" / "2" / "model.onnx").write_bytes(b"")
    with Server(tmp_path) as server, server.client() as client:
        assert server.started[0].startswith("onnxmx: m version 2 is not ready: cannot load")
        answer = client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert client.get("/v2/health/live").status_code == 200


def test_what_keeps_a_server_from_starting(tmp_path: Path, mlp_model: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(mlp_model.read_bytes()[:100])
    half = save(identity(TensorProto.BFLOAT16, [1]), tmp_path / "half.onnx")
    (tmp_path / "models").mkdir()
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    rows: list[tuple[type[OnnxmxError], str, Path, dict[str, Any]]] = [
        (ModelFileError, "no file or directory at", tmp_path / "absent.onnx", {}),
        (ModelFileError, "cannot load .*bad.onnx", bad, {}),
        (ModelFileError, r"cannot serve .*'x' is tensor\(bfloat16\)", half, {}),
        (UsageError, "expected a model repository", tmp_path / "models", {}),
        (UsageError, r"Give the file itself: .*bad.onnx", tmp_path, {}),
        (OnnxmxError, f"port {port} on 127.0.0.1 is in use", mlp_model, {"port": port}),
        (OnnxmxError, "cannot listen on host 'no.such.host.invalid'", mlp_model, {"host": "no.such.host.invalid"}),
        (OnnxmxError, "cannot listen on 192.0.2.1 port 8000", mlp_model, {"host": "192.0.2.1", "port": 8000}),
        (UsageError, "expected port from 0 to 65535, found 65536", mlp_model, {"port": 65536}),
        (UsageError, "expected threads from 1 to", mlp_model, {"threads": cores() + 1}),
        (UsageError, "expected max_body_bytes from 1 or more", mlp_model, {"max_body_bytes": 0}),
        (
            UsageError,
            "expected max_in_flight_bytes from 9 or more",
            mlp_model,
            {"max_in_flight_bytes": 8, "max_body_bytes": 9},
        ),
        (UsageError, "expected max_in_flight from 1 or more", mlp_model, {"max_in_flight": 0}),
    ]
    with taken:
        for kind, words, path, options in rows:
            with pytest.raises(kind, match=words) as caught:
                serve(path, **{"port": 0, **options})
            assert type(caught.value) is kind


class ModelServer(Server):
    """A server of a model that its own program holds."""

    PROGRAM = "import onnxmx as mx; mx.serve(mx.load({path!r}), port=0, **{options!r})"


def test_a_model_that_is_no_file_yet(mlp_model: Path) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    answers = []
    for server, name in ((Server(mlp_model), "mlp"), (ModelServer(mlp_model), "model")):
        with server, server.client() as client:
            answers.append(client.post(f"/v2/models/{name}/versions/1/infer", json=body).json()["outputs"])
    assert answers[0] == answers[1]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir(mode=0)
    with pytest.raises(ModelFileError, match=r"cannot read .*m: Permission denied"):
        serve(tmp_path, port=0)


@pytest.mark.parametrize(
    ("package", "extra"), [("uvicorn", "serve"), ("starlette", "serve"), ("orjson", "serve"), ("onnxruntime", "cpu")]
)
def test_a_missing_package_names_its_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*\n.*onnxmx\[{extra}\]"):
        serve("any.onnx", port=0)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, onnxmx.serve; print({m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("onnxruntime", "onnx", "numpy", "starlette", "uvicorn", "orjson"):
        assert f"'{heavy}'" not in loaded


class ThreadedServer(Server):
    """A server in a thread of a program that does something else."""

    PROGRAM = """
import threading
from onnxmx.serve import serve
threading.Thread(target=serve, args=({path!r},), kwargs=dict(port=0, **{options!r}), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal status")
def test_in_a_thread_it_leaves_signals_to_the_main_thread(mlp_model: Path) -> None:
    with ThreadedServer(mlp_model) as server, server.client() as client:
        assert client.get("/v2/health/live").status_code == 200
        server.process.terminate()
        assert server.end()[0] == -signal.SIGTERM


def test_unnamed_dimensions_may_differ(tmp_path: Path) -> None:

    built = model(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        [("a", FLOAT, [None, 2]), ("b", FLOAT, [2, None])],
        [("y", FLOAT, [None, None])],
    )
    inputs = [{"name": n, "shape": s, "datatype": "FP32", "data": [1, 2]} for n, s in (("a", [1, 2]), ("b", [2, 1]))]
    with Server(save(built, tmp_path / "m.onnx")) as server, server.client() as client:
        assert client.post("/v2/models/m/infer", json={"inputs": inputs}).json()["outputs"][0]["data"] == [5.0]


def test_the_package_is_the_function_too(tmp_path: Path) -> None:
    assert onnxmx.serve.serve is serve
    with pytest.raises(ModelFileError, match="no file or directory"):
        onnxmx.serve(tmp_path / "none.onnx", port=0)
