"""How a model answers: ONNX files behind HTTP, in the Open Inference Protocol v2.

    tensors.py     one tensor: JSON data <-> numpy
    protocol.py    one exchange: request body -> feeds, arrays -> response body
    runner.py      one ONNX Runtime session
    repository.py  which models and versions there are, and which of them are ready
    app.py         routes, limits and status codes
    server.py      socket, signals and threads

Importing this package is cheap; onnxruntime, starlette and uvicorn are imported when a server starts.
"""

from __future__ import annotations

import sys
from types import ModuleType

from onnxmx.serve.server import serve

__all__ = ["serve"]


class _Serve(ModuleType):
    """This package, which can be called: `mx.serve(path)`, a function and a package of one name."""

    __call__ = staticmethod(serve)


sys.modules[__name__].__class__ = _Serve
