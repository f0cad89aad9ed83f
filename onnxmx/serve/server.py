"""`serve`: socket, signals and threads around the application."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from onnxmx.builder.arguments import checked_arguments
from onnxmx.builder.session import cores
from onnxmx.errors import MissingExtraError, OnnxmxError, UsageError

if TYPE_CHECKING:
    import uvicorn

    from onnxmx.builder.model import Model


@checked_arguments
def serve(
    model: Model | str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_body_bytes: int = 64 << 20,
    threads: int = 1,
    read_timeout_s: float = 60.0,
    max_in_flight: int = 512,
    max_in_flight_bytes: int | None = None,
    grace_s: float = 10.0,
) -> None:
    """Answers Open Inference Protocol v2 requests until SIGTERM or SIGINT; then it returns.

    model: an ONNX file, served under its stem as version 1, a repository `<model>/<version>/model.onnx`, or a Model,
    served as "model".
    port: 0 takes a free one; the ready line on stderr has the address.
    threads: intra-op threads of one request. cores // threads requests run at once: more would only make them wait
    for each other inside their operators.
    read_timeout_s: how long a request's body may take to arrive.  max_in_flight: past it, requests get 503.
    max_in_flight_bytes: of all bodies together, by default eight of the largest; past it, requests get 503.
    grace_s: how long a stop waits for requests in flight before it ends them.

    Raises MissingExtraError, UsageError (a value out of range, nothing to serve), ModelFileError (a damaged file),
    OnnxmxError (an address that cannot be listened on).
    """
    _require("uvicorn", "starlette", "orjson", extra="serve")
    _require("onnxruntime", extra="cpu")
    available = cores()
    _check("port", port, 0, 65535)
    _check("threads", threads, 1, available)
    _check("max_body_bytes", max_body_bytes, 1, None)
    _check("max_in_flight", max_in_flight, 1, None)
    if max_in_flight_bytes is None:
        max_in_flight_bytes = 8 * max_body_bytes
    _check("max_in_flight_bytes", max_in_flight_bytes, max_body_bytes, None)

    from onnxmx.serve.app import Limits, create_app
    from onnxmx.serve.repository import Repository

    limits = Limits(
        body_bytes=max_body_bytes, read_s=read_timeout_s, in_flight=max_in_flight, in_flight_bytes=max_in_flight_bytes
    )
    with contextlib.closing(_bind(host, port)) as listener:  # before loading: a taken port shows at once
        if isinstance(model, (str, os.PathLike)):
            repository = Repository.open(Path(model), threads=threads)
        else:
            repository = Repository.of(model, threads=threads)
        callers = max(1, available // threads)
        for entry in repository:
            if not entry.ready:
                print(f"onnxmx: {entry.name} version {entry.version} is not ready: {entry.reason}", file=sys.stderr)
        with ThreadPoolExecutor(callers, "onnxmx-run") as pool:
            app = create_app(repository, pool, limits)
            ready = sum(entry.ready for entry in repository)
            names = list(dict.fromkeys(entry.name for entry in repository if entry.ready))
            line = (
                f"onnxmx: serving {ready} model{'s' * (ready != 1)} at {_url(listener)} ({callers} x {threads} threads)"
                + (f": {', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}" if names else "")
            )
            server = _server(app, line, grace_s)
            try:
                with _stops(server):
                    server.run(sockets=[listener])
            finally:
                repository.stop()
                pool.shutdown(cancel_futures=True)


_SHOWN = 8
"""Names of models, at most, in the line that says that they are served."""


def _server(app: object, ready_line: str, grace_s: float) -> uvicorn.Server:
    """A uvicorn server that says when it is ready. uvicorn takes httptools and uvloop where they are installed."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(ready_line, file=sys.stderr, flush=True)

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,  # logging belongs to the program that calls this
        server_header=False,
        timeout_graceful_shutdown=grace_s,  # type: ignore[arg-type]  # annotated int, given to asyncio.wait_for
    )
    return Server(config)


@contextlib.contextmanager
def _stops(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM and SIGINT stop the server, and that is all they do.

    uvicorn handles them while it runs, then raises them again for whoever handled them before: the default would
    kill the process with a signal's status after a clean stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket.  Raises OnnxmxError when the address is taken, not allowed, or not of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OnnxmxError(
            f"cannot listen on host {host!r}: {error.strerror}", mend="Give 127.0.0.1 or 0.0.0.0."
        ) from None
    try:
        if sys.platform != "win32":  # there, it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise OnnxmxError(
                f"port {port} on {host} is in use", mend="Give another port, or 0 for any that is free."
            ) from None
        raise OnnxmxError(
            f"cannot listen on {host} port {port}: {error.strerror}", mend="Give a port of 1024 or more, or 0."
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v2" if ":" in host else f"http://{host}:{port}/v2"


def _check(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        expected = f"{low} or more" if high is None else f"{low} to {high}"
        raise UsageError(f"expected {name} from {expected}, found {value}")


def _require(*packages: str, extra: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError:
            raise MissingExtraError(package, extra, "the server") from None
