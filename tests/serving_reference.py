"""TensorFlow and TensorFlow Serving's own classes, in a child process: the reference that ours are held against.

The child makes SavedModels, describes the real messages, and talks to a running server with the real stubs. It is
started once in a test session; nothing of TensorFlow is imported here.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any


class Reference:
    """The child process. Each method is one request to it."""

    def __init__(self) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        atexit.register(self._process.kill)

    def _ask(self, **request: Any) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the reference process ended"
        answer = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer["result"]

    def make(self, path: Path, weight: float) -> Path:
        """Export a model; see ``_Commands.make``."""
        self._ask(command="make", path=str(path), weight=weight)
        return path

    def messages(self) -> dict[str, dict[str, list[Any]]]:
        """Return message → field → [number, type, repeated, oneof, message or enum type] of the real classes."""
        return self._ask(command="messages")

    def call(self, port: int, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """Call a method through the real stub. Requests and responses are protobuf's JSON.

        ``{"code": ..., "details": ...}`` is an error.
        """
        return self._ask(command="call", port=port, method=method, request=request)

    def parse_config(self, text: str) -> dict[str, Any]:
        """Parse a config file with the real class, and return it as JSON."""
        return self._ask(command="parse_config", text=text)

    def dtypes(self) -> dict[str, list[Any]]:
        """Return TensorFlow's TensorProtos (JSON) of one array of each type, by type."""
        return self._ask(command="dtypes")


@cache
def reference() -> Reference:
    """Return the one child process of this session."""
    return Reference()


class _Commands:
    """What the child does."""

    def make(self, path: str, weight: float) -> None:
        """Export a model: ``serving_default`` multiplies by ``weight``; ``echo`` gives every type back; ``pair`` has
        one input of two columns; ``slow`` takes as long as it is told to, in loops.
        """
        import tensorflow as tf

        module = tf.Module()
        module.weight = tf.Variable(weight, dtype=tf.float32)

        def spec(name: str, dtype: str, *shape: int | None) -> tf.TensorSpec:
            return tf.TensorSpec(list(shape), dtype, name=name)

        def main(carrier: tf.Tensor, distance: tf.Tensor, hour: tf.Tensor) -> dict[str, tf.Tensor]:
            score = (
                module.weight * distance
                + tf.cast(hour, tf.float32)
                + 0.0 * tf.cast(tf.strings.length(carrier), tf.float32)
            )
            return {"score": score, "carrier_bytes": carrier, "carrier_text": tf.strings.lower(carrier)}

        kinds = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "string")

        def echo(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            return {f"{name}_out": tf.identity(value) for name, value in inputs.items()}

        def pair(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": module.weight * tf.reduce_sum(x, axis=1)}

        def slow(loops: tf.Tensor) -> dict[str, tf.Tensor]:
            start = tf.eye(64)
            step = lambda i, m: (i + 1, tf.linalg.matmul(m, start))  # noqa: E731
            _, matrix = tf.while_loop(lambda i, _: i < loops, step, (0, start))
            return {"trace": module.weight * tf.linalg.trace(matrix)}

        signatures = {
            "serving_default": tf.function(main).get_concrete_function(
                spec("carrier", "string", None), spec("distance", "float32", None), spec("hour", "int64", None)
            ),
            "echo": tf.function(echo).get_concrete_function(**{kind: spec(kind, kind, None) for kind in kinds}),
            "pair": tf.function(pair).get_concrete_function(spec("x", "float32", None, 2)),
            "slow": tf.function(slow).get_concrete_function(spec("loops", "int32")),
        }
        module.functions = list(signatures.values())
        tf.saved_model.save(module, path, signatures=signatures)

    def messages(self) -> dict[str, Any]:
        from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
        from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
        from tensorflow_serving.apis import (
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_management_pb2,
            model_pb2,
            predict_pb2,
            status_pb2,
        )
        from tensorflow_serving.config import (
            file_system_storage_path_source_pb2,
            log_collector_config_pb2,
            logging_config_pb2,
            model_server_config_pb2,
        )

        found: dict[str, Any] = {}
        for file in (
            tensor_pb2, tensor_shape_pb2, config_pb2, meta_graph_pb2, get_model_metadata_pb2, get_model_status_pb2,
            model_management_pb2, model_pb2, predict_pb2, status_pb2, file_system_storage_path_source_pb2,
            log_collector_config_pb2, logging_config_pb2, model_server_config_pb2,
        ):  # fmt: skip
            describe_messages(file.DESCRIPTOR.message_types_by_name.values(), found)
        return found

    def call(self, port: int, method: str, request: dict[str, Any]) -> dict[str, Any]:
        import grpc
        from google.protobuf import json_format
        from tensorflow_serving.apis import (
            classification_pb2,
            get_model_metadata_pb2,
            get_model_status_pb2,
            model_management_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        messages = {
            "Predict": predict_pb2.PredictRequest,
            "Classify": classification_pb2.ClassificationRequest,
            "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
            "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
            "HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
        }
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            model = model_service_pb2_grpc.ModelServiceStub(channel)
            stub = getattr(prediction, method, None) or getattr(model, method)
            try:
                response = stub(json_format.ParseDict(request, messages[method]()), timeout=20)
            except grpc.RpcError as error:
                return {"code": error.code().name, "details": error.details()}
        return json_format.MessageToDict(response, preserving_proto_field_name=True)

    def parse_config(self, text: str) -> dict[str, Any]:
        from google.protobuf import json_format, text_format
        from tensorflow_serving.config import model_server_config_pb2

        message = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        return json_format.MessageToDict(message, preserving_proto_field_name=True)

    def dtypes(self) -> dict[str, list[Any]]:
        import tensorflow as tf
        from google.protobuf import json_format

        found = {}
        for name, values in SAMPLES.items():
            array = tf.constant(values, name)
            # make_tensor_proto writes tensor_content for arrays of several values, typed fields for one.
            found[name] = [
                json_format.MessageToDict(tf.make_tensor_proto(array)),
                json_format.MessageToDict(tf.make_tensor_proto(array[0])),
            ]
        return found


SAMPLES: dict[str, list[Any]] = {
    "float16": [0.5, -2.0],
    "float32": [0.1, -1e30],
    "float64": [0.1, 1e300],
    "int8": [-128, 127],
    "int16": [-300, 300],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**53), 2**53],
    "uint8": [0, 255],
    "uint16": [0, 65535],
    "uint32": [0, 2**31],
    "uint64": [0, 2**53],
    "bool": [True, False],
    "string": ["é", ""],
}


def describe_messages(descriptors: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Describe messages and those inside them, by their names without the package."""
    for descriptor in descriptors:
        name = descriptor.full_name.removeprefix(descriptor.file.package + ".")
        found[name] = {
            field.name: [
                field.number,
                field.type,
                field.is_repeated,
                field.containing_oneof.name if field.containing_oneof else None,
                field.message_type.name if field.message_type else None,
                {value.name: value.number for value in field.enum_type.values} if field.enum_type else None,
            ]
            for field in descriptor.fields
        }
        describe_messages(descriptor.nested_types, found)
    return found


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")  # whatever TensorFlow prints must not look like an answer
    os.dup2(2, 1)
    commands = _Commands()
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        try:
            answer = {"result": getattr(commands, command)(**request)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
