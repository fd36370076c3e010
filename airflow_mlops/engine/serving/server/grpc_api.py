"""The gRPC API: PredictionService and ModelService."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.c_api import library
from airflow_mlops.engine.serving.client import TENSORFLOW_VERSION
from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.protos import services
from airflow_mlops.engine.serving.protos import serving_pb2 as pb
from airflow_mlops.engine.serving.saved_model import DEFAULT_SIGNATURE
from airflow_mlops.engine.serving.server.errors import ServingError, invalid
from airflow_mlops.engine.serving.server.manager import ModelManager, Request, Servable
from airflow_mlops.engine.serving.server.predict import predict
from airflow_mlops.exceptions import ConfigError, DataError

_log = logging.getLogger(__name__)
_MAX_MESSAGE_BYTES = 2**31 - 1
_STATUS_CODES = {status.value[0]: status for status in grpc.StatusCode}
#: Methods of the real server that this one does not have yet.
_MISSING = ("Classify", "Regress", "MultiInference")
_Message = TypeVar("_Message", bound=Message)
_READ_AS: dict[services.Method, type[Message]] = {services.PREDICT: pb.SentRequest}
_Behaviours = dict[services.Method, Callable[..., Any]]


class GrpcApi:
    """The handlers, over one manager.

    :param as_content: Answer numbers as ``tensor_content`` instead of typed fields.
    """

    def __init__(self, manager: ModelManager, *, as_content: bool = False) -> None:
        self._manager = manager
        self._encode = tensors.to_proto if as_content else tensors.to_typed_proto

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the services, for a ``grpc.Server``."""
        prediction: _Behaviours = {
            services.PREDICT: self._predict,
            services.GET_MODEL_METADATA: self._metadata,
        }
        model: _Behaviours = {
            services.GET_MODEL_STATUS: self._status,
            services.RELOAD_CONFIG: self._reload,
        }
        missing = {name: grpc.unary_unary_rpc_method_handler(_unimplemented(name)) for name in _MISSING}
        return (
            grpc.method_handlers_generic_handler(services.PREDICTION_SERVICE, {**_handlers(prediction), **missing}),
            grpc.method_handlers_generic_handler(services.MODEL_SERVICE, _handlers(model)),
        )

    def _predict(self, request: pb.SentRequest, _: grpc.ServicerContext) -> pb.PredictResponse:
        with self._manager.hold(_request(request)) as servable:
            inputs = {alias: _tensor(alias, sent) for alias, sent in request.inputs.items()}
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            outputs = predict(servable.saved_model, name, inputs, request.output_filter)
            return pb.PredictResponse(
                model_spec=_spec(servable, name),
                outputs={alias: self._encode(array) for alias, array in outputs.items()},
            )

    def _metadata(self, request: pb.GetModelMetadataRequest, _: grpc.ServicerContext) -> pb.GetModelMetadataResponse:
        asked = _request(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid(f"Metadata field {name} is not supported")
        with self._manager.hold(asked) as servable:
            packed = pb.SignatureDefMap(signature_def=servable.saved_model.signature_defs)
            response = pb.GetModelMetadataResponse(model_spec=_spec(servable))
            response.metadata["signature_def"].type_url = services.SIGNATURE_DEF_URL
            response.metadata["signature_def"].value = packed.SerializeToString()
            return response

    def _status(self, request: pb.GetModelStatusRequest, context: grpc.ServicerContext) -> pb.GetModelStatusResponse:
        # Not part of the protocol: how a client may learn what it would load models with.
        context.set_trailing_metadata(((TENSORFLOW_VERSION, library().quick.TF_Version().decode()),))
        asked = _request(request)
        response = pb.GetModelStatusResponse()
        for version in self._manager.status(asked.model, asked.version):
            entry = response.model_version_status.add(
                version=version.number, state=pb.ModelVersionStatus.State.Name(version.state)
            )
            entry.status.SetInParent()
            if version.error:
                entry.status.error_code = version.error.code
                entry.status.error_message = version.error.message
        return response

    def _reload(self, request: pb.ReloadConfigRequest, context: grpc.ServicerContext) -> pb.ReloadConfigResponse:
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        self._manager.reload(request.config, waiting=context.is_active)
        response = pb.ReloadConfigResponse()
        response.status.SetInParent()
        for name in request.metric_names:
            # This server has no metrics, so none has increased; the real one says the same of an unknown name.
            response.metric.add(name=name, int64_value_increase=0)
        return response


def start(
    manager: ModelManager,
    addresses: list[str],
    *,
    threads: int,
    as_content: bool,
    arguments: list[tuple[str, int | str]],
) -> grpc.Server:
    """Open the ports and serve in the background.

    :param addresses: ``host:port`` or ``unix:path``.
    :param arguments: Further channel arguments of gRPC.
    :raises ConfigError: when an address cannot be bound.
    """
    server = grpc.server(
        ThreadPoolExecutor(threads, "grpc"),
        handlers=GrpcApi(manager, as_content=as_content).handlers(),
        options=[
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # Two servers on one port would answer in turns.
            ("grpc.so_reuseport", 0),
            *arguments,
        ],
    )
    for address in addresses:
        try:
            server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(
                f"The gRPC address {address} cannot be bound.",
                detail=str(error),
                hint="Is another server running there? Choose another --port.",
            ) from error
    server.start()
    return server


def _handlers(methods: _Behaviours) -> dict[str, grpc.RpcMethodHandler]:
    return {
        method.name: grpc.unary_unary_rpc_method_handler(
            _answering(method, behaviour),
            request_deserializer=_READ_AS.get(method, method.request).FromString,
            response_serializer=method.response.SerializeToString,
        )
        for method, behaviour in methods.items()
    }


def _answering(method: services.Method, behaviour: Callable[..., _Message]) -> Callable[..., _Message]:
    """Turn what a handler raises into the status of the call."""

    def answer(request: Message, context: grpc.ServicerContext) -> _Message:
        try:
            return behaviour(request, context)
        except ServingError as error:
            _log.debug("%s failed: %s", method.name, error)
            failure = error
        except Exception as error:
            _log.exception("%s failed", method.name)
            failure = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        context.abort(_STATUS_CODES[failure.code], failure.grpc_message)
        raise AssertionError  # abort raises

    return answer


def _unimplemented(name: str) -> Callable[[bytes, grpc.ServicerContext], NoReturn]:
    def answer(_: bytes, context: grpc.ServicerContext) -> NoReturn:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not implemented by the embedded model server.")
        raise AssertionError  # abort raises

    return answer


def _request(message: pb.SentRequest | pb.GetModelMetadataRequest | pb.GetModelStatusRequest) -> Request:
    if not message.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    spec = message.model_spec
    match spec.WhichOneof("version_choice"):
        case "version":
            return Request(spec.name, version=spec.version.value)
        case "version_label":
            return Request(spec.name, label=spec.version_label)
        case _:
            return Request(spec.name)


def _spec(servable: Servable, signature_name: str = "") -> pb.ModelSpec:
    spec = pb.ModelSpec(name=servable.model, signature_name=signature_name)
    spec.version.value = servable.version
    return spec


def _tensor(alias: str, sent: pb.SentTensor) -> np.ndarray | tensors.Content:
    try:
        return tensors.read_sent(sent)
    except (DataError, DecodeError, MemoryError, ValueError):  # the last two: a shape that no memory holds
        raise invalid(f"tensor parsing error: {alias}") from None
