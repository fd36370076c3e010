"""TensorFlow's C API, from the shared library of the installed wheel, without importing TensorFlow.

It is the loader and the executor that TensorFlow Serving uses. Importing the Python package would cost seconds and
hundreds of megabytes; opening the library costs a fraction of a second.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import NamedTuple

# TensorFlow's library and NumPy's random module bring the same C++ runtime symbols: NumPy's must be bound first.
import numpy.random  # noqa: F401

from airflow_mlops.exceptions import ConfigError

#: sizeof(TF_TString), part of the C API's ABI.
TSTRING_SIZE = 24


class Buffer(Structure):
    """``TF_Buffer``."""

    _fields_ = [("data", c_void_p), ("length", c_size_t), ("data_deallocator", c_void_p)]


class Output(Structure):
    """``TF_Output``: one output of one operation of the graph."""

    _fields_ = [("operation", c_void_p), ("index", c_int)]


_RESULT_AND_ARGUMENTS: dict[str, tuple[type | None, list[type]]] = {
    "TF_Version": (c_char_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBuffer": (POINTER(Buffer), []),
    "TF_NewBufferFromString": (POINTER(Buffer), [c_char_p, c_size_t]),
    "TF_DeleteBuffer": (None, [POINTER(Buffer)]),
    "TF_NewGraph": (c_void_p, []),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_GraphNextOperation": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "TF_OperationOpType": (c_char_p, [c_void_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, POINTER(Buffer), c_void_p],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_SessionRun": (
        None,
        [
            c_void_p, POINTER(Buffer),
            POINTER(Output), POINTER(c_void_p), c_int,
            POINTER(Output), POINTER(c_void_p), c_int,
            c_void_p, c_int, c_void_p, c_void_p,
        ],
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringInit": (None, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
    "TF_StringDealloc": (None, [c_void_p]),
}  # fmt: skip


class Library(NamedTuple):
    """The library under its two calling conventions.

    ``slow`` gives up the interpreter lock during a call: for what loads, runs or frees a model. ``quick`` keeps it:
    for accessors that return at once.
    """

    slow: ctypes.CDLL
    quick: ctypes.PyDLL


@functools.cache
def library() -> Library:
    """Open the library of the installed TensorFlow wheel, once in a process.

    :raises ConfigError: when TensorFlow is not installed, or its wheel lacks the C API.
    """
    path = _library_path()
    # Its INFO lines would show as errors in the log of a task. Read once, when the library first logs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        # RTLD_LOCAL: with global symbols a later import of another C++ library crashes.
        opened = Library(
            ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL), ctypes.PyDLL(str(path), mode=ctypes.RTLD_LOCAL)
        )
        for name, (result, arguments) in _RESULT_AND_ARGUMENTS.items():
            for convention in opened:
                function = getattr(convention, name)
                function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ConfigError(
            "The library of TensorFlow cannot be used.",
            detail=f"{path}: {error}",
            hint="Install an unmodified tensorflow wheel for this platform, 2.21 or newer.",
        ) from error
    return opened


def _library_path() -> Path:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "TensorFlow is not installed, and its library is what runs models.",
            hint="pip install 'airflow-mlops[server]'",
        )
    folder = Path(spec.submodule_search_locations[0])
    path = folder / "libtensorflow_cc.so.2"
    if not path.exists():
        raise ConfigError(
            "The installed TensorFlow has no C++ library.",
            detail=str(path),
            hint="Install the tensorflow wheel for Linux from PyPI.",
        )
    return path
