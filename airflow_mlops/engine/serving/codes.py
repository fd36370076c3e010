"""TensorFlow's error codes, which are gRPC's."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """``tensorflow.error.Code``."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @classmethod
    def of(cls, number: int) -> Code:
        """Return the code of a number; one that nobody knows is UNKNOWN."""
        return cls(number) if number in cls._value2member_map_ else cls.UNKNOWN
