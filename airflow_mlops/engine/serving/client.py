"""The client of a model server: TensorFlow Serving, or the embedded one.

Status, reload and prediction go over gRPC with this package's own minimal messages; TensorFlow is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from airflow_mlops.contracts import Signature
from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.config import ServerConfig
from airflow_mlops.engine.serving.protos import services
from airflow_mlops.engine.serving.protos import serving_pb2 as pb
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError

DEFAULT_SIGNATURE = "serving_default"
TENSORFLOW_VERSION = "airflow-mlops-tensorflow-version"
"""Trailing metadata in which the embedded server says its version of TensorFlow."""

_MAX_MESSAGE_BYTES = 2**31 - 1
_Response = TypeVar("_Response", bound=Message)


class VersionState(NamedTuple):
    """Where one version of a model is in its life.

    ``state`` is ``START``, ``LOADING``, ``AVAILABLE``, ``UNLOADING`` or ``END``; ``error`` is empty when all is
    well, else ``CODE: message``.
    """

    state: str
    error: str


class ServingClient:
    """Calls to one model server. Thread-safe; close it, or use it in a ``with`` statement.

    :param host: Host name or address.
    :param grpc_port: Its gRPC port.
    :param rest_port: Its REST port: kept for links and ``curl`` lines, nothing here calls it.
    :param timeout: Seconds for one call.
    """

    def __init__(self, host: str, grpc_port: int, rest_port: int | None = None, timeout: float = 10) -> None:
        self.host = host
        self.grpc_port = grpc_port
        self.rest_port = rest_port
        self.timeout = timeout
        self._signatures: dict[tuple[str, int], Signature] = {}
        self._channel = grpc.insecure_channel(
            self.address,
            options=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                # A server that restarts must be found again within a poll, not after gRPC's minutes of back-off.
                ("grpc.max_reconnect_backoff_ms", 1000),
                # Model servers are addressed directly; a proxy of the environment would answer in their place.
                ("grpc.enable_http_proxy", 0),
            ],
        )

    @property
    def address(self) -> str:
        """``host:port`` of the gRPC API."""
        return f"{self.host}:{self.grpc_port}"

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self, model: str, version: int | None = None) -> dict[int, VersionState]:
        """Return version → state of a model, versions that ended included.

        :raises DataError: when the server has never heard of the model or the version.
        """
        request = pb.GetModelStatusRequest(model_spec=_spec(model, version))
        response = self._call(services.GET_MODEL_STATUS, request, pb.GetModelStatusResponse)
        return {
            entry.version: VersionState(
                pb.ModelVersionStatus.State.Name(entry.state),
                f"{Code.of(entry.status.error_code).name}: {entry.status.error_message}"
                if entry.status.error_code
                else "",
            )
            for entry in response.model_version_status
        }

    def tensorflow_version(self) -> str | None:
        """Return the version of TensorFlow that the server loads models with; None when it does not say.

        The embedded server says it beside its answers; TensorFlow Serving does not.
        """
        request = pb.GetModelStatusRequest(model_spec=_spec("version-of-tensorflow", None))
        trailing: Any
        try:
            _, call = self._method(services.GET_MODEL_STATUS, pb.GetModelStatusResponse).with_call(
                request, timeout=self.timeout
            )
            trailing = call.trailing_metadata()
        except grpc.RpcError as error:  # there is no such model: the answer says it all the same
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise self._translate(error, services.GET_MODEL_STATUS) from error
            trailing = error.trailing_metadata()
        return dict(trailing or ()).get(TENSORFLOW_VERSION)

    def reload(self, config: ServerConfig, timeout: float | None = None) -> None:
        """Replace the server's whole configuration: what is not in it is unloaded.

        Returns once models with new *names* are available; new versions of known models load later, and a label
        can only be given to a version that is available already.

        :param timeout: Seconds for this call, when loading a new model may take longer than a call usually does.
        :raises ConfigError: when the server refuses the configuration; re-send the last good one then.
        """
        request = pb.ReloadConfigRequest(config=config.to_proto())
        try:
            response = self._call(services.RELOAD_CONFIG, request, pb.ReloadConfigResponse, timeout)
        except DataError as error:
            raise _refused(error.detail) from None
        if response.status.error_code:
            code = Code.of(response.status.error_code).name
            raise _refused(f"{self.address}: {code}: {response.status.error_message}")

    def metadata(self, model: str, version: int | None = None, label: str | None = None) -> tuple[int, Signature]:
        """Return the version that a request would reach, and its ``serving_default`` signature.

        :raises DataError: when there is no such model, version or label, or the model has no such signature.
        """
        number, signatures = self.signatures(model, version, label)
        if DEFAULT_SIGNATURE not in signatures:
            raise DataError(
                f"Model {model!r} has no signature {DEFAULT_SIGNATURE!r}.",
                detail=f"{self.address}, signatures: {sorted(signatures)}",
                hint="Export the model with a serving signature (model.export).",
            )
        return number, signatures[DEFAULT_SIGNATURE]

    def signatures(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> tuple[int, dict[str, Signature]]:
        """Return the version that a request would reach, and all of its signatures by name.

        This is how to learn where a label points.

        :raises DataError: when there is no such model, version or label.
        """
        request = pb.GetModelMetadataRequest(model_spec=_spec(model, version, label), metadata_field=["signature_def"])
        response = self._call(services.GET_MODEL_METADATA, request, pb.GetModelMetadataResponse)
        # Unpacking by type name would need TensorFlow Serving's own class in the descriptor pool.
        packed = pb.SignatureDefMap.FromString(response.metadata["signature_def"].value)
        return response.model_spec.version.value, tensors.to_signatures(packed.signature_def)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, np.ndarray],
        version: int | None = None,
        label: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the model's outputs. Inputs are cast to the signature where no value changes.

        With neither ``version`` nor ``label`` the server takes its highest available version.

        :raises DataError: when there is no such model, version or label, or the model refuses the inputs.
        """
        signature = self._signature(model, version, label)
        request = pb.PredictRequest(
            model_spec=_spec(model, version, label),
            inputs={name: tensors.to_proto(array) for name, array in tensors.conform(inputs, signature.inputs).items()},
        )
        response = self._call(services.PREDICT, request, pb.PredictResponse)
        return {name: tensors.from_proto(proto) for name, proto in response.outputs.items()}

    def _signature(self, model: str, version: int | None, label: str | None) -> Signature:
        """Return the signature to cast to. A version never changes; where a label points does."""
        if version is None:
            return self.metadata(model, label=label)[1]
        key = (model, version)
        if key not in self._signatures:
            self._signatures[key] = self.metadata(model, version)[1]
        return self._signatures[key]

    def _call(
        self, method: services.Method, request: Message, response: type[_Response], timeout: float | None = None
    ) -> _Response:
        try:
            answer: _Response = self._method(method, response)(request, timeout=timeout or self.timeout)
        except grpc.RpcError as error:
            raise self._translate(error, method) from error
        return answer

    def _method(self, method: services.Method, response: type[Message]) -> Any:
        return self._channel.unary_unary(
            method.path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def _translate(self, error: Any, method: services.Method) -> MlopsError:
        code: grpc.StatusCode = error.code()
        detail = f"{self.address}: {code.name}: {error.details()}"
        match code:
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
                return TransientError(
                    f"The model server at {self.address} does not answer.",
                    detail=f"{detail} ({method.name}, timeout {self.timeout:g} s)",
                    hint="Check that it runs and that host and gRPC port are right; "
                    "it opens its ports only after the first models are loaded.",
                )
            case grpc.StatusCode.NOT_FOUND:
                return DataError(
                    "The model server does not have this model or version.",
                    detail=detail,
                    hint="Load it first; its state and error are in the model's status.",
                )
            case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.FAILED_PRECONDITION:
                return DataError(
                    "The model server refused the request.",
                    detail=detail,
                    hint="Check the model's name, and its version or label: `airflow-mlops deployments` lists them.",
                )
            case grpc.StatusCode.UNIMPLEMENTED:
                return ConfigError(
                    f"The server at {self.address} does not know {method.name}.",
                    detail=detail,
                    hint="Is this the gRPC port of a model server?",
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.ABORTED | grpc.StatusCode.CANCELLED:
                return TransientError("The model server could not take the request now.", detail=detail)
            case _:
                return DataError("The model server failed on the request.", detail=detail)


def _spec(model: str, version: int | None = None, label: str | None = None) -> pb.ModelSpec:
    if version is not None and label is not None:
        raise ConfigError(
            "A request names a version or a label, not both.", detail=f"version {version}, label {label!r}"
        )
    spec = pb.ModelSpec(name=model)
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    return spec


def _refused(detail: str) -> ConfigError:
    return ConfigError(
        "The model server refused the configuration.",
        detail=detail,
        hint="Send the complete last good configuration again; a label may only point to a version that is AVAILABLE.",
    )
