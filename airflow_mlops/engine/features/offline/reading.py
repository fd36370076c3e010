"""Which files the point-in-time join reads of a feature view, when not all that its source names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_files: ContextVar[Mapping[str, Sequence[Path]]] = ContextVar("files of feature views", default={})  # noqa: B039


@contextmanager
def reading_files(files: Mapping[str, Sequence[Path]]) -> Iterator[None]:
    """Let joins read exactly these Parquet files of these feature views, which may be none; of others, their source.

    What is asked for within the block counts, even when the job runs later. Only our own offline store knows of it.
    """
    token = _files.set(files)
    try:
        yield
    finally:
        _files.reset(token)


def files_of(view: str) -> Sequence[Path] | None:
    """Return the files to read of a feature view; None when its source says."""
    return _files.get().get(view)
