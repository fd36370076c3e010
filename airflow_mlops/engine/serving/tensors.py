"""Arrays, tensors and signatures: NumPy ↔ ``TensorProto``, and making inputs fit a signature."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.serving.protos import serving_pb2 as pb
from airflow_mlops.engine.serving.protos import tensorflow_pb2 as tf
from airflow_mlops.exceptions import DataError, did_you_mean

STRING = np.dtype(object)
#: TensorFlow's dtypes that can be served: number → (name, NumPy dtype, field of ``TensorProto``).
_DTYPES: dict[int, tuple[str, np.dtype, str]] = {
    tf.DT_FLOAT: ("float32", np.dtype(np.float32), "float_val"),
    tf.DT_DOUBLE: ("float64", np.dtype(np.float64), "double_val"),
    tf.DT_HALF: ("float16", np.dtype(np.float16), "half_val"),
    tf.DT_INT8: ("int8", np.dtype(np.int8), "int_val"),
    tf.DT_INT16: ("int16", np.dtype(np.int16), "int_val"),
    tf.DT_INT32: ("int32", np.dtype(np.int32), "int_val"),
    tf.DT_INT64: ("int64", np.dtype(np.int64), "int64_val"),
    tf.DT_UINT8: ("uint8", np.dtype(np.uint8), "int_val"),
    tf.DT_UINT16: ("uint16", np.dtype(np.uint16), "int_val"),
    tf.DT_UINT32: ("uint32", np.dtype(np.uint32), "uint32_val"),
    tf.DT_UINT64: ("uint64", np.dtype(np.uint64), "uint64_val"),
    tf.DT_BOOL: ("bool", np.dtype(np.bool_), "bool_val"),
    tf.DT_STRING: ("string", STRING, "string_val"),
    tf.DT_COMPLEX64: ("complex64", np.dtype(np.complex64), "scomplex_val"),
    tf.DT_COMPLEX128: ("complex128", np.dtype(np.complex128), "dcomplex_val"),
}
_BY_NAME = {name: number for number, (name, _, _) in _DTYPES.items()}
_BY_NUMPY = {dtype: number for number, (_, dtype, _) in _DTYPES.items()}
_CAST = "Cast inside the model, so that its signature has numbers, booleans or strings only."
#: Signatures that only load and restore a model.
_INTERNAL_SIGNATURES = frozenset({"__saved_model_init_op", "__saved_model_train_op"})


class Content(NamedTuple):
    """Numbers as they lie in memory: TensorFlow's dtype number, shape, and bytes that fit both."""

    number: int
    shape: tuple[int, ...]
    content: bytes


def dtype_name(number: int) -> str:
    """Return TensorFlow's name of a dtype number: ``float32``, ``string``, ..."""
    if number in _DTYPES:
        return _DTYPES[number][0]
    return tf.DataType.Name(number).removeprefix("DT_").lower() if number in tf.DataType.values() else str(number)


def numpy_dtype(number: int) -> np.dtype:
    """Return the NumPy dtype of a TensorFlow dtype number; strings are objects (bytes).

    :raises DataError: for a dtype that cannot be served.
    """
    if number not in _DTYPES:
        raise DataError(
            f"Tensors of type {dtype_name(number)} cannot be served.",
            hint=_CAST,
        )
    return _DTYPES[number][1]


def check_types(signature: Signature) -> None:
    """Refuse a signature with a type that cannot be served, such as ``bfloat16``.

    :raises DataError: naming the first input or output.
    """
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for name, spec in specs.items():
            if spec.dtype not in _BY_NAME:
                raise DataError(f"The {kind} {name!r} is of type {spec.dtype}, which cannot be served.", hint=_CAST)


def dtype_number(array: np.ndarray) -> int:
    """Return the TensorFlow dtype number of an array. Text and objects are strings.

    :raises DataError: for a dtype that TensorFlow does not have.
    """
    number = _BY_NUMPY.get(array.dtype)
    if number is None and array.dtype.kind in "SU":
        return tf.DT_STRING
    if number is None:
        raise DataError(
            f"An array of type {array.dtype} cannot be sent to a model.",
            hint="Convert it to a number, boolean or string type first.",
        )
    return number


def as_bytes(values: Iterable[object]) -> list[bytes]:
    """Return text and bytes as bytes.

    :raises DataError: when there is something else among them.
    """
    result = []
    for value in values:
        if isinstance(value, str):
            result.append(value.encode())
        elif isinstance(value, bytes):
            result.append(value)
        else:
            raise DataError(
                f"A string input holds a value of type {type(value).__name__}.",
                hint="Fill missing values before the model is called: a string tensor has no null.",
            )
    return result


def to_proto(array: np.ndarray) -> tf.TensorProto:
    """Return the array as a tensor message: strings as values, all else as content."""
    number = dtype_number(array)
    proto = tf.TensorProto(dtype=tf.DataType.Name(number))
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if number == tf.DT_STRING:
        proto.string_val.extend(as_bytes(array.ravel().tolist()))
    else:
        proto.tensor_content = np.ascontiguousarray(array).tobytes()
    return proto


def to_typed_proto(array: np.ndarray) -> tf.TensorProto:
    """Return the array as a tensor message whose numbers are in the typed fields, as a model server answers."""
    number = dtype_number(array)
    if number == tf.DT_STRING:
        return to_proto(array)
    proto = tf.TensorProto(dtype=tf.DataType.Name(number))
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).ravel()
    if number == tf.DT_HALF:
        flat = flat.view(np.uint16)
    elif flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    getattr(proto, _DTYPES[number][2]).extend(flat.tolist())
    return proto


def from_proto(proto: tf.TensorProto) -> np.ndarray:
    """Return the array of a tensor message, in either form; a short value list is padded with its last value.

    :raises DataError: when dtype, shape and content do not fit together.
    """
    return as_array(read_proto(proto))


def as_array(tensor: np.ndarray | Content) -> np.ndarray:
    """Return a tensor as an array; one of content cannot be written to."""
    if isinstance(tensor, Content):
        return np.ndarray(tensor.shape, numpy_dtype(tensor.number), tensor.content)
    return tensor


def read_proto(proto: tf.TensorProto) -> np.ndarray | Content:
    """Return a tensor message as :func:`from_proto` does, but content as it came: an array of it costs more."""
    return _read(proto, proto.tensor_shape.SerializeToString())


def read_sent(sent: pb.SentTensor) -> np.ndarray | Content:
    """Return a tensor of a request as :func:`read_proto` does.

    :raises DataError: when dtype, shape and content do not fit together.
    """
    if sent.tensor_content or sent.dtype == tf.DT_STRING:
        return _read(sent, sent.tensor_shape)
    return read_proto(tf.TensorProto.FromString(sent.SerializeToString()))


def _read(proto: tf.TensorProto | pb.SentTensor, serialized_shape: bytes) -> np.ndarray | Content:
    number, content = proto.dtype, proto.tensor_content
    dtype = numpy_dtype(number)
    shape, count = _complete_shape(serialized_shape)
    if content:
        if number == tf.DT_STRING or len(content) != count * dtype.itemsize:
            raise _wrong_length(proto, shape, f"{len(content)} bytes of content")
        return Content(number, shape, content)
    flat = _values(proto, dtype)
    if len(flat) > count:
        raise _wrong_length(proto, shape, f"{len(flat)} values")
    if len(flat) < count:
        flat = _pad(flat, count, dtype)
    return flat.reshape(shape)


@functools.lru_cache(maxsize=256)
def _complete_shape(serialized: bytes) -> tuple[tuple[int, ...], int]:
    """Return a shape and how many values it holds. Most tensors of a request share one: it is walked once."""
    proto = tf.TensorShapeProto.FromString(serialized)
    shape = tuple(dim.size for dim in proto.dim)
    if (shape and min(shape) < 0) or proto.unknown_rank:
        raise DataError("A tensor has no complete shape.", detail=f"shape {shape}")
    return shape, math.prod(shape)


def _values(proto: tf.TensorProto | pb.SentTensor, dtype: np.dtype) -> np.ndarray:
    values = getattr(proto, _DTYPES[proto.dtype][2])
    if dtype is STRING:
        flat = np.empty(len(values), dtype=STRING)
        flat[:] = list(values)
        return flat
    if proto.dtype == tf.DT_HALF:
        return np.array(values, dtype=np.uint16).view(np.float16)
    if dtype.kind == "c":
        return np.array(values, dtype=np.empty(0, dtype).real.dtype).view(dtype)
    return np.array(values, dtype=np.int64 if dtype.kind in "iu" and dtype.itemsize < 4 else dtype).astype(dtype)


def _pad(flat: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    padded = np.empty(count, dtype=dtype)
    padded[: len(flat)] = flat
    padded[len(flat) :] = flat[-1] if len(flat) else (b"" if dtype == STRING else 0)
    return padded


def _wrong_length(proto: tf.TensorProto | pb.SentTensor, shape: tuple[int, ...], found: str) -> DataError:
    return DataError(
        "A tensor's content does not fit its shape.",
        detail=f"{dtype_name(proto.dtype)} of shape {shape}, with {found}",
    )


def to_signatures(definitions: Mapping[str, tf.SignatureDef]) -> dict[str, Signature]:
    """Return the signatures that can be called. A tensor of unknown rank is given the shape ``(-1,)``."""
    return {
        name: Signature(inputs=_specs(definition.inputs), outputs=_specs(definition.outputs))
        for name, definition in sorted(definitions.items())
        if name not in _INTERNAL_SIGNATURES
    }


def _specs(infos: Mapping[str, tf.TensorInfo]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(
            dtype=dtype_name(info.dtype),
            shape=(-1,) if info.tensor_shape.unknown_rank else tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in sorted(infos.items())
    }


def conform(inputs: Mapping[str, np.ndarray], wanted: Mapping[str, TensorSpec]) -> dict[str, np.ndarray]:
    """Return the inputs in the types of a signature.

    Numbers are cast where the kind stays the same or widens (double to float, int to float) and no integer
    changes its value; anything else is refused, as is a missing or an unknown input.

    :raises DataError: naming the input.
    """
    missing, extra = sorted(set(wanted) - set(inputs)), sorted(set(inputs) - set(wanted))
    if missing or extra:
        raise DataError(
            "The inputs are not those of the model." + "".join(did_you_mean(name, missing) for name in extra[:1]),
            detail=f"missing: {missing or 'none'}; unknown: {extra or 'none'}",
            hint=f"The model takes {', '.join(sorted(wanted))}.",
        )
    found = {name: _cast(name, np.asarray(inputs[name]), spec.dtype) for name, spec in wanted.items()}
    for name, spec in wanted.items():
        if spec.shape and found[name].ndim != len(spec.shape):
            raise DataError(
                f"Input {name!r} has the shape {list(found[name].shape)}, and the model takes {list(spec.shape)}.",
                detail="-1 is any size",
                hint="Give it one value, or one vector, a row, as the model was trained on.",
            )
    return found


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype not in _BY_NAME:
        raise DataError(f"Input {name!r} has type {dtype}, which cannot be served.")
    target = _DTYPES[_BY_NAME[dtype]][1]
    if array.dtype == target:
        return array
    if (array.dtype.kind in "OSU") != (target == STRING):
        raise _wrong_type(name, array, dtype)
    if target == STRING:
        return array
    integers = array.dtype.kind in "iu" and target.kind in "iu"
    if not integers and not np.can_cast(array.dtype, target, "same_kind"):
        raise _wrong_type(name, array, dtype)
    cast = array.astype(target)
    if integers and not np.array_equal(cast, array):
        raise _wrong_type(name, array, dtype)
    return cast


def _wrong_type(name: str, array: np.ndarray, dtype: str) -> DataError:
    return DataError(
        f"Input {name!r} has type {array.dtype}, and the model takes {dtype}.",
        hint="Convert the column; values that would change are never cast silently.",
    )
