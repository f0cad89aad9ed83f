"""The protocol as a client sees it: what is answered, and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_helpers import mlp_weights

import onnxmx


def tensor(name: str, shape: list[int], datatype: str, data: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def infer(client: httpx.Client, model: str, *inputs: dict[str, Any], **rest: Any) -> httpx.Response:
    return client.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **rest})


X = [[0.1, 0.2, 0.3, 0.4], [-1.0, 2.0, -3.0, 4.0]]


def expected_mlp(scale: float) -> np.ndarray:
    w1, w2 = mlp_weights(scale)
    return np.maximum(np.array(X, "f4") @ w1, 0) @ w2


def test_health_and_metadata(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    server = client.get("/v2").json()
    assert (server["name"], server["version"]) == ("onnxmx", onnxmx.__version__)
    assert set(server) == {"name", "version", "extensions"}
    assert client.get("/v2/models/mlp").json() == {
        "name": "mlp",
        "versions": ["1", "9", "10"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert client.get("/v2/models/slow").json()["inputs"] == [{"name": "n", "datatype": "INT64", "shape": []}]
    assert client.get("/v2/models/anyrank").json()["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    assert client.get("/v2/models/mlp/ready").json() == {"name": "mlp", "ready": True}


def test_metadata_says_how_values_are_prepared(client: httpx.Client) -> None:
    found = client.get("/v2/models/pixels").json()["parameters"]
    assert found == {"preprocessing": {"scale": 0.5, "shift": -1.0}, "classes": ["no", "yes"]}
    rows = {row["name"]: row for row in client.post("/v2/repository/index").json()}
    assert "onnxmx.preprocessing" in rows["unprepared"]["reason"]
    assert "onnxmx.preprocessing" in rows["unnamed"]["reason"]


def test_raw_values_are_prepared_where_a_request_says_so(client: httpx.Client) -> None:
    inputs = tensor("x", [1, 2], "FP32", [4.0, 10.0]), tensor("n", [1, 2], "INT64", [1, 2])
    for asked, expected in (
        ({}, [5.0, 12.0]),
        ({"preprocess": False}, [5.0, 12.0]),
        ({"preprocess": True}, [2.0, 6.0]),
    ):
        answer = infer(client, "pixels", *inputs, parameters=asked).json()
        assert answer["outputs"][0]["data"] == expected  # integers, as token numbers are, stay as they are
    refused = infer(client, "pixels", *inputs, parameters={"preprocess": "yes"})
    assert (refused.status_code, refused.json()["error"]) == (
        400, 'at $.parameters.preprocess: expected true or false, found "yes"',
    )  # fmt: skip
    silent = infer(client, "mlp", tensor("x", [2, 4], "FP32", X), parameters={"preprocess": True})
    assert silent.status_code == 400
    assert "says nothing of its preprocessing" in silent.json()["error"]


def test_index_lists_all_with_reasons(client: httpx.Client) -> None:
    rows = client.post("/v2/repository/index").json()
    states = {(row["name"], row["version"]): row["state"] for row in rows}
    assert states["mlp", "10"] == "READY"
    assert states["damaged", "1"] == states["empty", "1"] == "UNAVAILABLE"
    assert ("mlp", "latest") not in states
    assert "notes" not in {name for name, _ in states}
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [row for row in rows if row["state"] == "READY"] == ready


def test_a_damaged_model_says_why_and_stops_no_other(client: httpx.Client, repository: Any) -> None:
    for path in ("/v2/models/damaged/ready", "/v2/models/damaged", "/v2/models/damaged/versions/1/ready"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "Protobuf parsing failed" in answer.json()["error"]
        assert str(repository) not in answer.text
    assert infer(client, "damaged").status_code == 503
    assert client.get("/v2/models/empty/ready").json()["error"] == "there is no model.onnx in it"


@pytest.mark.parametrize("data", [X, [*X[0], *X[1]]], ids=["nested", "flat"])
@pytest.mark.parametrize(("path", "version", "scale"), [("mlp", "10", 2.0), ("mlp/versions/1", "1", 1.0)])
def test_infer(client: httpx.Client, data: Any, path: str, version: str, scale: float) -> None:
    answer = infer(client, path, tensor("x", [2, 4], "FP32", data), id="a7", parameters={"binary_data_output": True})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (output,) = body.pop("outputs")
    assert body == {"model_name": "mlp", "model_version": version, "id": "a7"}
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [2, 3])
    np.testing.assert_allclose(output["data"], expected_mlp(scale).ravel(), rtol=1e-5)


def test_outputs_are_those_asked_for_in_that_order(client: httpx.Client) -> None:
    inputs = [tensor("b", [1, 2], "FP32", [3, 4]), tensor("a", [1, 2], "FP32", [1, 2])]
    for outputs, names in (
        (["difference", "sum"], ["difference", "sum"]),
        (["sum"], ["sum"]),
        ([], ["sum", "difference"]),
    ):
        found = infer(client, "pair", *inputs, outputs=[{"name": n, "parameters": {}} for n in outputs]).json()[
            "outputs"
        ]
        assert [o["name"] for o in found] == names
        values = {o["name"]: o["data"] for o in found}
        assert values["sum" if "sum" in values else "difference"] == [4.0, 6.0]


INTEGERS = [(f"{sign}INT{bits}", bits, sign == "") for sign in ("", "U") for bits in (8, 16, 32, 64)]
ECHOES = [
    ("BOOL", [True, False]),
    *((name, [-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1]) for name, bits, signed in INTEGERS),
    ("FP16", [0.1, -65504]),
    ("FP32", [0.1, 3.4028234663852886e38]),
    ("FP64", [0.1, -1.7976931348623157e308]),
    ("FP16", ["NaN", "-Infinity"]),
    ("FP32", ["Infinity", 1.5]),
    ("FP64", ["-Infinity", "NaN"]),
    ("BYTES", ["", 'é\u0000"']),
]


@pytest.mark.parametrize(("datatype", "data"), ECHOES)
def test_every_datatype_comes_back_as_it_went(client: httpx.Client, datatype: str, data: list[Any]) -> None:
    answer = infer(client, f"echo_{datatype}", tensor("x", [1, 2], datatype, [data]))
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (output["datatype"], output["shape"]) == (datatype, [1, 2])
    if datatype in ("FP16", "FP32") and "Infinity" not in str(data):
        data = np.array(data, {"FP16": "f2", "FP32": "f4"}[datatype])
        np.testing.assert_array_equal(np.array(output["data"], data.dtype), data)
    else:
        assert output["data"] == data
        assert list(map(type, output["data"])) == list(map(type, data))


def test_float32_is_written_in_its_own_shortest_form(client: httpx.Client) -> None:
    for data in ([0.1, 16777216.0], [0.1, "NaN"]):
        text = infer(client, "echo_FP32", tensor("x", [1, 2], "FP32", data)).text
        assert '"data":[0.1,' in text  # as a float64 it would be 0.10000000149011612


def test_not_a_number_is_said_and_not_null(client: httpx.Client) -> None:
    output = infer(client, "log", tensor("x", [3], "FP32", [-1, 0, 1])).json()["outputs"][0]
    assert output["data"] == ["NaN", "-Infinity", 0.0]
    np.testing.assert_array_equal(np.array(output["data"], "f4"), [np.nan, -np.inf, 0])


def test_empty_batches_scalars_and_open_ranks(client: httpx.Client) -> None:
    for data in ([], None):
        answer = infer(client, "mlp", tensor("x", [0, 4], "FP32", data or []))
        assert answer.json()["outputs"][0] == {"name": "y", "datatype": "FP32", "shape": [0, 3], "data": []}
    for data in (1, [1]):
        assert infer(client, "slow", tensor("n", [], "INT64", data)).json()["outputs"][0]["data"] == [128.0]
    for shape in ([], [1], [1, 1, 1, 1, 1]):
        assert infer(client, "anyrank", tensor("x", shape, "FP32", [7])).json()["outputs"][0]["shape"] == shape
    assert infer(client, "anyrank", tensor("x", [2, 0], "FP32", [[], []])).json()["outputs"][0]["shape"] == [2, 0]


GOOD = tensor("x", [1, 4], "FP32", [1, 2, 3, 4])
ECHO = {"name": "x", "shape": [1, 2]}


def mlp_with(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**GOOD, **changes}]}


def echo(datatype: str, data: Any) -> dict[str, Any]:
    return {"inputs": [{**ECHO, "datatype": datatype, "data": data}]}


BAD = [
    # model, body, status, words of the error
    ("mlp", b"", 400, "at $: expected a JSON object, found an empty body"),
    ("mlp", b"{", 400, "not valid JSON"),
    ("mlp", b'{"inputs": [NaN]}', 400, "not valid JSON"),
    ("mlp", b"\xff\xfe", 400, "not valid JSON"),
    ("mlp", b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "depth limit"),
    ("mlp", [], 400, "at $: expected an object, found an array of 0"),
    ("mlp", {}, 400, "at $.inputs: expected an array of inputs, found nothing"),
    ("mlp", {"inputs": {}}, 400, "at $.inputs: expected an array of inputs, found an object of 0"),
    ("mlp", {"inputs": []}, 400, 'at $.inputs: expected an input for each that the model has, missing "x"'),
    ("mlp", {"inputs": [7]}, 400, "at $.inputs[0]: expected an object, found 7"),
    ("mlp", {"inputs": [GOOD], "id": 7}, 400, "at $.id: expected a string, found 7"),
    ("mlp", {"inputs": [GOOD], "parameters": []}, 400, "at $.parameters: expected an object"),
    ("mlp", {"inputs": [GOOD, GOOD]}, 400, 'at $.inputs[1].name: "x" stands here twice'),
    ("mlp", {"inputs": [GOOD], "outputs": {}}, 400, "at $.outputs: expected an array"),
    ("mlp", {"inputs": [GOOD], "outputs": [{}]}, 400, "at $.outputs[0].name: expected a string"),
    ("mlp", {"inputs": [GOOD], "outputs": [{"name": "Y"}]}, 400, "at $.outputs[0].name: no output of model 'mlp'"),
    ("mlp", {"inputs": [GOOD], "outputs": [{"name": "y"}] * 2}, 400, "at $.outputs[1].name"),
    ("mlp", mlp_with(name=None), 400, "at $.inputs[0].name: expected a string, found nothing"),
    ("mlp", mlp_with(name="X"), 400, """at $.inputs[0].name: no input of model 'mlp' named "X"; did you mean 'x'?"""),
    ("mlp", mlp_with(name="n" * 10**6), 400, "there are: x"),
    ("mlp", mlp_with(datatype="FP64"), 400, 'at $.inputs[0].datatype: expected FP32, found "FP64"'),
    ("mlp", mlp_with(datatype=None), 400, "at $.inputs[0].datatype"),
    ("mlp", mlp_with(datatype=["FP32"]), 400, "at $.inputs[0].datatype"),
    ("mlp", mlp_with(shape=None), 400, "at $.inputs[0].shape: expected an array of sizes, found nothing"),
    ("mlp", mlp_with(shape=[4]), 400, "at $.inputs[0].shape: expected 2 dimensions [-1, 4], found 1"),
    ("mlp", mlp_with(shape=[1, 5]), 400, "at $.inputs[0].shape[1]: expected 4, found 5"),
    ("mlp", mlp_with(shape=[-1, 4]), 400, "at $.inputs[0].shape[0]: expected a size of 0 or more, found -1"),
    ("mlp", mlp_with(shape=[1.0, 4]), 400, "at $.inputs[0].shape[0]: expected a size of 0 or more, found 1.0"),
    ("mlp", mlp_with(shape=[True, 4]), 400, "at $.inputs[0].shape[0]: expected a size of 0 or more, found true"),
    ("mlp", mlp_with(shape=[2**63, 4]), 400, "at $.inputs[0].data: expected 36893488147419103232 elements"),
    ("anyrank", mlp_with(shape=[2**32, 2**32]), 400, "expected 18446744073709551616 elements"),
    ("anyrank", mlp_with(shape=[0, 2**62, 2**62], data=[]), 400, "at $.inputs[0].data: expected at most 1048576"),
    ("anyrank", mlp_with(shape=[1] * 33, data=[1]), 400, "at $.inputs[0].shape: expected at most 32 dimensions"),
    ("mlp", {"inputs": [{k: v for k, v in GOOD.items() if k != "data"}]}, 400, "expected the elements in 'data'"),
    ("mlp", mlp_with(parameters={"binary_data_size": 16}), 400, "binary tensors are not supported"),
    ("mlp", mlp_with(data={}), 400, "at $.inputs[0].data: expected an array, found an object of 0"),
    ("mlp", mlp_with(data=[1, 2, 3]), 400, "at $.inputs[0].data: expected 4 elements for shape [1, 4], found 3"),
    (
        "mlp",
        mlp_with(data=[[1, 2, 3]]),
        400,
        "at $.inputs[0].data[0]: expected an array of 4 for shape [1, 4], found 3",
    ),
    ("mlp", mlp_with(data=[[1, 2, 3, 4]] * 2), 400, "at $.inputs[0].data: expected an array of 1"),
    ("mlp", mlp_with(shape=[2, 4], data=[[1, 2, 3, 4], 5]), 400, "at $.inputs[0].data[1]: expected an array of 4"),
    ("mlp", mlp_with(shape=[2, 4], data=[[1, 2, 3, 4], [1]]), 400, "at $.inputs[0].data[1]: expected an array of 4"),
    ("mlp", mlp_with(data=[[[1], 2, 3, 4]]), 400, "at $.inputs[0].data[0][0]: expected a number"),
    ("mlp", mlp_with(data=[1, None, 3, 4]), 400, "at $.inputs[0].data[1]: expected a number"),
    ("mlp", mlp_with(data=[1, 2, "3", 4]), 400, 'NaN", "Infinity" or "-Infinity" (FP32), found "3"'),
    ("mlp", mlp_with(data=[1, 2, True, 4]), 400, "at $.inputs[0].data[2]"),
    ("mlp", mlp_with(data=[[1, 2, 3, 1e39]]), 400, "at $.inputs[0].data[0][3]: expected a number within ±3.402823e+38"),
    ("mlp", mlp_with(data=[1, "NaN", 3, 1e39]), 400, "at $.inputs[0].data[3]"),
    ("echo_FP16", echo("FP16", [1, 70000]), 400, "at $.inputs[0].data[1]"),
    ("echo_FP64", b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP64","data":[1,1e999]}]}', 400, "not valid JSON"),
    ("echo_UINT8", echo("UINT8", [1, 300]), 400, "data[1]: expected an integer from 0 to 255 (UINT8), found 300"),
    ("echo_UINT8", echo("UINT8", [-1, 1]), 400, "at $.inputs[0].data[0]"),
    ("echo_INT8", echo("INT8", [[1, 128]]), 400, "at $.inputs[0].data[0][1]: expected an integer from -128 to 127"),
    ("echo_INT64", echo("INT64", [1, 1.5]), 400, "at $.inputs[0].data[1]: expected an integer"),
    ("echo_INT64", echo("INT64", [1, 2**63]), 400, "found 9223372036854775808"),
    ("echo_UINT64", echo("UINT64", [-1, 1]), 400, "at $.inputs[0].data[0]"),
    ("echo_UINT64", b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"UINT64","data":[1,1e30]}]}', 400, "data[1]"),
    ("echo_BOOL", echo("BOOL", [True, 1]), 400, "at $.inputs[0].data[1]: expected true or false (BOOL), found 1"),
    ("echo_BYTES", echo("BYTES", ["a", 1]), 400, "at $.inputs[0].data[1]: expected a string (BYTES), found 1"),
    (
        "pair",
        {"inputs": [tensor("a", [1, 2], "FP32", [1, 2]), tensor("b", [2, 2], "FP32", [1, 2, 3, 4])]},
        400,
        "at $.inputs[1].shape[0]: expected 1 ('n', as in input 'a'), found 2",
    ),
    ("pair", {"inputs": [tensor("a", [1, 2], "FP32", [1, 2])]}, 400, 'missing "b"'),
    ("lookup", {"inputs": [tensor("ids", [1], "INT64", [5])]}, 400, "the model refuses these inputs: "),
    ("reshape", {"inputs": [tensor("x", [5], "FP32", [1] * 5)]}, 500, "the model failed: "),
    ("mlq", mlp_with(), 404, "no model named \"mlq\"; did you mean 'mlp'?"),
    ("mlp/versions/2", mlp_with(), 404, "no version of model 'mlp' named \"2\"; there are: 1, 9, 10"),
]


@pytest.mark.parametrize(("model", "body", "status", "words"), BAD, ids=[f"{m}-{w[:40]}" for m, _, _, w in BAD])
def test_a_bad_request_is_told_why(client: httpx.Client, model: str, body: Any, status: int, words: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(f"/v2/models/{model}/infer", content=content)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert words in answer.json()["error"]
    assert len(answer.text) < 500
    assert "Traceback" not in answer.text
    assert "onnxruntime_src" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        ("GET", "/", {}, 404, "no route GET /; "),
        ("GET", "/v2/models", {}, 404, "no route"),
        ("GET", "/v2/models/mlp/", {}, 404, "no route"),
        ("GET", "/v2/models/pear", {}, 404, "did you mean 'pair'?"),
        ("GET", "/v2/models/mlp/versions/x/ready", {}, 404, "there are: 1, 9, 10"),
        ("GET", "/v2/models/mlp/infer", {}, 405, "expected the method POST"),
        ("DELETE", "/v2/health/live", {}, 405, "expected the method"),
        ("POST", "/v2/repository/index", {"content": b"[1]"}, 400, "expected an object"),
        (
            "POST",
            "/v2/models/mlp/infer",
            {"headers": {"inference-header-content-length": "9"}},
            400,
            "(tritonclient: binary_data=False)",
        ),
        ("POST", "/v2/models/mlp/infer", {"headers": {"content-encoding": "gzip"}}, 415, "'gzip' is not supported"),
    ],
)
def test_a_bad_route_is_told_why(
    client: httpx.Client, method: str, path: str, headers: dict[str, Any], status: int, words: str
) -> None:
    answer = client.request(method, path, **headers)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert words in answer.json()["error"]


def test_an_unknown_route_is_told_all_that_there_are(client: httpx.Client) -> None:
    """Each of them answers something else than 404 where the model is filled in."""
    listed = client.get("/v2/models").json()["error"].partition("there are: ")[2].split(", ")
    assert len(listed) == 10
    for route in listed:
        method, path = route.replace("{name}", "mlp").replace("{version}", "1").split(" ")
        answer = client.request(method, path)
        assert answer.status_code == (400 if path.endswith("/infer") else 200), route
    assert {"POST /v2/repository/index", "GET /v2/models/{name}", "GET /v2/health/ready"} <= set(listed)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
SCALARS |= st.sampled_from(["x", "y", "FP32", "NaN", 0, 1, 2, 4, 2**62])
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3))
NEARLY = st.fixed_dictionaries(
    {
        "inputs": JSON
        | st.lists(
            st.fixed_dictionaries(
                {"name": st.just("x") | JSON},
                optional={
                    "shape": st.lists(st.sampled_from([0, 1, 2, 2**62]), max_size=4) | JSON,
                    "datatype": st.sampled_from(["FP32", "INT64"]) | JSON,
                    "data": st.lists(SCALARS, max_size=4) | JSON,
                    "parameters": JSON,
                },
            ),
            min_size=1,
            max_size=2,
        )
    },
    optional={"id": JSON, "outputs": JSON | st.just([{"name": "y"}]), "parameters": JSON},
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(body=NEARLY | JSON, model=st.sampled_from(["mlp", "anyrank", "echo_FP32", "echo_UINT64", "echo_BYTES"]))
def test_any_json_is_answered_or_refused(client: httpx.Client, body: Any, model: str) -> None:
    answer = client.post(f"/v2/models/{model}/infer", content=json.dumps(body).encode())
    if answer.status_code == 200:
        assert answer.json()["outputs"][0]["name"] == "y"
    else:
        assert answer.status_code == 400
        assert isinstance(answer.json()["error"], str)
