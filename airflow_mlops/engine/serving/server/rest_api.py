"""The REST API, as a plain ASGI application."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson
from google.protobuf import json_format

from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.protos import serving_pb2 as pb
from airflow_mlops.engine.serving.saved_model import DEFAULT_SIGNATURE
from airflow_mlops.engine.serving.server import json_answer, json_tensor
from airflow_mlops.engine.serving.server.errors import ServingError, invalid
from airflow_mlops.engine.serving.server.manager import ModelManager, Request
from airflow_mlops.engine.serving.server.predict import predict

_log = logging.getLogger(__name__)
_OURS = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = r"(?:(?:/versions/(?P<version>\d+))|(?:/labels/(?P<label>[^/:]+)))?"
_PREDICTION = re.compile(
    rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_STATUS = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?:/(?P<what>metadata))?", re.IGNORECASE | re.ASCII)
_JSON_HEADERS = [(b"content-type", b"application/json")]
_CORS_HEADERS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answer(NamedTuple):
    """Status, headers and body of a response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class RestApi:
    """The application, over one manager.

    :param executor: Threads that predictions run in, so that a slow model does not hold up the others.
    :param timeout: Seconds for one request.
    :param cors: Answer with headers that let any web page call the API.
    """

    def __init__(self, manager: ModelManager, executor: Executor, *, timeout: float, cors: bool) -> None:
        self._manager = manager
        self._executor = executor
        self._timeout = timeout
        self._extra_headers = _CORS_HEADERS if cors else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        answer = await self._answer(scope, receive)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        method, path = scope["method"], scope["raw_path"].decode("latin-1")
        if not _OURS.fullmatch(path):
            return Answer(404, [(b"content-type", b"text/plain")], b"Not found\n")
        headers = [*_JSON_HEADERS, *self._extra_headers]
        try:
            if method == "OPTIONS":
                return Answer(_preflight(scope), headers, b"")
            body = await _read(receive)
            return Answer(200, headers, await self._dispatch(method, path, body))
        except ServingError as error:
            failure = error
        except Exception as error:
            _log.exception("%s %s failed", method, path)
            failure = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        _log.debug("%s %s failed: %s", method, path, failure)
        return Answer(failure.http_status, headers, orjson.dumps({"error": failure.message}))

    async def _dispatch(self, method: str, path: str, body: bytes) -> bytes:
        malformed = invalid(f"Malformed request: {method} {path}")
        if method == "POST" and (match := _PREDICTION.fullmatch(path)):
            request = _request(match)
            match match["method"]:
                case "predict":
                    return await self._in_thread(lambda: self._predict(request, body))
                case "classify" | "regress" as name:
                    raise ServingError(Code.UNIMPLEMENTED, f"{name} is not implemented by the embedded model server.")
                case _:
                    raise malformed  # the path is matched in any case of letters, the method is not
        if method == "GET" and (match := _STATUS.fullmatch(path)):
            if not match["model"]:
                raise invalid("Missing model name in request.")
            request = _request(match)
            return self._metadata(request) if match["what"] == "metadata" else self._status(request)
        raise malformed

    async def _in_thread(self, work: Callable[[], bytes]) -> bytes:
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            async with asyncio.timeout(self._timeout):  # cheaper than `wait_for`, which waits in a future of its own
                return await future
        except TimeoutError:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"Timed out after {self._timeout:g} seconds waiting for the model."
            ) from None

    def _predict(self, request: Request, body: bytes) -> bytes:
        parsed = json_tensor.parse_body(body)
        name = parsed.signature_name or DEFAULT_SIGNATURE
        with self._manager.hold(request) as servable:
            signature = servable.saved_model.signatures.get(name)
            if signature is None:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            if not signature.inputs:
                raise invalid(f"Failed to get input map for signature: {parsed.signature_name or 'DEFAULT'}")
            layout, inputs = json_tensor.read_inputs(parsed.document, signature.inputs)
            return json_answer.write_outputs(predict(servable.saved_model, name, inputs), layout)

    def _status(self, request: Request) -> bytes:
        entries = [
            {
                "version": str(version.number),
                "state": version.state.name,
                "status": {
                    "error_code": (version.error.code if version.error else Code.OK).name,
                    "error_message": version.error.message if version.error else "",
                },
            }
            for version in self._manager.status(request.model, request.version)
        ]
        return orjson.dumps({"model_version_status": entries}, option=orjson.OPT_INDENT_2)

    def _metadata(self, request: Request) -> bytes:
        with self._manager.hold(request) as servable:
            spec = {"name": servable.model, "signature_name": "", "version": str(servable.version)}
            definitions = pb.SignatureDefMap(signature_def=servable.saved_model.signature_defs)
        signatures = json_format.MessageToDict(
            definitions, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        document = {"model_spec": spec, "metadata": {"signature_def": signatures}}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2)


def _request(match: re.Match[str]) -> Request:
    version, label = match["version"], match["label"]
    if version is not None and int(version) >= 2**63:
        raise invalid(f"Failed to convert version: {version} to numeric.")
    return Request(
        unquote(match["model"]),
        version=int(version) if version is not None else None,
        label=unquote(label) if label is not None else None,
    )


def _preflight(scope: Scope) -> int:
    """Answer a browser's question whether it may call: only one that says where it comes from may."""
    origin = dict(scope["headers"]).get(b"origin", b"")
    return 200 if re.search(rb"https?://", origin) else 400


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ServingError(Code.CANCELLED, "The client went away.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
