"""One ONNX Runtime session: its signature, and a request body to a response body."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from onnxmx.builder.session import runtime
from onnxmx.errors import ModelFileError
from onnxmx.serve.protocol import Signature, encode_response, parse_request
from onnxmx.serve.tensors import DATATYPES, RequestError, TensorSpec
from onnxmx.trainer import facts


class Runner:
    """A loaded model.  `answer` may be called from several threads at once: ORT runs without the GIL.

    source: a file, or the bytes of one.
    Raises ModelFileError when the file is missing, damaged, or has a tensor that the protocol cannot carry.
    """

    def __init__(self, source: Path | bytes, model: str, version: str, *, threads: int) -> None:
        path = source if isinstance(source, Path) else model
        ort = runtime("serving a model")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised, and answered: the log would say them twice
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT's errors have no common base
            raise ModelFileError(
                f"cannot load {path}: {message(error)}",
                mend="Give an ONNX file that onnx.checker accepts, or export the model again.",
            ) from None
        self._bad_feeds = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state").InvalidArgument
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = 4
        unranked = _unranked(source) if any(not a.shape for a in self._arguments()) else frozenset()
        inputs = {a.name: _spec(a, path, unranked) for a in self._session.get_inputs()}
        outputs = {a.name: _spec(a, path, unranked) for a in self._session.get_outputs()}
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.signature = Signature(
            model, version, inputs, outputs, facts.preprocessing(metadata), facts.classes(metadata)
        )

    def _arguments(self) -> list[Any]:
        return [*self._session.get_inputs(), *self._session.get_outputs()]

    def answer(self, body: bytes) -> bytes:
        """The response body to an infer request body.

        Raises RequestError: 400 when the request does not fit the model, 500 when the model fails on it.
        """
        request = parse_request(body, self.signature)
        try:
            arrays = self._session.run(request.outputs, request.feeds, self._run_options)
        except self._bad_feeds as error:  # for example an index outside its table
            raise RequestError(f"the model refuses these inputs: {message(error)}") from None
        except Exception as error:  # any other of ORT's errors: one request fails, and the server goes on
            raise RequestError(f"the model failed: {message(error)}", status=500) from None
        return encode_response(self.signature, request, arrays)

    def stop(self) -> None:
        """Ends the runs in flight at their next operator, and refuses new ones."""
        self._run_options.terminate = True


def _spec(argument: Any, path: Path | str, unranked: frozenset[str]) -> TensorSpec:
    datatype = DATATYPES.get(argument.type)
    if datatype is None:
        raise ModelFileError(
            f"cannot serve {path}: {argument.name!r} is {argument.type}, which JSON tensors cannot carry",
            mend="Add a Cast to a tensor of a type that they can.",
        )
    return TensorSpec(argument.name, datatype, None if argument.name in unranked else tuple(argument.shape))


def _unranked(source: Path | bytes) -> frozenset[str]:
    """Names of the inputs and outputs without a declared shape; ORT shows them as scalars."""
    import onnx

    if isinstance(source, bytes):
        graph = onnx.load_from_string(source).graph
    else:
        graph = onnx.load_model(source, load_external_data=False).graph
    return frozenset(v.name for v in [*graph.input, *graph.output] if not v.type.tensor_type.HasField("shape"))


def message(error: Exception) -> str:
    """What ORT says, in one line, without its error code and the places in its source code."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"\S*/onnxruntime/\S+ .*?\) (?=\S)", "", text)
    return " ".join(text.split()) or type(error).__name__
