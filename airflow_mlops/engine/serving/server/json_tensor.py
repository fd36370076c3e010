"""Predict requests as JSON, by the rules of TensorFlow Serving's REST API: strict types, rows or columns, base64."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson

from airflow_mlops.contracts import TensorSpec
from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.server.errors import ServingError, invalid
from airflow_mlops.engine.serving.tensors import Content, dtype_number

Format = Literal["row", "column"]
Tensors = dict[str, np.ndarray | Content]
_DEBUG_LIMIT = 256
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
#: Types that come in and go out as JSON: TensorFlow's word for them, what JSON may hold, what is read first.
READABLE: dict[str, tuple[str, frozenset[type], np.dtype]] = {
    "float32": ("float", frozenset({int, float}), np.dtype(np.float32)),
    "float64": ("double", frozenset({int, float}), np.dtype(np.float64)),
    "int64": ("int64", frozenset({int}), np.dtype(np.int64)),
    "int32": ("int32", frozenset({int}), np.dtype(np.int32)),
    # As the real server: any int32 is taken, and then cut down to the type.
    "int16": ("int16", frozenset({int}), np.dtype(np.int32)),
    "int8": ("int8", frozenset({int}), np.dtype(np.int32)),
    "uint8": ("uint8", frozenset({int}), np.dtype(np.int32)),
    "uint32": ("uint32", frozenset({int}), np.dtype(np.uint32)),
    "uint64": ("uint64", frozenset({int}), np.dtype(np.uint64)),
    "bool": ("bool", frozenset({bool}), np.dtype(np.bool_)),
    "string": ("string", frozenset({str, dict}), np.dtype(object)),
}
HALF = {"float16": "half"}
_CUT_DOWN = frozenset({"int16", "int8", "uint8"})


class PredictBody(NamedTuple):
    """A predict request as JSON, before its tensors are read."""

    signature_name: str
    document: dict[str, Any]


def parse_body(body: bytes) -> PredictBody:
    """Parse a request.

    :raises ServingError: when it is not a JSON object, or its signature name is not a string.
    """
    document = _parse(body)
    if not isinstance(document, dict):
        raise _bad_format(document, "Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise _bad_format(document, "not formatted correctly. 'signature_name' key must be a string value.")
    return PredictBody(name, document)


def read_inputs(document: dict[str, Any], specs: Mapping[str, TensorSpec]) -> tuple[Format, Tensors]:
    """Return the format of a request, and its tensors.

    :raises ServingError: naming the element that does not fit.
    """
    if "instances" in document and "inputs" in document:
        raise _bad_format(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    with np.errstate(over="ignore"):  # of a number too great for a float: infinity, as in the real server
        if "instances" in document:
            return "row", _read_instances(document, specs)
        if "inputs" in document:
            return "column", _read_columns(document["inputs"], specs)
    raise invalid("Missing 'inputs' or 'instances' key")


def _parse(body: bytes) -> Any:
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # NaN and Infinity as bare words, or a real error: the other parser tells
    try:
        text = body.decode()
        start = len(text) - len(text.lstrip(" \t\r\n"))
        return json.JSONDecoder().raw_decode(text, start)[0]
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg}. at offset: {error.pos}") from None
    except RecursionError:
        raise invalid("JSON Parse error: The document is nested too deeply. at offset: 0") from None


def _read_instances(document: dict[str, Any], specs: Mapping[str, TensorSpec]) -> Tensors:
    instances = document["instances"]
    if not isinstance(instances, list):
        raise _bad_format(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise _bad_format(document, "No values in 'instances' array")
    if not isinstance(instances[0], dict) and len(specs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    named = _is_object(instances[0])
    try:
        return _read_rows(instances, specs, named=named)
    except _MisfitError as misfit:
        # All rows at once did not do: find the first one that does not fit, and say why.
        _explain_rows(instances, specs, named=named)
        raise invalid(str(misfit)) from None


def _read_rows(instances: list[Any], specs: Mapping[str, TensorSpec], *, named: bool) -> Tensors:
    if not named:
        name, spec = next(iter(specs.items()))
        return {name: _read_tensor(instances, spec.dtype)}
    names = specs.keys()
    if not all(_is_object(row) and row.keys() == names for row in instances):
        raise _MisfitError("The rows differ in their keys.")
    names_of: dict[str, list[str]] = {}
    for name, spec in specs.items():
        names_of.setdefault(spec.dtype, []).append(name)
    tensors: Tensors = {}
    for dtype, same in names_of.items():
        tensors.update(_read_same(instances, same, dtype))
    return tensors


def _read_same(instances: list[Any], names: list[str], dtype: str) -> Tensors:
    """Read the inputs of one type: all at once when each row has one value of each, which most requests are."""
    values = [row[name] for name in names for row in instances]
    if dtype in READABLE and READABLE[dtype][1].issuperset(map(type, values)):
        together = _read_tensor(values, dtype)
        if dtype == "string":
            return dict(zip(names, together.reshape(len(names), -1), strict=True))
        number, content = dtype_number(together), together.tobytes()
        size = len(content) // len(names)
        return {
            name: Content(number, (len(instances),), content[start : start + size])
            for name, start in zip(names, range(0, len(content), size), strict=True)
        }
    return {name: _read_tensor([row[name] for row in instances], dtype) for name in names}


def _explain_rows(instances: list[Any], specs: Mapping[str, TensorSpec], *, named: bool) -> None:
    """Read row by row as the real server does, to fail with its words."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, row in enumerate(instances):
        if _is_object(row) != named:
            kinds = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {kinds} at item {index} of input list")
        items = row.items() if named else [(next(iter(specs)), row)]
        for name, item in items:
            try:
                _check_item(name, item, specs, shapes)
            except _MisfitError as misfit:
                key = f" key: {name}" if named else ""
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {misfit.code.name}: {misfit}",
                ) from None
        if named and row.keys() != specs.keys():
            raise invalid(
                f"Failed to process element: {index} of 'instances' list. JSON object: {_debug(row)} "
                f"keys must be equal to: {','.join(sorted(specs))}"
            )


def _check_item(name: str, item: Any, specs: Mapping[str, TensorSpec], shapes: dict[str, tuple[int, ...]]) -> None:
    if name not in specs:
        raise _MisfitError(f"JSON object: does not have named input: {name}")
    shape = _read_tensor(item, specs[name].dtype).shape
    expected = shapes.setdefault(name, shape)
    if math.prod(expected) != math.prod(shape):
        raise _MisfitError(f"Expecting tensor size: {math.prod(expected)} but got: {math.prod(shape)}")
    if expected != shape:
        raise _MisfitError(f"Expecting shape {_bracketed(expected)} but got: {_bracketed(shape)}")


def _read_columns(value: Any, specs: Mapping[str, TensorSpec]) -> Tensors:
    try:
        if not _is_object(value):
            if len(specs) > 1:
                raise invalid(
                    "inputs is a plain value/list, but expecting an object as multiple "
                    "input tensors required as per tensorinfo_map"
                )
            name, spec = next(iter(specs.items()))
            return {name: _read_tensor(value, spec.dtype)}
        for name in specs:
            if name not in value:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {name: _read_tensor(value[name], spec.dtype) for name, spec in specs.items()}
    except _MisfitError as misfit:
        raise ServingError(misfit.code, str(misfit)) from None


class _MisfitError(Exception):
    """A value that does not fit its tensor."""

    def __init__(self, message: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.code = code


def _read_tensor(value: Any, dtype: str) -> np.ndarray:
    """Return a JSON value, or lists of them to any depth, as an array of exactly that type."""
    if dtype not in READABLE:
        word = HALF.get(dtype, dtype)
        raise _MisfitError(f"Conversion of JSON Value: {_debug(value)} to type: {word}", Code.UNIMPLEMENTED)
    word, allowed, read_as = READABLE[dtype]
    flat: list[Any]
    shape: tuple[int, ...]
    if type(value) is list and value and allowed.issuperset(map(type, value)):
        flat, shape = value, (len(value),)  # one value a row, which is what most requests are
    else:
        flat, shape = [], tuple(_shape(value))
        _flatten(value, shape, 0, flat)
        if not allowed.issuperset(map(type, flat)):
            raise _wrong_type(next(item for item in flat if type(item) not in allowed), word)
    if dtype == "string":
        array = np.empty(len(flat), dtype=object)
        array[:] = [_to_bytes(item) for item in flat]
        return array.reshape(shape)
    try:
        array = np.array(flat, dtype=read_as)
        return (array if dtype not in _CUT_DOWN else array.astype(dtype)).reshape(shape)
    except OverflowError:
        raise _wrong_type(next(item for item in flat if not _holds(read_as, item)), word) from None


def _shape(value: Any) -> Iterator[int]:
    while isinstance(value, list):
        yield len(value)
        value = value[0] if value else None


def _flatten(value: Any, shape: tuple[int, ...], level: int, flat: list[Any]) -> None:
    """Collect the values of nested lists, which must all be of the shape."""
    if level == len(shape):
        if isinstance(value, list):
            raise _MisfitError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        flat.append(value)
        return
    if not isinstance(value, list):
        raise _MisfitError(
            f"JSON Value: {_debug(value)} found at incorrect level: {level + 1} in the JSON DOM. "
            f"Expected at level: {len(shape)}"
        )
    if len(value) != shape[level]:
        raise _MisfitError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    if level == len(shape) - 1 and not any(isinstance(item, list) for item in value):
        flat.extend(value)
        return
    for item in value:
        _flatten(item, shape, level + 1, flat)


def _to_bytes(item: str | dict[str, Any]) -> bytes:
    if isinstance(item, str):
        try:
            return item.encode()
        except UnicodeEncodeError:
            raise _MisfitError("JSON Parse error: The surrogate pair in string is invalid.") from None
    if not _is_base64(item):
        raise _MisfitError(f"JSON Value: {_debug(item)} not formatted correctly for base64 data")
    try:
        text = item["b64"].rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise _MisfitError("Unable to base64 decode") from None


def _holds(dtype: np.dtype, item: int) -> bool:
    if dtype.kind == "f":
        return abs(item) < 2**1024
    bounds = np.iinfo(dtype)
    return int(bounds.min) <= item <= int(bounds.max)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _wrong_type(item: Any, word: str) -> _MisfitError:
    kind = str(item) if isinstance(item, bool) else _JSON_TYPES[type(item)]
    return _MisfitError(f"JSON Value: {_debug(item)} Type: {kind} is not of expected type: {word}")


def _bad_format(value: Any, message: str) -> ServingError:
    return invalid(f"JSON Value: {_debug(value)} {message}")


def _debug(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=4 if isinstance(value, dict) else None)[:_DEBUG_LIMIT]


def _bracketed(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"
