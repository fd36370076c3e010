"""Writing files so that a killed writer leaves nothing half-written to see."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from airflow_mlops.contracts import content_hash

TEMPORARY = ".tmp-"
"""What the names of files and folders in the making start with; readers never look at those."""

_ABANDONED_AFTER = 24 * 3600


def sha256(path: Path) -> str:
    """Return the SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(digests: Mapping[str, str]) -> str:
    """Return the hash of a set of files, from their names and the hashes of their contents."""
    return content_hash(sorted(digests.items()))


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under ``folder``, by relative path."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def tree_hash(folder: Path) -> str:
    """Return the hash of a folder's files: their relative paths and contents."""
    return identity(checksums(folder))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; when the block ends well, it becomes ``path`` in one rename."""
    temporary = temporary_sibling(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_sibling(path: Path) -> Path:
    """Return an unused hidden name in the same folder, which is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f"{TEMPORARY}{path.name}-{uuid.uuid4().hex}"


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed more than a day ago left in ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        try:
            abandoned = time.time() - leftover.stat().st_mtime > _ABANDONED_AFTER
        except FileNotFoundError:
            continue  # its writer finished just now
        if abandoned and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif abandoned:
            leftover.unlink(missing_ok=True)
