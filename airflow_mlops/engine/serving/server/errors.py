"""What a model server answers when it cannot: a code and a text, over gRPC and REST alike."""

from __future__ import annotations

from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.saved_model import TensorFlowError
from airflow_mlops.exceptions import MlopsError

_LIMIT = 1024
_HTTP = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class ServingError(Exception):
    """The answer to a request that cannot be served."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        # What a client sent may be quoted in it, half a surrogate pair included, and that cannot be sent back.
        self.message = message.encode(errors="replace").decode()
        super().__init__(code, self.message)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"

    @property
    def http_status(self) -> int:
        """The HTTP status of the code."""
        return _HTTP.get(self.code, 500)

    @property
    def grpc_message(self) -> str:
        """The text as it goes over gRPC, where it travels in a header."""
        return self.message if len(self.message) <= _LIMIT else f"{self.message[:_LIMIT]}...TRUNCATED"


def invalid(message: str) -> ServingError:
    """Return an INVALID_ARGUMENT."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def from_mlops(error: MlopsError) -> ServingError:
    """Return what a client is told of one of this package's own errors."""
    if isinstance(error, TensorFlowError):
        return ServingError(error.code, error.message)
    return invalid(error.headline)
