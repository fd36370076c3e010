"""Sample requests of a model that was made elsewhere: from them its golden predictions are recorded.

====================================  ==========================================================================
``requests.parquet``                  a column an input, a row an item; a list in a column is a vector
``requests.json``                     as TensorFlow Serving takes it: ``{"instances": [...]}`` or ``{"inputs": {...}}``
``serving_input_example.json``        MLflow's input example, with ``inputs`` or ``dataframe_split``
``tf_serving_warmup_requests``        TensorFlow Serving's own warm-up records
====================================  ==========================================================================
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from airflow_mlops.contracts import Signature
from airflow_mlops.engine.serving import tensors
from airflow_mlops.exceptions import DataError, did_you_mean

WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
MOST_ROWS = 128
"""Rows of the samples that are kept."""

_PREDICT_LOG, _REQUEST = 6, 1  # field numbers of PredictionLog and of PredictLog, prediction_log.proto
_LENGTH, _CHECKSUM = 8, 4  # bytes of a TFRecord's frame

Columns = dict[str, np.ndarray]


def read_samples(file: Path, signature: Signature) -> Columns:
    """Return sample requests as the inputs of a signature.

    :raises DataError: when they cannot be read, or do not fit.
    """
    try:
        if file.suffix == ".parquet":
            read = _parquet(file, signature)
        elif file.name == WARM_UP.name:
            read = _warm_up(file, signature)
        else:
            read = _json(file, signature)
        found = tensors.conform(read, signature.inputs)
        if all(values.size for values in found.values()):
            check_shapes(found, signature)
    except FileNotFoundError:
        raise DataError("The sample requests are not there.", detail=str(file), hint="Correct samples=...") from None
    except DataError as error:
        raise DataError(
            f"The sample requests do not fit the model: {error.headline}", detail=f"{file}: {error.detail}",
            hint=error.hint or f"Give each of its inputs: {', '.join(signature.inputs)}.",
        ) from None  # fmt: skip
    sizes = {name: values.shape for name, values in found.items() if values.size == 0}
    if sizes or not found:
        raise DataError(
            "The sample requests are empty.",
            detail=f"{file}: {', '.join(f'{name} has shape {shape}' for name, shape in sizes.items()) or 'no input'}",
            hint="Give at least one request.",
        )
    return {
        name: values[:MOST_ROWS] if signature.inputs[name].shape[:1] == (-1,) else values
        for name, values in found.items()
    }


def check_shapes(inputs: Columns, signature: Signature) -> None:
    """Refuse inputs that are not of the shapes that a signature says, or not of as many rows each.

    :raises DataError: naming the input.
    """
    for name, spec in signature.inputs.items():
        if not fits(inputs[name].shape, spec.shape):
            raise DataError(
                f"Input {name!r} has another shape.",
                detail=f"{list(inputs[name].shape)}, the signature says {list(spec.shape)}; -1 is any size",
                hint="Give every row the shape that the model takes.",
            )
    counts = {name: len(inputs[name]) for name, spec in signature.inputs.items() if spec.shape[:1] == (-1,)}
    if len(set(counts.values())) > 1:
        raise DataError(
            "The inputs are of different lengths.",
            detail=f"{', '.join(f'{name} {count}' for name, count in counts.items())} rows",
            hint="Give every input the same number of rows.",
        )


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Return whether a shape is what a signature says, where -1 is any size."""
    return len(shape) == len(wanted) and all(size in (-1, given) for given, size in zip(shape, wanted, strict=True))


def read_request(document: dict[str, Any], signature: Signature) -> Columns:
    """Return a request as TensorFlow Serving takes it, in JSON's types, as arrays.

    :raises DataError: when it is no request of the model.
    """
    from airflow_mlops.engine.serving.server.errors import ServingError
    from airflow_mlops.engine.serving.server.json_tensor import read_inputs

    try:
        _, found = read_inputs(document, signature.inputs)
    except ServingError as error:
        raise DataError("It is no request of this model.", detail=str(error)) from None
    return {name: tensors.as_array(values) for name, values in found.items()}


def _json(file: Path, signature: Signature) -> Columns:
    from airflow_mlops.engine.serving.server.errors import ServingError
    from airflow_mlops.engine.serving.server.json_tensor import parse_body

    document: Any
    try:
        name, document = parse_body(file.read_bytes())
        if name not in {"", "serving_default"}:
            raise DataError(
                f"They are for the signature {name!r}.",
                detail="golden predictions are of serving_default",
                hint="Give requests of serving_default, without signature_name.",
            )
        if isinstance(split := document.get("dataframe_split"), dict):  # MLflow's word for a table
            columns = zip(*split["data"], strict=True)
            document = {"inputs": dict(zip(split["columns"], map(list, columns), strict=True))}
        return read_request(document, signature)
    except ServingError as error:
        raise DataError("It is no request of this model.", detail=str(error)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("It is no request of this model.", detail=type(error).__name__) from None


def _parquet(file: Path, signature: Signature) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid as error:
        raise DataError("It is no Parquet file.", detail=str(error).splitlines()[0]) from None
    if missing := [name for name in signature.inputs if name not in table.column_names]:
        raise DataError(
            f"There is no column {missing[0]!r}.{did_you_mean(missing[0], table.column_names)}",
            detail=f"there are: {', '.join(table.column_names)}",
        )
    found = {}
    for name, spec in signature.inputs.items():
        values = table.column(name).slice(0, MOST_ROWS).to_pylist()
        try:
            if spec.dtype == "string":
                found[name] = np.asarray(values, dtype=object)
            else:
                found[name] = np.asarray([np.nan if one is None else one for one in values], dtype=spec.dtype)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Column {name!r} is not of type {spec.dtype}, or its rows are of unequal lengths.",
                detail=f"{table.schema.field(name).type}: {type(error).__name__}",
            ) from None
    return found


def _warm_up(file: Path, signature: Signature) -> Columns:
    from google.protobuf.message import DecodeError

    from airflow_mlops.engine.serving.protos import serving_pb2 as pb

    try:
        logs = [log for record in _records(file.read_bytes()) for log in _fields(record, _PREDICT_LOG)]
        asked = [pb.PredictRequest.FromString(request) for log in logs for request in _fields(log, _REQUEST)]
        requests = [
            {name: tensors.from_proto(one) for name, one in request.inputs.items()}
            for request in asked
            if request.model_spec.signature_name in {"", "serving_default"}
        ]
    except (DecodeError, struct.error):
        raise DataError("It holds no warm-up records that can be read.", detail="TFRecords of PredictionLog") from None
    if not requests:
        raise DataError("It holds no predict request of the signature serving_default.")
    first, *more = [request for request in requests if request.keys() == signature.inputs.keys()] or requests
    if not all(_is_alike(values, one[name]) for one in more for name, values in first.items()):
        return first
    return {
        name: np.concatenate([values, *(one[name] for one in more)]) if values.ndim else values
        for name, values in first.items()
    }


def _is_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two requests can be asked as one, as far as this input goes."""
    return bool(one.shape[1:] == other.shape[1:] if one.ndim else np.array_equal(one, other))


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: a length and its checksum, the record and its checksum."""
    start = 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        start += _LENGTH + _CHECKSUM
        if start + length > len(content):
            raise struct.error
        yield content[start : start + length]
        start += length + _CHECKSUM


def _fields(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the sub-messages of a field, of a message whose type is not among ours."""
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.unknown_fields import UnknownFieldSet

    found: Any = UnknownFieldSet(Empty.FromString(message))
    yield from (field.data for field in found if field.field_number == number)


def input_example(model_folder: Path) -> Path | None:
    """Return the file of MLflow's input example beside a model, or of the model's own warm-up records, if any."""
    for name in ("serving_input_example.json", "input_example.json", str(WARM_UP)):
        for found in sorted(model_folder.rglob(name)):
            return found
    return None


def told(file: Path) -> dict[str, Any]:
    """Return a JSON file as it is.

    :raises DataError: when it is not there, or no JSON object.
    """
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError("The file cannot be read.", detail=f"{file}: {type(error).__name__}") from None
    if not isinstance(document, dict):
        raise DataError("The file is no JSON object.", detail=str(file))
    return document
