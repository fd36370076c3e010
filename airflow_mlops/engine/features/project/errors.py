"""What Feast, its registry and its stores raise, in words.

An error is told by the library that it comes from, so nothing is imported to look for it, and no store need be
installed. What is nobody's fault but that of a bug passes through as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow_mlops.engine.features.project.secrets import masked
from airflow_mlops.engine.features.project.settings import SETTINGS
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError

_LONGEST = 400
_IN_CONNECTION = "in the connection of type feast, or in the one that it links to"
_APPLY_AGAIN = (
    "Run FeastApplyOperator, then materialise; features lie in files and progress in the ledger, so nothing is lost."
)
_AWS_REFUSED = re.compile(
    r"AccessDenied|UnrecognizedClient|InvalidSignature|ExpiredToken|InvalidClientToken|Credential"
)
_AWS_BUSY = re.compile(r"Throttl|ProvisionedThroughput|RequestLimit|ServiceUnavailable|InternalServer|LimitExceeded")
_REDIS_REFUSED = re.compile(r"WRONGPASS|NOAUTH|NOPERM|invalid username|invalid password|no password is set|DB index")


class TableMissingError(DataError):
    """A registry or an online store does not have a table that should be there."""


@contextmanager
def feast_errors() -> Iterator[None]:
    """Turn what Feast and its databases raise into errors in words.

    :raises ConfigError: for what the user wrote: an unknown name, a refused password.
    :raises DataError: for files and databases that hold something else than they should.
    :raises TransientError: for what does not answer, or not in time.
    """
    try:
        yield
    except MlopsError:
        raise
    except Exception as error:
        told = in_words(error)
        if told is None:
            raise
        raise told from error


def in_words(error: BaseException) -> MlopsError | None:
    """Return an error of Feast or of its databases in words; None when it is none of theirs."""
    for base in type(error).__mro__:
        words = _BY_LIBRARY.get(base.__module__.partition(".")[0])
        if words is not None:
            return words(error)
    if isinstance(error, FileNotFoundError):
        return _unreadable(error)
    if isinstance(error, PermissionError):
        return _forbidden(error)
    return _silent(error) if isinstance(error, ConnectionError | TimeoutError) else None


def _names(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {masked(lines[0])[:_LONGEST]}"


def _silent(error: BaseException) -> MlopsError:
    return TransientError(
        "Feast's registry or online store does not answer.",
        detail=_line(error),
        hint=f"Check that it is up, and its address, in {SETTINGS} or {_IN_CONNECTION}.",
    )


def _refused(error: BaseException) -> MlopsError:
    return ConfigError(
        "Feast's registry or online store refuses the credentials.",
        detail=_line(error),
        hint=f"Correct user, password, key or role {_IN_CONNECTION}.",
    )


def _forbidden(error: BaseException) -> MlopsError:
    return ConfigError(
        "A file of Feast's registry, online store or feature views may not be opened.",
        detail=_line(error),
        hint="Give the user that runs the workers the right to read and write it.",
    )


def _full(error: BaseException) -> MlopsError:
    return TransientError(
        "Feast's registry or online store is full.",
        detail=_line(error),
        hint="Give it more memory or disk, or features shorter times to live; what was written stays readable.",
    )


def _no_table(error: BaseException) -> MlopsError:
    return TableMissingError(
        "Feast's registry or online store lacks a table.",
        detail=f"{_line(error)}; it is new, was replaced, or was made by another version of Feast",
        hint=_APPLY_AGAIN,
    )


def _broken(error: BaseException) -> MlopsError:
    return DataError(
        "Feast's registry or online store is not readable.",
        detail=f"{_line(error)}; its file is damaged, or is another file",
        hint=f"Restore it from a backup, or move it away. {_APPLY_AGAIN}",
    )


def _sqlalchemy(error: BaseException) -> MlopsError:
    original = getattr(error, "orig", None)
    told = in_words(original) if isinstance(original, BaseException) else None
    if told is not None:
        return told
    if _names(error) & {"ArgumentError", "NoSuchModuleError"}:
        return ConfigError(
            "The URL of Feast's registry cannot be used.",
            detail=_line(error),
            hint="Write one as SQLAlchemy wants it, such as postgresql+psycopg://feast@postgres/feast.",
        )
    if "OperationalError" in _names(error) or "TimeoutError" in _names(error) or "InterfaceError" in _names(error):
        return _silent(error)
    return _broken(error)


def _sqlite(error: BaseException) -> MlopsError:
    text = str(error)
    if "no such table" in text or "no such column" in text or "has no column" in text:
        return _no_table(error)
    if re.search(r"not a database|malformed|disk image|unsupported file format", text):
        return _broken(error)
    if "disk is full" in text:
        return _full(error)
    if "readonly" in text:
        return _forbidden(error)
    if "locked" in text or "busy" in text:
        return TransientError(
            "Feast's registry or online store is locked by another writer.",
            detail=_line(error),
            hint="Nothing was written; try again. If it goes on, look for a process that hangs with the file open.",
        )
    return _silent(error)


def _postgres(error: BaseException) -> MlopsError:
    text = str(error)
    if re.search(r"authentication failed|no pg_hba\.conf|role .* does not exist|permission denied", text):
        return _refused(error)
    if re.search(r"database .* does not exist|could not translate host|failed to resolve", text):
        return ConfigError(
            "The database of Feast's registry or online store is not there.",
            detail=_line(error),
            hint=f"Correct host and database {_IN_CONNECTION}.",
        )
    if _names(error) & {"UndefinedTable", "UndefinedColumn"}:
        return _no_table(error)
    return _silent(error)


def _redis(error: BaseException) -> MlopsError:
    if (
        "AuthenticationError" in _names(error)
        or "NoPermissionError" in _names(error)
        or _REDIS_REFUSED.search(str(error))
    ):
        return _refused(error)
    if "OutOfMemoryError" in _names(error) or "OOM" in str(error):
        return _full(error)
    return _silent(error)


def _aws(error: BaseException) -> MlopsError:
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", type(error).__name__))
    if code == "ResourceNotFoundException":
        return _no_table(error)
    if _AWS_BUSY.search(code):
        return _silent(error)
    if _AWS_REFUSED.search(code):
        return _refused(error)
    if _names(error) & {"ConnectionError", "HTTPClientError"}:
        return _silent(error)
    return ConfigError(
        "AWS refused.", detail=_line(error), hint=f"Correct region, endpoint or rights {_IN_CONNECTION}."
    )


def _google(error: BaseException) -> MlopsError:
    """Protobuf's errors are of a damaged registry; others are of a store on Google Cloud."""
    return _broken(error) if "DecodeError" in _names(error) else _silent(error)


def _duckdb(error: BaseException) -> MlopsError:
    if "OutOfMemoryException" in _names(error):
        return DataError(
            "The rows of a feature view do not fit into memory.",
            detail=_line(error),
            hint="Ask for a shorter time at once, or give the worker more memory.",
        )
    return _unreadable(error)


def _unreadable(error: BaseException) -> MlopsError:
    return DataError(
        "The rows of a feature view cannot be read.",
        detail=_line(error),
        hint="Compute the missing or changed days again with the features DAG.",
    )


def _feast(error: BaseException) -> MlopsError:
    if "FeastRegistrySchemaError" in _names(error):
        return _no_table(error)
    if "FeastExtrasDependencyImportError" in _names(error):
        return ConfigError(
            "A package that this store of Feast needs is not installed.",
            detail=_line(error),
            hint="Install the extra: pip install 'airflow-mlops[redis]', [dynamodb] or [postgres].",
        )
    hint = "See the definitions in the feature repository, and whether they were applied."
    if any(name.endswith(("NotFoundException", "NotFound")) for name in _names(error)):
        hint = (
            "It is not registered: run FeastApplyOperator, or any other apply, if the registry is new or was deleted; "
            "or else correct the name in the feature repository."
        )
    return ConfigError("Feast refused.", detail=_line(error), hint=hint)


_BY_LIBRARY: dict[str, Callable[[BaseException], MlopsError]] = {
    "sqlalchemy": _sqlalchemy,
    "sqlite3": _sqlite,
    "psycopg": _postgres,
    "psycopg2": _postgres,
    "psycopg_pool": _postgres,
    "pymysql": _silent,
    "requests": _silent,
    "grpc": _silent,
    "redis": _redis,
    "botocore": _aws,
    "google": _google,
    "_duckdb": _duckdb,
    "duckdb": _duckdb,
    "pyarrow": _unreadable,
    "feast": _feast,
}
