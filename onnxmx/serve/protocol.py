"""One exchange of the Open Inference Protocol v2: request body to feeds, arrays to response body.

Pure functions: no HTTP, no session.  Source: https://github.com/kserve/open-inference-protocol, "Inference".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from onnxmx.errors import nearest
from onnxmx.serve.tensors import MAX_RANK, Array, RequestError, TensorSpec, decode, encode, show
from onnxmx.trainer.data.dataset import Preprocessing

T = TypeVar("T")


@dataclass(frozen=True)
class Signature:
    """All that the protocol needs to know of a model, worked out once when it is loaded."""

    model: str
    version: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    preprocessing: Preprocessing | None = None
    classes: list[str] | None = None

    def parameters(self) -> dict[str, Any]:
        """What the model's metadata says of its data, for the extension point of the protocol."""
        found = {"classes": self.classes} if self.classes is not None else {}
        return found if self.preprocessing is None else {"preprocessing": self.preprocessing.to_dict(), **found}


@dataclass(frozen=True)
class InferRequest:
    """A request that fits its model.  feeds: an array for each input; outputs: the names asked for, in order."""

    id: str | None
    feeds: dict[str, Array]
    outputs: list[str]


def load_json(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.  Raises RequestError when it is not one; orjson bounds the depth at 1,024."""
    if not body:
        raise RequestError("expected a JSON object, found an empty body", at="$")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    return _typed(value, dict, "an object", "$")


def parse_request(body: bytes, signature: Signature) -> InferRequest:
    """Reads and checks an infer request.

    Raises RequestError (status 400) that names the place, what was expected and what was found.
    """
    request = load_json(body)
    request_id = request.get("id")
    if request_id is not None:
        _typed(request_id, str, "a string", "$.id")
    raw = _raw(_parameters(request, "$"), signature)
    feeds: dict[str, Array] = {}
    sizes: dict[str, tuple[int, str]] = {}
    for i, item in enumerate(_typed(request.get("inputs"), list, "an array of inputs", "$.inputs")):
        at = f"$.inputs[{i}]"
        spec = _named(item, signature.inputs, feeds, f"input of model {signature.model!r}", at)
        feeds[spec.name] = _parse_input(item, spec, sizes, at)
    missing = [show(name) for name in signature.inputs if name not in feeds]
    if missing:
        raise RequestError(
            f"expected an input for each that the model has, missing {', '.join(missing)}", at="$.inputs"
        )
    if raw is not None:
        feeds = {name: raw.apply(x).astype(x.dtype) if x.dtype.kind == "f" else x for name, x in feeds.items()}
    return InferRequest(request_id, feeds, _parse_outputs(request.get("outputs"), signature))


def _raw(parameters: dict[str, Any], signature: Signature) -> Preprocessing | None:
    """The model's preprocessing where `preprocess` asks for it: the request's values are as its dataset stores them."""
    at = "$.parameters.preprocess"
    if not _typed(parameters.get("preprocess", False), bool, "true or false", at):
        return None
    if signature.preprocessing is None:
        raise RequestError(f"model {signature.model!r} says nothing of its preprocessing; send prepared values", at=at)
    return signature.preprocessing


def _parse_input(item: dict[str, Any], spec: TensorSpec, sizes: dict[str, tuple[int, str]], at: str) -> Array:
    datatype = item.get("datatype")
    if datatype != spec.datatype.name:
        raise RequestError(f"expected {spec.datatype.name}, found {show(datatype)}", at=f"{at}.datatype")
    shape = _parse_shape(item.get("shape"), spec, sizes, f"{at}.shape")
    if "binary_data_size" in _parameters(item, at):
        raise RequestError(
            "binary tensors are not supported; send the elements as JSON in 'data'",
            at=f"{at}.parameters.binary_data_size",
        )
    if "data" not in item:
        raise RequestError(f"expected the elements in 'data', found {_keys(item)}", at=at)
    return decode(item["data"], shape, spec.datatype, f"{at}.data")


def _parse_shape(value: object, spec: TensorSpec, sizes: dict[str, tuple[int, str]], at: str) -> list[int]:
    """The shape when it fits the model's.  sizes: what each named dimension was found to be, and of which input."""
    shape: list[int] = _typed(value, list, "an array of sizes", at)
    rank = len(shape)
    if spec.shape is None:
        if rank > MAX_RANK:
            raise RequestError(f"expected at most {MAX_RANK} dimensions, found {rank}", at=at)
    elif rank != len(spec.shape):
        raise RequestError(f"expected {len(spec.shape)} dimensions {spec.wire['shape']}, found {rank}", at=at)
    for i, size in enumerate(shape):
        if type(size) is not int or size < 0:
            raise RequestError(f"expected a size of 0 or more, found {show(size)}", at=f"{at}[{i}]")
        expected = None if spec.shape is None else spec.shape[i]
        because = ""
        if isinstance(expected, str):
            named, (expected, owner) = expected, sizes.setdefault(expected, (size, spec.name))
            because = f" ({named!r}, as in input {owner!r})"
        if expected is not None and size != expected:
            raise RequestError(f"expected {expected}{because}, found {size}", at=f"{at}[{i}]")
    return shape


def _parse_outputs(outputs: object, signature: Signature) -> list[str]:
    """The names asked for; none named means all of them."""
    if outputs is None or outputs == []:
        return list(signature.outputs)
    names: dict[str, None] = {}
    for i, item in enumerate(_typed(outputs, list, "an array of outputs", "$.outputs")):
        at = f"$.outputs[{i}]"
        spec = _named(item, signature.outputs, names, f"output of model {signature.model!r}", at)
        _parameters(item, at)
        names[spec.name] = None
    return list(names)


def _named(item: object, specs: dict[str, TensorSpec], seen: dict[str, Any], kind: str, at: str) -> TensorSpec:
    """The spec that an entry names: a known one, and not one named before."""
    entry: dict[str, object] = _typed(item, dict, "an object", at)
    name = _typed(entry.get("name"), str, "a string", f"{at}.name")
    spec = specs.get(name)
    if spec is None:
        raise RequestError(unknown(kind, name, specs), at=f"{at}.name")
    if name in seen:
        raise RequestError(f"{show(name)} stands here twice", at=f"{at}.name")
    return spec


def _parameters(item: dict[str, Any], at: str) -> dict[str, Any]:
    """The extension point of the protocol. What is in it is tolerated: `binary_data_output` is answered in JSON."""
    parameters = item.get("parameters")
    return {} if parameters is None else _typed(parameters, dict, "an object", f"{at}.parameters")


def _typed(value: object, kind: type[T], what: str, at: str) -> T:
    if not isinstance(value, kind):
        raise RequestError(f"expected {what}, found {'nothing' if value is None else show(value)}", at=at)
    return value


def _keys(item: dict[str, Any]) -> str:
    return f"the keys {', '.join(show(key) for key in list(item)[:8])}"


def unknown(kind: str, name: str, options: Sequence[str] | dict[str, Any]) -> str:
    """The message for a name that is not among `options`; it offers the nearest, or lists the first few."""
    near = nearest(name[:100], list(options))  # the search is quadratic in the name's length
    listed = ", ".join(list(options)[:8]) + (", ..." if len(options) > 8 else "")
    return f"no {kind} named {show(name)}; " + (f"did you mean {near!r}?" if near else f"there are: {listed or 'none'}")


def encode_response(signature: Signature, request: InferRequest, arrays: Sequence[Array]) -> bytes:
    """The response body.  arrays: one for each of request.outputs, in that order."""
    response: dict[str, Any] = {"model_name": signature.model, "model_version": signature.version}
    if request.id is not None:
        response["id"] = request.id
    response["outputs"] = [
        {
            "name": name,
            "datatype": signature.outputs[name].datatype.name,
            "shape": array.shape,
            "data": encode(array),
        }
        for name, array in zip(request.outputs, arrays, strict=True)
    ]
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
