"""A model in netron, a viewer that runs in a browser."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from onnxmx.builder.model import Model
from onnxmx.errors import MissingExtraError, UsageError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class View:
    """A viewer that is being served. url: where.   wait: returns when it is interrupted."""

    url: str
    wait: Callable[[], None]


def view(model: Model, name: str = "model", *, port: int = 0, browser: bool = True) -> View:
    """Serve netron with `model` on this machine alone, and open it in a browser.

    port: 0 for any that is free. browser: False leaves opening it to the caller.
    Raises MissingExtraError where netron is not installed, UsageError where the port is taken.
    """
    try:
        import netron  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError("netron", "plot", "Viewing a model") from None
    logging.getLogger("netron").setLevel(logging.WARNING)  # it would say the address itself
    try:
        with socket.create_server((HOST, port)) as free:
            port = free.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"port {port} expected to be free; found {error}", mend="Take another, or 0 for any."
        ) from None
    # A bytearray is served as the file that it is; netron takes bytes for an object of its own.
    netron.serve(f"{name}.onnx", bytearray(model.to_bytes()), (HOST, port), browser)
    return View(f"http://{HOST}:{port}", netron.wait)
