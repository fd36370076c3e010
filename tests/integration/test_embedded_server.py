"""The API of the embedded model server: a real child process, asked by our client, the real stubs, and HTTP."""

from __future__ import annotations

import base64
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_mlops.engine.serving.client import ServingClient, VersionState
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.model_server import FLAGS, ModelServer, config_text, free_ports, model_text
from tests.serving_reference import reference

ROW = {"carrier": "UA", "distance": 1400.0, "hour": 3}
COLUMNS = {"carrier": np.array(["UA", "AA"]), "distance": np.array([1.0, 2.0]), "hour": np.array([3, 4])}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2 of a model, which multiply by 1 and 2."""
    folder = tmp_path_factory.mktemp("models") / "m"
    for number in (1, 2):
        reference().make(folder / str(number), weight=number)
    return folder


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory):
    """A server with ``m`` 1 (stable) and 2, and ``a b/c``, whose name must be quoted in a URL."""
    config = tmp_path_factory.mktemp("server") / "models.config"
    config.write_text(config_text(model_text("m", base, (1, 2), stable=1), model_text("a b", base, (1,), früh=1)))
    with ModelServer(f"--model_config_file={config}", *FLAGS, "--rest_api_timeout_in_ms=1000") as running:
        running.wait_until_open()
        running.wait_for_states("m", {1: "AVAILABLE", 2: "AVAILABLE"})
        yield running


def grpc_predict(server: ModelServer, spec: dict[str, Any], inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return reference().call(server.port, "Predict", {"model_spec": spec, "inputs": inputs, **more})


def tensor(dtype: str, field: str, *values: Any, size: int | None = None) -> dict[str, Any]:
    shape = {"dim": [{"size": len(values) if size is None else size}]}
    return {"dtype": dtype, "tensor_shape": shape, field: list(values)}


GOOD = {
    "carrier": tensor("DT_STRING", "string_val", base64.b64encode(b"UA").decode()),
    "distance": tensor("DT_FLOAT", "float_val", 10.0),
    "hour": tensor("DT_INT64", "int64_val", 3),
}


# --- answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "score"),
    [({}, [5.0, 8.0]), ({"version": 1}, [4.0, 6.0]), ({"version": 2}, [5.0, 8.0]), ({"label": "stable"}, [4.0, 6.0])],
    ids=["latest", "1", "2", "stable"],
)
def test_predict_with_our_client(server: ModelServer, spec: dict[str, Any], score: list[float]):
    outputs = server.client.predict("m", COLUMNS, **spec)
    assert outputs["score"].tolist() == score
    assert outputs["carrier_bytes"].tolist() == [b"UA", b"AA"]
    assert outputs["carrier_text"].tolist() == [b"ua", b"aa"]


def test_predict_with_the_real_stub(server: ModelServer):
    answer = grpc_predict(server, {"name": "m", "version_label": "stable"}, GOOD)
    assert answer["model_spec"] == {"name": "m", "version": "1", "signature_name": "serving_default"}
    assert answer["outputs"]["score"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "1"}]},
        "float_val": [13.0],
    }
    assert answer["outputs"]["carrier_text"]["string_val"] == [base64.b64encode(b"ua").decode()]


def test_short_value_lists_are_padded_and_content_is_read(server: ModelServer):
    inputs = {
        "carrier": tensor("DT_STRING", "string_val", base64.b64encode(b"UA").decode(), size=3),
        "distance": tensor("DT_FLOAT", "float_val", 1.0, 2.0, size=3),
        "hour": {
            "dtype": "DT_INT64",
            "tensor_shape": {"dim": [{"size": 3}]},
            "tensor_content": base64.b64encode(np.array([1, 2, 3], np.int64).tobytes()).decode(),
        },
    }
    answer = grpc_predict(server, {"name": "m", "version": 1}, inputs, output_filter=["score"])
    assert list(answer["outputs"]) == ["score"]
    assert answer["outputs"]["score"]["float_val"] == [2.0, 4.0, 5.0]


def test_metadata_says_where_a_label_points(server: ModelServer):
    version, signature = server.client.metadata("m", label="stable")
    assert version == 1
    assert signature.inputs["distance"].dtype == "float32"
    assert server.client.metadata("m")[0] == 2
    request = {"model_spec": {"name": "m", "version_label": "stable"}, "metadata_field": ["signature_def"]}
    real = reference().call(server.port, "GetModelMetadata", request)
    status, ours = server.rest("GET", "/v1/models/m/labels/stable/metadata")
    assert status == 200
    assert real["model_spec"] == {"name": "m", "version": "1"}
    assert ours["model_spec"] == {"name": "m", "version": "1", "signature_name": ""}
    definitions = real["metadata"]["signature_def"]["signature_def"]  # unpacked by the real class
    assert set(definitions) == {"__saved_model_init_op", "serving_default", "echo", "pair", "slow"}
    assert definitions["serving_default"]["inputs"]["hour"]["dtype"] == "DT_INT64"
    inputs = ours["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["hour"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_status(server: ModelServer):
    available = VersionState("AVAILABLE", "")
    assert server.client.status("m") == {1: available, 2: available}
    assert server.client.status("m", 2) == {2: available}
    entry = {"version": "1", "state": "AVAILABLE", "status": {}}
    assert reference().call(server.port, "GetModelStatus", {"model_spec": {"name": "m", "version": 1}}) == {
        "model_version_status": [entry]
    }
    entry["status"] = {"error_code": "OK", "error_message": ""}
    assert server.rest("GET", "/v1/models/m/versions/1") == (200, {"model_version_status": [entry]})
    # A label in a status request means nothing: all versions are answered.
    _, answer = server.rest("GET", "/v1/models/m/labels/nonsense")
    assert [each["version"] for each in answer["model_version_status"]] == ["2", "1"]


def test_rest_rows_and_columns(server: ModelServer):
    rows = {"instances": [ROW, {**ROW, "distance": 1, "carrier": {"b64": base64.b64encode(b"\x00A").decode()}}]}
    ua, a = {"b64": base64.b64encode(b"UA").decode()}, {"b64": base64.b64encode(b"\x00A").decode()}
    assert server.predict("m/versions/1", rows) == (
        200,
        {
            "predictions": [
                {"carrier_bytes": ua, "carrier_text": "ua", "score": 1403.0},
                {"carrier_bytes": a, "carrier_text": "\x00a", "score": 4.0},
            ]
        },
    )
    columns = {"inputs": {"carrier": ["UA"], "distance": [0.1], "hour": [0]}}
    assert server.predict("m", columns) == (
        200,
        {"outputs": {"carrier_bytes": [ua], "carrier_text": ["ua"], "score": [0.2]}},
    )


def test_rest_with_one_input_and_one_output(server: ModelServer):
    assert server.predict("m", {"signature_name": "pair", "instances": [[1, 2], [3, 4.5]]}) == (
        200,
        {"predictions": [6.0, 15.0]},
    )
    assert server.predict("m", {"signature_name": "pair", "instances": [{"x": [1, 2]}]})[1] == {"predictions": [6.0]}
    assert server.predict("m", {"signature_name": "pair", "inputs": [[1, 2]]})[1] == {"outputs": [6.0]}
    assert server.predict("m", {"signature_name": "pair", "inputs": {"x": [[1, 2]]}})[1] == {"outputs": [6.0]}
    assert server.predict("m", {"signature_name": "slow", "inputs": {"loops": 1}})[1] == {"outputs": 128.0}


def test_rest_bare_words(server: ModelServer):
    body = b'{"signature_name": "pair", "instances": [[NaN, 1], [Infinity, 1], [-Infinity, 1], [1e300, 1], [0.1, 0]]}'
    status, answer = server.predict("m", body)
    assert status == 200
    nan, *others = answer["predictions"]
    assert math.isnan(nan)
    assert others == [math.inf, -math.inf, math.inf, 0.2]


def test_rest_speaks_every_type(server: ModelServer):
    kinds = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")
    row = dict.fromkeys(kinds, 7) | {"bool": True, "string": "é", "int64": -(2**63), "uint64": 2**64 - 1}
    status, answer = server.predict("m", {"signature_name": "echo", "instances": [row]})
    assert status == 200
    assert answer["predictions"] == [{f"{name}_out": value for name, value in row.items()}]


def test_paths_in_any_case_and_quoted(server: ModelServer):
    assert server.rest("GET", "/V1/Models/m/VERSIONS/1")[0] == 200
    assert server.predict("a%20b", {"instances": [ROW]})[0] == 200
    assert server.predict("a%20b/labels/fr%C3%BCh", {"instances": [ROW]})[0] == 200
    assert server.rest("GET", "/v1/models/m/versions/1?verbose=1")[0] == 200


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "change", "code", "details"),
    [
        (None, {}, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ({}, {}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"name": "n"}, {}, "NOT_FOUND", "Servable not found for request: Latest(n)"),
        ({"name": "m", "version": 7}, {}, "NOT_FOUND", "Servable not found for request: Specific(m, 7)"),
        ({"name": "m", "version_label": "L"}, {}, "INVALID_ARGUMENT", "Unrecognized servable version label: L"),
        ({"name": "m", "signature_name": "s"}, {}, "FAILED_PRECONDITION", 'Serving signature key "s" not found.'),
        (
            {"name": "m"},
            {"hour": None, "x": GOOD["hour"], "y": GOOD["hour"]},
            "INVALID_ARGUMENT",
            ("input size does not match signature: 4!=3 len({carrier,distance,x,y}) != len({carrier,distance,hour}). "
            "Sent extra: {x,y}. Missing but required: {hour}."),
        ),
        (
            {"name": "m"},
            {"hour": None, "x": GOOD["hour"]},
            "INVALID_ARGUMENT",
            ("Signature input alias: hour(feed name: serving_default_hour:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {carrier,distance,x}, or default input alias set: "),
        ),
        (
            {"name": "m"},
            {"hour": tensor("DT_FLOAT", "float_val", 3.0)},
            "INVALID_ARGUMENT",
            "Expects arg[2] to be int64 but float is provided",
        ),
        (
            {"name": "m"},
            {"hour": tensor("DT_INT64", "int64_val", 3, 4, size=1)},
            "INVALID_ARGUMENT",
            "tensor parsing error: hour",
        ),
        (
            {"name": "m"},
            {"hour": tensor("DT_INT64", "int64_val", 3, 4, 5), "distance": tensor("DT_FLOAT", "float_val", 3, 4)},
            "INVALID_ARGUMENT",
            "Incompatible shapes",
        ),
    ],
    ids=["spec", "name", "model", "version", "label", "signature", "size", "alias", "dtype", "corrupt", "shape"],
)  # fmt: skip
def test_grpc_errors(server: ModelServer, spec: Any, change: dict[str, Any], code: str, details: str):
    inputs = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    request = {"inputs": inputs} | ({"model_spec": spec} if spec is not None else {})
    answer = reference().call(server.port, "Predict", request)
    assert answer["code"] == code
    assert details in answer["details"]


@pytest.mark.parametrize(
    ("names", "details"),
    [
        (
            ["nope"],
            (
                "output tensor alias not found in signature: nope Outputs expected to be in the set "
                "{carrier_bytes,carrier_text,score}."
            ),
        ),
        (["score", "score"], "duplicate output tensor alias: score"),
    ],
)
def test_output_filter_errors(server: ModelServer, names: list[str], details: str):
    answer = grpc_predict(server, {"name": "m"}, GOOD, output_filter=names)
    assert answer == {"code": "INVALID_ARGUMENT", "details": details}


@pytest.mark.parametrize(
    ("method", "request_", "code", "details"),
    [
        ("GetModelStatus", {}, "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("GetModelStatus", {"model_spec": {"name": "n"}}, "NOT_FOUND", "Could not find any versions of model n"),
        (
            "GetModelStatus",
            {"model_spec": {"name": "m", "version": 9}},
            "NOT_FOUND",
            "Could not find version 9 of model m",
        ),
        (
            "GetModelMetadata",
            {"model_spec": {"name": "m"}},
            "INVALID_ARGUMENT",
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            "GetModelMetadata",
            {"model_spec": {"name": "m"}, "metadata_field": ["x"]},
            "INVALID_ARGUMENT",
            "Metadata field x is not supported",
        ),
        ("Classify", {}, "UNIMPLEMENTED", "Classify is not implemented by the embedded model server."),
        (
            "HandleReloadConfigRequest",
            {},
            "INVALID_ARGUMENT",
            (
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            ),
        ),
        (
            "HandleReloadConfigRequest",
            {"config": {"model_config_list": {"config": [{"name": "m", "base_path": "rel"}]}}},
            "INVALID_ARGUMENT",
            "Expected model m to have an absolute path or URI; got base_path()=rel",
        ),
    ],
)
def test_other_grpc_errors(server: ModelServer, method: str, request_: dict[str, Any], code: str, details: str):
    assert reference().call(server.port, method, request_) == {"code": code, "details": details}


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("n:predict", {"instances": [ROW]}, 404, "Servable not found for request: Latest(n)"),
        ("m/versions/7:predict", {"instances": [ROW]}, 404, "Servable not found for request: Specific(m, 7)"),
        ("m/labels/L:predict", {"instances": [ROW]}, 400, "Unrecognized servable version label: L"),
        (
            "m:predict",
            {"signature_name": "s", "instances": [ROW]},
            400,
            'Serving signature name: "s" not found in signature def',
        ),
        ("m:classify", {}, 501, "classify is not implemented by the embedded model server."),
        ("m:Predict", {"instances": [ROW]}, 400, "Malformed request: POST /v1/models/m:Predict"),
        ("m:explain", {}, 400, "Malformed request: POST /v1/models/m:explain"),
        ("m", {}, 400, "Malformed request: POST /v1/models/m"),
        (
            "m/versions/99999999999999999999:predict",
            {},
            400,
            "Failed to convert version: 99999999999999999999 to numeric.",
        ),
        ("m:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("m:predict", b'{"instances": [1,}', 400, "JSON Parse error: Expecting value. at offset: 17"),
        ("m:predict", {"instances": [{**ROW, "distance": "x"}]}, 400,
         ("Failed to process element: 0 key: distance of 'instances' list. Error: INVALID_ARGUMENT: "
         'JSON Value: "x" Type: String is not of expected type: float')),
    ],
)  # fmt: skip
def test_rest_errors(server: ModelServer, path: str, body: Any, status: int, error: str):
    answered, content = server.rest("POST", f"/v1/models/{path}", body)
    assert answered == status
    assert content == {"error": error}


def test_rest_errors_without_a_body(server: ModelServer):
    assert server.rest("GET", "/v1/models") == (400, {"error": "Missing model name in request."})
    assert server.rest("GET", "/v1/models/n") == (404, {"error": "Could not find any versions of model n"})
    assert server.rest("GET", "/v1/nothing") == (400, {"error": "Malformed request: GET /v1/nothing"})
    assert server.rest("PUT", "/v1/models/m") == (400, {"error": "Malformed request: PUT /v1/models/m"})
    status, body = server.rest("GET", "/elsewhere")
    assert status == 404
    assert isinstance(body, bytes)
    assert server.rest("OPTIONS", "/v1/models/m", headers={"Origin": "http://x"})[0] == 200
    assert server.rest("OPTIONS", "/v1/models/m")[0] == 400


def test_a_slow_model_times_out_and_holds_nobody_up(server: ModelServer):
    slow = {"signature_name": "slow", "inputs": {"loops": 400_000}}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.predict, "m", slow)
        started = time.monotonic()
        while not waiting.done():
            assert server.rest("GET", "/v1/models/m")[0] == 200
            assert server.predict("m", {"instances": [ROW]})[0] == 200
        status, answer = waiting.result()
    assert status == 504
    assert "Timed out" in answer["error"]
    assert time.monotonic() - started < 5


def test_long_errors_are_cut_for_grpc(server: ModelServer):
    spec = {"name": "n" * 2000}
    details = reference().call(server.port, "Predict", {"model_spec": spec})["details"]
    assert len(details) == 1024 + len("...TRUNCATED")
    assert details.endswith("...TRUNCATED")


# --- what our client makes of it ----------------------------------------------------------------------------


def test_errors_of_the_client(server: ModelServer):
    with pytest.raises(DataError, match=r"Specific\(m, 9\)"):
        server.client.predict("m", COLUMNS, version=9)
    with pytest.raises(DataError, match="Unrecognized servable version label: L"):
        server.client.metadata("m", label="L")
    with pytest.raises(DataError, match="Could not find any versions of model n"):
        server.client.status("n")
    with pytest.raises(DataError, match=r"missing: \['hour'\]"):
        server.client.predict("m", {name: array for name, array in COLUMNS.items() if name != "hour"})
    with pytest.raises(ConfigError, match="a version or a label"):
        server.client.predict("m", COLUMNS, version=1, label="stable")
    before = server.client.status("m")
    with pytest.raises(ConfigError, match="Request to assign label to version 9 of model m"):
        server.client.reload(ServerConfig((ModelConfig("m", "/models/m", (9,), {"stable": 9}),)))
    assert server.client.status("m") == before


def test_a_server_that_is_not_there_is_a_transient_error():
    (port,) = free_ports(1)
    with ServingClient("127.0.0.1", port, timeout=2) as client, pytest.raises(TransientError) as error:
        client.status("m")
    assert f"127.0.0.1:{port}" in error.value.headline
    assert "Check that it runs" in error.value.hint


def test_the_wrong_port_is_not_mistaken_for_a_server(server: ModelServer):
    with ServingClient("127.0.0.1", server.rest_port, timeout=2) as client, pytest.raises(TransientError):
        client.status("m")
