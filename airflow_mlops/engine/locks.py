"""A lock between processes that no dead process can go on holding: the kernel drops it with its holder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_mlops.exceptions import TransientError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if need be; waits for whoever holds it.

    The file stays: removing it would let two processes lock two files of the same name.

    :raises TransientError: when the file cannot be opened for writing.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise TransientError(
            "A lock file cannot be opened.",
            detail=f"{path}: {error}",
            hint="Check the path in the connection, and that the workers may write there.",
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
