"""A SavedModel, loaded and run by TensorFlow's own C++ code: what TensorFlow Serving does, in this process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_char_p, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from airflow_mlops.contracts import Signature
from airflow_mlops.engine.serving import c_api, tensors
from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.protos import tensorflow_pb2 as tf
from airflow_mlops.exceptions import DataError, did_you_mean

DEFAULT_SIGNATURE = "serving_default"
_WHOLE = "It must be a complete export: saved_model.pb, and variables/ with index and data."
_VARIABLES = {b"VarHandleOp", b"VariableV2", b"Variable"}
_MAX_MESSAGE = 1024


class TensorFlowError(DataError):
    """TensorFlow refused to load or to run a model.

    :param code: TensorFlow's error code.
    :param message: TensorFlow's own words.
    """

    def __init__(self, headline: str, code: int, message: str, where: str, hint: str = "") -> None:
        self.code = Code.of(code)
        self.message = message
        super().__init__(headline, detail=f"{where}: {self.code.name}: {message[:_MAX_MESSAGE]}", hint=hint)


class ModelClosedError(DataError):
    """The model was closed before the call."""


class _Bound(NamedTuple):
    """A signature, tied to the operations of the loaded graph."""

    signature: Signature
    inputs: ctypes.Array[c_api.Output]
    outputs: ctypes.Array[c_api.Output]


class SavedModel:
    """One loaded SavedModel. Any number of them live in one process; all methods are thread-safe.

    A call runs in its caller's thread, operators parallelise inside themselves on TensorFlow's shared pool: that
    is the least latency for a request, and concurrent requests scale by their threads.

    Half-copied folders are what the loader of TensorFlow takes them for: without ``variables/`` a model loads, and
    then every call fails. :meth:`check_whole` tells; only a prediction proves a model.

    :param path: Folder with ``saved_model.pb`` and ``variables/``.
    :param tags: Tags of the graph to load.
    :param threads: Threads of the pool inside operators; 0 is one per core. The first model of a process decides.
    :raises DataError: when it cannot be loaded (:class:`TensorFlowError`).
    """

    def __init__(self, path: Path, *, tags: Sequence[str] = ("serve",), threads: int = 0) -> None:
        self.path = Path(path)
        self._slow, self._quick = c_api.library()
        self._idle = threading.Condition()
        self._users = 0
        self._closed = False
        # On the caller's thread: a hand-over to a pool and back costs several times what a small model does.
        options = tf.RunOptions(inter_op_thread_pool=-1).SerializeToString()
        self._run_options = self._quick.TF_NewBufferFromString(options, len(options))
        self._graph: int = self._quick.TF_NewGraph()
        try:
            self._session, self.signature_defs = self._load(tags, threads)
        except BaseException:
            self._slow.TF_DeleteGraph(self._graph)
            self._quick.TF_DeleteBuffer(self._run_options)
            raise
        self.signatures: dict[str, Signature] = tensors.to_signatures(self.signature_defs)
        self._bound: dict[str, _Bound] = {}

    @property
    def signature(self) -> Signature:
        """The ``serving_default`` signature.

        :raises DataError: when the model has none.
        """
        return self._find(DEFAULT_SIGNATURE)

    def run(self, inputs: Mapping[str, np.ndarray], signature: str = DEFAULT_SIGNATURE) -> dict[str, np.ndarray]:
        """Call a signature. Inputs are cast where no value changes; strings come back as bytes.

        :raises DataError: when the inputs do not fit the signature, or the model fails on them, or is closed.
        """
        wanted = self._find(signature)
        with self.hold():
            return self.call(tensors.conform(inputs, wanted.inputs), signature)

    def call(
        self,
        inputs: Mapping[str, np.ndarray | tensors.Content],
        signature: str,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Call a signature with tensors that have its types already, and fetch some or all of its outputs.

        For a caller that holds the model (:meth:`hold`), so that one request is let in once: a model that begins
        to close lets those finish that it let in.
        """
        bound = self._bind(signature)
        names = list(bound.signature.outputs)
        fetched = names if outputs is None else list(outputs)
        fetches = (c_api.Output * len(fetched))(*(bound.outputs[names.index(name)] for name in fetched))
        fed = (c_void_p * len(inputs))()
        results = (c_void_p * len(fetched))()
        try:
            for position, name in enumerate(bound.signature.inputs):
                fed[position] = self._to_tensor(inputs[name])
            self._checked(
                "The model failed on a call.",
                lambda status: self._slow.TF_SessionRun(
                    self._session, self._run_options, bound.inputs, fed, len(fed),
                    fetches, results, len(results), None, 0, None, status,
                ),
            )  # fmt: skip
            return {name: self._to_array(tensor) for name, tensor in zip(fetched, results, strict=True)}
        finally:
            for tensor in fed:
                self._free_input(tensor)
            for tensor in filter(None, results):
                self._quick.TF_DeleteTensor(tensor)

    def check_whole(self) -> None:
        """Refuse a model whose variables were not loaded, because their index is not there. The loader does not say.

        :raises DataError: naming the file.
        """
        folder = self.path / "variables"
        index = folder / "variables.index"
        if not index.exists() and (any(folder.glob("variables.data*")) or not _VARIABLES.isdisjoint(self._kinds())):
            raise DataError(
                "The SavedModel is not whole: the index of its variables is missing.",
                detail=f"there is no {index}",
                hint=_WHOLE,
            )

    @contextmanager
    def hold(self) -> Iterator[Self]:
        """Keep the model loaded for the length of the block: :meth:`close` waits for it.

        :raises ModelClosedError: when it is closed, or closing.
        """
        with self._idle:
            if self._closed:
                raise ModelClosedError("The model is closed.", detail=str(self.path))
            self._users += 1
        try:
            yield self
        finally:
            with self._idle:
                self._users -= 1
                if not self._users:
                    self._idle.notify_all()

    def close(self) -> None:
        """Refuse new calls, wait for those that run, and give the memory back. Closing twice is once."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            self._idle.wait_for(lambda: not self._users)
        self._checked("The model cannot be closed.", lambda status: self._slow.TF_CloseSession(self._session, status))
        self._checked("The model cannot be closed.", lambda status: self._slow.TF_DeleteSession(self._session, status))
        self._slow.TF_DeleteGraph(self._graph)
        self._quick.TF_DeleteBuffer(self._run_options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, tags: Sequence[str], threads: int) -> tuple[int, dict[str, tf.SignatureDef]]:
        """Return the session, and the signatures as exported, with the names of the graph's tensors."""
        # No GPU: results do not depend on the machine, and the memory of one is the training's.
        config = tf.ConfigProto(intra_op_parallelism_threads=threads, device_count={"GPU": 0}).SerializeToString()
        options = self._quick.TF_NewSessionOptions()
        meta_graph = self._quick.TF_NewBuffer()
        encoded = (c_char_p * len(tags))(*(tag.encode() for tag in tags))
        headline = "The SavedModel cannot be loaded."
        try:
            self._checked(headline, lambda status: self._quick.TF_SetConfig(options, config, len(config), status))
            session: int = self._checked(
                headline,
                lambda status: self._slow.TF_LoadSessionFromSavedModel(
                    options, None, str(self.path).encode(), encoded, len(tags), self._graph, meta_graph, status
                ),
                hint=_WHOLE,
            )
            serialized = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        finally:
            self._quick.TF_DeleteSessionOptions(options)
            self._quick.TF_DeleteBuffer(meta_graph)
        definitions = {}
        for name, definition in tf.MetaGraphDef.FromString(serialized).signature_def.items():
            # A copy of its own: a part of a message would keep the whole message alive, graph included.
            definitions[name] = tf.SignatureDef()
            definitions[name].CopyFrom(definition)
        return session, definitions

    def _kinds(self) -> Iterator[bytes]:
        """Yield the kind of each operation of the graph, such as ``MatMul``."""
        position = ctypes.c_size_t(0)
        while operation := self._quick.TF_GraphNextOperation(self._graph, position):
            yield self._quick.TF_OperationOpType(operation)

    def _find(self, signature: str) -> Signature:
        try:
            return self.signatures[signature]
        except KeyError:
            raise DataError(
                f"The model has no signature {signature!r}.{did_you_mean(signature, self.signatures)}",
                detail=f"{self.path}, signatures: {sorted(self.signatures)}",
                hint="Export it with one (model.export), or name another.",
            ) from None

    def _bind(self, name: str) -> _Bound:
        if name not in self._bound:
            definition, signature = self.signature_defs[name], self._find(name)
            self._bound[name] = _Bound(
                signature,
                self._endpoints(definition.inputs[key].name for key in signature.inputs),
                self._endpoints(definition.outputs[key].name for key in signature.outputs),
            )
        return self._bound[name]

    def _endpoints(self, tensor_names: Iterable[str]) -> ctypes.Array[c_api.Output]:
        """Find tensors by their names in the graph, ``operation:index``."""
        endpoints = []
        for tensor_name in tensor_names:
            operation_name, _, index = tensor_name.rpartition(":")
            operation = self._quick.TF_GraphOperationByName(self._graph, operation_name.encode())
            if not operation:
                raise DataError(
                    "A signature names a tensor that is not in the model's graph.",
                    detail=f"{self.path}: {tensor_name!r}",
                    hint="Only dense tensors can be served: no sparse or composite ones.",
                )
            endpoints.append(c_api.Output(operation, int(index)))
        return (c_api.Output * len(endpoints))(*endpoints)

    def _to_tensor(self, array: np.ndarray | tensors.Content) -> int:
        """Copy an array, or content, into a new tensor of TensorFlow's."""
        if isinstance(array, tensors.Content):
            dims, size = array.shape, len(array.content)
            filled: int = self._quick.TF_AllocateTensor(array.number, (c_int64 * len(dims))(*dims), len(dims), size)
            ctypes.memmove(self._quick.TF_TensorData(filled), array.content, size)
            return filled
        number = tensors.dtype_number(array)
        shape = (c_int64 * array.ndim)(*array.shape)
        if number != tf.DT_STRING:
            array = np.asarray(array, order="C")  # ascontiguousarray makes a scalar a vector
            tensor: int = self._quick.TF_AllocateTensor(number, shape, array.ndim, array.nbytes)
            ctypes.memmove(self._quick.TF_TensorData(tensor), _address(array), array.nbytes)
            return tensor
        values = tensors.as_bytes(array.ravel().tolist())
        tensor = self._quick.TF_AllocateTensor(number, shape, array.ndim, len(values) * c_api.TSTRING_SIZE)
        position = self._quick.TF_TensorData(tensor)
        for value in values:
            self._quick.TF_StringInit(position)
            self._quick.TF_StringCopy(position, value, len(value))
            position += c_api.TSTRING_SIZE
        return tensor

    def _free_input(self, tensor: int | None) -> None:
        """Free a tensor that :meth:`_to_tensor` made. TensorFlow does not free the strings of such a one."""
        if tensor is None:
            return
        if self._quick.TF_TensorType(tensor) == tf.DT_STRING:
            for position in self._strings(tensor):
                self._quick.TF_StringDealloc(position)
        self._quick.TF_DeleteTensor(tensor)

    def _to_array(self, tensor: int) -> np.ndarray:
        """Copy a tensor of TensorFlow's into a new array."""
        dtype = tensors.numpy_dtype(self._quick.TF_TensorType(tensor))
        shape = tuple(self._quick.TF_Dim(tensor, axis) for axis in range(self._quick.TF_NumDims(tensor)))
        array = np.empty(shape, dtype=dtype)
        if dtype != tensors.STRING:
            ctypes.memmove(_address(array), self._quick.TF_TensorData(tensor), array.nbytes)
            return array
        flat = array.reshape(-1)
        for index, position in enumerate(self._strings(tensor)):
            data = self._quick.TF_StringGetDataPointer(position)
            flat[index] = ctypes.string_at(data, self._quick.TF_StringGetSize(position))
        return array

    def _strings(self, tensor: int) -> range:
        """Addresses of the strings of a tensor."""
        start = self._quick.TF_TensorData(tensor) or 0
        return range(start, start + self._quick.TF_TensorByteSize(tensor), c_api.TSTRING_SIZE)

    def _checked(self, headline: str, call: Callable[[int], Any], hint: str = "") -> Any:
        """Make a call that reports through a status, and raise what it reports."""
        status = self._quick.TF_NewStatus()
        try:
            result = call(status)
            code = self._quick.TF_GetCode(status)
            if code:
                message = self._quick.TF_Message(status).decode(errors="replace")
                raise TensorFlowError(headline, code, message, str(self.path), hint)
            return result
        finally:
            self._quick.TF_DeleteStatus(status)


def _address(array: np.ndarray) -> int:
    # array.ctypes.data says the same at several times the cost, once for every tensor of every call.
    address: int = array.__array_interface__["data"][0]
    return address
