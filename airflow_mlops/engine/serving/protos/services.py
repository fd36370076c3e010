"""The methods of TensorFlow Serving's gRPC services: full name, request and response class.

Clients and servers are made from this table, so there is no generated stub.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import Message

from airflow_mlops.engine.serving.protos import serving_pb2 as pb

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

#: ``Any.type_url`` under which a real server packs the signatures of a model.
SIGNATURE_DEF_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class Method(NamedTuple):
    """One unary RPC."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]

    @property
    def path(self) -> str:
        """``/package.Service/Method``, as it travels."""
        return f"/{self.service}/{self.name}"


PREDICT = Method(PREDICTION_SERVICE, "Predict", pb.PredictRequest, pb.PredictResponse)
GET_MODEL_METADATA = Method(
    PREDICTION_SERVICE, "GetModelMetadata", pb.GetModelMetadataRequest, pb.GetModelMetadataResponse
)
GET_MODEL_STATUS = Method(MODEL_SERVICE, "GetModelStatus", pb.GetModelStatusRequest, pb.GetModelStatusResponse)
RELOAD_CONFIG = Method(MODEL_SERVICE, "HandleReloadConfigRequest", pb.ReloadConfigRequest, pb.ReloadConfigResponse)
