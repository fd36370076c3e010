"""A project's Feast feature store, opened; and what it raises, in words."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.engine.features.location import Location
from airflow_mlops.engine.features.settings import SETTINGS, feast_config, read_settings
from airflow_mlops.engine.imports import import_uninstrumented
from airflow_mlops.exceptions import ConfigError, DataError, TransientError

if TYPE_CHECKING:
    from feast import FeatureStore


def project_lock(home: Path, project: str) -> Path:
    """Return the file whose lock the one writer of a project's registry and online store holds."""
    return home / "feast" / f"{project}.lock"


def open_store(location: Location) -> FeatureStore:
    """Open the feature store that a repository configures.

    :raises ConfigError: when there is no such repository, or its settings are not valid.
    :raises TransientError: when the registry does not answer.
    """
    settings = read_settings(location)
    _import_feast()
    from feast import FeatureStore

    config = feast_config(settings, location)
    (location.home / "feast").mkdir(parents=True, exist_ok=True)
    with feast_errors():
        store = FeatureStore(config=config)
        store.registry.refresh(config.project)  # connects, and reads what was applied since
    return store


@contextmanager
def feast_errors() -> Iterator[None]:
    """Turn what Feast and its databases raise into errors in words."""
    import sqlite3

    import duckdb
    from feast.errors import FeastError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (DBAPIError, sqlite3.OperationalError) as error:
        raise TransientError(
            "Feast's registry or online store does not answer.",
            detail=str(getattr(error, "orig", error)).strip().splitlines()[0],
            hint=f"Check `registry` and `online_store` in {SETTINGS}, and that their databases are up.",
        ) from error
    except duckdb.Error as error:
        raise DataError(
            "The rows of a feature view cannot be read.",
            detail=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            hint="Compute the missing or changed days again with the features DAG.",
        ) from error
    except FeastError as error:
        raise ConfigError(
            "Feast refused.",
            detail=f"{type(error).__name__}: {error}",
            hint="See the definitions in the feature repository, and whether they were applied.",
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Feast's progress bars and coloured prints out of the task log, where they read as errors."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _import_feast() -> None:
    try:
        import_uninstrumented("feast")
    except ImportError as error:
        if error.name != "feast":
            raise
        raise ConfigError(
            "Feast is not installed.", hint="Install the extra: pip install 'airflow-mlops[feast]'."
        ) from None
