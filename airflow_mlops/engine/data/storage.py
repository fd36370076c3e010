"""A few file operations that mean the same on this machine's disk and on object storage.

A path is a :class:`pathlib.Path`, or anything like a ``UPath`` (``upath.UPath``, ``airflow.sdk.ObjectStoragePath``)
with an ``fsspec`` file system behind it. What is listed or read is always fresh: ``s3fs`` would answer the second
time from memory. The functions raise :class:`OSError` or what the storage's client raises; :func:`reaching` turns
that into words.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from airflow_mlops.engine.data.files import replacing, sync, temporary_sibling
from airflow_mlops.exceptions import ConfigError, DataError, TransientError

_CLIENTS = {"botocore", "aiobotocore", "aiohttp"}
_TRANSIENT = {"ConnectionError", "HTTPClientError", "TimeoutError"}
_BUSY = 500


class RemotePath(Protocol):
    """What is used of a ``UPath``: arithmetic on names, and the ``fsspec`` file system behind it."""

    @property
    def name(self) -> str:
        """Last part of the path."""

    @property
    def parent(self) -> Self:
        """The folder it lies in."""

    @property
    def path(self) -> str:
        """The path as the file system wants it: bucket and key."""

    @property
    def fs(self) -> Any:
        """The ``fsspec`` file system."""

    def __truediv__(self, other: str, /) -> Self:
        """Return the path of something in this folder."""


AnyPath = Path | RemotePath


class Entry(NamedTuple):
    """One file or folder of a listing. ``modified`` is by the storage's clock; a bucket's folder has no such time."""

    path: Any
    bytes: int
    modified: datetime | None
    is_folder: bool


@contextmanager
def reaching(path: AnyPath) -> Iterator[None]:
    """Say in words why a file, a folder or a bucket cannot be reached.

    :raises DataError: when it is not there, or access is refused.
    :raises TransientError: when the storage does not answer, or the credentials have expired.
    """
    try:
        yield
    except FileNotFoundError as error:
        if no_bucket(error):
            raise DataError(
                "There is no such bucket.",
                detail=str(path),
                hint="Correct the bucket's name, or the endpoint in the connection: it may be another account's.",
            ) from None
        raise DataError(
            "The data is not there.",
            detail=f"{path} does not exist",
            hint="See whether the upstream landed it, and under this name.",
        ) from None
    except OSError as error:
        said = error.strerror or str(error)
        if not isinstance(path, Path) and _is_busy(error):
            raise TransientError(
                "The object storage cannot answer now.",
                detail=f"{path}: {said}",
                hint="Try again later: it was asked several times already.",
            ) from None
        if _has_expired(error):
            raise TransientError(
                "The credentials for the object storage have expired.",
                detail=f"{path}: {said}",
                hint=f"Let {_credentials(path)} assume a role, which is renewed by itself, rather than carry a session "
                "token.",
            ) from None
        if isinstance(path, Path):
            hint = "See whether permissions were lost or the storage is gone."
        else:
            hint = f"See what {_credentials(path)} may read and write in this bucket, and whether it is still valid."
        raise DataError("A file or folder cannot be read or written.", detail=f"{path}: {said}", hint=hint) from None
    except Exception as error:
        kinds = type(error).__mro__
        if not {kind.__module__.partition(".")[0] for kind in kinds} & _CLIENTS:
            raise
        if {kind.__name__ for kind in kinds} & _TRANSIENT:
            raise TransientError(
                "The object storage does not answer.",
                detail=f"{path}: {error}",
                hint=f"See whether it is up, and whether {_credentials(path)} names the right endpoint.",
            ) from None
        raise DataError(
            "The object storage refuses.",
            detail=f"{path}: {error}",
            hint=f"See whether {_credentials(path)} has valid credentials for this bucket.",
        ) from None


# --- reading ----------------------------------------------------------------------------------------------


def entries(folder: AnyPath) -> list[Entry]:
    """Return what lies in a folder, in order of the names; hidden names are left out.

    :raises FileNotFoundError: when there is no such folder.
    """
    if isinstance(folder, Path):
        # Not Path.glob: to that, a folder which may not be listed looks empty.
        found = [_local_entry(path) for path in folder.iterdir() if path.name[0] != "."]
    else:
        itself = folder.path.rstrip("/")
        listed = {info["name"].rstrip("/"): info for info in fresh(folder).ls(itself, detail=True)}
        names = (name for name in listed if name != itself and name.rpartition("/")[2][0] != ".")
        found = [_remote_entry(folder, name, listed[name]) for name in names]
    return sorted(found, key=lambda entry: str(entry.path.name))


def is_folder(path: AnyPath) -> bool:
    """Return whether there is a folder of that name."""
    return path.is_dir() if isinstance(path, Path) else bool(fresh(path).isdir(path.path))


def subfolders(folder: AnyPath) -> list[str]:
    """Return the names of the folders in a folder, in order; none when it is not there itself."""
    try:
        if isinstance(folder, Path):  # a year of hours: no more than one look at each
            with os.scandir(folder) as found:
                return sorted(entry.name for entry in found if entry.name[0] != "." and entry.is_dir())
        return [entry.path.name for entry in entries(folder) if entry.is_folder]
    except FileNotFoundError as error:
        if no_bucket(error):
            raise
        return []


def read(path: AnyPath) -> bytes:
    """Return the contents of a file.

    :raises FileNotFoundError: when there is none.
    """
    return path.read_bytes() if isinstance(path, Path) else bytes(fresh(path).cat_file(path.path))


def read_if_there(paths: Sequence[AnyPath]) -> list[bytes | None]:
    """Return the contents of some files of one storage, None for each that is not there.

    Object storage is asked for all at once: a year's manifests, one after the other, would take half a minute.
    """
    remote = [path for path in paths if not isinstance(path, Path)]
    if not remote:
        return [path.read_bytes() if path.is_file() else None for path in paths if isinstance(path, Path)]
    found = fresh(remote[0]).cat([path.path for path in remote], on_error="return")
    answers = [found[path.path] for path in remote]
    for answer in answers:
        if isinstance(answer, Exception) and (not isinstance(answer, FileNotFoundError) or no_bucket(answer)):
            raise answer
    return [None if isinstance(answer, Exception) else bytes(answer) for answer in answers]


def are_there(paths: Sequence[AnyPath]) -> list[bool]:
    """Return for each of some files of one storage whether it is there."""
    if all(isinstance(path, Path) for path in paths):
        return [os.path.isfile(path) for path in paths if isinstance(path, Path)]  # noqa: PTH113  four times as fast
    return [contents is not None for contents in read_if_there(paths)]


@contextmanager
def opened(path: AnyPath) -> Iterator[BufferedReader]:
    """Open a file, to read parts of it."""
    with path.open("rb") if isinstance(path, Path) else fresh(path).open(path.path, "rb") as file:
        yield file


def digest(path: AnyPath) -> str:
    """Return the SHA-256 hex digest of a file."""
    with opened(path) as file:
        return file_digest(file, "sha256").hexdigest()


def modified(path: AnyPath) -> datetime:
    """Return when a file was last written, by the storage's clock."""
    if isinstance(path, Path):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return _utc(fresh(path).modified(path.path))


def copy(source: AnyPath, target: Path) -> None:
    """Copy a file to this machine."""
    if isinstance(source, Path):
        shutil.copyfile(source, target)
    else:
        fresh(source).get_file(source.path, str(target))


@contextmanager
def on_disk(files: Sequence[AnyPath]) -> Iterator[list[Path]]:
    """Yield the files as files of this machine: themselves, or copies that are removed when the block ends."""
    with tempfile.TemporaryDirectory(prefix="partition-") as folder:
        here = [file if isinstance(file, Path) else Path(folder) / file.name for file in files]
        for file, copied in zip(files, here, strict=True):
            if not isinstance(file, Path):
                with reaching(file):
                    copy(file, copied)
        yield here


def now(folder: AnyPath) -> datetime:
    """Return the time by the storage's own clock: by what S3 stamps files with, else by this machine's clock."""
    if not isinstance(folder, Path) and hasattr(folder.fs, "call_s3"):
        answer = fresh(folder).call_s3("head_bucket", Bucket=folder.path.partition("/")[0])
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).astimezone(UTC)
    return datetime.now(UTC)


# --- writing ----------------------------------------------------------------------------------------------


def write(path: AnyPath, contents: str) -> None:
    """Write a small file so that readers see the old one or the new one: one rename, or one PUT."""
    if isinstance(path, Path):
        with replacing(path) as temporary:
            temporary.write_text(contents)
    else:
        fresh(path).pipe_file(path.path, contents.encode())


@contextmanager
def making(final: AnyPath) -> Iterator[Path]:
    """Yield an empty folder of this machine, in which what :func:`publish` is to make visible is prepared."""
    if isinstance(final, Path):
        folder = temporary_sibling(final)
        folder.mkdir()
    else:
        folder = Path(tempfile.mkdtemp(prefix="partition-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, final: AnyPath, last: str) -> None:
    """Make a prepared folder visible: by one rename, or by uploading its files, and the one called ``last`` last.

    :raises OSError: when there is something already, on this machine; uploads replace it.
    """
    if isinstance(final, Path):
        for path in (*made.iterdir(), made):
            sync(path)
        made.rename(final)
        sync(final.parent)
        return
    fs = fresh(final)
    for path in sorted(made.iterdir(), key=lambda path: (path.name == last, path.name)):
        fs.put_file(str(path), (final / path.name).path)


def remove(path: AnyPath, first: str | None = None) -> None:
    """Remove a file, or a folder with all that is in it; nothing when it is not there.

    A folder of this machine vanishes from sight by one rename. On object storage its file called ``first`` goes first.
    """
    if not isinstance(path, Path):
        fs = fresh(path)
        for going in ([(path / first).path] if first else []) + [path.path]:
            try:
                fs.rm(going, recursive=True)
            except FileNotFoundError as error:
                if no_bucket(error):
                    raise
        return
    if path.is_dir():
        leaving = temporary_sibling(path)
        path.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- the file system behind a path ------------------------------------------------------------------------


def fresh(path: RemotePath) -> Any:
    """Return the file system, without what it remembers of earlier listings.

    :raises ConfigError: when its package is not installed.
    """
    try:
        fs = path.fs
    except ImportError as error:
        raise ConfigError(
            "This machine cannot open that kind of storage.",
            detail=f"{path}: {error}",
            hint="Install airflow-mlops[amazon] for s3://, or the fsspec package of the storage.",
        ) from None
    if getattr(fs, "_pid", os.getpid()) != os.getpid():  # of the process that forked this one, with its event loop
        fs = type(fs)(*fs.storage_args, **fs.storage_options)
    fs.invalidate_cache()
    return fs


def _credentials(path: AnyPath) -> str:
    conn_id = getattr(path, "conn_id", None)
    return f"Airflow connection {conn_id!r}" if conn_id else "the account"


def no_bucket(error: FileNotFoundError) -> bool:
    """Return whether it is not only the file that is not there."""
    return type(error.__cause__).__name__ == "NoSuchBucket"


def _is_busy(error: OSError) -> bool:
    """Return whether a server said that it is its own fault: 503, slow down, an internal error."""
    answer = getattr(error.__cause__, "response", None) or {}
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, TimeoutError) or status >= _BUSY


def _has_expired(error: OSError) -> bool:
    """Return whether S3 said so: another try may have new credentials."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") == "ExpiredToken"


def _local_entry(path: Path) -> Entry:
    found = path.stat()
    return Entry(path, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), path.is_dir())


def _remote_entry(folder: RemotePath, name: str, info: dict[str, Any]) -> Entry:
    is_folder = info["type"] == "directory"
    written = None if is_folder else _utc(info.get("LastModified") or fresh(folder).modified(name))
    return Entry(folder / name.rpartition("/")[2], info["size"] or 0, written, is_folder)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
