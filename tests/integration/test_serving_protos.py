"""Our minimal messages against the real ones of TensorFlow Serving."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from google.protobuf import json_format

from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.protos import config_pb2, serving_pb2, tensorflow_pb2
from tests.serving_reference import SAMPLES, describe_messages, reference

#: Ours is flat, where the real one is nested in the config of the file system source.
RENAMED = {
    name: f"FileSystemStoragePathSourceConfig.{name}"
    for name in (
        "ServableVersionPolicy",
        "ServableVersionPolicy.Latest",
        "ServableVersionPolicy.All",
        "ServableVersionPolicy.Specific",
    )
}


def ours() -> dict[str, dict[str, list]]:
    found: dict[str, dict[str, list]] = {}
    for file in (config_pb2, serving_pb2, tensorflow_pb2):
        messages = file.DESCRIPTOR.message_types_by_name.items()
        # How the server reads a request: on the wire the same, in Python bytes where the real one has a message.
        describe_messages([one for name, one in messages if not name.startswith("Sent")], found)
    return found


def test_a_request_as_the_server_reads_it_is_the_one_that_was_sent():
    arrays = {
        "a": np.array([[1.0, 2.0]], np.float32), "b": np.array(["x", "yz"]), "c": np.array(7), "d": np.array([True]),
    }  # fmt: skip
    for encode in (tensors.to_proto, tensors.to_typed_proto):
        request = serving_pb2.PredictRequest(
            model_spec=serving_pb2.ModelSpec(name="m", version_label="stable"),
            inputs={name: encode(array) for name, array in arrays.items()},
            output_filter=["p"],
        )
        sent = serving_pb2.SentRequest.FromString(request.SerializeToString())
        assert (sent.model_spec, list(sent.output_filter)) == (request.model_spec, ["p"])
        for name, proto in request.inputs.items():
            there, read = (
                tensors.as_array(one) for one in (tensors.read_proto(proto), tensors.read_sent(sent.inputs[name]))
            )
            assert (read.dtype, read.shape, read.tolist()) == (there.dtype, there.shape, there.tolist())


def test_every_field_is_that_of_the_real_message():
    real = reference().messages()
    wrong = []
    for message, fields in ours().items():
        theirs = real[RENAMED.get(message, message)]
        for name, (number, kind, repeated, oneof, inner, values) in fields.items():
            there = theirs[name]
            same_kind = kind == there[1] or (message, name) == ("StatusProto", "error_code")  # an enum, as a number
            # TensorInfo.name is one of a choice whose other members we leave out.
            same_oneof = oneof == there[3] or (message, name) == ("TensorInfo", "name")
            same_values = values is None or values.items() <= there[5].items()
            if not (number == there[0] and same_kind and repeated == there[2] and same_oneof and inner == there[4]):
                wrong.append(f"{message}.{name}: {fields[name]} != {there}")
            if not same_values:
                wrong.append(f"{message}.{name}: enum values differ")
    assert not wrong


def test_fields_that_ours_lack_pass_through_unchanged():
    info = tensorflow_pb2.TensorInfo.FromString(b"\x10\x01\x22\x03\x0a\x01v")  # dtype, and field 4: coo_sparse
    assert info.dtype == tensorflow_pb2.DT_FLOAT
    assert b"\x22\x03\x0a\x01v" in info.SerializeToString()


@pytest.mark.parametrize("dtype", SAMPLES)
def test_tensors_mean_the_same_to_tensorflow(dtype: str):
    several, one = reference().dtypes()[dtype]
    expected = SAMPLES[dtype]
    array = tensors.from_proto(json_format.ParseDict(several, tensorflow_pb2.TensorProto()))
    if dtype == "string":
        assert array.tolist() == [value.encode() for value in expected]
    else:
        assert array.dtype == np.dtype(dtype)
        assert array.tolist() == np.array(expected, dtype).tolist()
    scalar = tensors.from_proto(json_format.ParseDict(one, tensorflow_pb2.TensorProto()))
    assert scalar.shape == ()
    assert scalar.tolist() == array.tolist()[0]


def test_config_files_are_read_by_the_real_class():
    config = ServerConfig(
        (
            ModelConfig("a", "/models/a", (1, 2), {"stable": 1, "canary": 2}),
            ModelConfig("b", "/models/b", policy="latest", num_versions=3),
            ModelConfig("c", "/models/c", policy="all"),
        )
    )
    models = reference().parse_config(config.to_text())["model_config_list"]["config"]
    assert models == [
        {
            "name": "a",
            "base_path": "/models/a",
            "model_platform": "tensorflow",
            "model_version_policy": {"specific": {"versions": ["1", "2"]}},
            "version_labels": {"canary": "2", "stable": "1"},
        },
        {
            "name": "b",
            "base_path": "/models/b",
            "model_platform": "tensorflow",
            "model_version_policy": {"latest": {"num_versions": 3}},
        },
        {
            "name": "c",
            "base_path": "/models/c",
            "model_platform": "tensorflow",
            "model_version_policy": {"all": {}},
        },
    ]


def test_the_client_imports_no_tensorflow():
    code = (
        "import sys, airflow_mlops.engine.serving.client; "
        "heavy = {'tensorflow', 'tensorflow_serving', 'pandas', 'airflow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
