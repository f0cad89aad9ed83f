"""The HTTP side: routes, limits and status codes. What a request means is in protocol.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from onnxmx import __version__
from onnxmx.serve.protocol import load_json
from onnxmx.serve.repository import Repository
from onnxmx.serve.tensors import RequestError

LINGER_S = 1.0
"""How long to go on reading, and discarding, a body that was refused."""

Take = Callable[[int, bool], None]

log = logging.getLogger("onnxmx.serve")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all of them together, may take.

    body_bytes: the largest body; read_s: seconds for a whole body to arrive, since a limit on pauses alone lets one
    byte a second hold a connection for ever; in_flight: infer requests being read, waiting or running; in_flight_bytes:
    of their bodies together, as far as they have arrived.
    """

    body_bytes: int = 64 << 20
    read_s: float = 60.0
    in_flight: int = 512
    in_flight_bytes: int = 512 << 20


class BodyRefusedError(RequestError):
    """The rest of this request's body is not wanted."""

    rest = True
    """Whether there is a rest."""


class BusyError(BodyRefusedError):
    """Too much is in flight already: the same request may be answered later."""

    def __init__(self, problem: str, *, rest: bool = True) -> None:
        super().__init__(f"{problem}; try later", status=503)
        self.rest = rest


class LingeringResponse(Response):
    """A response to a body still being sent, after which the connection closes.

    Closing at once would reset the connection, and the client would lose the answer with it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        try:
            async with asyncio.timeout(LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read_body(request: Request, limits: Limits, take: Take = lambda size, more: None) -> bytes:
    """The whole body.  take: told the size of each part as it arrives, and whether more will; it may refuse it.

    Raises RequestError: 413 over the limit, by Content-Length before reading or while a chunked body streams in;
    408 when it does not arrive in time; 415 for a compressed one.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise BodyRefusedError(
            f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is", status=415
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
        raise _too_large(limits)
    chunks: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(limits.read_s):
            while more:
                event = await request.receive()
                if event["type"] == "http.disconnect":
                    raise RequestError("the client left before its body was complete")
                chunks.append(event.get("body", b""))
                size, more = size + len(chunks[-1]), event.get("more_body", False)
                if size > limits.body_bytes:
                    raise _too_large(limits) if more else RequestError(_too_large(limits).problem, status=413)
                take(len(chunks[-1]), more)
    except TimeoutError:
        raise BodyRefusedError(
            f"expected the whole body within {limits.read_s:g} s, found {size} bytes", status=408
        ) from None
    return b"".join(chunks)


def _too_large(limits: Limits) -> BodyRefusedError:
    return BodyRefusedError(f"expected a body of at most {limits.body_bytes} bytes, found a larger one", status=413)


class Endpoints:
    """The protocol's endpoints over one repository.  executor runs the models, so the event loop never waits."""

    def __init__(self, repository: Repository, executor: Executor, limits: Limits) -> None:
        self.repository, self.executor, self.limits = repository, executor, limits
        self.in_flight = self.in_flight_bytes = 0

    async def infer(self, request: Request) -> Response:
        """Runs a model.  Decoding and encoding happen on the model's thread too: a large body takes long to parse."""
        runner = self.repository.runner(**request.path_params)
        if "inference-header-content-length" in request.headers:
            raise BodyRefusedError(
                "the binary tensor extension is not supported; send tensors as JSON (tritonclient: binary_data=False)"
            )
        if self.in_flight >= self.limits.in_flight:
            raise BusyError(f"{self.in_flight} requests are in flight, the most allowed")
        self.in_flight += 1
        taken = 0

        def take(size: int, more: bool) -> None:
            nonlocal taken
            if self.in_flight_bytes + size > self.limits.in_flight_bytes:
                others = self.in_flight_bytes - taken
                raise BusyError(f"requests of {others} bytes are in flight, and this one is too much", rest=more)
            self.in_flight_bytes += size
            taken += size

        try:
            body = await read_body(request, self.limits, take)
            answer = await asyncio.get_running_loop().run_in_executor(self.executor, runner.answer, body)
        except asyncio.CancelledError:  # only a stop whose grace period has passed cancels requests
            raise RequestError("the server is stopping", status=503) from None
        finally:
            self.in_flight -= 1
            self.in_flight_bytes -= taken
        return Response(answer, media_type="application/json")

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """At least one model answers: a damaged one must not take the others out of a load balancer."""
        if any(entry.ready for entry in self.repository):
            return _json({"ready": True})
        return _json({"ready": False, "error": "no model is ready"}, 503)

    async def server_metadata(self, request: Request) -> Response:
        """Who answers."""
        return _json({"name": "onnxmx", "version": __version__, "extensions": []})

    async def model_metadata(self, request: Request) -> Response:
        """What a model takes and gives."""
        return _json(self.repository.metadata(**request.path_params))

    async def model_ready(self, request: Request) -> Response:
        """Whether a model answers, and why it does not."""
        entry = self.repository.find(**request.path_params)
        if entry.ready:
            return _json({"name": entry.name, "ready": True})
        return _json({"name": entry.name, "ready": False, "error": entry.reason}, 503)

    async def index(self, request: Request) -> Response:
        """All models and versions; `{"ready": true}` in the body leaves out those that do not answer."""
        body = await read_body(request, self.limits)
        only_ready = bool(body) and load_json(body).get("ready") is True
        return _json([entry.index() for entry in self.repository if entry.ready or not only_ready])


def create_app(repository: Repository, executor: Executor, limits: Limits) -> Starlette:
    """The ASGI application."""
    to = Endpoints(repository, executor, limits)
    models = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    routes = [
        # Routes are tried in order, so the busiest comes first.
        *(Route(f"{model}/infer", to.infer, methods=["POST"]) for model in models),
        *(Route(f"{model}/ready", to.model_ready) for model in models),
        *(Route(model, to.model_metadata) for model in models),
        Route("/v2/health/live", to.live),
        Route("/v2/health/ready", to.ready),
        Route("/v2", to.server_metadata),
        Route("/v2/repository/index", to.index, methods=["POST"]),
    ]
    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        RequestError: _request_error,
        HTTPException: _http_error,
        Exception: _defect,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # a redirect has no error body, and few clients repeat a POST
    return app


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


async def _request_error(request: Request, error: RequestError) -> Response:
    if error.status == 500:
        log.error("%s %s: %s", request.method, request.url.path, error)
    kind = LingeringResponse if isinstance(error, BodyRefusedError) and error.rest else Response
    headers = {"Retry-After": "1"} if isinstance(error, BusyError) else None
    return kind(orjson.dumps({"error": str(error)}), error.status, headers, media_type="application/json")


async def _http_error(request: Request, error: HTTPException) -> Response:
    """What the router itself refuses."""
    asked = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _json({"error": f"{asked}: expected the method {allowed}"}, 405, error.headers)
    return _json({"error": f"no route {asked}; there are: {_known(request.app)}"}, error.status_code, error.headers)


def _known(app: Starlette) -> str:
    """The application's routes, as a client asks for them."""
    routes = (route for route in app.routes if isinstance(route, Route))
    asked = ((min((route.methods or set()) - {"HEAD"}, default=""), route.path) for route in routes)
    return ", ".join(f"{method} {path}" for method, path in sorted(asked, key=lambda pair: pair[1]))


async def _defect(request: Request, error: Exception) -> Response:
    """A defect of this server: its traceback goes to the log (starlette raises it again), not to the client."""
    return _json({"error": "internal error; the server's log has the details"}, 500)
